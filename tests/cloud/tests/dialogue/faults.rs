//! Every fault does what it says, to whom it says, and ends.

use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use mqtt_proto::v3::Packet;
use mqtt_proto::{Pid, QoS};
use serde_json::{Value, json};
use skerry_cloud::{Cloud, Command, Options, What};

use crate::client::{Client, DEADLINE, connect_packet, token};

const DEVICE: &str = "Hannover01";
const MODULE: &str = "Hannover01/insight";
const TOPIC: &str = "devices/Hannover01/messages/events/";

fn start() -> Cloud {
    Cloud::start(Options::new(DEVICE, &["insight"])).expect("an emulator")
}

fn command(cloud: &Cloud, json: Value) -> Value {
    let command = Command::from_json(&json.to_string()).expect("a command");
    cloud.command(command).expect("carried out")
}

fn puback(pid: u16) -> Packet {
    Packet::Puback(Pid::try_from(pid).expect("an id"))
}

fn bodies(cloud: &Cloud) -> Vec<String> {
    cloud.telemetry().iter().map(|message| message.text().unwrap_or_default().to_owned()).collect()
}

/// Whether it is the only thing that is there to read for a while.
fn is_silent(client: &mut Client) -> bool {
    client.set_deadline(Duration::from_millis(150));
    let silent = matches!(client.read(), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
    client.set_deadline(DEADLINE);
    silent
}

#[test]
fn cut_and_heal_keep_the_port() {
    let cloud = start();
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    let address = cloud.ready().address;
    for _ in 0..3 {
        command(&cloud, json!({"command": "cut"}));
        client.ended();
        let refused = TcpStream::connect(address).expect_err("refused");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(TcpStream::connect(cloud.ready().proxy).is_err());
        command(&cloud, json!({"command": "heal"}));
        client = Client::connect(&cloud, DEVICE).0;
    }
    client.publish(1, TOPIC, "x");
    assert_eq!(client.read().expect("a PUBACK"), puback(1));
    assert_eq!(cloud.connections()[DEVICE].accepted, 4);
}

#[test]
fn drop_and_close_reach_only_who_is_named() {
    let cloud = start();
    let (mut device, _) = Client::connect(&cloud, DEVICE);
    let (mut module, _) = Client::connect(&cloud, MODULE);
    command(&cloud, json!({"command": "drop", "identity": MODULE}));
    module.ended();
    device.publish(1, TOPIC, "x");
    assert_eq!(device.read().expect("a PUBACK"), puback(1));
    assert!(!cloud.connections()[MODULE].is_open && cloud.connections()[DEVICE].is_open);
    command(&cloud, json!({"command": "close"}));
    device.ended();
    let unknown = Command::Drop { identity: Some("x".to_owned()) };
    assert!(cloud.command(unknown).is_err_and(|why| why.contains("`x`")));
}

#[test]
fn a_stalled_connection_goes_on_where_it_was() {
    let cloud = start();
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    command(&cloud, json!({"command": "stall", "identity": DEVICE}));
    client.publish(1, TOPIC, "x");
    assert!(is_silent(&mut client));
    assert!(bodies(&cloud).is_empty());
    command(&cloud, json!({"command": "stall", "on": false, "identity": DEVICE}));
    assert_eq!(client.read().expect("a PUBACK"), puback(1));
    command(&cloud, json!({"command": "stall"}));
    let mut tcp = TcpStream::connect(cloud.ready().address).expect("accepted");
    tcp.set_read_timeout(Some(Duration::from_millis(150))).expect("a timeout");
    std::io::Write::write_all(&mut tcp, b"\x16\x03\x01").expect("taken");
    assert!(tcp.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    command(&cloud, json!({"command": "calm"}));
    client.send(&Packet::Pingreq);
    assert_eq!(client.read().expect("an answer"), Packet::Pingresp);
}

#[test]
fn refusals_at_every_layer() {
    let cloud = start();
    let upgrade = || Client::dial(&cloud).and_then(|mut client| client.upgrade("/$iothub/websocket", "mqtt"));
    command(&cloud, json!({"command": "refuse"}));
    assert!(upgrade().is_err());
    command(&cloud, json!({"command": "refuse", "on": false}));
    command(&cloud, json!({"command": "http", "status": 503, "retry_after_s": 7}));
    let head = upgrade().expect("HTTP");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 7\r\n"), "{head}");
    command(&cloud, json!({"command": "http", "status": 0}));
    command(&cloud, json!({"command": "date", "skew_s": -86400 * 365 * 30}));
    assert!(upgrade().expect("HTTP").contains(" 1996 "));
    command(&cloud, json!({"command": "connack", "code": 3, "identity": DEVICE}));
    let (mut client, connack) = Client::connect(&cloud, DEVICE);
    assert!(format!("{connack:?}").contains("ServerUnavailable"), "{connack:?}");
    client.ended();
    Client::connect(&cloud, MODULE);
    for kind in ["other_ca", "other_host", "expired"] {
        command(&cloud, json!({"command": "wrong_certificate", "kind": kind}));
        assert!(upgrade().is_err(), "{kind}");
    }
    command(&cloud, json!({"command": "calm"}));
    Client::connect(&cloud, DEVICE);
}

#[test]
fn acknowledgements_are_held_back_slowed_and_delayed() {
    let cloud = start();
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    let publish = |client: &mut Client, pids: std::ops::Range<u16>| {
        pids.clone().for_each(|pid| client.publish(pid, TOPIC, "x"));
        let begin = Instant::now();
        pids.for_each(|pid| assert_eq!(client.read().expect("a PUBACK"), puback(pid)));
        begin.elapsed()
    };
    command(&cloud, json!({"command": "throttle", "per_second": 20.0}));
    assert!(publish(&mut client, 1..6) >= Duration::from_millis(150));
    command(&cloud, json!({"command": "throttle", "per_second": 0}));
    command(&cloud, json!({"command": "latency", "ms": 100, "identity": DEVICE}));
    assert!(publish(&mut client, 6..10) >= Duration::from_millis(80));
    command(&cloud, json!({"command": "latency", "ms": 0, "identity": DEVICE}));
    command(&cloud, json!({"command": "no_puback"}));
    client.publish(10, TOPIC, "held");
    assert!(cloud.wait_until(DEADLINE, |cloud| bodies(cloud).contains(&"held".to_owned()).then_some(())).is_some());
    assert!(is_silent(&mut client));
    command(&cloud, json!({"command": "no_puback", "on": false}));
    assert_eq!(client.read().expect("a PUBACK"), puback(10));
}

#[test]
fn traps_spring_before_and_after_a_message_is_stored() {
    let cloud = start();
    command(&cloud, json!({"command": "close_on_publish", "nth": 2}));
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    client.publish(1, TOPIC, "1");
    client.publish(2, TOPIC, "2");
    client.publish(3, TOPIC, "3");
    client.ended();
    assert_eq!(bodies(&cloud), ["1"]);
    let trap = json!({"command": "close_after_publish", "contains": "pois", "identity": DEVICE, "always": true});
    command(&cloud, trap);
    for _ in 0..2 {
        let (mut client, _) = Client::connect(&cloud, DEVICE);
        client.publish(1, TOPIC, "good");
        assert_eq!(client.read().expect("a PUBACK"), puback(1));
        client.publish(2, TOPIC, "poison");
        client.ended();
    }
    assert_eq!(bodies(&cloud), ["1", "good", "poison", "good", "poison"]);
    command(&cloud, json!({"command": "calm"}));
    let (mut client, _) = Client::connect(&cloud, DEVICE);
    client.publish(2, TOPIC, "poison");
    assert_eq!(client.read().expect("a PUBACK"), puback(2));
}

#[test]
fn frames_are_cut_and_broken_off() {
    let cloud = start();
    command(&cloud, json!({"command": "frame_bytes", "max": 1}));
    let (mut client, _) = Client::connect(&cloud, MODULE);
    client.subscribe("devices/Hannover01/modules/insight/inputs/#", QoS::Level1);
    let input = json!({"command": "input", "identity": MODULE, "input": "in1", "body": "x", "properties": {"k": "v"}});
    command(&cloud, input.clone());
    let (topic, body) = client.read_publish();
    assert_eq!((topic.as_str(), body.as_str()), ("devices/Hannover01/modules/insight/inputs/in1/k=v", "x"));
    command(&cloud, json!({"command": "frame_bytes", "max": 0}));
    command(&cloud, json!({"command": "close_mid_frame"}));
    command(&cloud, input);
    client.ended();
    let (mut client, _) = Client::connect(&cloud, MODULE);
    command(&cloud, json!({"command": "bytes", "identity": MODULE, "base64": "0AA="}));
    assert_eq!(client.read().expect("a packet"), Packet::Pingresp);
}

#[test]
fn tokens_end() {
    let cloud = start();
    let mut events = cloud.events();
    let mut ended = |client: &mut Client, word: &str| {
        client.ended();
        let fits = |what: &What| matches!(what, What::Disconnected { reason, .. } if reason.contains(word));
        assert!(events.find(DEADLINE, |event| fits(&event.what)).is_some(), "{word}");
    };
    let connect = |password: &str| {
        let mut client = Client::dial(&cloud).expect("TLS");
        client.upgrade("/$iothub/websocket", "mqtt").expect("HTTP");
        client.send(&connect_packet(&cloud, DEVICE, password).into());
        let connack = client.read().expect("a CONNACK");
        (client, format!("{connack:?}").contains("Accepted"))
    };
    let (mut client, is_in) = connect(&token(&cloud, DEVICE, 2));
    assert!(is_in);
    ended(&mut client, "token expired");
    let long = token(&cloud, DEVICE, 3000);
    let mut client = connect(&long).0;
    command(&cloud, json!({"command": "expire_tokens"}));
    ended(&mut client, "by command");
    assert!(!connect(&long).1);
    command(&cloud, json!({"command": "token_life", "seconds": 1}));
    let other = token(&cloud, DEVICE, 3001);
    ended(&mut connect(&other).0, "token expired");
    assert!(!connect(&other).1);
    command(&cloud, json!({"command": "calm"}));
    let (mut client, is_in) = connect(&other);
    assert!(is_in);
    command(&cloud, json!({"command": "revoke", "identity": DEVICE}));
    ended(&mut client, "replaced");
    assert!(!connect(&other).1);
    assert!(connect(&token(&cloud, DEVICE, 60)).1);
    // The cloud is an hour ahead, then an hour behind.
    command(&cloud, json!({"command": "clock", "skew_s": 3600}));
    assert!(!connect(&token(&cloud, DEVICE, 600)).1 && connect(&token(&cloud, DEVICE, 4200)).1);
    command(&cloud, json!({"command": "clock", "skew_s": -3600}));
    assert!(connect(&token(&cloud, DEVICE, 1)).1);
}

#[test]
fn a_denying_proxy_says_so() {
    let cloud = start();
    command(&cloud, json!({"command": "deny_proxy"}));
    let mut tcp = TcpStream::connect(cloud.ready().proxy).expect("the proxy");
    std::io::Write::write_all(&mut tcp, b"CONNECT a:443 HTTP/1.1\r\n\r\n").expect("taken");
    let mut answer = String::new();
    let _ = tcp.read_to_string(&mut answer);
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

#[test]
fn a_will_is_stored_unless_the_client_says_goodbye() {
    let cloud = start();
    let mut connect = connect_packet(&cloud, DEVICE, &token(&cloud, DEVICE, 60));
    let topic_name = TOPIC.try_into().expect("a topic");
    let message = bytes::Bytes::from_static(b"gone");
    connect.last_will = Some(mqtt_proto::v3::LastWill { topic_name, message, qos: QoS::Level1, retain: false });
    for goodbye in [true, false] {
        let mut client = Client::dial(&cloud).expect("TLS");
        client.upgrade("/$iothub/websocket", "mqtt").expect("HTTP");
        client.send(&connect.clone().into());
        client.read().expect("a CONNACK");
        if goodbye {
            client.send(&Packet::Disconnect);
            client.ended();
        }
    }
    let will = cloud.wait_until(DEADLINE, |cloud| cloud.telemetry().first().cloned()).expect("the will");
    assert_eq!((will.text(), will.property("iothub-MessageType")), (Some("gone"), Some("Will")));
    assert_eq!(cloud.telemetry().len(), 1);
}

#[test]
fn a_silent_client_is_closed() {
    let cloud = start();
    let mut connect = connect_packet(&cloud, DEVICE, &token(&cloud, DEVICE, 60));
    connect.keep_alive = 1;
    let mut client = Client::dial(&cloud).expect("TLS");
    client.send(&connect.into());
    client.read().expect("a CONNACK");
    let begin = Instant::now();
    client.ended();
    assert!((1_400..5_000).contains(&begin.elapsed().as_millis()), "{:?}", begin.elapsed());
}
