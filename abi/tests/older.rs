//! An image of now in a host of before: it answers 501 to questions that came later, and everything else works.

#[allow(dead_code)]
mod subject;

use std::sync::{Arc, Mutex};

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{ROption, RSlice, RStr};
use skerry_abi::export::create;
use skerry_abi::raw::{Answer, Document, Host, Host_TO, Sent, WakeBox, answer, ask, end, sent};
use subject::Subject;

/// Knows reports, and no later question.
struct Older(Arc<Mutex<Vec<String>>>);

impl Host for Older {
    fn device(&self) -> RStr<'_> {
        "d".into()
    }
    fn module(&self) -> RStr<'_> {
        "m".into()
    }
    fn generation(&self) -> u64 {
        1
    }
    fn state_dir(&self) -> RStr<'_> {
        "/nowhere".into()
    }
    fn reported(&self) -> Document {
        Document { version: 1, json: "{}".into() }
    }
    fn log_level(&self) -> u8 {
        5
    }
    fn log(&self, _: u8, _: RStr<'_>, text: RStr<'_>) {
        self.0.lock().unwrap().push(text.to_string());
    }
    fn publish(&self, _: u16, _: u32, _: RSlice<'_, u64>, _: RSlice<'_, u8>) -> Sent {
        Sent { code: sent::TAKEN, ticket: 1 }
    }
    fn defer(&self, _: u64) -> bool {
        false
    }
    fn complete(&self, _: u64, _: u8, _: RStr<'_>) {}
    fn ask(&self, kind: u8, _: RSlice<'_, u8>) -> u64 {
        u64::from(kind)
    }
    fn poll(&self, _: u8, id: u64, _: ROption<WakeBox>) -> Answer {
        let code = if id == u64::from(ask::REPORT) { 204 } else { 501 };
        Answer { state: answer::THERE, code, version: 1, bytes: b"not known".as_slice().into() }
    }
    fn wait(&self, space: u8, id: u64, _: i64) -> Answer {
        self.poll(space, id, ROption::RNone)
    }
    fn forget(&self, _: u8, _: u64) {}
    fn stopping(&self) -> bool {
        false
    }
    fn fail(&self, _: u8, _: RStr<'_>) {}
}

#[test]
fn what_it_does_not_know_is_told_and_hurts_nobody() {
    let log = Arc::default();
    let host = Host_TO::from_value(Older(Arc::clone(&log)), TD_Opaque);
    let mut instance = create::<Subject>(host).into_result().expect("an instance");
    assert_eq!(instance.start(1, "{}".into()).code, end::OK);
    let mut call = |name: &str, payload: &str| {
        let answered = instance.method(name.into(), RSlice::from_slice(payload.as_bytes()), 1_000);
        assert_eq!(answered.end.code, end::OK, "{name}: {:?}", answered.end);
        (answered.status, String::from_utf8_lossy(&answered.payload).into_owned())
    };
    assert_eq!(call("health", "\"no sensor\""), (200, "null".to_owned()));
    assert_eq!(call("echo", "[1]"), (200, "[1]".to_owned()));
    let told = log.lock().unwrap().join("\n");
    assert!(told.contains("this runtime is older than the health of modules; not told: \"no sensor\""), "{told}");
}
