//! A session under nonsense: bytes that are nearly right, in pieces of any size.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use mqtt_proto::v3::{Connect, Packet, Publish, Subscribe};
use mqtt_proto::{Pid, QoS, QosPid};

use super::Session;
use super::packet::PACKET_BYTES_MAX;
use crate::clock::unix_ms;
use crate::dps::Dps;
use crate::journal::Journal;
use crate::peer::Peer;
use crate::sas;
use crate::world::{Traffic, World};

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// Everything that a good client says.
fn good() -> Vec<Packet> {
    let mut connect = Connect::new("dev/mod".into(), 60);
    connect.username = Some("hub/dev/mod/?api-version=2021-04-12".into());
    let token = sas::sign("hub/devices/dev/modules/mod", KEY, unix_ms() / 1000 + 600).expect("a token");
    connect.password = Some(Bytes::from(token));
    let publish = |topic: &str, body: &'static [u8]| -> Packet {
        let topic = topic.try_into().expect("a topic");
        Publish::new(QosPid::Level1(Pid::default()), topic, Bytes::from_static(body)).into()
    };
    let filter = |text: &str| (text.try_into().expect("a filter"), QoS::Level1);
    vec![
        connect.into(),
        Subscribe::new(Pid::default(), vec![filter("$iothub/twin/res/#"), filter("devices/dev/modules/mod/#")]).into(),
        publish("devices/dev/modules/mod/messages/events/%24.on=o&a=%20b", b"{}"),
        publish("$iothub/twin/GET/?$rid=1", b""),
        publish("$iothub/twin/PATCH/properties/reported/?$rid=2", br#"{"a":{"b":[1,null]}}"#),
        publish("$iothub/methods/res/200/?$rid=1", b"{}"),
        Packet::Puback(Pid::default()),
        Packet::Pingreq,
        Packet::Disconnect,
    ]
}

/// Whether the session took all of it; what it keeps must stay bounded.
fn feed(bytes: &[u8], piece: usize) -> bool {
    let peer = Peer::new("dev", Some("mod"), [KEY.to_owned(), KEY.to_owned()]);
    let mut world = World::new("hub", vec![peer], Dps::new("scope", KEY.to_owned()), Arc::new(Journal::default()));
    let (orders, _orders) = async_channel::bounded(1);
    let (end, _end) = async_channel::bounded(1);
    let link = world.begin(orders, end, Arc::new(Traffic::default())).expect("room");
    let mut session = Session::new(link, true, Instant::now());
    for piece in bytes.chunks(piece) {
        session.input().extend_from_slice(piece);
        if session.handle_input(&mut world, Instant::now()).is_err() {
            return false;
        }
        assert!(session.input.len() <= PACKET_BYTES_MAX);
    }
    true
}

/// Everything that a client says that is to be provisioned.
fn good_registrant() -> Vec<Packet> {
    let mut connect = Connect::new("r1".into(), 60);
    connect.username = Some("scope/registrations/r1/api-version=2019-03-31".into());
    let key = sas::derive_key(KEY, "r1").expect("a key");
    let token = sas::sign("scope/registrations/r1", &key, unix_ms() / 1000 + 600).expect("a token");
    connect.password = Some(Bytes::from(token));
    let publish = |topic: &str, body: &'static [u8]| -> Packet {
        let topic = format!("$dps/registrations/{topic}").as_str().try_into().expect("a topic");
        Publish::new(QosPid::Level1(Pid::default()), topic, Bytes::from_static(body)).into()
    };
    let filter = "$dps/registrations/res/#".try_into().expect("a filter");
    vec![
        connect.into(),
        Subscribe::new(Pid::default(), vec![(filter, QoS::Level1)]).into(),
        publish("PUT/iotdps-register/?$rid=1", br#"{"registrationId":"r1"}"#),
        publish("GET/iotdps-get-operationstatus/?$rid=2&operationId=5.skerry.1", b" "),
        Packet::Puback(Pid::default()),
        Packet::Pingreq,
        Packet::Disconnect,
    ]
}

#[test]
fn nonsense_ends_a_session_and_nothing_else() {
    nonsense(&good());
    nonsense(&good_registrant());
}

fn nonsense(packets: &[Packet]) {
    let encode = |packets: &[Packet]| -> Vec<u8> {
        packets.iter().flat_map(|packet| packet.encode().expect("a packet").as_ref().to_vec()).collect()
    };
    // Without the goodbye, which is an end as well.
    for piece in [1, 2, 7, 10_000] {
        assert!(feed(&encode(&packets[..packets.len() - 1]), piece));
    }
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % below as u64).expect("small")
    };
    let (mut taken, all) = (0, encode(packets));
    let connect = packets[0].encode_len().expect("a length");
    for _ in 0..3_000 {
        let mut bytes = all.clone();
        for _ in 0..=random(4) {
            // Mostly behind the CONNECT, which lets little pass.
            let at = if random(5) == 0 { random(bytes.len()) } else { connect + random(bytes.len() - connect) };
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes.insert(at, random(256) as u8),
                _ => drop(bytes.remove(at)),
            }
        }
        taken += usize::from(feed(&bytes, 1 + random(bytes.len())));
    }
    assert!(taken < 3_000);
}
