//! Every way in which a cloud can fail under load: nothing acknowledged is lost, and each sender's order holds.

use std::time::Duration;

use skerry_cloud::{Cloud, Command, Trap};
use skerry_tests::{
    Device, Random, Sender, TESTER_TO_CLOUD, all_there, cloud, rounds, stored, tell, to_cloud, wait_connected,
    wait_stored,
};

const ID: &str = "d1/tester";

struct Load {
    cloud: Cloud,
    device: Device,
    sender: Sender,
    sent: u64,
}

impl Load {
    fn start(upstream: &str) -> Load {
        let cloud = cloud(&["tester"]);
        let mut device = Device::new(&to_cloud(&cloud, upstream, TESTER_TO_CLOUD));
        device.start();
        wait_connected(&cloud, ID);
        let sender = device.sender("tester", "out");
        Load { cloud, device, sender, sent: 0 }
    }

    fn send(&mut self, count: u64) {
        self.sender.send(self.sent..self.sent + count);
        self.sent += count;
    }

    fn tell(&self, command: Command) {
        tell(&self.cloud, command);
    }

    /// So many are acknowledged: delivered, or on disk.
    fn wait_safe(&self) {
        self.sender.wait_answers(self.sent as usize);
    }

    /// Everything that was sent was acknowledged and is there.
    fn judge(self) -> (Cloud, Device) {
        let Load { cloud, device, sender, sent } = self;
        let (acknowledged, _) = sender.end();
        assert_eq!(acknowledged, (0..sent).collect::<Vec<_>>());
        all_there(&cloud, ID, &acknowledged);
        device.wait_upstream("tester", "pending", |count| count == 0);
        device.wait_upstream("tester", "delivered", |count| count == sent);
        (cloud, device)
    }
}

#[test]
fn the_cable_is_pulled_and_put_back() {
    let mut load = Load::start("");
    load.send(100);
    wait_stored(&load.cloud, ID, 99);
    load.tell(Command::Cut);
    load.send(1_000);
    // Safe on disk, without a cloud.
    load.wait_safe();
    load.device.wait_upstream("tester", "pending", |count| count == 1_000);
    let line = load.device.wait_log("can't be reached");
    assert!(line.contains("check network and firewall"), "{line}");
    load.tell(Command::Heal);
    load.send(100);
    load.judge();
}

#[test]
fn the_network_swallows_everything() {
    let mut load = Load::start("");
    load.send(50);
    wait_stored(&load.cloud, ID, 49);
    load.tell(Command::Stall { on: true, identity: None });
    load.send(500);
    load.wait_safe();
    let line = load.device.wait_log("the cloud is silent");
    assert!(line.contains("check the network"), "{line}");
    load.device.wait_log("then said nothing");
    load.tell(Command::Stall { on: false, identity: None });
    load.judge();
}

#[test]
fn connections_are_taken_and_closed_at_once() {
    let mut load = Load::start("");
    load.tell(Command::Refuse { on: true });
    load.tell(Command::Drop { identity: None });
    load.send(300);
    load.wait_safe();
    load.device.wait_log("no TLS with");
    load.tell(Command::Refuse { on: false });
    load.judge();
}

#[test]
fn it_closes_in_the_midst_of_a_frame() {
    let mut load = Load::start("");
    for _ in 0..rounds(6, 3) {
        load.tell(Command::CloseMidFrame { identity: None });
        load.send(200);
        load.wait_safe();
    }
    load.judge();
}

#[test]
fn it_drops_connections_under_load() {
    let mut load = Load::start("");
    let mut random = Random::new(21);
    for _ in 0..rounds(12, 4) {
        load.send(200);
        let seen = load.sent.saturating_sub(random.below(200) + 1);
        wait_stored(&load.cloud, ID, seen);
        load.tell(Command::Drop { identity: None });
    }
    load.judge();
}

#[test]
fn it_acknowledges_nothing_and_then_everything() {
    let mut load = Load::start("");
    load.tell(Command::NoPuback { on: true, identity: None });
    load.send(300);
    // The cloud has some, the device keeps all.
    load.wait_safe();
    load.device.wait_log("no answer to a message");
    load.device.wait_upstream("tester", "pending", |count| count == 300);
    load.tell(Command::NoPuback { on: false, identity: None });
    let (cloud, _device) = load.judge();
    let again = cloud.telemetry();
    assert!(again.iter().any(|m| m.dup), "what came twice is marked");
    let mut seen = std::collections::BTreeSet::new();
    assert!(again.iter().all(|m| seen.insert(m.body.clone()) || m.dup), "no copy is without its mark");
}

#[test]
fn it_throttles() {
    let mut load = Load::start("");
    load.tell(Command::Throttle { per_second: 200.0, identity: None });
    load.send(600);
    load.wait_safe();
    let (_cloud, device) = load.judge();
    assert_eq!(device.uplink("tester")["connects"], 1, "slow is not broken");
}

