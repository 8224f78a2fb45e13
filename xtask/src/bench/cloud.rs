//! What the cloud side costs while little happens, and how fast it is when something does: bytes of an idle identity, the first message
//! after an outage, a twin's way down and up, and a start without a network. Must never count what was not on the wire.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use skerry_cloud::{Cloud, Command, Options};

use super::{Better, Figure, Setting, ours};
use crate::device::Device;
use crate::interrupt;

const ID: &str = "bench/source";
const WAIT: Duration = Duration::from_secs(60);
/// The default keep-alive, and the short one of the measurement, seconds. A ping comes after three quarters.
const KEEP_ALIVE_S: f64 = 235.0;
const SHORT_S: f64 = 2.0;
const PINGS: u32 = 10;

/// Bytes on TCP that an identity without anything to say costs in an hour: pings, and the renewal of its token.
pub fn uplink_idle(setting: &Setting) -> Result<Vec<Figure>, String> {
    let (mut runs, mut rounds, mut connects) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..setting.runs.min(3) {
        interrupt::check()?;
        let cloud = cloud()?;
        let _device = device(setting, &cloud, &format!("keep_alive = \"{SHORT_S}s\"\n"))?;
        wait_open(&cloud)?;
        std::thread::sleep(Duration::from_secs(1));
        let connect = wire(&cloud);
        let (before, begin) = (wire(&cloud), Instant::now());
        std::thread::sleep(Duration::from_secs_f64(SHORT_S * 0.75) * PINGS);
        let pings = begin.elapsed().as_secs_f64() / (SHORT_S * 0.75);
        let round = (wire(&cloud) - before) / pings;
        // Tokens live for an hour and are renewed after 85 % of it.
        runs.push(round * 3_600.0 / (KEEP_ALIVE_S * 0.75) + connect / 0.85);
        rounds.push(round);
        connects.push(connect);
    }
    let more = vec![
        ("bytes_per_ping", json!(super::median(&rounds).round())),
        ("bytes_per_connect", json!(super::median(&connects).round())),
        (
            "what",
            json!(
                "from a keep-alive of 2 s, for one of 235 s and tokens of an hour; without TCP's and IP's own headers"
            ),
        ),
    ];
    Ok(vec![Figure { name: "uplink_idle", unit: "bytes/h", better: Better::Lower, runs, peer: None, more }])
}

