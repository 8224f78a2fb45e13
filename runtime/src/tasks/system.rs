//! An identity of the runtime itself, such as `$edgeAgent`: a twin, methods and a way to the cloud, and no instance behind it. Who speaks
//! as one asks [`speak_as`] for its [`Seat`]. Must never keep the cloud waiting for a seat that is not listened at.

use std::rc::Rc;

use serde_json::{Map, Value};
use smol::channel::{Receiver, Sender, bounded};

use super::board::MethodAnswer;
use super::world::World;
use crate::logic::twin::TwinError;
use crate::model::limits::METHODS_MAX;

/// The runtime's side of such an identity. Its twin is on the board and in the store like that of a module, so the last desired
/// properties are there at once after a start, with or without a cloud.
pub struct Seat {
    world: Rc<World>,
    pub module: String,
    /// The desired section is another than before; several changes may be one word. Look with [`Seat::desired`].
    pub changed: Receiver<()>,
    /// Direct methods, each to be answered.
    pub calls: Receiver<SystemCall>,
}

/// One call of a method, from the cloud or from an operator. Dropped unanswered, the caller gets 404.
pub struct SystemCall {
    pub name: String,
    /// JSON, or empty.
    pub payload: Vec<u8>,
    answer: Sender<MethodAnswer>,
}

/// What the board keeps of a seat.
pub struct SeatEnds {
    changed: Sender<()>,
    calls: Sender<SystemCall>,
}

/// Takes the seat of an identity; from now on it is registered and connected like that of a module, where there is a cloud. A second
/// call takes it from whoever had it.
pub fn speak_as(world: &Rc<World>, module: &str) -> Seat {
    let ((changed, changes), (calls, called)) = (bounded(1), bounded(METHODS_MAX));
    world.board.seats.borrow_mut().insert(module.to_owned(), Rc::new(SeatEnds { changed, calls }));
    let _ = world.came.try_send(());
    Seat { world: Rc::clone(world), module: module.to_owned(), changed: changes, calls: called }
}

impl Seat {
    /// The desired section and its version. Version 1 and empty: nobody has set one.
    pub fn desired(&self) -> (u64, Map<String, Value>) {
        let twins = self.world.board.twins.borrow();
        twins.get(&self.module).map_or((1, Map::new()), |twin| (twin.desired_version(), twin.desired().clone()))
    }

    pub fn reported(&self) -> Map<String, Value> {
        self.world.board.twins.borrow().get(&self.module).map_or_else(Map::new, |twin| twin.reported().clone())
    }

    /// Merges a patch into the reported section, which goes up when there is a connection: null removes. Nothing of a refused patch
    /// is kept. Gives the new version.
    pub fn report(&self, patch: &Value) -> Result<u64, TwinError> {
        let version = {
            let mut twins = self.world.board.twins.borrow_mut();
            twins.entry(self.module.clone()).or_default().apply_reported(patch)?
        };
        self.world.reported_changed(&self.module);
        Ok(version)
    }
}

impl SystemCall {
    /// `payload` is JSON, or empty.
    pub fn answer(self, status: i32, payload: Vec<u8>) {
        let _ = self.answer.try_send((status, payload));
    }
}

impl SeatEnds {
    pub fn desired_changed(&self) {
        let _ = self.changed.try_send(());
    }

    /// Where the answer will come; `None` when there are too many calls. Where nobody listens any more it never does.
    pub fn call(&self, name: &str, payload: &[u8]) -> Option<Receiver<MethodAnswer>> {
        let (answer, answered) = bounded(1);
        match self.calls.try_send(SystemCall { name: name.to_owned(), payload: payload.to_vec(), answer }) {
            Err(error) if error.is_full() => None,
            _ => Some(answered),
        }
    }
}
