//! An image for the tests: a consumer that keeps a book of what it was given, in the order in which it came, and passes
//! it on if it is told to. Must never acknowledge what is not in its book.

use std::fs::{File, OpenOptions};
use std::io::Write;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, Context, Error, Message, Module, Result, export_module};

/// What goes wrong with this image; tests write another word in its place.
static FAULT: &str = "scribe-fault:none.";

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
        match std::hint::black_box(FAULT).trim_end_matches('.').rsplit(':').next() {
            Some("start") => std::process::abort(),
            Some("hang") => loop {
                std::thread::park();
            },
            Some("later") => {
                cx.spawn("later", || {
                    std::thread::sleep(std::time::Duration::from_secs(5));
                    Err(Error::new("five seconds are over"))
                })?;
            }
            _ => {}
        }
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

    fn method(&mut self, cx: &Context, name: &str, payload: Value) -> Result<Answer> {
        match name {
            "where" => {}
            "log" => {
                log::info!("{}", payload.as_str().unwrap_or_default());
                return Ok(Value::Null.into());
            }
            _ => return Ok(Answer::unknown(name)),
        }
        let folder = std::env::current_dir()?;
        let greeting = std::env::var("GREETING").unwrap_or_default();
        Ok(json!({"arguments": cx.arguments(), "folder": folder, "greeting": greeting}).into())
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
        let body: Value = message.json().unwrap_or_default();
        let from = format!("{}/{}", message.source_module(), message.source_output());
        let generation = cx.identity().generation();
        self.write(&json!({"from": from, "body": body, "attempts": message.attempts(), "generation": generation}))?;
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
}

export_module!(Scribe, "scribe.json");
