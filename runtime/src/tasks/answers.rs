//! Answers what operators ask over the control socket. Reads the board and the hub, and orders others to act.
//! Must never let a question change what it did not ask to change.

use std::rc::Rc;

use serde_json::{Value, json};
use smol::channel::Receiver;

use super::board::{Tap, line_json};
use super::dead_letters::Act;
use super::mailbox::{Answer, Ask, Call, Errand, Refusal, Removal};
use super::storage::{Asks, Job};
use super::world::World;
use super::{dead_letters, depot, methods, metrics, orders, own_log, taps, traces, views};
use crate::logic::log_ring::Choice;
use crate::logic::routing;
use crate::logic::twin::Twin;

/// Lines that a slow reader may be behind before it misses some.
const LINES_MAX: usize = 256;

/// For as long as the runtime runs. Each call is its own task: one that waits holds up nobody.
pub async fn run(world: Rc<World>, calls: Receiver<Call>, jobs: smol::channel::Sender<Job>) {
    let asks = Rc::new(Asks::new(jobs));
    while let Ok(Call { ask, answer }) = calls.recv().await {
        let (world_of_call, asks) = (Rc::clone(&world), Rc::clone(&asks));
        let task = async move {
            let result = one(&world_of_call, ask, &asks).await;
            let _ = answer.send(result).await;
        };
        world.executor.spawn(task).detach();
    }
}

async fn one(world: &Rc<World>, ask: Ask, asks: &Rc<Asks>) -> Result<Answer, Refusal> {
    match ask {
        Ask::Status => Ok(Answer::Json(views::status(world, asks).await)),
        Ask::Modules => Ok(Answer::Json(views::modules(world))),
        Ask::Module { module } => Ok(Answer::Json(views::module(world, &*world.slot(&module)?))),
        Ask::Twin { module } => twin(world, &module),
        Ask::PatchDesired { module, patch } => patch_desired(world, &module, &patch).await,
        Ask::Restart { module } => {
            orders::restart(world, &module)?;
            Ok(Answer::Json(json!({"module": module, "restarting": true})))
        }
        Ask::Deployment => Ok(Answer::Json(orders::deployment(world))),
        Ask::Deploy { manifest, dry_run } => orders::deploy(world, manifest, dry_run).await.map(Answer::Json),
        Ask::Withdraw => orders::withdraw(world).map(Answer::Json),
        Ask::Method { module, name, payload, timeout_ms } => method(world, &module, &name, &payload, timeout_ms).await,
        Ask::Logs { module, choice, follow } => logs(world, &module, choice, follow).await,
        Ask::Tap { from, condition } => tap(world, from, condition),
        Ask::Trace { source, output, id, limit } => Ok(traces::newest(world, source, output, id, limit)),
        Ask::DeadLetters { endpoint, limit } => dead_letters::list(world, asks, endpoint, limit).await,
        Ask::DeadLetter { id } => dead_letters::one(asks, id).await,
        Ask::ReplayDead(which) => dead_letters::act(world, asks, which, Act::Replay).await,
        Ask::PurgeDead(which) => dead_letters::act(world, asks, which, Act::Purge).await,
        Ask::Metrics => Ok(Answer::Text(metrics::text(world, asks).await)),
        Ask::Images => depot::list(world),
        Ask::Pull { reference } => depot::pull(world, &reference),
        Ask::Identities { hub: false } => Ok(Answer::Json(views::identities(world))),
        Ask::Identities { hub: true } => errand(world, Errand::List).await,
        Ask::RemoveIdentity { module } => errand(world, |answer| Errand::Remove(Removal { module, answer })).await,
        Ask::Send { module, output, record } => send(world, &module, &output, &record).await,
    }
}

/// For who sees to identities, and its answer.
async fn errand(
    world: &World,
    errand: impl FnOnce(smol::channel::Sender<Result<Value, Refusal>>) -> Errand,
) -> Result<Answer, Refusal> {
    let (answer, answered) = smol::channel::bounded(1);
    let busy = |_| Refusal::new(503, "other identities are being seen to; try again");
    world.errands.try_send(errand(answer)).map_err(busy)?;
    let answered = answered.recv().await.map_err(|_| Refusal::new(503, "the runtime is stopping"))?;
    answered.map(Answer::Json)
}

/// A module that ran once has a twin, also while it does not run.
fn twin(world: &World, module: &str) -> Result<Answer, Refusal> {
    match world.board.twins.borrow().get(module) {
        Some(twin) => Ok(Answer::Json(twin.to_json())),
        None => {
            world.slot(module)?;
            Ok(Answer::Json(Twin::new().to_json()))
        }
    }
}

