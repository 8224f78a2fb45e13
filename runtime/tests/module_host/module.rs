//! A module of the real SDK in a real host: the way of a message, and every way to fail.

use crate::kit::{Run, State, misbehave};
use skerry_abi::pump::status::kind;
use skerry_abi::wire::frame::{Completion, FromHost, ToHost};
use skerry_abi::wire::record::{Record, Writer};
use skerry_runtime::io::image;
use skerry_runtime::io::order::Limits;
use skerry_runtime::io::process::{Ended, Spec};
use std::process::Command;

impl Run {
    fn deliver(&mut self, id: u64, word: &str) {
        let mut record = Vec::new();
        Writer::new(&mut record).finish(word.as_bytes()).unwrap();
        self.say(&ToHost::Deliver {
            id,
            queue: 1,
            input: 0,
            attempts: 0,
            enqueued_ms: 0,
            source_module: "test",
            source_output: "out",
            record: &record,
        });
    }

    /// The next frame that is no log line, as `Debug` shows it; a record as its body.
    fn next(&mut self) -> String {
        loop {
            let text = self.hear(|frame| match frame {
                FromHost::Log { .. } => String::new(),
                FromHost::Publish { ticket, output, parents, record, .. } => {
                    let body = Record::parse(record).unwrap().body();
                    format!("publish {ticket} on {output} for {parents:?}: {}", String::from_utf8_lossy(body))
                }
                FromHost::Complete { first, count, completion: Completion::Done, .. } => {
                    format!("done {first} {count}")
                }
                FromHost::Complete { first, completion, reason, .. } => format!("{completion:?} {first}: {reason}"),
                FromHost::Failed { kind, text } => format!("{kind:?}: {text}"),
                other => format!("{other:?}"),
            });
            if !text.is_empty() {
                return text;
            }
        }
    }

    fn started(state: &State) -> Run {
        let mut run = Run::start(state, &state.spec(), &misbehave());
        run.hello();
        assert_eq!(run.next(), "Started");
        run
    }
}

#[test]
fn a_message_goes_in_and_out() {
    let state = State::new();
    let mut run = Run::started(&state);
    run.deliver(1, "hello");
    assert_eq!(run.next(), "publish 1 on 0 for [1]: hello");
    run.say(&ToHost::Settled { first: 1, count: 1, outcome: skerry_abi::Outcome::Delivered, reason: "" });
    assert_eq!(run.next(), "done 1 1");
    run.say(&ToHost::Stop { grace_ms: 1000 });
    assert_eq!(run.next(), "Stopped");
    assert_eq!(run.ended(), Ended::Code(0));
    assert_eq!(run.output(), "well\nhello\n");
    let page = run.host.status.read().unwrap();
    assert_eq!((page.delivery, page.signal, page.live), (0, 0, true));
}

#[test]
fn a_crash_names_its_message_and_its_place() {
    let state = State::new();
    let mut run = Run::started(&state);
    run.deliver(7, "crash");
    assert_eq!(run.ended(), Ended::Signal(11));
    let page = run.host.status.read().unwrap();
    assert_eq!((page.delivery, page.callback_kind, page.signal), (7, kind::MESSAGE, 11));
    assert!(page.callback_started_ms > 0);
    let offset = page.image_offset().expect("a crash in the image");
    let path = state.folder().join("images/image.so");
    let names = Command::new("addr2line").args(["-f", "-e"]).arg(path).arg(format!("{offset:#x}")).output();
    match names {
        Ok(names) => {
            let names = String::from_utf8_lossy(&names.stdout).into_owned();
            assert!(names.contains("crash_here") || names.contains("write_volatile"), "{names}");
        }
        Err(_) => println!("NOT RUN: addr2line is missing"),
    }
}

#[test]
fn each_way_to_fail_has_its_trace() {
    for (word, frame, ended, signal) in [
        ("overflow", "", Ended::Signal(11), 11),
        ("exit", "", Ended::Code(3), 0),
        ("error", "Refused 1: as told", Ended::Signal(9), 0),
        ("panic", "Panicked { delivery: 1, text: \"panicked: as told, at ", Ended::Signal(9), 0),
    ] {
        let state = State::new();
        let mut run = Run::started(&state);
        run.deliver(1, word);
        if !frame.is_empty() {
            let got = run.next();
            assert!(got.starts_with(frame), "{word}: {got}");
            run.host.kill();
        }
        assert_eq!(run.ended(), ended, "{word}");
        assert_eq!(run.host.status.read().unwrap().signal, signal, "{word}");
    }
}

