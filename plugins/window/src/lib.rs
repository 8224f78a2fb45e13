//! Tumbling windows over one field. The lesson: state across messages. Every reading stays open until the aggregate
//! that stands for it is safe, so a kill or a power cut loses none: what was not summed up is delivered again.
//! Must never complete a reading by itself.

mod group;
mod numbers;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, Context, Error, HANDLES_MAX, Message, Module, Result, SendError, export_module};

use group::Group;
use numbers::Numbers;

#[derive(Clone, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    field: String,
    key: String,
    seconds: f64,
    count: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { field: "temperature".to_owned(), key: String::new(), seconds: 60.0, count: 0 }
    }
}

pub struct Window {
    settings: Settings,
    /// By key.
    groups: BTreeMap<String, Group>,
    numbers: Numbers,
}

impl Module for Window {
    type Settings = Settings;

    fn start(_: &Context, settings: Settings) -> Result<Window> {
        check(&settings)?;
        Ok(Window { settings, groups: BTreeMap::new(), numbers: Numbers::new() })
    }

    fn settings(&mut self, cx: &Context, new: Settings) -> Result {
        check(&new)?;
        // What was gathered under the old rules is summed up under them.
        self.end_all(cx)?;
        self.settings = new;
        Ok(())
    }

    fn message(&mut self, cx: &Context, _input: &str, message: Message) -> Result {
        let body: Value = message.json()?;
        let at = |path: &str| path.split('.').try_fold(&body, |inner, name| inner.get(name));
        let field = &self.settings.field;
        let value = at(field).and_then(Value::as_f64);
        let value = value.ok_or_else(|| Error::new(format!("the body has no number at {field:?}")))?;
        let key = match at(&self.settings.key) {
            Some(Value::String(text)) if !self.settings.key.is_empty() => text.clone(),
            Some(other) if !self.settings.key.is_empty() => other.to_string(),
            _ => String::new(),
        };
        let count = if self.settings.count == 0 { HANDLES_MAX } else { self.settings.count.min(HANDLES_MAX) };
        let group = self.groups.entry(key.clone()).or_default();
        if group.len() >= HANDLES_MAX {
            return Err(Error::new("the window is full, and its aggregate finds no credit"));
        }
        group.add(value, &message, message.defer()?);
        if group.len() >= count { self.end(cx, &key) } else { Ok(()) }
    }

    /// `count`: how many aggregates this instance has sent, and up to which all are safe.
    fn method(&mut self, _: &Context, name: &str, _: Value) -> Result<Answer> {
        if name != "count" {
            return Ok(Answer::unknown(name));
        }
        let numbers = &mut self.numbers;
        numbers.take_receipts();
        Ok(json!({"epoch": numbers.epoch(), "sent": numbers.sent(), "safe": numbers.safe()}).into())
    }

    fn interval(&self) -> Option<Duration> {
        (self.settings.seconds > 0.0).then(|| Duration::from_secs_f64(self.settings.seconds))
    }

    fn tick(&mut self, cx: &Context) -> Result {
        self.end_all(cx)
    }
}

impl Window {
    fn end_all(&mut self, cx: &Context) -> Result {
        let keys: Vec<String> = self.groups.keys().cloned().collect();
        keys.iter().try_for_each(|key| self.end(cx, key))
    }

    /// Sends the aggregate; the readings complete with it. Without credit they stay, and the next window begins later.
    fn end(&mut self, cx: &Context, key: &str) -> Result {
        let Some(group) = self.groups.get_mut(key) else { return Ok(()) };
        self.numbers.take_receipts();
        let message = Message::from_json(&group.aggregate(&self.numbers, &self.settings.field, key))?;
        match cx.send_completing("aggregates", message, group.handles()) {
            Ok(receipt) => {
                self.numbers.took(receipt);
                self.groups.remove(key);
            }
            // They stay, and so does this reading: an error would deliver it again, and count it twice.
            Err(SendError::NoCredit) => {}
            Err(error) => log::error!("key={key:?} readings={} error={error}", group.len()),
        }
        Ok(())
    }
}

fn check(settings: &Settings) -> Result {
    if !(0.0..=1e9).contains(&settings.seconds) || (settings.seconds == 0.0 && settings.count == 0) {
        return Err(Error::new("a window needs an end: seconds (up to 1e9), count, or both above 0"));
    }
    Ok(())
}

export_module!(Window);
