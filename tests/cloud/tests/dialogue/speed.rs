//! How fast messages are taken, so that a benchmark never measures the emulator: `SKERRY_SPEED=1` prints the figure.

use std::time::{Duration, Instant};

use mqtt_proto::v3::Packet;
use skerry_cloud::{Cloud, Options};

use crate::client::Client;

const TOPIC: &str = "devices/Hannover01/messages/events/%24.ct=application%2Fjson&a=1";
/// Publishes that wait for their acknowledgement.
const WINDOW: u16 = 500;

/// Messages a second, acknowledged.
fn rate(keep_telemetry: bool, rounds: u16) -> f64 {
    let options = Options { keep_telemetry, ..Options::new("Hannover01", &[]) };
    let cloud = Cloud::start(options).expect("an emulator");
    let (mut client, _) = Client::connect(&cloud, "Hannover01");
    let packet = |pid: u16| -> Packet {
        let pid = mqtt_proto::QosPid::Level1(pid.try_into().expect("an id"));
        mqtt_proto::v3::Publish::new(pid, TOPIC.try_into().expect("a topic"), vec![b'x'; 256].into()).into()
    };
    let batch: Vec<u8> =
        (1..=WINDOW).flat_map(|pid| packet(pid).encode().expect("a packet").as_ref().to_vec()).collect();
    let begin = Instant::now();
    for _ in 0..rounds {
        client.send_bytes(&batch);
        for pid in 1..=WINDOW {
            assert_eq!(client.read().expect("a PUBACK"), Packet::Puback(pid.try_into().expect("an id")));
        }
    }
    let took: Duration = begin.elapsed();
    let count = u64::from(rounds) * u64::from(WINDOW);
    assert_eq!(cloud.stored()["Hannover01"].messages, count);
    assert_eq!(cloud.telemetry().len() as u64, if keep_telemetry { count } else { 0 });
    count as f64 / took.as_secs_f64()
}

#[test]
fn thousands_a_second() {
    let rounds = if std::env::var_os("SKERRY_SPEED").is_some() { 400 } else { 10 };
    for keep_telemetry in [true, false] {
        let rate = rate(keep_telemetry, rounds);
        println!("keep_telemetry {keep_telemetry}: {rate:.0} messages/s");
        assert!(rate > 1_000.0, "{rate}");
    }
}
