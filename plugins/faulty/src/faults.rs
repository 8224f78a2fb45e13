//! The faults by name. Those that come back say what they met: a test reads it.
//! Must never do harm beyond its own process and folder.

use std::{
    fs,
    io::Write,
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use skerry_abi::{Context, Error, Message, Result, SendError};

use crate::{Settings, crash};

/// Everything that `show` knows.
const KNOWN: &[&str] = &[
    "panic",
    "abort",
    "segfault",
    "overflow",
    "exit",
    "fail",
    "unhealthy",
    "healthy",
    "error",
    "thread_panic",
    "hang",
    "spin",
    "slow",
    "flood",
    "burst",
    "leak",
    "log",
    "open",
    "write",
    "connect",
    "rubbish",
    "orphan",
    "undeclared",
    "oversize",
    "names",
    "properties",
    "receipt",
];

pub fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Shows a fault. Some do not come back.
pub fn show(cx: &Context, name: &str, how: &Settings) -> Result<Value> {
    let span = Duration::from_millis(how.ms);
    match name {
        "panic" => panic!("as told"),
        "abort" => std::process::abort(),
        "segfault" => crash::segfault(),
        "overflow" => Ok(json!(overflow(how.count))),
        "exit" => std::process::exit(3),
        "fail" => {
            cx.fail("as told");
            Ok(Value::Null)
        }
        "unhealthy" => {
            cx.unhealthy("as told");
            Ok(Value::Null)
        }
        "healthy" => {
            cx.healthy();
            Ok(Value::Null)
        }
        "error" => Err(Error::new("as told")),
        "thread_panic" => {
            cx.spawn("faulty", || panic!("as told"))?;
            Ok(Value::Null)
        }
        "hang" => loop {
            thread::park();
        },
        "spin" => {
            let begin = Instant::now();
            while begin.elapsed() < span {
                std::hint::spin_loop();
            }
            Ok(Value::Null)
        }
        "slow" => {
            thread::sleep(span);
            Ok(Value::Null)
        }
        "flood" => flood(cx, how),
        "burst" => burst(cx, how),
        "leak" => Ok(leak(how.bytes)),
        "log" => {
            (0..how.count).for_each(|n| log::info!("line {n}"));
            Ok(Value::Null)
        }
        "open" => Ok(met(fs::read_dir(&how.path).map(drop).or_else(|_| fs::File::open(&how.path).map(drop)))),
        "write" => Ok(met(fs::write(&how.path, "faulty was here"))),
        "connect" => {
            Ok(met(UnixStream::connect(&how.path).and_then(|mut link| link.write_all(b"GET / HTTP/1.1\r\n\r\n"))))
        }
        "orphan" => orphan(),
        "rubbish" => Ok(json!(crash::write_to_sockets(&[0xff; 64]))),
        _ => unfit(cx, name, how),
    }
}

/// Messages that the SDK must not let through.
fn unfit(cx: &Context, name: &str, how: &Settings) -> Result<Value> {
    let sent = match name {
        "undeclared" => cx.send("nowhere", Message::new("")),
        "oversize" => cx.send("output1", Message::new(vec![0; 256 * 1024 + 1])),
        "names" => cx.send("output1", Message::new("").with("bell\u{7}", "x")),
        "properties" => {
            let mut message = Message::new("");
            (0..how.count).for_each(|n| message.set(&format!("p{n}"), "x"));
            cx.send("output1", message)
        }
        // Not allowed inside a callback.
        "receipt" => {
            return Ok(json!(
                cx.send("output1", Message::new(""))?.wait().map_or_else(|e| e.to_string(), |_| "waited".to_owned())
            ));
        }
        _ => return Err(Error::new(format!("no such fault: {name:?}"))),
    };
    Ok(json!(sent.map_or_else(|error| error.to_string(), |_| "sent".to_owned())))
}

/// A process that outlives the one that started it, for a moment; its pid.
fn orphan() -> Result<Value> {
    let told = std::process::Command::new("sh").args(["-c", "sleep 0.2 >&2 & echo $!"]).output()?;
    let pid = String::from_utf8_lossy(&told.stdout).trim().parse::<i32>();
    Ok(json!(pid.map_err(|_| Error::new("sh told no pid"))?))
}

/// As fast as credit allows, from a thread.
fn flood(cx: &Context, how: &Settings) -> Result<Value> {
    let (own, count) = (cx.clone(), how.count);
    let message = Message::new(vec![b'x'; how.bytes]);
    cx.spawn("flood", move || {
        for _ in 0..count {
            match own.send("output2", &message) {
                Ok(_) => {}
                Err(SendError::Stopping) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    })?;
    Ok(Value::Null)
}

/// All inside this callback, until the credit is overdrawn. Says how many were taken.
fn burst(cx: &Context, how: &Settings) -> Result<Value> {
    let message = Message::new(vec![b'x'; how.bytes]);
    let taken = (0..how.count).take_while(|_| cx.send("output2", &message).is_ok()).count();
    Ok(json!(taken))
}

/// Touched, so that it counts.
fn leak(mebibytes: usize) -> Value {
    let leaked = vec![1_u8; mebibytes << 20].leak();
    json!(leaked.len())
}

/// Far deeper than any stack, unless `depth` is small.
fn overflow(depth: u64) -> u64 {
    let frame = std::hint::black_box([depth; 512]);
    if depth == 0 { 0 } else { overflow(depth - 1) + frame[511] % 2 }
}

fn met(result: std::io::Result<()>) -> Value {
    json!(result.map_or_else(|error| error.to_string(), |()| "allowed".to_owned()))
}
