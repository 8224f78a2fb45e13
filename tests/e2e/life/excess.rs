//! Modules that take more than their share: of memory, of the link, of the queue. Only they feel it.

use serde_json::json;
use skerry_tests::{Device, Image, Instance, numbered};

const ROUTES: &str = r#"[routes]
flood = 'FROM /messages/modules/faulty/outputs/output2 INTO BrokeredEndpoint("/modules/ledger/inputs/input1")'
calm = 'FROM /messages/modules/tester/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
"#;

fn device(config: &str) -> (Device, Instance) {
    let mut device = Device::new(&format!("{config}{ROUTES}"));
    device.drop_in("faulty.so", &Image::of("faulty"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    let faulty = device.wait_running("faulty");
    device.wait_running("scribe");
    (device, faulty)
}

#[test]
fn memory_beyond_the_limit_ends_only_its_taker() {
    let (device, faulty) = device("[modules.faulty]\nmemory_max = \"64MiB\"\n");
    let scribe = device.running("scribe");
    device.method("faulty", "leak", &json!({"bytes": 256}));
    device.wait_exit("faulty", "killed by SIG");
    device.wait_after("faulty", faulty.generation);
    assert_eq!(device.running("scribe"), scribe);
}

#[test]
fn rubbish_in_the_midst_of_a_life_is_its_end() {
    let (device, faulty) = device("");
    let scribe = device.running("scribe");
    device.method("faulty", "rubbish", &json!({}));
    device.wait_exit("faulty", "its link carried rubbish");
    device.wait_after("faulty", faulty.generation);
    assert_eq!(device.running("scribe"), scribe);
}

#[test]
fn a_flood_to_nobody_waits_on_disk_and_holds_up_no_other() {
    const FLOOD: u64 = 20_000;
    let (device, faulty) = device("[store]\nmemory = \"2MiB\"\n");
    device.method("faulty", "flood", &json!({"count": FLOOD, "bytes": 512}));
    for seq in 0..20 {
        // A commit takes everything that was admitted so far, so one of these may be on disk before it is consumed.
        let answer = device.send("tester", "out", &numbered(seq));
        assert!(answer["outcome"] == "delivered" || answer["outcome"] == "durable", "{answer}");
        device.wait_book("scribe", "it while the flood lasts", |line| line["body"]["seq"] == seq);
    }
    device.wait_count("ledger", "accepted", FLOOD);
    device.wait_count("ledger", "pending", FLOOD);
    assert_eq!(device.running("faulty"), Some(faulty));
    let runtime = std::fs::read_to_string(format!("/proc/{}/status", device.pid())).unwrap();
    let resident = runtime.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim().trim_end_matches(" kB");
    assert!(resident.parse::<u64>().unwrap() < 64 * 1024, "{resident} kB for a flood of 10 MiB with 2 MiB of memory");
    device.drop_in("ledger.so", &Image::scribe_named("ledger"));
    device.wait_count("ledger", "delivered", FLOOD);
    device.wait_count("ledger", "pending", 0);
    assert!(device.book("ledger").len() as u64 >= FLOOD);
}

#[test]
fn at_the_quota_senders_are_refused_and_what_was_taken_stays() {
    let (mut device, _) = device("[store]\nquota = \"1MiB\"\nmemory = \"1MiB\"\nflush_interval = \"10ms\"\n");
    // Nobody can make this smaller.
    let mut noise = 88_172_645_463_325_252_u64;
    let mut line = |seq: u64| {
        let text: String = (0..2_000)
            .map(|_| {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                format!("{noise:016x}")
            })
            .collect();
        json!({"body": {"seq": seq, "text": text}})
    };
    device.drop_in("faulty.so", &Image::of("faulty"));
    std::fs::remove_file(device.module_file("scribe.so")).unwrap();
    skerry_tests::wait_for("the scribe is gone", || device.module("scribe").is_null().then_some(()));
    let lines: Vec<_> = (0..200).map(&mut line).collect();
    let answers = device.send_all("tester", "out", &lines);
    let taken = answers.iter().filter(|answer| answer["outcome"] == "durable").count() as u64;
    let refused: Vec<_> = answers.iter().filter(|answer| answer["outcome"] == "refused").collect();
    assert!(taken > 0 && !refused.is_empty(), "{taken} taken, {} refused", refused.len());
    assert!(
        refused[0]["reason"].as_str().is_some_and(|why| why.contains("quota") || why.contains("full")),
        "{refused:?}"
    );
    let size = std::fs::metadata(device.path("state/store/store.redb")).unwrap().len();
    println!("{taken} taken, {} refused, a file of {size} bytes", refused.len());
    device.kill();
    device.start();
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.wait_count("scribe", "pending", 0);
    assert!(device.book("scribe").len() as u64 >= taken);
    // There is room again.
    assert_eq!(device.send("tester", "out", &numbered(1_000))["outcome"], "delivered");
}