/// From the moment that the cloud can be reached again to the first message in it.
pub fn link_up_ms(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut runs = Vec::new();
    for _ in 0..setting.runs {
        interrupt::check()?;
        let cloud = cloud()?;
        let mut device = device(setting, &cloud, "retry_max = \"1s\"\n")?;
        wait_open(&cloud)?;
        command(&cloud, Command::Cut)?;
        ours::run(&mut device, "thread", 1_000, 256, 256)?;
        let before = stored(&cloud);
        command(&cloud, Command::Heal)?;
        let begin = Instant::now();
        cloud
            .wait_until(WAIT, |cloud| (stored(cloud) > before).then_some(()))
            .ok_or("nothing came after the outage")?;
        runs.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let more = vec![("what", json!("the wait between two attempts (at most 1 s here) is in it"))];
    Ok(vec![Figure { name: "link_up_ms", unit: "ms", better: Better::Lower, runs, peer: None, more }])
}

/// From a desired change in the cloud to what the module says of it, in the cloud again.
pub fn twin_round_ms(setting: &Setting) -> Result<Vec<Figure>, String> {
    let cloud = cloud()?;
    let _device = device(setting, &cloud, "")?;
    wait_open(&cloud)?;
    let (mut runs, mut down) = (Vec::new(), Vec::new());
    for turn in 0..=(20 * setting.runs) {
        interrupt::check()?;
        let patch = json!({"count": 1_000 + turn});
        let (begin, at) = (Instant::now(), SystemTime::now());
        let before = cloud.twin(ID)["reported"]["settings_at_us"].clone();
        command(&cloud, Command::Desired { identity: ID.into(), patch })?;
        let answered = |cloud: &Cloud| {
            let seen = cloud.twin(ID)["reported"]["settings_at_us"].clone();
            (seen != before).then(|| seen.as_u64().unwrap_or_default())
        };
        let seen = cloud.wait_until(WAIT, answered).ok_or("the module did not answer")?;
        // The first one warms up.
        if turn > 0 {
            runs.push(begin.elapsed().as_secs_f64() * 1e3);
            let at_us = at.duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_micros() as f64;
            down.push((seen as f64 - at_us) / 1e3);
        }
    }
    let more = vec![
        ("what", json!("cloud to module process and its report back to the cloud")),
        ("down_ms", json!(super::median(&down))),
    ];
    Ok(vec![Figure { name: "twin_round_ms", unit: "ms", better: Better::Lower, runs, peer: None, more }])
}

/// A start after kill -9 without a cloud: 20 modules run, over 100 MiB that wait.
pub fn offline_start_ms(setting: &Setting) -> Result<Vec<Figure>, String> {
    let mut names: Vec<String> = (1..20).map(|n| format!("m{n}")).collect();
    names.push("source".to_owned());
    let mut config = "[upstream]\naddress = \"127.0.0.1:9\"\n[upstream.modules.source]\nconnection_string = \
         \"HostName=away.invalid;DeviceId=bench;ModuleId=source;SharedAccessKey=AAECAwQFBgcICQoLDA0ODw==\"\n[modules]\nautostart = false\n\
         [routes]\nup = 'FROM /messages/modules/source/outputs/ping INTO $upstream'\n"
        .to_owned();
    names.iter().for_each(|name| config += &format!("[modules.{name}]\nimage = \"bench\"\n"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut device = ours::started(&setting.built, &config, &["bench"], &names)?;
    ours::run_noise(&mut device, 25_600, 4_096, 256)?;
    let mut runs = Vec::new();
    for _ in 0..setting.runs {
        interrupt::check()?;
        device.kill_9()?;
        let begin = Instant::now();
        device.start()?;
        device.wait_running(&names)?;
        runs.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let status = device.get("/status")?;
    let pending = status["queues"].as_array().into_iter().flatten().filter_map(|q| q["pending"].as_u64()).sum::<u64>();
    let more = vec![
        ("modules", json!(names.len())),
        ("pending", json!(pending)),
        ("bytes", status["state"]["store"]["bytes"].clone()),
    ];
    Ok(vec![Figure { name: "offline_start_ms", unit: "ms", better: Better::Lower, runs, peer: None, more }])
}

fn cloud() -> Result<Cloud, String> {
    Cloud::start(Options { keep_telemetry: false, ..Options::new("bench", &["source"]) })
}

fn device(setting: &Setting, cloud: &Cloud, upstream: &str) -> Result<Device, String> {
    let ready = cloud.ready();
    let config = format!(
        "[upstream]\naddress = \"{}\"\nca = \"{}\"\n{upstream}[upstream.modules.source]\nconnection_string = \"{}\"\n\
         [modules]\nautostart = false\n[modules.source]\nimage = \"bench\"\n\
         [routes]\nup = 'FROM /messages/modules/source/outputs/ping INTO $upstream'\n",
        ready.address,
        ready.ca_file.display(),
        ready.modules[0].connection_string
    );
    ours::started(&setting.built, &config, &["bench"], &["source"])
}

fn wait_open(cloud: &Cloud) -> Result<(), String> {
    let open = |cloud: &Cloud| cloud.connections().get(ID).is_some_and(|c| c.is_open).then_some(());
    cloud.wait_until(WAIT, open).ok_or_else(|| "the identity does not connect".to_owned())
}

fn command(cloud: &Cloud, command: Command) -> Result<(), String> {
    cloud.command(command).map(drop)
}

fn stored(cloud: &Cloud) -> u64 {
    cloud.stored().get(ID).map_or(0, |stored| stored.messages)
}

/// Bytes of the identity on TCP so far, both ways.
fn wire(cloud: &Cloud) -> f64 {
    cloud.bytes().get(ID).map_or(0.0, |bytes| (bytes.received + bytes.sent) as f64)
}