/// Answered when it is on disk; the instance has it before that.
async fn patch_desired(world: &World, module: &str, patch: &Value) -> Result<Answer, Refusal> {
    if world.board.uplinks.borrow().contains_key(module) {
        let message = format!(
            "the desired properties of {module} are set in the cloud, where they would come back from; set them there"
        );
        return Err(Refusal::new(409, message));
    }
    if !world.board.twins.borrow().contains_key(module) {
        world.slot(module)?;
    }
    let json = {
        let mut twins = world.board.twins.borrow_mut();
        let twin = twins.entry(module.to_owned()).or_default();
        twin.apply_desired(patch).map_err(|e| Refusal::new(400, e.to_string()))?;
        twin.to_json()
    };
    let committed = world.port.when_committed();
    world.desired_changed(module);
    match committed.recv().await {
        Ok(Ok(())) => Ok(Answer::Json(json)),
        Ok(Err(reason)) => Err(Refusal::new(507, format!("the change is in force but not stored: {reason}"))),
        Err(_) => Err(Refusal::new(503, "the runtime is stopping")),
    }
}

async fn method(world: &World, module: &str, name: &str, payload: &[u8], timeout_ms: u32) -> Result<Answer, Refusal> {
    let (status, body) = methods::call(world, "operator", module, name, payload, timeout_ms).await?;
    Ok(Answer::Raw { status: u16::try_from(status).unwrap_or(500), body })
}

async fn logs(world: &Rc<World>, module: &str, choice: Choice, follow: bool) -> Result<Answer, Refusal> {
    let (live, later) = smol::channel::bounded(LINES_MAX);
    let live = follow.then_some(live);
    // In one step, so that no line is told twice or missed.
    let logged = if own_log::is_own(module) {
        world.own_log.lines(live)
    } else {
        let slot = world.slot(module)?;
        let logged = slot.logged();
        slot.followers.borrow_mut().extend(live);
        logged.await
    };
    let lines = choice.of(logged);
    let (to, from) = smol::channel::bounded(LINES_MAX);
    let told = async move {
        for line in lines {
            if to.send(line_json(&line)).await.is_err() {
                return;
            }
        }
        while let Ok(line) = later.recv().await {
            if to.send(line).await.is_err() {
                return;
            }
        }
    };
    world.executor.spawn(told).detach();
    Ok(Answer::Lines(from))
}

fn tap(world: &World, from: Option<String>, condition: Option<String>) -> Result<Answer, Refusal> {
    let bad = |message: String| Refusal::new(400, message);
    let source = from.as_deref().map(routing::normal_source);
    let condition = match condition {
        Some(text) => Some(routing::compile_condition(&text).map_err(|e| bad(format!("where: {e}")))?),
        None => None,
    };
    let device = world.config.device_id.clone();
    let accepts = Box::new(move |tapped: &crate::logic::hub::Tapped| {
        views::passes(tapped, &device, source.as_deref(), condition.as_ref())
    });
    let (to, lines) = smol::channel::bounded(LINES_MAX);
    world.board.taps.borrow_mut().push(Tap { accepts, to });
    let taps = world.board.taps.borrow().len();
    world.port.turn(|hub, _| hub.set_taps(taps));
    Ok(Answer::Lines(lines))
}

async fn send(world: &World, module: &str, output: &str, record: &[u8]) -> Result<Answer, Refusal> {
    if let Some(slot) = world.board.slot(module) {
        let image = slot.image.borrow();
        if !image.outputs.iter().any(|o| o == output) {
            let known = image.outputs.iter().map(String::as_str);
            let hint = crate::logic::nearest::nearest(output, known)
                .map_or(String::new(), |n| format!(": did you mean {n:?}?"));
            return Err(Refusal::new(404, format!("{module} declares no output {output:?}{hint}")));
        }
    } else if let Some(fault) = crate::model::config::instance_name_fault(module) {
        return Err(Refusal::new(400, format!("{module:?} is no module name: expected {fault}")));
    }
    let answered = world.senders.borrow_mut().send(&world.port, module, output, record)?;
    taps::hand_out(world);
    let outcome = answered.recv().await;
    let (outcome, reason) = outcome.map_err(|_| Refusal::new(503, "the runtime is stopping"))?;
    let mut line = json!({"outcome": views::outcome_name(outcome)});
    if !reason.is_empty() {
        line["reason"] = reason.into();
    }
    Ok(Answer::Json(line))
}
