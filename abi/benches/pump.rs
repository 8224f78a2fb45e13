//! What the pump itself costs: one instance and a bare runtime at the other end of a socket pair, that routes
//! nothing and only keeps the window. One JSON line a measurement.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

use abi_stable::{prefix_type::PrefixTypeTrait, std_types::RStr};
use serde::{Deserialize, Serialize};
use skerry_abi::{
    Context, Message, Module, Outcome, Result, SendError, export_module,
    pump::{self, Options, Status},
    raw::Root,
    wire::{
        frame::{FromHost, LINK_VERSION, ToHost, split},
        record::Writer,
    },
};

const BODY_BYTES: usize = 256;
const SPAN: Duration = Duration::from_secs(2);

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
struct Settings {
    /// Sends this many from a thread of its own.
    source: u64,
}

struct Bench;

impl Module for Bench {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Bench> {
        if settings.source > 0 {
            let own = cx.clone();
            cx.spawn("source", move || {
                let message = Message::new(vec![b'x'; BODY_BYTES]);
                for _ in 0..settings.source {
                    match own.send("output1", &message) {
                        Ok(_) => {}
                        Err(SendError::Stopping) => break,
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            })?;
        }
        Ok(Bench)
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result {
        cx.send("output1", message)?;
        Ok(())
    }
}

export_module!(Bench, "echo/settings.json");

/// The runtime's end.
struct Runtime {
    link: UnixStream,
    read: Vec<u8>,
    out: Vec<u8>,
    pump: std::thread::JoinHandle<i32>,
}

impl Runtime {
    fn start(settings: &str, window: u32) -> Runtime {
        let (link, theirs) = UnixStream::pair().unwrap();
        let status: &'static Status = Box::leak(Box::new(Status::new()));
        let pump = std::thread::spawn(move || {
            let options = Options { link: theirs, status, isolation: String::new(), log_level: 3, exit: None };
            pump::run(options, |_| {
                let sdk_version = RStr::from_str("bench");
                Ok(Root { sdk_version, create: skerry_abi::export::create::<Bench> }.leak_into_prefix())
            })
        });
        let mut runtime = Runtime { link, read: Vec::new(), out: Vec::new(), pump };
        let hello = ToHost::Hello {
            link_version: LINK_VERSION,
            device: "bench",
            module: "bench",
            generation: 1,
            credit_messages: window,
            credit_bytes: 64 << 20,
        };
        hello.encode(&mut runtime.out);
        ToHost::Start { desired_version: 1, desired: settings, reported_version: 1, reported: "{}", state_dir: "/" }
            .encode(&mut runtime.out);
        runtime.flush();
        let mut started = false;
        while !started {
            runtime.turn(|frame| started |= matches!(frame, FromHost::Started));
        }
        runtime
    }

    fn flush(&mut self) {
        self.link.write_all(&self.out).unwrap();
        self.out.clear();
    }

    /// Reads once and settles what was published, in one run.
    fn turn(&mut self, mut each: impl FnMut(&FromHost<'_>)) -> u32 {
        let mut chunk = [0; 256 * 1024];
        let count = self.link.read(&mut chunk).unwrap();
        self.read.extend_from_slice(&chunk[..count]);
        let mut rest = &self.read[..];
        let (mut first, mut count) = (0, 0);
        while let Some(frame) = split(&mut rest).unwrap() {
            let frame = FromHost::decode(frame).unwrap();
            if let FromHost::Publish { ticket, .. } = frame {
                first = if count == 0 { ticket } else { first };
                count += 1;
            }
            each(&frame);
        }
        let left = rest.len();
        self.read.drain(..self.read.len() - left);
        if count > 0 {
            ToHost::Settled { first, count, outcome: Outcome::Delivered, reason: "" }.encode(&mut self.out);
        }
        count
    }

    fn deliver(&mut self, id: u64, record: &[u8]) {
        let deliver = ToHost::Deliver {
            id,
            queue: 0,
            input: 0,
            attempts: 0,
            enqueued_ms: 1,
            source_module: "source",
            source_output: "output1",
            record,
        };
        deliver.encode(&mut self.out);
    }

    fn stop(mut self) {
        ToHost::Stop { grace_ms: 1_000 }.encode(&mut self.out);
        self.flush();
        let mut stopped = false;
        while !stopped {
            self.turn(|frame| stopped |= matches!(frame, FromHost::Stopped));
            // What is settled after the stop finds nobody there.
            let _ = self.link.write_all(&self.out);
            self.out.clear();
        }
        self.pump.join().unwrap();
    }
}

fn record() -> Vec<u8> {
    let mut record = Vec::new();
    Writer::new(&mut record).finish(&[b'x'; BODY_BYTES]).unwrap();
    record
}

/// In at an input, out at an output, acknowledged both sides.
fn echo(window: u64) {
    let (mut runtime, record) = (Runtime::start("{}", window as u32), record());
    let (mut sent, mut done) = (0, 0);
    let begin = Instant::now();
    while begin.elapsed() < SPAN {
        while sent - done < window {
            sent += 1;
            runtime.deliver(sent, &record);
        }
        runtime.flush();
        runtime.turn(|frame| {
            if let FromHost::Complete { count, .. } = frame {
                done += u64::from(*count);
            }
        });
    }
    let rate = done as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"bench":"pump echo","window":{window},"bytes":{BODY_BYTES},"messages_per_s":{rate:.0}}}"#);
    runtime.stop();
}

fn one_at_a_time() {
    let (mut runtime, record) = (Runtime::start("{}", 256), record());
    let mut spans = Vec::new();
    let begin = Instant::now();
    for id in 1.. {
        let sent = Instant::now();
        runtime.deliver(id, &record);
        runtime.flush();
        let mut done = false;
        while !done {
            runtime.turn(|frame| done |= matches!(frame, FromHost::Complete { .. }));
        }
        spans.push(sent.elapsed().as_nanos() as f64 / 1_000.0);
        if begin.elapsed() > SPAN {
            break;
        }
    }
    spans.sort_unstable_by(f64::total_cmp);
    let at = |part: usize| spans[spans.len() * part / 100];
    println!(r#"{{"bench":"pump round trip","p50_us":{:.1},"p99_us":{:.1}}}"#, at(50), at(99));
    runtime.stop();
}

/// The same without a pump: two threads that pass a byte.
fn ping_pong() {
    let (mut here, mut there) = UnixStream::pair().unwrap();
    let echo = std::thread::spawn(move || {
        let mut byte = [0; 512];
        while let Ok(count @ 1..) = there.read(&mut byte) {
            there.write_all(&byte[..count]).unwrap();
        }
    });
    let mut spans = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < SPAN {
        let sent = Instant::now();
        here.write_all(&[1; 300]).unwrap();
        let _ = here.read(&mut [0; 512]).unwrap();
        spans.push(sent.elapsed().as_nanos() as f64 / 1_000.0);
    }
    drop(here);
    echo.join().unwrap();
    spans.sort_unstable_by(f64::total_cmp);
    println!(
        r#"{{"bench":"bare ping-pong","p50_us":{:.1},"p99_us":{:.1}}}"#,
        spans[spans.len() / 2],
        spans[spans.len() * 99 / 100]
    );
}

/// From a thread of the module's own.
fn source(window: u32) {
    let mut runtime = Runtime::start(r#"{"source": 1000000000}"#, window);
    let mut got = 0;
    let begin = Instant::now();
    while begin.elapsed() < SPAN {
        // First: what came with the start is settled, but not said yet.
        runtime.flush();
        got += u64::from(runtime.turn(|_| ()));
    }
    let rate = got as f64 / begin.elapsed().as_secs_f64();
    println!(r#"{{"bench":"pump source thread","window":{window},"bytes":{BODY_BYTES},"messages_per_s":{rate:.0}}}"#);
    runtime.stop();
}

fn main() {
    ping_pong();
    one_at_a_time();
    echo(256);
    echo(4096);
    source(256);
    source(4096);
}
