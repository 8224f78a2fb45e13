//! Asks an instance and waits for its answer: for operators and for the cloud alike.
//! Must never wait longer than it was told, and never answer for another generation.

use std::time::Duration;

use smol::channel::Receiver;

use super::board::MethodAnswer;
use super::mailbox::Refusal;
use super::world::World;
use skerry_abi::wire::frame::ToHost;

/// The method's own status and payload. The refusal has the HTTP status that says the same.
pub async fn call(
    world: &World,
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
    let slot = world.slot(module)?;
    let Some(link) = slot.link.get() else {
        return Err(Refusal::new(404, format!("{module} is {} and can not be asked", slot.status.get().name())));
    };
    let (answer, answered) = smol::channel::bounded(1);
    let rid = {
        let mut open = slot.methods.borrow_mut();
        let rid = (1..).find(|rid| !open.contains_key(rid)).unwrap_or(0);
        open.insert(rid, answer);
        rid
    };
    world.port.send(link, &ToHost::Method { rid, name, payload, timeout_ms });
    let answer = wait(module, answered, timeout_ms).await;
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
