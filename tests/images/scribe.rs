//! An image for the tests: a consumer that keeps a book of what it was given, in the order in which it came, and that
//! fails in the way that a message asks for. Must never acknowledge what is not in its book.
#![allow(unsafe_code)] // It has to crash.

use std::fs::{File, OpenOptions};
use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Context, Error, Message, Module, Result, System, export_module};

#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Settings {
    forward: bool,
    start: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { forward: false, start: "well".into() }
    }
}

struct Scribe {
    settings: Settings,
    book: File,
}

impl Module for Scribe {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Scribe> {
        match settings.start.as_str() {
            "error" => return Err(Error::new("as told")),
            "panic" => panic!("as told"),
            _ => {}
        }
        let book = OpenOptions::new().create(true).append(true).open(cx.state_dir().join("book.jsonl"))?;
        Ok(Scribe { settings, book })
    }

    fn settings(&mut self, cx: &Context, new: Settings) -> Result<()> {
        self.settings = new;
        cx.twin().report(&json!({"forwards": self.settings.forward}))?;
        Ok(())
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
        let body: Value = message.json().unwrap_or_default();
        let from = format!("{}/{}", message.source_module(), message.source_output());
        let generation = cx.identity().generation();
        self.write(&json!({"from": from, "body": body, "attempts": message.attempts(), "generation": generation}))?;
        if let Some(word) = body["do"].as_str() {
            self.act(cx, word)?;
        }
        if self.settings.forward {
            cx.send("output1", message)?;
        }
        Ok(())
    }
}

impl Scribe {
    fn write(&mut self, line: &Value) -> Result<()> {
        Ok(self.book.write_all(format!("{line}\n").as_bytes())?)
    }

    fn act(&mut self, cx: &Context, word: &str) -> Result<()> {
        match word {
            "refuse" => return Err(Error::new("refused as told")),
            "panic" => panic!("as told"),
            "abort" => std::process::abort(),
            "segfault" => segfault(),
            "exit" => std::process::exit(3),
            "hang" => loop {
                std::thread::park();
            },
            "thread" => drop(cx.spawn("short", || panic!("in a thread, as told"))?),
            "large" => self.tried(word, cx.send("tries", Message::new(vec![0; 256 * 1024 + 1])))?,
            "name" => self.tried(word, cx.send("tries", Message::new("x").with("", "empty")))?,
            "many" => {
                let message = (0..10_000).fold(Message::new("x"), |message, n| message.with(&format!("p{n}"), "v"));
                self.tried(word, cx.send("tries", message))?;
            }
            "undeclared" => self.tried(word, cx.send("nowhere", Message::new("x")))?,
            "claim" => {
                let mut message = Message::new("x").with("connectionModuleId", "ledger").with("moduleId", "ledger");
                message.set_system(System::UserId, "ledger");
                self.tried(word, cx.send("tries", message))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn tried<T, E: std::fmt::Display>(&mut self, word: &str, result: std::result::Result<T, E>) -> Result<()> {
        let said = result.err().map(|error| error.to_string());
        self.write(&json!({"tried": word, "said": said}))
    }
}

#[inline(never)]
fn segfault() {
    // SAFETY: there is none: nothing is mapped there, which is the point.
    unsafe { std::ptr::with_exposed_provenance_mut::<u64>(0x1000).write_volatile(1) }
}

export_module!(Scribe, "scribe.json");
