//! An image for the tests: a consumer that keeps a book of what it was given, in the order in which it came, and passes
//! it on if it is told to. Must never acknowledge what is not in its book.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, CallError, Context, Error, Message, Module, Result, export_module};

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
            Some("ill") => cx.unhealthy("the pen is dry"),
            Some("later") => {
                cx.spawn("later", || {
                    std::thread::sleep(Duration::from_secs(5));
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
            "where" => {
                let folder = std::env::current_dir()?;
                let greeting = std::env::var("GREETING").unwrap_or_default();
                Ok(json!({"arguments": cx.arguments(), "folder": folder, "greeting": greeting}).into())
            }
            "log" => {
                log::info!("{}", payload.as_str().unwrap_or_default());
                Ok(Answer::done())
            }
            "echo" => Ok(payload.into()),
            "busy" => Ok(Answer::status(409, "busy")),
            "hang" => {
                cx.twin().report(&json!({"hangs": true}))?;
                cx.wait_stop(Duration::from_secs(60));
                Ok(Answer::done())
            }
            "report" => {
                cx.twin().report(&payload)?;
                Ok(Answer::done())
            }
            "late" => {
                cx.wait_stop(Duration::from_secs(payload.as_u64().unwrap_or_default()));
                Ok(Value::from("late").into())
            }
            "large" => Ok(Value::from("x".repeat(200_000)).into()),
            _ => Ok(Answer::unknown(name)),
        }
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
        let body: Value = message.json().unwrap_or_default();
        if body["call"].is_object() {
            return call(cx, body["call"].clone());
        }
        let from = format!("{}/{}", message.source_module(), message.source_output());
        let generation = cx.identity().generation();
        self.write(&json!({"from": from, "body": body, "attempts": message.attempts(), "generation": generation}))?;
        if self.settings.forward {
            cx.send("output1", message)?;
        }
        Ok(())
    }
}

/// Calls a method of another module, and reports what came of it.
fn call(cx: &Context, told: Value) -> Result<()> {
    let cx = cx.clone();
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
    let (module, name) = (text("module"), text("method"));
    let [connect, response] =
        ["connect", "response"].map(|key| Duration::from_millis(told[key].as_u64().unwrap_or(5_000)));
    let payload = match told["bytes"].as_u64() {
        Some(bytes) => "x".repeat(bytes as usize).into(),
        None => told["payload"].clone(),
    };
    let inside = cx.call(&module, &name, &payload)?.wait().expect_err("this is a callback");
    cx.clone().spawn("caller", move || {
        let called = cx.call_within(&module, &name, payload, connect, response)?.wait();
        let called = match called {
            Ok(answer) => json!({"status": answer.status, "payload": answer.payload}),
            Err(CallError::Refused { status, reason }) => json!({"refused": status, "reason": reason}),
            Err(error) => json!({"error": error.to_string()}),
        };
        cx.twin().report(&json!({"called": null}))?;
        cx.twin().report(&json!({"called": called, "inside": inside.to_string()}))?;
        Ok(())
    })?;
    Ok(())
}

impl Scribe {
    fn write(&mut self, line: &Value) -> Result<()> {
        Ok(self.book.write_all(format!("{line}\n").as_bytes())?)
    }
}

export_module!(Scribe, "scribe.json");
