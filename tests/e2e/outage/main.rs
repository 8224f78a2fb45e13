//! The long outage, in time as it passes: the cloud is cut for a minute under load, tokens live for 20 s, and the runtime is killed
//! twice in between. Must never count a message as lost or kept by anything but what the sender was told and the cloud has.

use std::time::{Duration, Instant};

use skerry_cloud::Command;
use skerry_tests::{Device, TESTER_TO_CLOUD, all_there, cloud, rounds, tell, to_cloud, wait_connected, wait_within};

const ID: &str = "d1/tester";
/// Messages a second.
const RATE: u64 = 1_000;
/// Messages of one stroke.
const STROKE: u64 = 20;

struct Load {
    device: Device,
    sender: skerry_tests::Sender,
    sent: u64,
    acknowledged: Vec<u64>,
}

impl Load {
    /// The load goes on at its rate for so long; a sender that is held up makes up for it.
    fn go_on(&mut self, span: Duration) {
        let (begin, first) = (Instant::now(), self.sent);
        while begin.elapsed() < span {
            let due = first + begin.elapsed().as_millis() as u64 * RATE / 1_000;
            while self.sent < due {
                self.sender.send(self.sent..self.sent + STROKE);
                self.sent += STROKE;
            }
            let beat = Instant::now() + Duration::from_millis(STROKE * 1_000 / RATE);
            wait_within(span, || (Instant::now() >= beat).then_some(()));
        }
    }

    fn kill(&mut self) {
        self.device.kill();
        let next = self.device_again();
        let last = std::mem::replace(&mut self.sender, next);
        self.acknowledged.extend(last.end().0);
    }

    fn device_again(&mut self) -> skerry_tests::Sender {
        self.device.start();
        self.device.sender("tester", "out")
    }
}

#[test]
fn a_minute_without_a_cloud_loses_nothing() {
    let part = Duration::from_secs(u64::from(rounds(20, 3)));
    let cloud = cloud(&["tester"]);
    let mut device = Device::new(&to_cloud(&cloud, "token_ttl = \"20s\"", TESTER_TO_CLOUD));
    device.start();
    wait_connected(&cloud, ID);
    let sender = device.sender("tester", "out");
    let mut load = Load { device, sender, sent: 0, acknowledged: Vec::new() };
    load.go_on(part / 4);
    tell(&cloud, Command::Cut);
    for _ in 0..2 {
        load.go_on(part);
        load.kill();
    }
    load.go_on(part);
    tell(&cloud, Command::Heal);
    // Over the life of a token while it drains.
    load.go_on(part);
    let Load { device, sender, sent, mut acknowledged } = load;
    acknowledged.extend(sender.end().0);
    let drained = wait_within(Duration::from_secs(120), || {
        device.upstream_queue("tester").filter(|queue| queue["pending"] == 0).map(drop)
    });
    assert!(drained.is_some(), "it does not drain: {:?}", device.upstream_queue("tester"));
    println!("{sent} sent, {} acknowledged", acknowledged.len());
    assert!(acknowledged.len() as u64 > sent * 9 / 10, "this test tests little: {} of {sent}", acknowledged.len());
    all_there(&cloud, ID, &acknowledged);
    assert!(!device.log().contains("does not accept"), "a token was late");
}
