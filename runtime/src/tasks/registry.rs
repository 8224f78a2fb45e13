//! What is done for one identity: a question to the hub's registry under the device's own token, and the start of its connection.
//! Must never wait for more than one answer.

use std::rc::Rc;

use smol::channel::bounded;

use super::board::Uplink;
use super::upstream::Upstream;
use super::world::World;
use crate::io::rest::{self, Answer, Question};
use crate::logic::registration::{Outcome, Registration, Request};
use crate::logic::sas;
use crate::logic::session::{Session, SessionConfig};
use crate::model::identity::Credentials;

/// Life of the token of one request: enough for a slow network, and for a clock that is some minutes off.
const TOKEN_LIFE_S: i64 = 600;

/// One step of a registration.
pub async fn ask(world: &World, device: &Credentials, registration: &mut Registration) -> Outcome {
    let answer = answer(world, device, &registration.request()).await;
    let now = world.port.now().mono;
    match answer {
        Ok(answer) => registration
            .handle_answer(now, answer.status, &answer.body)
            .asked_to_wait(now, answer.retry_after.unwrap_or_default()),
        Err(why) => registration.handle_unreachable(now, why),
    }
}

/// The registry's answer to one request of this device. The error is a sentence for the operator.
pub async fn answer(world: &World, device: &Credentials, request: &Request) -> Result<Answer, String> {
    let Some(dialler) = world.dialler.as_ref() else { return Err("there is no way to the cloud".to_owned()) };
    loop {
        let expires = world.floor.now().0.div_euclid(1_000).saturating_add(TOKEN_LIFE_S);
        let authorization = sas::token(&device.key, &device.resource_uri(), expires);
        let question = Question {
            method: request.method,
            target: &request.target,
            authorization: &authorization,
            if_match: request.if_match,
            body: request.body.as_ref().map(|body| body.to_string().into_bytes()),
        };
        let answer = rest::ask(dialler, &device.host_name, question).await?;
        // A token that was made too early for the cloud: once more with the time that it says.
        let news = answer.date.is_some_and(|date| world.learn_time(date));
        if !news || answer.status != 401 {
            return Ok(answer);
        }
    }
}

/// Nothing where it has one already.
pub fn start_uplink(world: &Rc<World>, module: &str, identity: Credentials) {
    let Some(dialler) = &world.dialler else { return };
    if world.board.stopping.get() || world.board.uplinks.borrow().contains_key(module) {
        return;
    }
    let cloud = &world.config.cloud;
    let config = SessionConfig {
        keep_alive: cloud.keep_alive,
        operation_timeout: cloud.operation_timeout,
        token_ttl: cloud.token_ttl,
        retry_max: cloud.retry_max,
    };
    let now = world.port.now();
    // Only to spread a fleet's attempts: what was built on one day and started together must not retry together.
    let start = now.wall.0 as u64 ^ (u64::from(std::process::id()) << 40) ^ now.mono.0;
    let seed = module.bytes().fold(start, |seed, byte| seed.rotate_left(7) ^ u64::from(byte));
    let (wake, wakes) = bounded(1);
    let uplink = Rc::new(Uplink::new(module, &identity, wake, now.wall));
    world.board.uplinks.borrow_mut().insert(module.to_owned(), Rc::clone(&uplink));
    let session = Session::new(identity, config, seed);
    // That of a module that is gone has perhaps nothing to say, ever.
    let is_gone = world.idle_of(module).is_some_and(|idle| idle.rest_max.is_none());
    let session = if is_gone { session.rested() } else { session };
    world.executor.spawn(Upstream::new(world, &uplink, dialler, session, wakes).run()).detach();
}
