//! Everything that is counted, under the names that IoT Edge's metrics have, and some of our own that begin with `skerry_`.
//! Must never count anything itself, nor put out what it does not know.

use super::board::Slot;
use super::storage::Asks;
use super::wear::written_bytes;
use super::world::World;
use crate::io::disk::{self, Disk};
use crate::io::store::Sizes;
use crate::io::usage::{self, Usage};
use crate::logic::hub::{Overview, SourceView, StoreState};
use crate::logic::metrics::{Kind, Number, Page};
use crate::model::endpoint::{Endpoint, Priority};
use crate::model::time::Now;
use std::rc::Rc;
use std::time::Duration;

pub async fn text(world: &World, asks: &Asks) -> String {
    let sizes = asks.sizes().await;
    let now = world.port.now();
    let hub = world.config.cloud.modules.values().next().map_or("", |credentials| &credentials.host_name);
    // Tells one run of the runtime from the next, as the field's does.
    let instance = format!("{:x}-{:x}", world.started.0, std::process::id());
    let everywhere = [("iothub", hub), ("edge_device", &world.config.device_id), ("instance_number", &instance)];
    let mut page = Page::new(&everywhere);
    let (overview, sources) = world.port.look(|hub| (hub.overview(), hub.sources()));
    messages(&mut page, world, &sources);
    queues(&mut page, &overview);
    modules(&mut page, world, now);
    device(&mut page, world, now);
    store(&mut page, &overview, sizes);
    routes(&mut page, world);
    uplinks(&mut page, world);
    world.board.tally.put_out(&mut page);
    page.text()
}

/// `to` and `to_route_input` of the field.
fn towards(endpoint: &Endpoint) -> (&str, &str) {
    match endpoint {
        Endpoint::Input { module, input } => (module, input),
        Endpoint::Upstream { .. } => ("upstream", ""),
    }
}

fn messages(page: &mut Page, world: &World, sources: &[SourceView]) {
    let of = |source: &SourceView| (world.named(&source.source.module), source.source.output.clone());
    let mut family = page.family("edgehub_messages_received_total", Kind::Counter, "Messages that modules sent.");
    for source in sources {
        let (id, output) = of(source);
        family.sample(&[("route_output", &output), ("id", &id)], source.received);
    }
    let mut family =
        page.family("edgehub_message_size_bytes", Kind::Summary, "Size of the messages that modules sent.");
    let mut sizes = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for source in sources {
        let (sum, count) = sizes.entry(of(source).0).or_default();
        (*sum, *count) = (*sum + source.received_bytes, *count + source.received);
    }
    for (id, (sum, count)) in sizes {
        family.summary(&[("id", &id)], sum, count);
    }
    delivered(page, world, sources);
    let help = "Messages that reached no endpoint: they matched no route, or were too old while they lay in memory (those that \
                were too old on disk are in skerry_ledger_messages_total).";
    let mut family = page.family("edgehub_messages_dropped_total", Kind::Counter, help);
    for source in sources {
        let (from, output) = of(source);
        for (reason, count) in [("no_route", source.no_route), ("ttl_expiry", source.expired)] {
            family.sample(&[("reason", reason), ("from", &from), ("from_route_output", &output)], count);
        }
    }
    let help = "Messages that were refused because the store is broken or full.";
    let mut family = page.family("edgehub_messages_unack_total", Kind::Counter, help);
    for source in sources {
        let (from, output) = of(source);
        let labels = [("reason", "storage_failure"), ("from", from.as_str()), ("from_route_output", &output)];
        family.sample(&labels, source.unstored);
    }
}