#[test]
fn a_start_that_fails_says_why() {
    for (how, words, ended) in [
        ("error", "Start: as told", Ended::Code(70)),
        ("panic", "Start: ", Ended::Code(70)),
        ("crash", "", Ended::Signal(11)),
    ] {
        let state = State::new();
        let mut run = Run::start(&state, &state.spec(), &misbehave());
        run.hello_with(&format!("{{\"start\":\"{how}\"}}"));
        if !words.is_empty() {
            let got = run.next();
            assert!(got.starts_with(words) && got.contains("as told"), "{how}: {got}");
        }
        assert_eq!(run.ended(), ended, "{how}");
        let page = run.host.status.read().unwrap();
        assert_eq!(page.image_offset().is_some(), how == "crash", "{how}: {page:?}");
    }
}

#[test]
fn a_callback_that_hangs_is_seen_and_dies_with_the_link() {
    let state = State::new();
    let mut run = Run::started(&state);
    run.deliver(4, "hang");
    let page = loop {
        let page = run.host.status.read().unwrap();
        if page.delivery == 4 {
            break page;
        }
        std::thread::yield_now();
    };
    assert!(page.callback_started_ms > 0 && page.callback_kind == kind::MESSAGE);
    run.shutdown();
    assert_eq!(run.ended(), Ended::Code(71));
}

/// What counts as a hang is one callback that lasts, or a host that is silent; who waits for credit is neither.
#[test]
fn a_wait_for_credit_is_no_hang() {
    let state = State::new();
    let mut run = Run::started(&state);
    (1..=20).for_each(|id| run.deliver(id, "x"));
    let published = |run: &mut Run, count: usize| {
        let mut seen = 0;
        while seen < count {
            seen += usize::from(run.next().starts_with("publish "));
        }
    };
    // The window of 16, and the one that overdraws it. Nothing of it is safe, so the next one waits.
    published(&mut run, 17);
    for n in 1..=3 {
        run.say(&ToHost::Ping { n });
        loop {
            let frame = run.next();
            assert!(!frame.starts_with("publish "), "it did not wait: {frame}");
            if frame == format!("Pong {{ n: {n} }}") {
                break;
            }
        }
        let page = run.host.status.read().unwrap();
        assert!(n == 1 || (page.delivery, page.callback_started_ms) == (0, 0), "{page:?}");
    }
    run.say(&ToHost::Settled { first: 1, count: 17, outcome: skerry_abi::Outcome::Delivered, reason: "" });
    published(&mut run, 3);
}

#[test]
fn memory_beyond_the_limit_ends_the_instance_alone() {
    let state = State::new();
    let limits = Limits { memory_bytes: Some(256 << 20), ..Limits::default() };
    let mut run = Run::start(&state, &Spec { limits, ..state.spec() }, &misbehave());
    run.hello();
    assert_eq!(run.next(), "Started");
    run.deliver(1, "hoard");
    assert_eq!(run.ended(), Ended::Signal(6));
    assert!(run.output().contains("memory allocation of 1073741824 bytes failed"));
}

#[test]
fn rubbish_on_the_link_ends_the_host() {
    let state = State::new();
    let mut run = Run::started(&state);
    std::io::Write::write_all(&mut run.link, &[0xff; 64]).unwrap();
    assert_eq!(run.ended(), Ended::Code(71));
}

#[test]
fn what_the_sdk_writes_is_what_is_read() {
    let image = image::parse(&misbehave()).unwrap();
    assert_eq!((image.name.as_str(), image.package.as_str()), ("misbehave", "skerry-runtime"));
    assert_eq!((image.inputs, image.outputs), (vec!["do".to_owned()], vec!["done".to_owned()]));
    assert_eq!(image.settings[0].default, "\"well\"");
    image::fits(&image::parse(&misbehave()).unwrap(), image::device()).unwrap();
}

#[test]
fn no_damage_to_a_real_image_panics() {
    let mut bytes = misbehave();
    let length = bytes.len();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random as usize % below
    };
    for _ in 0..150 {
        // The headers at both ends, where offsets and lengths stand.
        let places: Vec<usize> = (0..4).map(|_| [next(4096), length - 1 - next(4096), next(length)][next(3)]).collect();
        let were: Vec<u8> = places.iter().map(|at| bytes[*at]).collect();
        places.iter().for_each(|at| bytes[*at] = [0, 0xff, 0x80, next(256) as u8][next(4)]);
        let _ = image::parse(&bytes).map_err(|error| error.to_string());
        places.iter().zip(were).rev().for_each(|(at, was)| bytes[*at] = was);
    }
    for _ in 0..50 {
        assert!(image::parse(&bytes[..next(length)]).is_err());
    }
    image::parse(&bytes).unwrap();
}
