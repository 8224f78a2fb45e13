//! The ABI of skerry modules, and the SDK to write them.
//!
//! A module is a `cdylib` crate with a type that implements [`Module`], a `settings.json` beside its source,
//! and one line, [`export_module!`]. `cargo xtask new` makes one. The parts of this page:
//!
//! * [`Module`]: the callbacks, and when they run
//! * [`Context`]: sending, the twin, the identity, threads, health, the stop signal
//! * [`Message`], [`Receipt`], [`Deferred`]: one message, what became of it, and its completion
//! * `Harness` (feature `harness`): tests a module without a runtime
//! * [`wire`]: the bytes on the link, for those who write the other side
//!
//! Rules that are easily overlooked: a message is acknowledged when its callback returns `Ok` *and* everything
//! sent inside it is safe; `send` inside a callback never blocks; a receipt can't be waited for inside a callback.
#![warn(missing_docs)]

#[cfg(feature = "sdk")]
mod call;
#[cfg(feature = "sdk")]
mod context;
#[cfg(feature = "sdk")]
mod deferred;
#[cfg(feature = "sdk")]
pub mod description;
#[cfg(feature = "sdk")]
mod entry;
#[cfg(feature = "sdk")]
mod error;
#[cfg(feature = "sdk")]
pub mod export;
#[cfg(feature = "harness")]
pub mod harness;
#[cfg(feature = "sdk")]
mod logger;
#[cfg(feature = "sdk")]
mod message;
#[cfg(feature = "sdk")]
mod module;
#[cfg(feature = "sdk")]
mod panics;
#[cfg(feature = "pump")]
pub mod pump;
#[cfg(feature = "sdk")]
pub mod raw;
#[cfg(feature = "sdk")]
mod receipt;
#[cfg(feature = "sdk")]
mod settings;
#[cfg(feature = "sdk")]
mod twin;
#[allow(missing_docs)]
pub mod wire;

#[cfg(feature = "sdk")]
pub use {
    call::{Call, CallError, METHOD_BYTES_MAX},
    context::{Context, Durability, HANDLES_MAX, Identity},
    deferred::Deferred,
    error::{AnswerError, Error, Result, SendError},
    message::Message,
    module::{Answer, Module},
    receipt::{Receipt, Report, Room, Stopped},
    settings::NoSettings,
    twin::Twin,
};

#[cfg(feature = "harness")]
pub use harness::Harness;
pub use wire::{frame::Outcome, record::System};

/// Version of this SDK.
pub const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");
