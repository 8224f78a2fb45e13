//! Lets through what is beyond a threshold, and reports what it works with. The lesson: the smallest useful module.
//! Must never pass a message whose field it could not read; it refuses it instead.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use skerry_abi::{Context, Error, Message, Module, Result, export_module};

#[derive(Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    field: String,
    threshold: f64,
    direction: Direction,
}

#[derive(Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Direction {
    Above,
    Below,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { field: "temperature".to_owned(), threshold: 25.0, direction: Direction::Above }
    }
}

pub struct Filter {
    settings: Settings,
}

impl Module for Filter {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Filter> {
        report(cx, &settings)?;
        Ok(Filter { settings })
    }

    fn settings(&mut self, cx: &Context, new: Settings) -> Result {
        self.settings = new;
        report(cx, &self.settings)
    }

    fn message(&mut self, cx: &Context, _input: &str, mut message: Message) -> Result {
        let Settings { field, threshold, direction } = &self.settings;
        let body: Value = message.json()?;
        let value = field.split('.').try_fold(&body, |inner, name| inner.get(name)).and_then(Value::as_f64);
        let value = value.ok_or_else(|| Error::new(format!("the body has no number at {field:?}")))?;
        let passes = match direction {
            Direction::Above => value > *threshold,
            Direction::Below => value < *threshold,
        };
        if passes {
            message.set("alert", field.as_str());
            cx.send("alerts", message)?;
        }
        Ok(())
    }
}

/// So that whoever sets a threshold from far away sees when it is in force.
fn report(cx: &Context, settings: &Settings) -> Result {
    cx.twin().report(settings).map(drop)
}

export_module!(Filter);
