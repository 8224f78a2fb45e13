//! Messages on their way while everything is online: from module to module, and from one to eight. Each beside Mosquitto and Redis, in turns.
//! Must never count a message that was not acknowledged on both sides.

use super::mosquitto::{self, Mosquitto};
use super::redis::{self, Redis};
use super::{Figure, Setting, figures, ours};
use crate::device::Device;
use crate::interrupt;

const WINDOW: u64 = 256;
const WARM_UP: u64 = 20_000;
const CONSUMERS: usize = 8;

/// What is sent in a run: bytes of a body, and messages for skerry, Mosquitto and Redis, a second or two of each.
struct Load {
    bytes: usize,
    ours: u64,
    mosquitto: u64,
    redis: u64,
}

pub fn hop_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let load = Load { bytes: 256, ours: 1_000_000, mosquitto: 100_000, redis: 500_000 };
    hop(setting, ["hop_256", "hop_256_redis"], &load)
}

pub fn hop_1k(setting: &Setting) -> Result<Vec<Figure>, String> {
    let load = Load { bytes: 1024, ours: 600_000, mosquitto: 80_000, redis: 300_000 };
    hop(setting, ["hop_1k", "hop_1k_redis"], &load)
}

pub fn hop_16k(setting: &Setting) -> Result<Vec<Figure>, String> {
    let load = Load { bytes: 16 * 1024, ours: 100_000, mosquitto: 20_000, redis: 40_000 };
    hop(setting, ["hop_16k", "hop_16k_redis"], &load)
}

/// Module process -> hub -> module process.
fn hop(setting: &Setting, names: [&'static str; 2], load: &Load) -> Result<Vec<Figure>, String> {
    measured(setting, names, ours::device(&setting.built)?, load, 1)
}

/// One output, eight modules; deliveries a second.
pub fn fanout_8(setting: &Setting) -> Result<Vec<Figure>, String> {
    let load = Load { bytes: 256, ours: 200_000, mosquitto: 20_000, redis: 100_000 };
    let sinks: Vec<String> = (0..CONSUMERS).map(|n| format!("sink{n}")).collect();
    let mut config =
        "[device]\nid = \"bench\"\n[modules]\nautostart = false\n[modules.source]\nimage = \"bench\"\n".to_owned();
    sinks.iter().for_each(|sink| config += &format!("[modules.{sink}]\nimage = \"bench\"\n"));
    config += "[routes]\n";
    for sink in &sinks {
        config += &format!(
            "to_{sink} = 'FROM /messages/modules/source/outputs/ping INTO BrokeredEndpoint(\"/modules/{sink}/inputs/sink\")'\n"
        );
    }
    let names: Vec<&str> = sinks.iter().map(String::as_str).chain(["source"]).collect();
    let device = ours::started(&setting.built, &config, &["bench"], &names)?;
    measured(setting, ["fanout_8", "fanout_8_redis"], device, &load, CONSUMERS)
}

fn measured(
    setting: &Setting,
    [name, name_redis]: [&'static str; 2],
    mut device: Device,
    load: &Load,
    consumers: usize,
) -> Result<Vec<Figure>, String> {
    let (mosquitto, redis) = (Mosquitto::start()?, Redis::start(false)?);
    ours::run(&mut device, "thread", WARM_UP, load.bytes, WINDOW)?;
    mosquitto.hop(WARM_UP, load.bytes, WINDOW, consumers)?;
    redis.hop(WARM_UP, load.bytes, WINDOW, consumers)?;
    let [mut runs, mut of_mosquitto, mut of_redis] = [const { Vec::new() }; 3];
    for run in 0..setting.runs as u64 {
        interrupt::check()?;
        // Each run has a count of its own, by which its result is known.
        let result = ours::run(&mut device, "thread", load.ours + run, load.bytes, WINDOW)?;
        runs.push(figures::of(&result, "messages_per_s")? * consumers as f64);
        of_mosquitto.push(mosquitto.hop(load.mosquitto, load.bytes, WINDOW, consumers)? * consumers as f64);
        of_redis.push(redis.hop(load.redis, load.bytes, WINDOW, consumers)? * consumers as f64);
    }
    Ok(vec![
        Figure::rate(name, runs.clone(), mosquitto::NAME, of_mosquitto),
        Figure::rate(name_redis, runs, redis::IN_MEMORY, of_redis),
    ])
}
