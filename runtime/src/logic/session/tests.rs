//! The session on logical time, one rule a test.

use super::*;
use crate::model::identity::Secret;

fn config() -> SessionConfig {
    SessionConfig {
        keep_alive: Duration::from_secs(100),
        operation_timeout: Duration::from_secs(20),
        token_ttl: Duration::from_secs(3_600),
        retry_max: Duration::from_secs(60),
    }
}

fn session() -> Session {
    let identity = Credentials {
        host_name: "h".into(),
        device_id: "d".into(),
        module_id: Some("m".into()),
        key: Secret::new(vec![7; 32]),
    };
    Session::new(identity, config(), 1)
}

/// Up and subscribed at `now`.
fn up(session: &mut Session, now: u64) {
    session.on_timeout(Mono(now));
    assert_eq!(session.poll_action(), Some(Action::Dial));
    session.handle_open(Mono(now), Wall(1_767_222_000_000));
    session.take_output();
    session.handle_bytes(Mono(now), &[0x20, 2, 0, 0]);
    session.handle_bytes(Mono(now), &[0x90, 5, 0, 1, 1, 1, 1]);
    assert_eq!((session.poll_event(), session.poll_event()), (Some(Event::Up), Some(Event::Ready)));
    session.take_output();
}

/// First byte and packet identifier of each PUBLISH that is to be sent.
fn published(session: &mut Session) -> Vec<(u8, u16)> {
    let out = session.take_output();
    let mut rest = out.as_slice();
    let mut found = Vec::new();
    while rest.len() > 1 {
        let length = 2 + usize::from(rest[1]);
        if rest[0] >> 4 == 3 {
            let topic = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            found.push((rest[0], u16::from_be_bytes([rest[4 + topic], rest[5 + topic]])));
        }
        rest = &rest[length..];
    }
    found
}

fn puback(pid: u16) -> [u8; 4] {
    let [high, low] = pid.to_be_bytes();
    [0x40, 2, high, low]
}