/// Per way from an output to an input: how many, and how long they took.
fn delivered(page: &mut Page, world: &World, sources: &[SourceView]) {
    let ways = || {
        sources.iter().flat_map(|source| source.delivered.iter().map(move |way| (source, way))).map(
            |(source, (endpoint, priority, delivered))| {
                let ((to, input), priority) = (towards(endpoint), priority.to_string());
                let to = if to == "upstream" { to.to_owned() } else { world.named(to) };
                let from = world.named(&source.source.module);
                ([from, to, source.source.output.clone(), input.to_owned(), priority], *delivered)
            },
        )
    };
    let labels = |names: &[&'static str], values: &[String]| -> Vec<(&'static str, String)> {
        names.iter().copied().zip(values.iter().cloned()).collect()
    };
    let all = ["from", "to", "from_route_output", "to_route_input", "priority"];
    let mut family =
        page.family("edgehub_messages_sent_total", Kind::Counter, "Messages that a module or the cloud acknowledged.");
    for (way, delivered) in ways() {
        family.sample(&borrowed(&labels(&all, &way)), delivered.messages);
    }
    let help = "From the way to a module or the cloud to its acknowledgement.";
    let mut family = page.family("edgehub_message_send_duration_seconds", Kind::Summary, help);
    for (way, delivered) in ways() {
        family.seconds(&borrowed(&labels(&all[..4], &way[..4])), delivered.sent_ms, delivered.messages);
    }
    let help =
        "From the arrival of a message to its acknowledgement; of one that lay on disk from when it was read back.";
    let mut family = page.family("edgehub_message_process_duration_seconds", Kind::Summary, help);
    // One output may lead to several inputs of a module: here they are one.
    let mut sums = std::collections::BTreeMap::<[String; 3], (u64, u64)>::new();
    for ([from, to, _, _, priority], delivered) in ways() {
        let (ms, count) = sums.entry([from, to, priority]).or_default();
        (*ms, *count) = (*ms + delivered.process_ms, *count + delivered.messages);
    }
    for (way, (ms, count)) in sums {
        family.seconds(&borrowed(&labels(&["from", "to", "priority"], &way)), ms, count);
    }
}