#[test]
fn it_is_busy() {
    let mut load = Load::start("");
    for busy in [Command::Connack { code: 3, identity: None }, Command::Http { status: 503, retry_after_s: None }] {
        load.tell(busy.clone());
        load.tell(Command::Drop { identity: None });
        load.send(100);
        load.wait_safe();
        load.device.wait_log("busy");
        load.tell(Command::Calm);
        wait_stored(&load.cloud, ID, load.sent - 1);
    }
    load.judge();
}

/// It says how long it wants to be left alone, and is.
#[test]
fn it_is_busy_for_a_time_that_it_names() {
    let mut load = Load::start("");
    load.tell(Command::Http { status: 429, retry_after_s: Some(4) });
    load.tell(Command::Drop { identity: None });
    load.send(50);
    load.wait_safe();
    let line = load.device.wait_log("is busy (429");
    let wait_ms = line.split("retry_in_ms=").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
    assert!(wait_ms.is_some_and(|ms| (4_000..=5_000).contains(&ms)), "{line}");
    load.tell(Command::Calm);
    load.judge();
}

#[test]
fn it_stores_and_closes_before_it_acknowledges() {
    let mut load = Load::start("");
    let trap = Trap { nth: Some(150), always: true, ..Trap::default() };
    load.tell(Command::CloseAfterPublish { trap, identity: None });
    load.send(1_000);
    load.wait_safe();
    let (cloud, _device) = load.judge();
    let stored = stored(&cloud, ID);
    assert!(stored.len() > 1_000, "nothing was sent twice, so this test tests nothing");
}

#[test]
fn frames_are_cut_across_packets() {
    let mut load = Load::start("");
    load.tell(Command::FrameBytes { max: 3 });
    load.send(300);
    load.judge();
}

/// Tokens of 20 s that the cloud ends on time, renewed by ourselves before; and others that it ends early.
#[test]
fn tokens_expire_under_load() {
    let mut load = Load::start("token_ttl = \"20s\"\n");
    let life = u64::from(rounds(45, 3));
    let end = std::time::Instant::now() + Duration::from_secs(life);
    while std::time::Instant::now() < end {
        load.send(50);
        wait_stored(&load.cloud, ID, load.sent - 1);
    }
    let connects = load.device.uplink("tester")["connects"].as_u64().unwrap();
    if life > 40 {
        assert!(connects >= 3, "{connects}");
    }
    assert!(!load.device.log().contains("does not accept"), "a token was late");
    load.tell(Command::TokenLife { seconds: 2, identity: None });
    for _ in 0..rounds(5, 2) {
        let before = load.device.uplink("tester")["connects"].as_u64();
        while load.device.uplink("tester")["connects"].as_u64() == before {
            load.send(20);
            wait_stored(&load.cloud, ID, load.sent - 1);
        }
    }
    load.judge();
}

#[test]
fn tokens_are_refused_all_at_once() {
    let mut load = Load::start("");
    for _ in 0..3 {
        load.send(100);
        load.tell(Command::ExpireTokens { identity: None });
        // A token of the same second is the same token.
        wait_stored(&load.cloud, ID, load.sent - 1);
    }
    load.judge();
}

#[test]
fn the_runtime_is_killed_while_the_cloud_is_away_and_while_it_drains() {
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "", TESTER_TO_CLOUD));
    let mut random = Random::new(22);
    let (mut acknowledged, mut next) = (Vec::new(), 0);
    for round in 0..rounds(8, 3) {
        tell(&cloud, if round % 2 == 0 { Command::Cut } else { Command::Heal });
        device.start();
        let mut sender = device.sender("tester", "out");
        let count = 200 + random.below(400);
        sender.send(next..next + count);
        sender.wait_answers(random.below(count) as usize);
        next += count;
        device.kill();
        acknowledged.extend(sender.end().0);
    }
    tell(&cloud, Command::Heal);
    device.start();
    assert!(acknowledged.len() > 100, "this test tests nothing: {}", acknowledged.len());
    all_there(&cloud, ID, &acknowledged);
}

#[test]
fn a_clean_stop_leaves_no_duplicates() {
    let mut load = Load::start("");
    load.send(500);
    load.wait_safe();
    wait_stored(&load.cloud, ID, 499);
    assert!(load.device.stop().success());
    assert!(load.cloud.wait(Duration::from_secs(5), |e| format!("{:?}", e.what).contains("Disconnected")).is_some());
    load.device.start();
    load.sender = load.device.sender("tester", "out");
    load.sender.send(500..501);
    wait_stored(&load.cloud, ID, 500);
    assert_eq!(stored(&load.cloud, ID), (0..=500).collect::<Vec<_>>());
}
