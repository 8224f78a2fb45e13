//! An image for the tests of the module host: does what each message says, from an echo to a crash.
//! Must never be part of a release; `plugins/` holds the modules for people.
#![allow(unsafe_code)] // It has to crash.

use serde::{Deserialize, Serialize};
use skerry_abi::{Context, Message, Module, Result, export_module};

#[derive(Deserialize, Serialize)]
#[serde(default)]
struct Settings {
    start: String,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { start: "well".into() }
    }
}

struct Misbehave;

impl Module for Misbehave {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Self> {
        std::fs::write(cx.state_dir().join("started"), "")?;
        act(&settings.start)?;
        Ok(Misbehave)
    }

    fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
        act(std::str::from_utf8(message.body()).unwrap_or_default())?;
        cx.send("done", message)?;
        Ok(())
    }
}

fn act(word: &str) -> Result<()> {
    match word {
        "error" => return Err(skerry_abi::Error::new("as told")),
        "panic" => panic!("as told"),
        "crash" => crash_here(),
        "hang" => loop {
            std::thread::park();
        },
        "overflow" => println!("{}", fall(1)),
        "hoard" => drop(std::hint::black_box(vec![1u8; 1 << 30])),
        "exit" => std::process::exit(3),
        _ => println!("{word}"),
    }
    Ok(())
}

#[inline(never)]
#[unsafe(no_mangle)]
fn crash_here() {
    // SAFETY: there is none: nothing is mapped there, which is the point.
    unsafe { std::ptr::with_exposed_provenance_mut::<u64>(0x1000).write_volatile(1) }
}

#[inline(never)]
fn fall(depth: u64) -> u64 {
    let room = std::hint::black_box([depth; 512]);
    if depth == 0 { 0 } else { fall(depth + 1) + room[(depth % 512) as usize] }
}

export_module!(Misbehave);
