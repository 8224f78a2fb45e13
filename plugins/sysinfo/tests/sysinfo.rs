//! The measurements of this very machine.

use serde_json::{Value, json};
use skerry_abi::{Harness, System};
use skerry_sysinfo::Sysinfo;

#[test]
fn measurements_are_numbered_and_plausible() {
    let mut harness = Harness::start::<Sysinfo>(json!({"interval_ms": 10, "disks": ["/", "/no/such/folder"]}));
    let mut epoch = Value::Null;
    for seq in 1..=3 {
        let message = harness.receive("metrics");
        let body: Value = message.json().unwrap();
        assert_eq!(body["seq"], seq);
        assert_eq!(message.property("seq"), Some(seq.to_string().as_str()));
        assert_eq!(message.system(System::ContentType), Some("application/json"));
        assert_eq!(message.system(System::ContentEncoding), Some("utf-8"));
        assert!(epoch.is_null() || epoch == body["epoch"]);
        epoch = body["epoch"].clone();
        assert!(body["memory"]["total_bytes"].as_u64() >= body["memory"]["available_bytes"].as_u64());
        assert!(body["disks"]["/"]["total_bytes"].as_u64() > Some(0));
        assert!(body["disks"].get("/no/such/folder").is_none());
        assert!(body["cpu_percent"].is_null() || body["cpu_percent"].as_f64() <= Some(100.0));
        assert_eq!(body["device"], "harness");
        assert!(body["safe"].as_u64() < Some(seq));
    }
    let count = harness.method("count", Value::Null).payload;
    assert!(count["epoch"] == epoch && count["sent"].as_u64() >= Some(3), "{count}");
    assert!(count["safe"].as_u64() <= count["sent"].as_u64(), "{count}");
    harness.stop();
}
