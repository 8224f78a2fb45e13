//! Messages to the cloud, each acknowledged by it: skerry beside a Mosquitto bridge, both to the same emulator on loopback
//! over TLS. Must never give the bridge a smaller window than skerry has, or another way to authenticate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;
use skerry_cloud::{Cloud, Options, sas};

use super::mosquitto::Mosquitto;
use super::{Better, Figure, Peer, Setting, ours};
use crate::device::Device;
use crate::interrupt;

const BYTES: usize = 256;
const WINDOW: u64 = 256;
const COUNT: u64 = 50_000;
const WARM_UP: u64 = 5_000;
/// What one identity of skerry has on its way at most. The bridge may have 1,000.
const IN_FLIGHT: u64 = 128;
const WAIT: Duration = Duration::from_secs(120);
const ID: &str = "bench/source";

/// From a module process to the cloud, acknowledged by the cloud.
pub fn upstream_256(setting: &Setting) -> Result<Vec<Figure>, String> {
    let (mut runs, mut theirs) = (Vec::new(), Vec::new());
    let (mut ours_wire, mut theirs_wire) = (0.0, 0.0);
    for _ in 0..setting.runs {
        interrupt::check()?;
        let cloud = cloud(&["source"])?;
        let mut device = device(setting, &cloud)?;
        ours::run(&mut device, "thread", WARM_UP, BYTES, WINDOW)?;
        let before = wire(&cloud);
        let result = ours::run(&mut device, "thread", COUNT, BYTES, WINDOW)?;
        runs.push(result["messages_per_s"].as_f64().ok_or_else(|| format!("no rate in {result}"))?);
        ours_wire = (wire(&cloud) - before) / COUNT as f64;
        drop(device);
        let cloud = self::cloud(&["source"])?;
        let bridge = Mosquitto::start_with(&bridge(&cloud)?)?;
        through_bridge(&bridge, &cloud, WARM_UP)?;
        let before = wire(&cloud);
        theirs.push(through_bridge(&bridge, &cloud, COUNT)?);
        theirs_wire = (wire(&cloud) - before) / COUNT as f64;
    }
    let more = vec![
        ("in_flight", json!(IN_FLIGHT)),
        ("wire_bytes_per_message", json!(ours_wire.round())),
        ("peer_wire_bytes_per_message", json!(theirs_wire.round())),
    ];
    let peer = Some(Peer { name: "mosquitto bridge, TLS, QoS 1", runs: theirs });
    Ok(vec![Figure { name: "upstream_256", unit: "msgs/s", better: Better::Higher, runs, peer, more }])
}

/// Memory of the runtime for each further identity that is connected.
pub fn uplink_pss(setting: &Setting) -> Result<Vec<Figure>, String> {
    const MORE: usize = 20;
    let mut runs = Vec::new();
    for _ in 0..setting.runs.min(3) {
        let few = idle_pss(setting, 1)?;
        let many = idle_pss(setting, 1 + MORE)?;
        runs.push((many - few) / MORE as f64 / 1e3);
    }
    let more = vec![("what", json!("runtime with 21 connected identities less that with 1, by 20"))];
    Ok(vec![Figure { name: "uplink_pss", unit: "kB", better: Better::Lower, runs, peer: None, more }])
}

fn idle_pss(setting: &Setting, identities: usize) -> Result<f64, String> {
    interrupt::check()?;
    let names: Vec<String> = (0..identities).map(|n| format!("m{n}")).collect();
    let cloud = cloud(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let config = format!("{}[modules]\nautostart = false\n", config(&cloud));
    let device = ours::started(&setting.built, &config, &[], &[])?;
    let all_open = |cloud: &Cloud| {
        let open = cloud.connections().values().filter(|c| c.is_open).count();
        (open == identities).then_some(())
    };
    cloud.wait_until(WAIT, all_open).ok_or("not all identities connect")?;
    std::thread::sleep(Duration::from_secs(2));
    ours::pss_bytes(device.pid().unwrap_or(0))
}

fn cloud(modules: &[&str]) -> Result<Cloud, String> {
    Cloud::start(Options { keep_telemetry: false, ..Options::new("bench", modules) })
}

fn config(cloud: &Cloud) -> String {
    let ready = cloud.ready();
    let mut config = format!("[upstream]\naddress = \"{}\"\nca = \"{}\"\n", ready.address, ready.ca_file.display());
    for module in &ready.modules {
        let name = module.id.rsplit('/').next().unwrap_or_default();
        config += &format!("[upstream.modules.{name}]\nconnection_string = \"{}\"\n", module.connection_string);
    }
    config
}

fn device(setting: &Setting, cloud: &Cloud) -> Result<Device, String> {
    let config = config(cloud)
        + "[modules]\nautostart = false\n[modules.source]\nimage = \"bench\"\n\
           [routes]\nup = 'FROM /messages/modules/source/outputs/ping INTO $upstream'\n";
    ours::started(&setting.built, &config, &["bench"], &["source"])
}

/// A bridge that speaks for the same identity, with the same token, over TLS (without WebSocket, which it does not have).
fn bridge(cloud: &Cloud) -> Result<String, String> {
    let ready = cloud.ready();
    let key = ready.modules[0].connection_string.rsplit_once("SharedAccessKey=").map_or("", |(_, key)| key);
    let hour = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs() + 3_600;
    let resource = format!("{}/devices/bench/modules/source", ready.host_name);
    let token = sas::sign(&resource, key, hour).ok_or("no token")?;
    Ok(format!(
        "connection cloud\naddress {}\nbridge_cafile {}\nbridge_insecure true\nbridge_protocol_version mqttv311\n\
         remote_clientid {ID}\nremote_username {}/{ID}/?api-version=2021-04-12\nremote_password {token}\n\
         try_private false\nnotifications false\ncleansession false\nrestart_timeout 1\n\
         topic {} out 1\n",
        ready.address,
        ready.ca_file.display(),
        ready.host_name,
        topic()
    ))
}

fn topic() -> String {
    format!("devices/{}/messages/events/", ID.replace('/', "/modules/"))
}

/// Messages a second from a local publisher through the bridge, until the cloud has them all.
fn through_bridge(bridge: &Mosquitto, cloud: &Cloud, count: u64) -> Result<f64, String> {
    let stored = |cloud: &Cloud| cloud.stored().get(ID).map_or(0, |s| s.messages);
    let open = |cloud: &Cloud| cloud.connections().get(ID).is_some_and(|c| c.is_open).then_some(());
    cloud.wait_until(WAIT, open).ok_or("the bridge does not connect")?;
    let before = stored(cloud);
    let begin = Instant::now();
    bridge.publish(&topic(), count, BYTES, WINDOW)?;
    cloud
        .wait_until(WAIT, |cloud| (stored(cloud) >= before + count).then_some(()))
        .ok_or_else(|| format!("only {} of {count} came through the bridge", stored(cloud) - before))?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Bytes of the identity on TCP so far, both ways.
fn wire(cloud: &Cloud) -> f64 {
    cloud.bytes().get(ID).map_or(0.0, |b| (b.received + b.sent) as f64)
}
