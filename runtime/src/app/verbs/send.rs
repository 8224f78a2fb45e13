//! `send`: lines of standard input become messages, and each gets its answer printed in their order.
//! Must never wait for the end of the input before it sends, nor hide that a message was not acknowledged.

use std::io::{self, BufRead, BufReader, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::io::executor::Executor;
use serde_json::{Map, Value, json};
use smol::channel::{Receiver, bounded};

use super::{Fault, Outcome, next, open, path};
use crate::app::cli::Send;
use crate::app::table::{cell, show};
use crate::io::http::Upload;

/// Chunks read ahead of the socket.
const AHEAD_MAX: usize = 8;
/// Bytes of a chunk, unless one line has more.
const CHUNK_BYTES: usize = 16 * 1024;

pub fn send(args: &Send) -> Outcome {
    let target = args.target();
    let at = path(&["modules", &args.module, "outputs", &args.output, "messages"]);
    let (upload, read) = match &args.body {
        Some(body) => (Upload::Whole(one(body, &args.property)?), Arc::new(AtomicU64::new(1))),
        None if !args.property.is_empty() => return Err(Fault::Usage("--property goes with --body".to_owned())),
        None => {
            let (chunks, read) = standard_input();
            (Upload::Stream(chunks), read)
        }
    };
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, &target.socket, "POST", &at, upload).await?;
        let mut out = io::stdout();
        let (mut answered, mut good) = (0, true);
        while let Some(answer) = next(&mut response.body).await? {
            answered += 1;
            good &= answer.get("error").is_none() && answer["outcome"] != "refused";
            let line = if target.json { answer.to_string() } else { format!("{answered} {}", text(&answer)) };
            writeln!(out, "{line}")?;
        }
        match read.load(Ordering::Relaxed) {
            read if read > answered => {
                Err(Fault::Broken(format!("{} of {read} messages were not acknowledged", read - answered)))
            }
            _ => Ok(good),
        }
    }))
}

fn text(answer: &Value) -> String {
    if answer.get("error").is_some() {
        return format!("refused: {}", cell(answer, "/error/message"));
    }
    match answer.get("reason").filter(|reason| !reason.is_null()) {
        Some(reason) => format!("{}: {}", cell(answer, "/outcome"), show(reason)),
        None => cell(answer, "/outcome"),
    }
}

fn one(body: &str, properties: &[String]) -> Result<Vec<u8>, Fault> {
    let body = serde_json::from_str(body).unwrap_or_else(|_| Value::from(body));
    let pair = |text: &String| {
        let (key, value) = text.split_once('=')?;
        Some((key.to_owned(), Value::from(value)))
    };
    let properties: Option<Map<String, Value>> = properties.iter().map(pair).collect();
    let properties = properties.ok_or_else(|| Fault::Usage("--property must be key=value".to_owned()))?;
    Ok(json!({"body": body, "properties": properties}).to_string().into_bytes())
}

/// Lines as they come, several in one chunk where they are there already, and how many messages they are.
/// A thread, because standard input can't be waited for otherwise.
fn standard_input() -> (Receiver<Vec<u8>>, Arc<AtomicU64>) {
    let (chunks, received) = bounded(AHEAD_MAX);
    let read = Arc::new(AtomicU64::new(0));
    let count = read.clone();
    std::thread::spawn(move || {
        let mut input = BufReader::with_capacity(CHUNK_BYTES, io::stdin());
        let mut chunk = Vec::new();
        loop {
            let start = chunk.len();
            let ended = !input.read_until(b'\n', &mut chunk).is_ok_and(|bytes| bytes > 0);
            if !chunk[start..].trim_ascii().is_empty() {
                count.fetch_add(1, Ordering::Relaxed);
            }
            let more_is_there = input.buffer().contains(&b'\n') && chunk.len() < CHUNK_BYTES;
            if ended || !more_is_there {
                let sent = chunks.send_blocking(std::mem::take(&mut chunk));
                if ended || sent.is_err() {
                    break;
                }
            }
        }
    });
    (received, read)
}
