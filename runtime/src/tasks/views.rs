//! The JSON of `status`, `list` and `tap`.
//! Shapes only: must never count anything itself, what they say is read from the board and the hub.

use std::rc::Rc;

use serde_json::{Value, json};

use super::board::{Asked, Slot, Status};
use super::storage::Asks;
use super::wear;
use super::world::World;
use crate::logic::hub::{StoreState, Tapped};
use crate::logic::message_json;
use crate::logic::routing::{self, Condition, Envelope, Instant, RecordSubject, View};
use crate::model::endpoint::Endpoint;
use skerry_abi::wire::frame::Outcome;
use skerry_abi::wire::record::Record;

pub async fn status(world: &World, asks: &Asks) -> Value {
    let sizes = asks.sizes().await;
    let now = world.port.now();
    let overview = world.port.look(|hub| hub.overview());
    let written = wear::look(world);
    let queues: Vec<Value> = overview
        .queues
        .iter()
        .map(|q| {
            json!({
                "endpoint": q.endpoint.to_string(), "priority": q.priority, "connected": q.connected,
                "accepted": q.ledger.accepted(), "delivered": q.ledger.delivered, "expired": q.ledger.expired,
                "evicted": q.ledger.evicted, "deadLettered": q.ledger.dead_lettered, "removed": q.ledger.removed,
                "pending": q.ledger.pending, "stored": q.ledger.stored, "refused": q.ledger.refused,
            })
        })
        .collect();
    let (state, reason) = match &overview.store {
        StoreState::Sound => ("sound", None),
        StoreState::Broken(reason) => ("broken", Some(reason.clone())),
        StoreState::Full(reason) => ("full", Some(reason.clone())),
    };
    let mut status = json!({
        "device": world.config.device_id,
        "version": env!("CARGO_PKG_VERSION"),
        "uptimeSeconds": (now.mono.since(world.started)) / 1000,
        "time": now.wall.to_rfc3339(),
        "state": {
            "folder": world.config.state_folder, "receivedPerHour": written.received_per_hour,
            "store": {"state": state, "reason": reason, "bytes": sizes.files, "blockBytes": sizes.blocks, "quota": sizes.quota,
                "writtenToday": written.today, "writtenPerDay": written.per_day,
                "wearPerDay": written.per_day.map(|bytes| bytes as f64 / sizes.quota.max(1) as f64)},
        },
        "isolation": isolation(world),
        "memory": {"messages": overview.messages, "bytes": overview.memory_bytes},
        "deadLetters": {"kept": sizes.dead.letters, "bytes": sizes.dead.bytes, "bytesMax": sizes.dead_max,
            "replayed": sizes.dead.replayed, "purged": sizes.dead.purged, "dropped": sizes.dead.dropped},
        "noRoute": overview.no_route,
        "refused": overview.refused,
        "routes": routes(world),
        "queues": queues,
        "deployment": world.board.deployment.borrow().origin().map(|origin| json!({"origin": origin.word()})),
        "modules": modules(world),
        "upstream": upstream(world),
        "pulling": super::depot::pulling(world),
        "rejected": *world.board.rejected.borrow(),
        "warnings": warnings(world, overview.no_route, sizes.dead.dropped),
    });
    if world.config.cloud.dps.is_some() {
        status["provisioning"] = provisioning(world);
    }
    status
}

/// Why a module is not as asked, with how far its image has come; or what it says is wrong with itself.
fn problem(world: &World, name: &str, asked: &Asked) -> Option<String> {
    if asked.coming {
        return Some(world.pulls.sentence(&asked.spec.image));
    }
    let unwell = || {
        let slot = world.board.slot(name).filter(|slot| slot.status.get() == Status::Unhealthy)?;
        let reason = slot.unhealthy.borrow().clone();
        (!reason.is_empty()).then(|| format!("it says that it is unhealthy: {reason}"))
    };
    asked.problem.clone().or_else(unwell)
}

/// What was warned of, and what is so now.
fn warnings(world: &World, no_route: u64, letters_dropped: u64) -> Vec<String> {
    let mut warnings = world.board.warnings();
    if no_route > 0 {
        warnings.push(format!("{no_route} messages matched no route and were dropped"));
    }
    if letters_dropped > 0 {
        warnings
            .push(format!("{letters_dropped} dead letters were dropped for newer ones: replay or purge them in time"));
    }
    warnings.extend(without_identity(world));
    warnings.extend(world.logs.as_ref().and_then(|logs| logs.problem()));
    let asked = world.board.asked.borrow();
    warnings.extend(
        asked.iter().filter_map(|(name, asked)| Some(format!("instance {name}: {}", problem(world, name, asked)?))),
    );
    warnings.extend(revoked(world));
    if world.port.clock_is_behind() {
        warnings.push("the clock is behind what has certainly passed; time switched off is not counted".to_owned());
    }
    warnings
}

