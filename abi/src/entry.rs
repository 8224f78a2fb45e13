//! Where the host enters a module: turns raw calls into the author's callbacks. Every entry catches panics
//! and returns; none may unwind. Owns what the SDK reports about settings.

use std::sync::Arc;

use abi_stable::{
    sabi_trait::TD_Opaque,
    std_types::{RErr, ROk, RResult, RSlice, RStr, RString, RVec},
};
use serde_json::{Value, json};

use crate::{
    Answer, Error, Message, Module, Result,
    context::Context,
    description::Description,
    export::Exported,
    logger,
    message::{Origin, Source},
    panics,
    raw::{Delivery, End, HostBox, Instance, Instance_TO, InstanceBox, MethodEnd, end},
    settings::fit,
};

/// The `create` of an image's root module.
pub extern "C" fn create<M: Exported>(host: HostBox) -> RResult<InstanceBox, RString> {
    panics::install();
    let created = panics::guarded(|| {
        let description = Description::parse(M::DESCRIPTION)?;
        let cx = Context::new(host, description);
        logger::install(&cx);
        let inputs = cx.description().inputs().map(str::to_owned).collect();
        Ok(Entry::<M> { cx, inputs, sources: Vec::new(), module: None })
    });
    match created.and_then(|created| created) {
        Ok(entry) => ROk(Instance_TO::from_value(entry, TD_Opaque)),
        Err(text) => RErr(text.into()),
    }
}

struct Entry<M: Module> {
    cx: Context,
    /// Names by index on the link.
    inputs: Vec<String>,
    /// Who sent lately, so that a message shares the names with the ones before it.
    sources: Vec<Arc<Source>>,
    module: Option<M>,
}

/// Senders that are remembered; a module with more of them copies names more often.
const SOURCES_MAX: usize = 16;

impl<M: Exported> Instance for Entry<M> {
    fn start(&mut self, desired_version: u64, desired: RStr<'_>) -> End {
        self.enter(|entry| {
            let settings = entry.take_settings(desired_version, &desired).unwrap_or_default();
            entry.module = Some(M::start(&entry.cx, settings)?);
            Ok(())
        })
    }

    fn message(&mut self, delivery: &Delivery<'_>) -> End {
        self.enter(|entry| {
            let source = entry.source(delivery)?;
            let origin = Origin {
                source: source.clone(),
                delivery: delivery.id,
                enqueued_ms: delivery.enqueued_ms,
                attempts: delivery.attempts,
            };
            let message = Message::delivered(delivery.record.as_slice(), origin)
                .ok_or_else(|| Error::new("the record can't be read"))?;
            running(&mut entry.module)?.message(&entry.cx, &source.input, message)
        })
    }

    fn settings(&mut self, desired_version: u64, desired: RStr<'_>) -> End {
        self.enter(|entry| {
            let Some(settings) = entry.take_settings(desired_version, &desired) else { return Ok(()) };
            let taken = panics::guarded(|| running(&mut entry.module)?.settings(&entry.cx, settings));
            let (error, taken) = match taken {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => (error.to_string(), Ok(())),
                Err(panic) => (panic.clone(), Err(panic)),
            };
            entry.report_settings(refused(desired_version, &error));
            // Entered again, so that the pump hears of a panic as of any other.
            taken.or_else(|panic| std::panic::resume_unwind(Box::new(panics::AlreadyDescribed(panic))))
        })
    }

    fn method(&mut self, name: RStr<'_>, payload: RSlice<'_, u8>, _timeout_ms: u32) -> MethodEnd {
        let mut answer = Answer::status(500, "the method panicked");
        let end = self.enter(|entry| {
            let payload = match payload.as_slice() {
                [] => Value::Null,
                bytes => match serde_json::from_slice(bytes) {
                    Ok(value) => value,
                    Err(error) => {
                        answer = Answer::status(400, format!("the payload is no JSON: {error}"));
                        return Ok(());
                    }
                },
            };
            match running(&mut entry.module)?.method(&entry.cx, name.as_str(), payload) {
                Ok(answered) => answer = answered,
                Err(error) => answer = Answer::status(500, json!({"error": error.to_string()})),
            }
            Ok(())
        });
        let payload = RVec::from(answer.payload.to_string().into_bytes());
        MethodEnd { end, status: answer.status, payload }
    }

