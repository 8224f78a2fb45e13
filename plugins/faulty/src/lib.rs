//! Misbehaves on demand. The lesson: what a module can do to itself, and that nobody else feels it.
//! Faults are asked for by a message's property `do` (or its JSON body), by a method of that name, or by settings.

mod crash;
mod faults;

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use skerry_abi::{Answer, Context, Error, Message, Module, Result, export_module};

/// What to do, and how. A message or a method may bring values of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    start: String,
    r#do: String,
    always: String,
    ms: u64,
    path: String,
    count: u64,
    bytes: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            start: String::new(),
            r#do: String::new(),
            always: String::new(),
            ms: 1_000,
            path: String::new(),
            count: 1_000,
            bytes: 256,
        }
    }
}

pub struct Faulty {
    settings: Settings,
    /// Refusals so far, by body.
    refused: HashMap<Vec<u8>, u64>,
}

impl Module for Faulty {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Faulty> {
        if !settings.start.is_empty() {
            let shown = faults::show(cx, &settings.start, &settings)?;
            log::info!("fault={} shown={shown}", settings.start);
        }
        Ok(Faulty { settings, refused: HashMap::new() })
    }

    fn settings(&mut self, cx: &Context, new: Settings) -> Result {
        self.settings = new;
        if !self.settings.r#do.is_empty() {
            let shown = faults::show(cx, &self.settings.r#do, &self.settings)?;
            cx.twin().report(&serde_json::json!({ "shown": shown }))?;
        }
        Ok(())
    }

    fn method(&mut self, cx: &Context, name: &str, payload: Value) -> Result<Answer> {
        if !faults::is_known(name) {
            return Ok(Answer::unknown(name));
        }
        Ok(faults::show(cx, name, &self.with(&payload)?)?.into())
    }

    fn message(&mut self, cx: &Context, _input: &str, message: Message) -> Result {
        let body: Value = message.json().unwrap_or_default();
        let order = message.property("do").or(body["do"].as_str()).unwrap_or(&self.settings.always);
        match order {
            "" | "echo" => drop(cx.send("output1", message)?),
            "refuse" => {
                let times = self.with(&body)?.count;
                let refused = self.refused.entry(message.body().to_vec()).or_default();
                *refused += 1;
                if *refused <= times {
                    return Err(Error::new(format!("refused {refused} of {times} times, as told")));
                }
                self.refused.remove(message.body());
                cx.send("output1", message)?;
            }
            "slow" => {
                faults::show(cx, "slow", &self.with(&body)?)?;
                cx.send("output1", message)?;
            }
            // Neither completes nor refuses, until the process ends.
            "keep" => std::mem::forget(message.defer()?),
            other => {
                let shown = faults::show(cx, other, &self.with(&body)?)?;
                cx.send("output1", Message::from_json(&serde_json::json!({ "do": other, "shown": shown }))?)?;
            }
        }
        Ok(())
    }
}

impl Faulty {
    /// The settings, with what an order brings of its own.
    fn with(&self, order: &Value) -> Result<Settings> {
        let mut all = serde_json::to_value(&self.settings)?;
        if let (Value::Object(all), Value::Object(order)) = (&mut all, order) {
            all.extend(order.clone());
        }
        Ok(serde_json::from_value(all)?)
    }
}

export_module!(Faulty);
