//! Asks an instance and waits for its answer: for operators, for the cloud and for other modules alike.
//! Must never wait longer than it was told, and never answer for another generation.

use std::rc::Rc;
use std::time::Duration;

use smol::channel::Receiver;

use super::board::{MethodAnswer, Slot};
use super::mailbox::Refusal;
use super::tally::Of;
use super::world::World;
use crate::logic::hub::LinkIx;
use crate::model::limits::{METHOD_BYTES_MAX, METHOD_NAME_MAX, METHOD_WAIT_MAX, METHODS_MAX};
use skerry_abi::wire::frame::ToHost;

/// What a module asks of another one.
pub struct Call {
    pub rid: u64,
    pub module: String,
    pub name: String,
    pub payload: Vec<u8>,
    pub connect_ms: u32,
    pub response_ms: u32,
}

/// For who is called `from` in the counts. The method's own status and payload. The refusal has the HTTP status that says the same.
pub async fn call(
    world: &World,
    from: &str,
    module: &str,
    name: &str,
    payload: &[u8],
    timeout_ms: u32,
) -> Result<MethodAnswer, Refusal> {
    let seat = world.board.seats.borrow().get(module).cloned();
    if let Some(seat) = seat {
        let busy = || Refusal::new(429, format!("{module} has too many calls open; try again"));
        return wait(module, seat.call(name, payload).ok_or_else(busy)?, timeout_ms).await;
    }
    ask(world, from, module, name, payload, timeout_ms).await
}

async fn ask(
    world: &World,
    from: &str,
    module: &str,
    name: &str,
    payload: &[u8],
    timeout_ms: u32,
) -> Result<MethodAnswer, Refusal> {
    let slot = world.slot(module)?;
    let Some(link) = slot.link.get() else {
        return Err(Refusal::new(404, format!("{module} is {} and can not be asked", slot.status.get().name())));
    };
    let (answer, answered) = smol::channel::bounded(1);
    let rid = slot.last_call.get() + 1;
    slot.last_call.set(rid);
    slot.methods.borrow_mut().insert(rid, answer);
    world.port.send(link, &ToHost::Method { rid, name, payload, timeout_ms });
    let asked = world.port.now().mono;
    let answer = wait(module, answered, timeout_ms).await;
    let ms = world.port.now().mono.since(asked);
    world.board.tally.took(Of::Method, &[from, &world.named(module)], ms);
    slot.methods.borrow_mut().remove(&rid);
    answer
}

async fn wait(module: &str, answered: Receiver<MethodAnswer>, timeout_ms: u32) -> Result<MethodAnswer, Refusal> {
    let answered = async { Some(answered.recv().await) };
    let late = async {
        smol::Timer::after(Duration::from_millis(u64::from(timeout_ms))).await;
        None
    };
    match smol::future::or(answered, late).await {
        Some(Ok(answer)) => Ok(answer),
        Some(Err(_)) => Err(Refusal::new(404, format!("{module} ended before it answered"))),
        None => Err(Refusal::new(504, format!("{module} did not answer within {timeout_ms} ms"))),
    }
}

/// A module calls another one; the answer goes to its link, if that is still there by then.
pub fn call_for(world: &Rc<World>, caller: &Rc<Slot>, link: LinkIx, call: Call) {
    let refused = judge(caller, &call);
    let (world, caller) = (Rc::clone(world), Rc::clone(caller));
    if let Err(refusal) = refused {
        return answer(&world, link, call.rid, Err(refusal));
    }
    caller.calls.set(caller.calls.get() + 1);
    let executor = Rc::clone(&world.executor);
    let asked = async move {
        let answered = between(&world, &world.named(&caller.name), &call).await;
        caller.calls.set(caller.calls.get() - 1);
        answer(&world, link, call.rid, answered);
    };
    executor.spawn(asked).detach();
}

fn judge(caller: &Slot, call: &Call) -> Result<(), Refusal> {
    if call.name.is_empty() || call.name.chars().count() > METHOD_NAME_MAX {
        return Err(Refusal::new(400, format!("a method's name has 1 to {METHOD_NAME_MAX} characters")));
    }
    if call.payload.len() > METHOD_BYTES_MAX {
        return Err(Refusal::new(413, format!("the payload has more than {METHOD_BYTES_MAX} bytes")));
    }
    if caller.calls.get() >= METHODS_MAX {
        return Err(Refusal::new(429, format!("{METHODS_MAX} calls of this module are open already; try again")));
    }
    Ok(())
}

/// Only instances: the runtime's own identities take orders from the cloud and from operators.
async fn between(world: &World, from: &str, call: &Call) -> Result<MethodAnswer, Refusal> {
    let module = &call.module;
    let runs = || world.board.slot(module).is_some_and(|slot| slot.link.get().is_some());
    let arrives = async {
        while !runs() {
            let _ = world.board.next_arrival().recv().await;
        }
    };
    let wait = Duration::from_millis(call.connect_ms.into()).min(METHOD_WAIT_MAX);
    if !runs() && !wait.is_zero() {
        let late = async {
            smol::Timer::after(wait).await;
        };
        smol::future::or(arrives, late).await;
    }
    let response_ms = call.response_ms.clamp(1, METHOD_WAIT_MAX.as_millis() as u32);
    let (status, payload) = ask(world, from, module, &call.name, &call.payload, response_ms).await?;
    if payload.len() > METHOD_BYTES_MAX {
        return Err(Refusal::new(
            413,
            format!("the answer has {} bytes; the limit is {METHOD_BYTES_MAX}", payload.len()),
        ));
    }
    Ok((status, payload))
}

fn answer(world: &World, link: LinkIx, rid: u64, answered: Result<MethodAnswer, Refusal>) {
    let frame = match &answered {
        Ok((status, payload)) => ToHost::Called { rid, code: 200, status: *status, payload },
        Err(refusal) => ToHost::Called { rid, code: refusal.status, status: 0, payload: refusal.message.as_bytes() },
    };
    world.port.send(link, &frame);
}