    fn tick(&mut self) -> End {
        self.enter(|entry| running(&mut entry.module)?.tick(&entry.cx))
    }

    fn interval_ms(&self) -> u64 {
        let interval = panics::guarded(|| self.module.as_ref().and_then(M::interval)).ok().flatten();
        // An interval below a millisecond is one; 0 means never.
        interval.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1))
    }

    fn stop(&mut self) -> End {
        self.enter(|entry| {
            let stopped = running(&mut entry.module)?.stop(&entry.cx);
            // Dropped here, where a panic of its destructor is caught.
            entry.module = None;
            stopped
        })
    }
}

impl<M: Exported> Entry<M> {
    fn enter(&mut self, callback: impl FnOnce(&mut Entry<M>) -> Result<()>) -> End {
        self.cx.make_current();
        match panics::guarded(|| callback(self)) {
            Ok(Ok(())) => End { code: end::OK, text: RString::new() },
            Ok(Err(error)) => End { code: end::REFUSED, text: error.to_string().into() },
            Err(panic) => End { code: end::PANICKED, text: panic.into() },
        }
    }

    fn source(&mut self, delivery: &Delivery<'_>) -> Result<Arc<Source>> {
        let input = self.inputs.get(usize::from(delivery.input));
        let input = input.ok_or_else(|| Error::new(format!("the module has no input {}", delivery.input)))?;
        let is = |source: &Arc<Source>| {
            source.module == delivery.source_module.as_str()
                && source.output == delivery.source_output.as_str()
                && source.input == *input
        };
        if let Some(source) = self.sources.iter().find(|source| is(source)) {
            return Ok(source.clone());
        }
        let source = Arc::new(Source {
            input: input.clone(),
            module: delivery.source_module.to_string(),
            output: delivery.source_output.to_string(),
        });
        if self.sources.len() == SOURCES_MAX {
            self.sources.remove(0);
        }
        self.sources.push(source.clone());
        Ok(source)
    }

    /// Remembers the desired section and fits it; what does not fit is reported, and `None`.
    fn take_settings(&mut self, version: u64, desired: &str) -> Option<M::Settings> {
        self.cx.twin_state().set_desired(version, desired);
        match fit::<M::Settings>(desired, &self.cx.description().declared) {
            Err(error) => {
                log::error!("desired properties version {version} are refused, the old settings stay: {error}");
                self.report_settings(refused(version, &error));
                None
            }
            Ok(fitted) if fitted.unknown.is_empty() => {
                self.report_settings(Value::Null);
                Some(fitted.settings)
            }
            Ok(fitted) => {
                let warning = format!("unknown: {}", fitted.unknown.join(", "));
                log::warn!("desired properties version {version}: {warning}");
                self.report_settings(
                    json!({"version": version, "status": "applied", "error": null, "warning": warning}),
                );
                Some(fitted.settings)
            }
        }
    }

    /// Says nothing when there is nothing to clear: an undisturbed start writes no twin.
    fn report_settings(&self, state: Value) {
        let twin = self.cx.twin();
        if state.is_null() && twin.reported().get("settings").is_none() {
            return;
        }
        if let Err(error) = twin.report(&json!({ "settings": state })) {
            log::error!("the state of the settings can't be reported: {error}");
        }
    }
}

impl<M: Module> Drop for Entry<M> {
    fn drop(&mut self) {
        logger::forget(&self.cx);
        let module = self.module.take();
        let _ = panics::guarded(move || drop(module));
    }
}

fn refused(version: u64, error: &str) -> Value {
    json!({"version": version, "status": "refused", "error": error, "warning": null})
}

fn running<M>(module: &mut Option<M>) -> Result<&mut M> {
    module.as_mut().ok_or_else(|| Error::new("the module has not started"))
}
