//! Measures what the conditions of 1, 10 and 100 routes cost a message: `route_bench MESSAGES`. One JSON line.
//! Must never do anything that the hub would not do with a message.

use std::time::Instant;

use skerry_abi::wire::record::{Record, System, Writer};
use skerry_runtime::logic::routing::{Envelope, NamedRoute, RecordSubject, RouteTable, View};

/// In turns: without a condition, on a property, and on the body.
const CONDITIONS: [&str; 3] = ["", "WHERE as_number(temperature) > 20", "WHERE $body.machine.temperature > 90"];

fn main() {
    let messages: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).expect("MESSAGES");
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.system(System::ContentType, Some("application/json"));
    writer.system(System::ContentEncoding, Some("utf-8"));
    writer.application("temperature", Some("21.5"));
    writer.application("line", Some("4"));
    writer
        .finish(br#"{"machine":{"temperature":88.5,"pressure":1.02},"ambient":{"temperature":21.1,"humidity":24}}"#)
        .unwrap();
    let record = Record::parse(&bytes).expect("a record");
    let per_message: Vec<String> =
        [1, 10, 100].map(|routes| format!("\"{routes}\":{:.0}", measure(routes, messages, record))).into();
    println!("{{{}}}", per_message.join(","));
}

/// Nanoseconds a message.
fn measure(routes: usize, messages: u64, record: Record<'_>) -> f64 {
    // One route alone has the dearest condition.
    let named = (0..routes).map(|n| NamedRoute {
        name: format!("r{n}"),
        text: format!(
            "FROM /messages/modules/sensor/* {} INTO BrokeredEndpoint(\"/modules/m{n}/inputs/i\")",
            CONDITIONS[(n + 2) % 3]
        ),
        priority: None,
        ttl_secs: None,
    });
    let mut table = RouteTable::new(named).expect("routes");
    let candidates = table.candidates("/messages/modules/sensor/outputs/readings");
    let envelope =
        Envelope { device_id: "bench", module_id: Some("sensor"), output: Some("readings"), ..Envelope::default() };
    let mut targets = Vec::new();
    let mut all = 0;
    let begin = Instant::now();
    for _ in 0..messages / routes as u64 {
        let subject = RecordSubject { record, envelope };
        table.select(&candidates, &View::new(&subject), &mut targets);
        all += targets.len();
    }
    let span = begin.elapsed();
    assert!(routes == 1 || all > 0, "some match");
    span.as_nanos() as f64 / (messages / routes as u64) as f64
}
