//! Every frame goes in and comes out, and no broken one does harm.

use super::*;

fn to_host() -> Vec<ToHost<'static>> {
    vec![
        ToHost::Hello { link_version: 1, device: "d", module: "m", generation: 3, credit_messages: 4, credit_bytes: 5 },
        ToHost::Start { desired_version: 1, desired: "{}", reported_version: 2, reported: "{}", state_dir: "/s" },
        ToHost::Deliver {
            id: 1,
            queue: 2,
            input: 3,
            attempts: 4,
            enqueued_ms: -5,
            source_module: "a",
            source_output: "o",
            record: b"rec",
        },
        ToHost::Settled { first: 1, count: 2, outcome: Outcome::Refused, reason: "quota" },
        ToHost::Credit { messages: 1, bytes: 2 },
        ToHost::Desired { version: 1, desired: "{}" },
        ToHost::Reported { rid: 1, status: 204, version: 2, reason: "" },
        ToHost::Method { rid: 1, name: "n", payload: b"null", timeout_ms: 2 },
        ToHost::Signed { rid: 1, digest: b"d", error: "" },
        ToHost::Called { rid: 1, code: 200, status: -3, payload: b"{}" },
        ToHost::Ping { n: 1 },
        ToHost::Stop { grace_ms: 1 },
    ]
}

fn from_host() -> Vec<FromHost<'static>> {
    vec![
        FromHost::Hello { link_version: 1, sdk_version: "0.1.0", isolation: "uid" },
        FromHost::Started,
        FromHost::Publish {
            ticket: 9,
            output: 1,
            now: true,
            parents: Parents(&[1, 0, 0, 0, 0, 0, 0, 0]),
            record: b"rec",
        },
        FromHost::Complete { first: 1, count: 2, completion: Completion::Refused, reason: "no" },
        FromHost::Report { rid: 1, patch: "{}" },
        FromHost::MethodAnswer { rid: 1, status: -1, payload: b"" },
        FromHost::Sign { rid: 1, data: b"x" },
        FromHost::Call { rid: 1, module: "m", name: "n", payload: b"1", connect_ms: 2, response_ms: 3 },
        FromHost::Log { level: 3, time_ms: 1, target: "t", text: "x" },
        FromHost::Failed { kind: FailureKind::Start, text: "x" },
        FromHost::Pong { n: 1 },
        FromHost::Health { text: "no sensor" },
        FromHost::Stopped,
        FromHost::Panicked { delivery: 1, text: "x" },
    ]
}

#[test]
fn what_is_written_is_read() {
    let mut bytes = Vec::new();
    to_host().iter().for_each(|f| f.encode(&mut bytes));
    let mut rest = &bytes[..];
    for expected in to_host() {
        assert_eq!(ToHost::decode(split(&mut rest).unwrap().unwrap()).unwrap(), expected);
    }
    let mut bytes = Vec::new();
    from_host().iter().for_each(|f| f.encode(&mut bytes));
    let mut rest = &bytes[..];
    for expected in from_host() {
        assert_eq!(FromHost::decode(split(&mut rest).unwrap().unwrap()).unwrap(), expected);
    }
    assert_eq!(split(&mut rest), Ok(None));
}

#[test]
fn publish_writes_what_encode_writes() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    publish(&mut a, 9, 1, true, &[1], b"rec");
    from_host()[2].encode(&mut b);
    assert_eq!(a, b);
}

#[test]
fn golden_bytes_of_version_1() {
    let mut bytes = Vec::new();
    FromHost::Complete { first: 1, count: 2, completion: Completion::Done, reason: "" }.encode(&mut bytes);
    assert_eq!(bytes, b"\x12\0\0\0\x44\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0");
}

#[test]
fn no_cut_and_no_flipped_bit_panics() {
    let mut bytes = Vec::new();
    to_host().iter().for_each(|f| f.encode(&mut bytes));
    from_host().iter().for_each(|f| f.encode(&mut bytes));
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut broken = bytes.clone();
            broken[at] ^= 1 << bit;
            let mut rest = &broken[..];
            while let Ok(Some(frame)) = split(&mut rest) {
                let _ = (ToHost::decode(frame), FromHost::decode(frame));
            }
        }
    }
}