/// Messages that wait for a cloud that does not know their sender.
fn without_identity(world: &World) -> Vec<String> {
    let known = world.board.uplinks.borrow();
    let mut waiting = std::collections::BTreeMap::<String, u64>::new();
    for queue in world.port.look(|hub| hub.overview()).queues {
        if let Endpoint::Upstream { identity } = queue.endpoint
            && !known.contains_key(&identity)
        {
            *waiting.entry(identity).or_default() += queue.ledger.pending;
        }
    }
    let waiting = waiting.into_iter().filter(|(_, count)| *count > 0);
    let text = |(module, count)| {
        format!(
            "{count} messages of {module} wait for the cloud, where it has no identity: it gets one when it runs and [provisioning] has the \
             device's connection string, or give [upstream.modules.{module}] one"
        )
    };
    waiting.map(text).collect()
}

/// Messages that wait for an identity to come back which the hub does not know any more.
fn revoked(world: &World) -> Vec<String> {
    let uplinks = world.board.uplinks.borrow();
    let revoked = uplinks.values().filter_map(|uplink| {
        let why = uplink.revoked.borrow().clone()?;
        let (module, count) = (&uplink.module, super::removal::waiting(world, &uplink.module));
        Some(format!(
            "the identity of {module} is revoked: {why}; {count} messages of it are held until they expire. Restore it in the hub, or let it have \
             a new one: skerry identity remove {module}"
        ))
    });
    revoked.collect()
}

/// Every identity's way to the cloud.
fn upstream(world: &World) -> Vec<Value> {
    let uplinks = world.board.uplinks.borrow();
    uplinks
        .values()
        .map(|uplink| {
            json!({
                "module": uplink.module,
                "identity": uplink.identity,
                "host": uplink.host,
                "connected": uplink.connected.get(),
                "idle": uplink.resting.get(),
                "since": uplink.since.get().to_rfc3339(),
                "reason": *uplink.fault.borrow(),
                "revoked": *uplink.revoked.borrow(),
                "connects": uplink.connects.get(),
                "inFlight": uplink.in_flight.get(),
                "twinInStep": uplink.twin_in_step.get(),
                "bytesIn": uplink.bytes_in.get(),
                "bytesOut": uplink.bytes_out.get(),
            })
        })
        .collect()
}

/// Every module's identity in the hub, and that of no module; never a key.
pub fn identities(world: &World) -> Value {
    let board = &world.board;
    let (made, uplinks, slots) = (board.identities.borrow(), board.uplinks.borrow(), board.slots.borrow());
    let configured = &world.config.cloud.modules;
    let modules: std::collections::BTreeSet<&String> =
        made.keys().chain(configured.keys()).chain(uplinks.keys()).chain(slots.keys()).collect();
    let row = |module: &String| {
        let uplink = uplinks.get(module);
        let (status, reason) = match uplink {
            None => ("none", None),
            Some(uplink) if uplink.connected.get() => ("connected", None),
            Some(uplink) if uplink.resting.get() => ("idle", None),
            Some(uplink) => match uplink.revoked.borrow().clone() {
                Some(why) => ("revoked", Some(why)),
                None => ("disconnected", uplink.fault.borrow().clone()),
            },
        };
        let document = made.get(module);
        let source = match (configured.contains_key(module), document) {
            (true, _) => Value::from("configured"),
            (_, Some(_)) => "registered".into(),
            (_, None) => Value::Null,
        };
        json!({
            "module": module,
            "identity": uplink.map(|uplink| uplink.identity.clone()),
            "host": uplink.map(|uplink| uplink.host.clone()),
            "source": source,
            "generationId": document.map(|document| document["generationId"].clone()),
            "status": status,
            "reason": reason,
            "runs": slots.contains_key(module),
        })
    };
    modules.into_iter().map(row).collect()
}

/// What the provisioning service said; absent where nobody asks it.
fn provisioning(world: &World) -> Value {
    let Some(dps) = &world.config.cloud.dps else { return Value::Null };
    let provisioned = world.board.provisioned.borrow();
    let assigned = provisioned.assigned.as_ref();
    json!({
        "source": "dps",
        "registration": dps.registration_id,
        "idScope": dps.id_scope,
        "host": assigned.map(|assigned| &assigned.hub),
        "device": assigned.map(|assigned| &assigned.device),
        "since": (provisioned.since != Default::default()).then(|| provisioned.since.to_rfc3339()),
        "reason": provisioned.fault,
    })
}

