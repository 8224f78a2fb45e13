//! Catches panics of the author's code inside the module, with the place they came from, because one that
//! reached the binary interface would end the process without a word. Must never panic itself.

use std::{
    any::Any,
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind},
    sync::Once,
};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `f`. The error is the panic's message, file, line and thread.
pub(crate) fn guarded<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.replace(true);
    let result = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(before);
    result.map_err(describe)
}

/// Once a process (an image has its own copy of the standard library, and so of the hook).
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if GUARDED.try_with(Cell::get).unwrap_or(false) {
                let _ = PLACE.try_with(|place| place.try_borrow_mut().map(|mut place| *place = whence(panic)));
            } else {
                log::error!("{} panicked at {}", thread_name(), whence(panic));
                before(panic);
            }
        }));
    });
}

fn whence(panic: &PanicHookInfo<'_>) -> String {
    match panic.location() {
        Some(place) => format!("{}:{}", place.file(), place.line()),
        None => "an unknown place".to_owned(),
    }
}

fn thread_name() -> String {
    let thread = std::thread::current();
    format!("thread {}", thread.name().unwrap_or("without a name"))
}

fn describe(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<AlreadyDescribed>() {
        Ok(described) => return described.0,
        Err(payload) => payload,
    };
    let message = match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without text".to_owned(),
    };
    // Its destructor is the author's code, and could panic again.
    std::mem::forget(payload);
    let place = PLACE.take();
    format!("panicked: {message}, at {place}, {}", thread_name())
}

/// A panic that was caught and described once, on its way through a second guard.
pub(crate) struct AlreadyDescribed(pub(crate) String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_names_its_place() {
        install();
        let text = guarded(|| panic!("no {}", "water")).unwrap_err();
        assert!(text.starts_with("panicked: no water, at "), "{text}");
        assert!(text.contains("panics.rs:"), "{text}");
        assert_eq!(guarded(|| 3), Ok(3));
    }
}
