//! What comes from modules, files and operators: link frames, records, blocks, images, routes, conditions, messages as JSON.
//! Must find no panic, and nothing that is accepted and then can't be used.

use skerry_abi::wire::frame::{self, FromHost, ToHost};
use skerry_abi::wire::record::{Record, System, Writer};
use skerry_fuzz::{fuzz, fuzz_text};
use skerry_runtime::io::store::probe;
use skerry_runtime::io::{elf, image};
use skerry_runtime::logic::block::{Block, BlockWriter, Goes};
use skerry_runtime::logic::redact::Redactor;
use skerry_runtime::logic::{message_json, routing};
use skerry_runtime::model::endpoint::Source;
use skerry_runtime::model::time::{Age, Wall};

fn record() -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes);
    writer.system(System::MessageId, Some("id"));
    writer.application("alert", Some("true"));
    writer.application("null", None);
    writer.finish(b"{\"t\":1}").expect("a good record");
    bytes
}

#[test]
fn link_frames() {
    let mut publish = Vec::new();
    frame::publish(&mut publish, 1, 0, false, &[3, 4], &record());
    let mut hello = Vec::new();
    ToHost::Hello { link_version: 1, device: "d", module: "m", generation: 1, credit_messages: 9, credit_bytes: 9 }
        .encode(&mut hello);
    fuzz("link_frames", &[&publish, &hello], |bytes| {
        let mut rest = bytes;
        while let Ok(Some(one)) = frame::split(&mut rest) {
            let _ = FromHost::decode(one);
            let _ = ToHost::decode(one);
        }
    });
}

#[test]
fn records() {
    fuzz("records", &[&record()], |bytes| {
        let _ = Record::parse_trusted(bytes).map(|record| record.body().len());
        if let Ok(record) = Record::parse(bytes) {
            // What was accepted can be shown, and comes back as it was.
            let line = serde_json::Value::Object(message_json::record_to_json(&record)).to_string();
            let again = message_json::record_from_line(line.as_bytes());
            let again = again.unwrap_or_else(|_| panic!("{line} is not taken back"));
            let again = Record::parse(&again).expect("our own record");
            assert_eq!((again.body(), again.properties().count()), (record.body(), record.properties().count()));
        }
    });
}

#[test]
fn messages_as_json() {
    let good: [&[u8]; 3] = [
        br#"{"body":{"t":1},"properties":{"a":"b","n":null},"system":{"messageId":"1"}}"#,
        br#"{"bodyBase64":"AAEC"}"#,
        br#"{"body":"text"}"#,
    ];
    fuzz("messages_as_json", &good, |bytes| {
        if let Ok(record) = message_json::record_from_line(bytes) {
            assert!(Record::parse(&record).is_ok());
        }
    });
}

#[test]
fn blocks() {
    let mut writer = BlockWriter::default();
    let source = Source { module: "a".into(), output: "out".into() };
    let goes = [Goes { queue: 1, expiry: Age::NEVER }, Goes { queue: 7, expiry: Age(9) }];
    for seq in 1..4 {
        writer.push(seq, &source, Wall(seq as i64), &goes, &record());
    }
    let block = writer.finish();
    fuzz("blocks", &[&block, &record()], |bytes| {
        let Ok(block) = Block::parse(bytes) else { return };
        let _ = block.for_each(|message| {
            let _ = (message.goes().count(), Record::parse(message.record).is_ok());
        });
    });
}

/// Records of the log, and rows of the index, as a disk may have spoilt them without a checksum to tell.
#[test]
fn stored_records() {
    let good = [probe::record_around(b""), probe::record_around(&b"{\"t\":21.5}".repeat(20)), record()];
    fuzz("stored_records", &[&good[0], &good[1], &good[2], &[0; 40]], |bytes| {
        probe::record(bytes);
        probe::row(bytes);
    });
}

#[test]
fn images() {
    let own = std::fs::read("/proc/self/exe").unwrap_or_default();
    let head = &own[..own.len().min(4_096)];
    fuzz("images", &[head, b"\x7fELF\x02\x01\x01"], |bytes| {
        let _ = elf::read(bytes).is_ok();
        let _ = image::parse(bytes).is_ok();
    });
}

/// A secret that is known is in nothing that comes out, whatever goes in.
#[test]
fn secrets() {
    const SECRET: &str = "hunter2-and-more";
    let good = [
        "[provisioning]\nconnection_string = \"HostName=h;SharedAccessKey=hunter2-and-more\" # hunter2-and-more\n",
        "[m.x.env]\nA = 'hunter2-and-more'\nb = { password = \"\"\"hunter2-and-more\n\"\"\" }\n",
        "{\"createOptions\": \"{\\\"Env\\\":[\\\"A=hunter2-and-more\\\"]}\", \"said\": \"hunter2-and-more\"}",
        "Authorization: Bearer hunter2-and-more\nhttps://me:hunter2-and-more@host/?sig=hunter2-and-more",
    ];
    fuzz_text("secrets", &good, |text| {
        let mut redactor = Redactor::default();
        redactor.know(SECRET.as_bytes());
        let mut shown = vec![redactor.text(text), redactor.toml(text)];
        if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
            shown.push(redactor.json(&json).to_string());
        }
        assert!(shown.iter().all(|text| !text.contains(SECRET)), "{shown:?}");
    });
}

#[test]
fn routes_and_conditions() {
    let good = [
        "FROM /messages/modules/a/outputs/* WHERE temp > 20 AND $body.x.y = 'z' INTO BrokeredEndpoint(\"/modules/b/inputs/in\")",
        "FROM /messages/* INTO $upstream",
        "FROM /* WHERE NOT is_defined(a) OR as_number(b) IN (1, 2) INTO $upstream",
    ];
    fuzz_text("routes", &good, |text| {
        if let Ok(parsed) = routing::split_route(text) {
            let _ = parsed;
        }
        let _ = routing::parse_route(text);
    });
    let good = ["temp > 20", "$body.a[0].b <> 'x' AND starts_with(c, 'd')", "((((1))))", "NOT (a = null) OR b"];
    fuzz_text("conditions", &good, |text| drop(routing::compile_condition(text)));
}
