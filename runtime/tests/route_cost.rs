//! What one evaluation of a condition costs, on a record as it comes from the link. Measures, judges nothing:
//! `cargo test --profile fast -p skerry-runtime --test route_cost -- --ignored --nocapture`.

use skerry_abi::wire::record::{Record, System, Writer};
use skerry_runtime::logic::routing::{Envelope, RecordSubject, Truth, View, compile_condition};

#[test]
#[ignore = "measures"]
fn what_an_evaluation_costs() {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.system(System::ContentType, Some("application/json"));
    writer.system(System::ContentEncoding, Some("utf-8"));
    writer.application("level", Some("high"));
    writer.application("temp", Some("25.5"));
    let body = br#"{"machine":{"temperature":26.5,"pressure":1.01,"name":"press 7"},"ambient":{"temperature":21.1,"humidity":24},"timeCreated":"2024-05-06T07:08:09.123Z","seq":123456,"tags":["a","b","c"]}"#;
    writer.finish(body).unwrap();
    let record = Record::parse(&bytes).unwrap();
    let subject = RecordSubject { record, envelope: Envelope { device_id: "d", ..Envelope::default() } };
    for text in ["true", "level = 'high'", "as_number(temp) > 20", "$body.machine.temperature > 25"] {
        let condition = compile_condition(text).unwrap();
        let mut best = f64::MAX;
        for _ in 0..7 {
            let begin = std::time::Instant::now();
            for _ in 0..100_000 {
                assert_eq!(std::hint::black_box(&condition).evaluate(&View::new(&subject)), Truth::True);
            }
            best = best.min(begin.elapsed().as_nanos() as f64 / 100_000.0);
        }
        println!("{text}: {best:.0} ns");
    }
}
