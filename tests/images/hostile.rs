//! An image for the tests: it goes past its SDK and writes frames of its own making to the link. Must never do anything that it was
//! not told to.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::FromRawFd;
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};
use skerry_abi::wire::frame::{Completion, FromHost, publish};
use skerry_abi::{Context, Error, Message, Module, NoSettings, Result, export_module};

struct Hostile;

impl Module for Hostile {
    type Settings = NoSettings;

    fn start(_: &Context, _: NoSettings) -> Result<Hostile> {
        Ok(Hostile)
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
        let told: Value = message.json()?;
        let text = |key: &str| told[key].as_str().unwrap_or_default();
        let mut frames = Vec::new();
        match text("try") {
            // There is no frame that names another sender: the nearest is an output that it does not have.
            "send" => publish(&mut frames, 1, 7, true, &[], b"x"),
            "complete" => {
                FromHost::Complete { first: 1_000, count: 50, completion: Completion::Done, reason: "" }
                    .encode(&mut frames);
            }
            "answer" => {
                for rid in [0, 1, 2, 3, 1 << 40] {
                    FromHost::MethodAnswer { rid, status: 200, payload: br#""forged""# }.encode(&mut frames);
                }
            }
            "report" => FromHost::Report { rid: 1 << 40, patch: r#"{"forged": true}"# }.encode(&mut frames),
            "garbage" => frames.extend_from_slice(&[5, 0, 0, 0, 250, 1, 2, 3, 4]),
            "sign" => {
                let signed = cx.identity().sign(text("data").as_bytes()).map_err(|error| error.to_string());
                let report = match signed {
                    Ok(digest) => json!({"signed": data_encoding::BASE64.encode(&digest)}),
                    Err(error) => json!({"refused": error}),
                };
                cx.twin().report(&json!({"sign": report}))?;
            }
            "control" => {
                let mut socket = UnixStream::connect(text("socket"))?;
                socket.write_all(b"GET /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
                let mut answer = String::new();
                socket.read_to_string(&mut answer)?;
                cx.twin().report(&json!({"control": answer.lines().next()}))?;
            }
            other => return Err(Error::new(format!("not a thing to try: {other:?}"))),
        }
        write(&frames)
    }
}

/// To every socket of this process: one of them is the link.
fn write(frames: &[u8]) -> Result<()> {
    let mut done = std::collections::HashSet::new();
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let is_new = target.to_string_lossy().starts_with("socket:") && done.insert(target);
        if let Some(number) = number.filter(|_| is_new) {
            // SAFETY: it is open, and is not closed here.
            let mut file = std::mem::ManuallyDrop::new(unsafe { File::from_raw_fd(number) });
            file.write_all(frames)?;
        }
    }
    Ok(())
}

export_module!(Hostile, "hostile.json");