fn borrowed<'a>(labels: &'a [(&'static str, String)]) -> Vec<(&'static str, &'a str)> {
    labels.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// What the ledger knows goes on over restarts of the runtime.
fn queues(page: &mut Page, overview: &Overview) {
    let named = |endpoint: &Endpoint, priority: Priority| (endpoint.to_string(), priority.to_string());
    let mut family = page.family("edgehub_queue_length", Kind::Gauge, "Messages that are not delivered yet.");
    for queue in &overview.queues {
        let (endpoint, priority) = named(&queue.endpoint, queue.priority);
        family.sample(&[("endpoint", &endpoint), ("priority", &priority)], queue.ledger.pending);
    }
    let mut family = page.family("skerry_queue_stored_messages", Kind::Gauge, "Of those, how many lie on disk.");
    for queue in &overview.queues {
        let (endpoint, priority) = named(&queue.endpoint, queue.priority);
        family.sample(&[("endpoint", &endpoint), ("priority", &priority)], queue.ledger.stored);
    }
    let mut family = page.family("skerry_queue_connected", Kind::Gauge, "Whether somebody takes from it now.");
    for queue in &overview.queues {
        let (endpoint, priority) = named(&queue.endpoint, queue.priority);
        family.sample(&[("endpoint", &endpoint), ("priority", &priority)], queue.connected);
    }
    let help = "What became of messages, for the life of the store. accepted is the sum of the others and of queue_length; \
                refused ones came again.";
    let mut family = page.family("skerry_ledger_messages_total", Kind::Counter, help);
    for queue in &overview.queues {
        let (endpoint, priority) = named(&queue.endpoint, queue.priority);
        let ledger = &queue.ledger;
        for (term, count) in [
            ("accepted", ledger.accepted()),
            ("delivered", ledger.delivered),
            ("expired", ledger.expired),
            ("evicted", ledger.evicted),
            ("dead_lettered", ledger.dead_lettered),
            ("removed", ledger.removed),
            ("refused", ledger.refused),
        ] {
            family.sample(&[("endpoint", &endpoint), ("priority", &priority), ("term", term)], count);
        }
    }
}

fn modules(page: &mut Page, world: &World, now: Now) {
    let slots: Vec<Rc<Slot>> = world.board.slots.borrow().values().cloned().collect();
    let help = "Attempts of a module at what is another's: refused.";
    let mut family = page.family("skerry_scope_refused_total", Kind::Counter, help);
    for slot in &slots {
        family.sample(&[("module_name", &slot.name)], slot.scope_refused.get());
    }
    let mut family =
        page.family("edgeAgent_total_time_running_correctly_seconds", Kind::Gauge, "How long a module has run.");
    for slot in &slots {
        family.sample(&[("module_name", &slot.name)], seconds(slot.ran_of(now.mono).0));
    }
    let help = "How long it should have.";
    let mut family = page.family("edgeAgent_total_time_expected_running_seconds", Kind::Gauge, help);
    for slot in &slots {
        family.sample(&[("module_name", &slot.name)], seconds(slot.ran_of(now.mono).1));
    }
    let starts = |slot: &Slot| slot.generation.get();
    let stops = |slot: &Slot| slot.generation.get() - u64::from(slot.pid.get().is_some()).min(slot.generation.get());
    let mut count = |name, help, count: &dyn Fn(&Slot) -> u64| {
        let mut family = page.family(name, Kind::Counter, help);
        for slot in &slots {
            let version = slot.image.borrow().version.clone();
            family.sample(&[("module_name", &slot.name), ("module_version", &version)], count(slot));
        }
    };
    count("edgeAgent_module_start_total", "How often its process was started.", &starts);
    count("edgeAgent_module_stop_total", "How often it ended.", &stops);
    let memory = |slot: &Slot| slot.pid.get().and_then(super::views::resident_bytes);
    let mut family = page.family("edgeAgent_used_memory_bytes", Kind::Gauge, "Resident memory of a process.");
    for slot in &slots {
        if let Some(bytes) = memory(slot) {
            family.sample(&[("module_name", &slot.name)], bytes);
        }
    }
    if let Some(bytes) = super::views::resident_bytes(std::process::id() as i32) {
        family.sample(&[("module_name", "edgeHub")], bytes);
    }
    let mut family = page.family("edgeAgent_total_memory_bytes", Kind::Gauge, "What it may have.");
    for slot in &slots {
        family.sample(&[("module_name", &slot.name)], slot.setup.borrow().limits.memory_bytes_max);
    }
    processes(page, &slots, now);
    let mut family =
        page.family("edgehub_client_connect_success_total", Kind::Counter, "Processes that came to the hub.");
    for slot in &slots {
        family.sample(&[("id", &world.named(&slot.name))], slot.connects.get());
    }
    let connected = slots.iter().filter(|slot| slot.link.get().is_some()).count();
    page.family("edgehub_connected_clients", Kind::Gauge, "Modules that are connected.").sample(&[], connected as u64);
}

/// What the kernel knows of each process. What can't be read is left out; a network of its own no module has.
fn processes(page: &mut Page, slots: &[Rc<Slot>], now: Now) {
    let own = ("edgeHub", std::process::id() as i32);
    let there = slots.iter().filter_map(|slot| Some((slot.name.as_str(), slot.pid.get()?))).chain([own]);
    let used: Vec<(&str, Usage)> =
        there.filter_map(|(name, pid)| Some((name, usage::of(pid, Duration::from_millis(now.mono.0))?))).collect();
    let mut one = |name, kind, help, value: &dyn Fn(&Usage) -> Option<Number>| {
        let mut family = page.family(name, kind, help);
        for (module, value) in used.iter().filter_map(|(module, usage)| Some((module, value(usage)?))) {
            family.sample(&[("module_name", module)], value);
        }
    };
    let help = "Processor time of a process, of the time since its start.";
    one("edgeAgent_used_cpu_percent", Kind::Gauge, help, &|used| Some(used.cpu_percent.into()));
    one("edgeAgent_created_pids_total", Kind::Gauge, "Threads of a process.", &|used| Some(used.threads.into()));
    let help = "Bytes that a process had read from disk.";
    one("edgeAgent_total_disk_read_bytes", Kind::Gauge, help, &|used| used.read_bytes.map(Number::from));
    let help = "Bytes that a process had written to disk.";
    one("edgeAgent_total_disk_write_bytes", Kind::Gauge, help, &|used| used.written_bytes.map(Number::from));
}

fn device(page: &mut Page, world: &World, now: Now) {
    let mut one = |name, help, seconds: f64| {
        page.family(name, Kind::Gauge, help).sample(&[], seconds);
    };
    one("edgeAgent_host_uptime_seconds", "How long the device has run.", seconds(now.mono.0));
    one("edgeAgent_iotedged_uptime_seconds", "How long skerry has.", seconds(now.mono.since(world.started)));
    let labels = [
        ("edge_agent_version", env!("CARGO_PKG_VERSION")),
        ("experimental_features", "{}"),
        ("host_information", std::env::consts::ARCH),
    ];
    page.family("edgeAgent_metadata", Kind::Gauge, "Always 0.").sample(&labels, 0u64);
    let Ok(Disk { name, filesystem, available, total }) = disk::of(&world.config.state_folder) else { return };
    let labels = [("disk_name", name.as_str()), ("disk_filesystem", &filesystem), ("disk_filetype", "")];
    let help = "Free space where the state folder lies.";
    page.family("edgeAgent_available_disk_space_bytes", Kind::Gauge, help).sample(&labels, available);
    page.family("edgeAgent_total_disk_space_bytes", Kind::Gauge, "Its size.").sample(&labels, total);
}

fn store(page: &mut Page, overview: &Overview, sizes: Sizes) {
    let mut one = |name, kind, help, value: u64| {
        page.family(name, kind, help).sample(&[], value);
    };
    one("skerry_store_bytes", Kind::Gauge, "Size of the store on disk.", sizes.files);
    one("skerry_store_block_bytes", Kind::Gauge, "Bytes of stored messages in it, compressed.", sizes.blocks);
    one("skerry_store_quota_bytes", Kind::Gauge, "What they may take.", sizes.quota);
    one("skerry_dead_letters", Kind::Gauge, "Dead letters that are kept.", sizes.dead.letters);
    one("skerry_dead_letters_bytes", Kind::Gauge, "What they take.", sizes.dead.bytes);
    if let Some(bytes) = written_bytes() {
        one(
            "skerry_written_bytes_total",
            Kind::Counter,
            "Bytes that skerry had written to disk since its start.",
            bytes,
        );
    }
    one("skerry_memory_messages", Kind::Gauge, "Messages in memory.", overview.messages as u64);
    one("skerry_memory_bytes", Kind::Gauge, "Their bytes, bookkeeping included.", overview.memory_bytes);
    one("skerry_refused_messages_total", Kind::Counter, "Messages that the hub did not take.", overview.refused);
    let state = |name| match &overview.store {
        StoreState::Sound => name == "sound",
        StoreState::Broken(_) => name == "broken",
        StoreState::Full(_) => name == "full",
    };
    let mut family = page.family("skerry_store_state", Kind::Gauge, "1 for the state that the store is in.");
    for name in ["sound", "full", "broken"] {
        family.sample(&[("state", name)], state(name));
    }
}

fn routes(page: &mut Page, world: &World) {
    let mut family =
        page.family("skerry_route_evaluations_total", Kind::Counter, "How the condition of a route came out.");
    world.port.look(|hub| {
        let table = hub.routes();
        for route in 0..table.len() {
            let counts = table.counts(route);
            for (result, count) in
                [("true", counts.matched), ("false", counts.unmatched), ("undefined", counts.undefined)]
            {
                family.sample(&[("route", table.name(route)), ("result", result)], count);
            }
        }
    });
}

fn uplinks(page: &mut Page, world: &World) {
    let uplinks = world.board.uplinks.borrow();
    let mut one = |name, kind, help, value: &dyn Fn(&super::board::Uplink) -> u64| {
        let mut family = page.family(name, kind, help);
        for uplink in uplinks.values() {
            family.sample(&[("id", &world.named(&uplink.module))], value(uplink));
        }
    };
    let help = "Whether an identity is connected to the cloud.";
    one("skerry_uplink_connected", Kind::Gauge, help, &|u| u.connected.get().into());
    let help = "Messages that the cloud has not acknowledged.";
    one("skerry_uplink_in_flight_messages", Kind::Gauge, help, &|u| u.in_flight.get() as u64);
    one("skerry_uplink_connects_total", Kind::Counter, "Connections that were made.", &|u| u.connects.get());
    let help = "Connections after the first.";
    one("skerry_uplink_reconnects_total", Kind::Counter, help, &|u| u.connects.get().saturating_sub(1));
    let help = "Bytes from the cloud, without TLS.";
    one("skerry_uplink_received_bytes_total", Kind::Counter, help, &|u| u.bytes_in.get());
    one("skerry_uplink_sent_bytes_total", Kind::Counter, "Bytes to the cloud, without TLS.", &|u| u.bytes_out.get());
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