/// One line for all instances, with the weakest.
fn isolation(world: &World) -> String {
    let slots = world.board.slots.borrow();
    let known: Vec<String> = slots.values().map(|s| s.isolation.borrow().clone()).filter(|i| !i.is_empty()).collect();
    match known.iter().find(|i| i.starts_with("not isolated")).or(known.first()) {
        Some(isolation) => isolation.clone(),
        None => "no instance".to_owned(),
    }
}

fn routes(world: &World) -> Vec<Value> {
    world.port.look(|hub| {
        let table = hub.routes();
        (0..table.len())
            .map(|at| {
                let counts = table.counts(at);
                let warnings: Vec<String> = table
                    .warnings()
                    .filter(|(n, _)| *n == table.name(at))
                    .map(|(_, w)| format!("column {}: {}", w.column, w.message))
                    .collect();
                json!({
                    "name": table.name(at),
                    "route": world.board.deployment.borrow().routes.get(table.name(at)),
                    "true": counts.matched, "false": counts.unmatched, "undefined": counts.undefined,
                    "warnings": warnings,
                })
            })
            .collect()
    })
}

pub fn modules(world: &World) -> Value {
    let slots: Vec<Rc<Slot>> = world.board.slots.borrow().values().cloned().collect();
    slots.iter().map(|slot| module(world, slot)).collect()
}

pub fn module(world: &World, slot: &Slot) -> Value {
    let image = slot.image.borrow();
    let last_exit = slot.last_exit.borrow();
    let (in_hand, deferred) = slot.link.get().map_or((0, 0), |link| world.port.look(|hub| hub.in_hand(link)));
    json!({
        "name": slot.name,
        "identity": format!("/devices/{}/modules/{}", world.config.device_id, slot.name),
        "image": {"name": image.name, "version": image.version, "digest": image.digest},
        "status": slot.status.get().name(),
        "generation": slot.generation.get(),
        "pid": slot.pid.get(),
        "isolation": *slot.isolation.borrow(),
        "restarts": slot.restarts.get(),
        "scopeRefused": slot.scope_refused.get(),
        "since": slot.since.get().to_rfc3339(),
        "problem": world.board.asked.borrow().get(&slot.name).and_then(|asked| problem(world, &slot.name, asked)),
        "lastExit": last_exit.as_ref().map(|e| json!({"at": e.at.to_rfc3339(), "text": e.text, "code": e.code})),
        "memoryBytes": slot.pid.get().and_then(resident_bytes),
        "inHand": in_hand,
        "deferred": deferred,
    })
}

/// Resident memory of a process, bytes.
pub fn resident_bytes(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// A message as `tap` shows it.
pub fn tapped(tapped: &Tapped) -> Value {
    let mut map =
        Record::parse_trusted(&tapped.record).map_or_else(Default::default, |r| message_json::record_to_json(&r));
    map.insert("at".to_owned(), tapped.enqueued.0.into());
    map.insert("from".to_owned(), tapped.source.path().into());
    map.insert("to".to_owned(), tapped.endpoints.clone().into());
    Value::Object(map)
}

/// Whether a tap's filter lets the message through: the FROM and WHERE of a route.
pub fn passes(tapped: &Tapped, device: &str, source: Option<&str>, condition: Option<&Condition>) -> bool {
    let path = routing::normal_source(&tapped.source.path());
    let starts = |s: &str| path.get(..s.len()).is_some_and(|head| head.eq_ignore_ascii_case(s));
    if source.is_some_and(|s| !starts(s)) {
        return false;
    }
    let Some(condition) = condition else { return true };
    let Some(record) = Record::parse_trusted(&tapped.record) else { return false };
    let enqueued = Instant::new(tapped.enqueued);
    let envelope = Envelope {
        device_id: device,
        module_id: Some(&tapped.source.module),
        output: Some(&tapped.source.output),
        enqueued_time: Some(&enqueued),
        ..Envelope::default()
    };
    condition.evaluate(&View::new(&RecordSubject { record, envelope })) == routing::Truth::True
}

/// As the JSON of answers has it.
pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Delivered => "delivered",
        Outcome::Durable => "durable",
        Outcome::NoRoute => "noRoute",
        Outcome::Expired => "expired",
        Outcome::Evicted => "evicted",
        Outcome::Removed => "removed",
        Outcome::DeadLettered => "deadLettered",
        Outcome::Refused => "refused",
    }
}