#[test]
fn connect_carries_a_token_for_the_identity() {
    let mut session = session();
    session.on_timeout(Mono(0));
    session.handle_open(Mono(0), Wall(1_767_222_000_999));
    let out = String::from_utf8_lossy(&session.take_output()).into_owned();
    for part in ["d/m", "h/d/m/?api-version=", "sr=h%2Fdevices%2Fd%2Fmodules%2Fm&sig=", "&se=1767225600"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}

#[test]
fn what_is_not_acknowledged_is_sent_again_in_order_and_marked() {
    let mut session = session();
    up(&mut session, 0);
    for delivery in 1..=4 {
        session.publish(Mono(1), delivery, "t", b"x");
    }
    let first = published(&mut session);
    assert_eq!(first.iter().map(|(byte, _)| *byte).collect::<Vec<_>>(), [0x32; 4]);
    session.handle_bytes(Mono(2), &puback(first[0].1));
    assert_eq!(session.poll_event(), Some(Event::Acked { first: 1, count: 1 }));
    session.handle_closed(Mono(3), Loss::Ended("gone".into()));
    session.publish(Mono(4), 5, "t", b"x");
    assert!(matches!(session.poll_event(), Some(Event::Down { why: Some(_), retry_in_ms: ..=250, refused: false })));
    up(&mut session, 1_000);
    session.publish(Mono(1_000), 6, "t", b"x");
    assert_eq!(session.in_flight(), 5);
}

#[test]
fn after_a_reconnect_the_old_come_first_as_duplicates() {
    let mut session = session();
    up(&mut session, 0);
    for delivery in 1..=3 {
        session.publish(Mono(1), delivery, "t", b"x");
    }
    let first = published(&mut session);
    session.handle_closed(Mono(3), Loss::Ended("gone".into()));
    session.publish(Mono(4), 4, "t", b"x");
    session.poll_event();
    session.on_timeout(Mono(1_000));
    session.poll_action();
    session.handle_open(Mono(1_000), Wall(0));
    session.take_output();
    session.handle_bytes(Mono(1_000), &[0x20, 2, 1, 0]);
    let again = published(&mut session);
    let bytes: Vec<u8> = again.iter().map(|(byte, _)| *byte).collect();
    assert_eq!(bytes, [0x3a, 0x3a, 0x3a, 0x32]);
    assert_eq!(
        again[..3].iter().map(|(_, pid)| pid).collect::<Vec<_>>(),
        first.iter().map(|(_, pid)| pid).collect::<Vec<_>>()
    );
    // Runs of acknowledgements are one event.
    session.poll_event();
    let acks: Vec<u8> = again.iter().flat_map(|(_, pid)| puback(*pid)).collect();
    session.handle_bytes(Mono(1_001), &acks);
    assert_eq!(session.poll_event(), Some(Event::Acked { first: 1, count: 4 }));
    assert_eq!(session.in_flight(), 0);
}

#[test]
fn what_became_too_old_meanwhile_is_not_sent_again() {
    let mut session = session();
    up(&mut session, 0);
    (1..=3).for_each(|delivery| session.publish(Mono(1), delivery, "t", b"x"));
    let first = published(&mut session);
    session.forget(1);
    assert_eq!(session.in_flight(), 3, "it may still be answered");
    session.handle_closed(Mono(3), Loss::Ended("gone".into()));
    session.poll_event();
    session.forget(1);
    up_again(&mut session, 10_000);
    assert_eq!(published(&mut session), [(0x3a, first[1].1), (0x3a, first[2].1)]);
}

#[test]
fn an_answer_that_does_not_come_ends_the_connection() {
    for (name, bytes) in [("CONNECT", &[][..]), ("CONNECT or SUBSCRIBE", &[0x20, 2, 0, 0][..])] {
        let mut session = session();
        session.on_timeout(Mono(0));
        session.poll_action();
        session.handle_open(Mono(0), Wall(0));
        session.handle_bytes(Mono(0), bytes);
        assert_eq!(session.next_timeout(), Mono(20_000));
        session.on_timeout(Mono(20_000));
        assert_eq!(session.poll_action(), Some(Action::HangUp));
        let down = std::iter::from_fn(|| session.poll_event()).last();
        assert!(matches!(down, Some(Event::Down { why: Some(why), .. }) if why.contains(name)));
    }
    let mut session = session();
    up(&mut session, 0);
    session.publish(Mono(1), 1, "t", b"x");
    assert_eq!(session.next_timeout(), Mono(20_001));
}

#[test]
fn silence_is_broken_by_a_ping_and_its_answer_is_waited_for() {
    let mut session = session();
    up(&mut session, 0);
    assert_eq!(session.next_timeout(), Mono(75_000));
    session.on_timeout(Mono(75_000));
    assert_eq!(session.take_output(), [0xc0, 0]);
    session.handle_bytes(Mono(75_100), &[0xd0, 0]);
    assert_eq!(session.next_timeout(), Mono(150_000));
    session.on_timeout(Mono(150_000));
    session.on_timeout(Mono(170_000));
    assert_eq!(session.poll_action(), Some(Action::HangUp));
}

#[test]
fn a_token_is_renewed_when_what_is_on_its_way_has_arrived() {
    let mut session = session();
    up(&mut session, 0);
    session.publish(Mono(1), 1, "t", b"x");
    let pid = published(&mut session)[0].1;
    // Pings and late answers apart.
    session.handle_bytes(Mono(2), &puback(pid));
    session.renew_at = Mono(10);
    session.publish(Mono(9), 2, "t", b"x");
    let pid = published(&mut session)[0].1;
    session.on_timeout(Mono(10));
    session.publish(Mono(11), 3, "t", b"x");
    assert_eq!(published(&mut session), []);
    session.handle_bytes(Mono(12), &puback(pid));
    assert_eq!(session.poll_action(), Some(Action::HangUp));
    assert_eq!(session.take_output(), [0xe0, 0]);
    session.handle_closed(Mono(13), Loss::Ended(String::new()));
    let down = std::iter::from_fn(|| session.poll_event()).last();
    assert_eq!(down, Some(Event::Down { why: None, retry_in_ms: 0, refused: false }));
    session.on_timeout(Mono(13));
    assert_eq!(session.poll_action(), Some(Action::Dial));
}

#[test]
fn who_is_not_accepted_does_not_hurry_and_hears_why() {
    for (code, part, slow) in
        [(5, "key is wrong", true), (4, "check the connection string", true), (3, "busy", false), (2, "DeviceId", true)]
    {
        let mut session = session();
        session.on_timeout(Mono(0));
        session.poll_action();
        session.handle_open(Mono(0), Wall(0));
        session.handle_bytes(Mono(0), &[0x20, 2, 0, code]);
        assert_eq!(session.poll_action(), Some(Action::HangUp));
        let Some(Event::Down { why: Some(why), retry_in_ms, .. }) = session.poll_event() else { panic!() };
        assert!(why.contains(part), "{why}");
        assert_eq!(retry_in_ms >= 5_000, slow, "{retry_in_ms}");
    }
}

#[test]
fn a_cloud_that_is_busy_is_left_alone_for_as_long_as_it_asks() {
    let mut session = session();
    session.on_timeout(Mono(0));
    session.poll_action();
    session.handle_closed(Mono(0), Loss::Busy { why: "busy".into(), asked: Duration::from_secs(40) });
    let Some(Event::Down { retry_in_ms: 40_000..=50_000, refused: false, .. }) = session.poll_event() else { panic!() };
    assert!(session.next_timeout() >= Mono(40_000));
}

#[test]
fn a_message_that_ends_every_connection_is_tried_alone_and_then_given_up() {
    let mut session = session();
    let mut now = 0;
    let mut alone = 0;
    for round in 1.. {
        now += 100_000;
        up_again(&mut session, now);
        if round == 1 {
            (1..=3).for_each(|delivery| session.publish(Mono(now), delivery, "t", b"x"));
        }
        alone += u32::from(published(&mut session).len() == 1);
        session.handle_closed(Mono(now + 10), Loss::Ended("closed".into()));
        let rejected =
            std::iter::from_fn(|| session.poll_event()).any(|e| matches!(e, Event::Rejected { delivery: 1, .. }));
        if rejected {
            assert_eq!((round, alone), (7, 5));
            break;
        }
    }
    up_again(&mut session, now + 100_000);
    assert_eq!(published(&mut session).len(), 2);
}

#[test]
fn a_network_that_comes_and_goes_condemns_nobody() {
    let mut session = session();
    let mut now = 0;
    up_again(&mut session, now);
    session.publish(Mono(now), 1, "t", b"x");
    for _ in 0..50 {
        // The connection ends long after the message was sent: it was not the message.
        session.handle_closed(Mono(now + 15_000), Loss::Ended("broke".into()));
        assert!(!std::iter::from_fn(|| session.poll_event()).any(|e| matches!(e, Event::Rejected { .. })));
        now += 200_000;
        up_again(&mut session, now);
    }
    assert_eq!(session.in_flight(), 1);
}

fn up_again(session: &mut Session, now: u64) {
    session.on_timeout(Mono(now));
    while session.poll_action().is_some() {}
    session.handle_open(Mono(now), Wall(0));
    session.take_output();
    session.handle_bytes(Mono(now), &[0x20, 2, 0, 0]);
    session.handle_bytes(Mono(now), &[0x90, 5, 0, 1, 1, 1, 1]);
}

#[test]
fn twin_and_methods_are_events() {
    let mut session = session();
    up(&mut session, 0);
    let mut bytes = Vec::new();
    mqtt::publish(&mut bytes, "$iothub/twin/res/200/?$rid=4&$version=2", None, b"{}");
    mqtt::publish(&mut bytes, "$iothub/twin/PATCH/properties/desired/?$version=3", Some(9), b"{}");
    mqtt::publish(&mut bytes, "$iothub/methods/POST/go/?$rid=z", None, b"1");
    // Borders of frames and packets need not agree.
    for part in bytes.chunks(5) {
        session.handle_bytes(Mono(1), part);
    }
    let events: Vec<Event> = std::iter::from_fn(|| session.poll_event()).collect();
    assert_eq!(
        events,
        [
            Event::TwinAnswer { rid: 4, status: 200, version: Some(2), body: b"{}".to_vec() },
            Event::Desired { version: Some(3), body: b"{}".to_vec() },
            Event::Method { name: "go".into(), rid: "z".into(), payload: b"1".to_vec() },
        ]
    );
    assert_eq!(session.take_output(), puback(9));
}

#[test]
fn a_connection_that_nobody_uses_is_given_up_and_made_again_on_need() {
    let mut session = session();
    let idle = Idle { after: Duration::from_secs(60), rest_max: None };
    session.set_idle(Mono(0), Some(idle));
    up(&mut session, 0);
    session.publish(Mono(10_000), 1, "t", b"x");
    let (_, pid) = published(&mut session)[0];
    // What is on its way keeps it.
    assert!(session.next_timeout() < Mono(70_000));
    session.handle_bytes(Mono(11_000), &puback(pid));
    assert_eq!(session.poll_event(), Some(Event::Acked { first: 1, count: 1 }));
    assert_eq!(session.next_timeout(), Mono(71_000));
    session.on_timeout(Mono(71_000));
    assert_eq!((session.poll_action(), session.take_output()), (Some(Action::HangUp), vec![0xe0, 0]));
    session.handle_closed(Mono(71_001), Loss::Ended(String::new()));
    assert_eq!(session.poll_event(), Some(Event::Rested));
    assert!(session.is_resting() && session.next_timeout() == Mono::NEVER);
    session.publish(Mono(500_000), 2, "t", b"x");
    session.on_timeout(Mono(500_000));
    assert_eq!(session.poll_action(), Some(Action::Dial));
    session.handle_open(Mono(500_001), Wall(0));
    session.take_output();
    session.handle_bytes(Mono(500_002), &[0x20, 2, 0, 0, 0x90, 5, 0, 1, 1, 1, 1]);
    assert_eq!(published(&mut session).len(), 1);
    // Wanted for good.
    let mut session = super::tests::session().rested();
    assert!(session.is_resting());
    session.set_idle(Mono(5), None);
    up(&mut session, 5);
    assert_eq!(session.next_timeout(), Mono(75_005));
}

#[test]
fn a_message_that_comes_while_it_hangs_up_is_not_forgotten() {
    let mut session = session();
    session.set_idle(Mono(0), Some(Idle { after: Duration::from_secs(1), rest_max: Some(Duration::from_secs(3_600)) }));
    up(&mut session, 0);
    session.on_timeout(Mono(1_000));
    assert_eq!(session.poll_action(), Some(Action::HangUp));
    session.publish(Mono(1_001), 1, "t", b"x");
    session.handle_closed(Mono(1_002), Loss::Ended(String::new()));
    assert_eq!(session.poll_event(), Some(Event::Down { why: None, retry_in_ms: 0, refused: false }));
    session.on_timeout(Mono(1_002));
    assert_eq!(session.poll_action(), Some(Action::Dial));
}

#[test]
fn it_looks_into_the_cloud_from_time_to_time() {
    let mut session = session();
    session.set_idle(Mono(0), Some(Idle { after: Duration::from_secs(1), rest_max: Some(Duration::from_secs(3_600)) }));
    up(&mut session, 0);
    session.on_timeout(Mono(1_000));
    session.poll_action();
    session.handle_closed(Mono(1_000), Loss::Ended(String::new()));
    assert_eq!((session.poll_event(), session.next_timeout()), (Some(Event::Rested), Mono(3_601_000)));
    up(&mut session, 3_601_000);
}
