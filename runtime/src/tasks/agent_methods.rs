//! The direct methods of `$edgeAgent` and `$edgeHub`; their names ignore case. Without a cloud: `skerry method '$edgeAgent' ping`.
//! Must never answer more than the cloud lets through.

use std::rc::Rc;

use serde_json::{Value, json};

use super::board::Slot;
use super::mailbox::Refusal;
use super::system::SystemCall;
use super::tally::Of;
use super::world::World;
use super::{orders, own_log};
use crate::io::gzip;
use crate::logic::message_json::to_base64;
use crate::logic::module_logs::{self, schema};
use crate::model::limits::METHOD_BYTES_MAX;

/// Status and what is wrong.
type Fault = (i32, String);

pub fn agent(world: &Rc<World>, call: SystemCall) {
    let inner = Rc::clone(world);
    // Logs may come from files, and nobody waits for those.
    let task = async move {
        let answer = agent_answer(&inner, &call.name, &call.payload).await;
        finish(call, answer);
    };
    world.executor.spawn(task).detach();
}

pub fn hub(call: SystemCall) {
    let answer = match call.name.to_lowercase().as_str() {
        // Who may connect is looked up when somebody does.
        "refreshdevicescopeidentitycache" => Ok(Value::Null),
        _ => Err((404, format!("$edgeHub has no method {:?}", call.name))),
    };
    finish(call, answer);
}

fn finish(call: SystemCall, answer: Result<Value, Fault>) {
    let (status, body) = match answer {
        Ok(value) => (200, value.to_string().into_bytes()),
        Err((status, message)) => (status, json!({"message": message}).to_string().into_bytes()),
    };
    if body.len() > METHOD_BYTES_MAX {
        let message = format!(
            "the answer has {} bytes and the cloud lets {METHOD_BYTES_MAX} through: use tail, since or a regex, or \"encoding\": \"gzip\"",
            body.len()
        );
        return call.answer(500, json!({"message": message}).to_string().into_bytes());
    }
    call.answer(status, body);
}

async fn agent_answer(world: &Rc<World>, name: &str, payload: &[u8]) -> Result<Value, Fault> {
    let bad = |message: String| (400, message);
    let payload = match payload {
        [] => Value::Null,
        bytes => serde_json::from_slice(bytes).map_err(|error| bad(format!("the payload is not JSON: {error}")))?,
    };
    let lower = name.to_lowercase();
    let known = ["ping", "RestartModule", "GetModuleLogs"].into_iter().find(|known| known.to_lowercase() == lower);
    world.board.tally.count(Of::AgentMethod, &[known.unwrap_or("unknown")]);
    match lower.as_str() {
        "ping" => Ok(Value::Null),
        "restartmodule" => {
            schema(&payload).map_err(bad)?;
            let id = payload["id"].as_str().ok_or_else(|| bad("id: expected a module's name".to_owned()))?;
            orders::restart(world, id).map_err(fault)?;
            Ok(Value::Null)
        }
        "getmodulelogs" => logs(world, &payload).await.map_err(bad),
        "uploadmodulelogs" | "uploadsupportbundle" | "gettaskstatus" => {
            Err(bad(format!("{name} is not offered here: GetModuleLogs answers with the logs themselves")))
        }
        _ => Err(bad(format!("$edgeAgent has no method {name:?}; there are ping, RestartModule and GetModuleLogs"))),
    }
}

fn fault(refusal: Refusal) -> Fault {
    (if refusal.status >= 500 { 500 } else { 400 }, refusal.message)
}

async fn logs(world: &World, payload: &Value) -> Result<Value, String> {
    let request = module_logs::parse(payload, world.port.now().wall)?;
    let hub = world.board.uplinks.borrow().values().next().map_or_else(String::new, |uplink| uplink.host.clone());
    let mut answers = Vec::new();
    let slots: Vec<Option<Rc<Slot>>> = world.board.slots.borrow().values().cloned().map(Some).collect();
    // The agent's log is the runtime's own.
    for slot in std::iter::once(None).chain(slots) {
        let name = slot.as_ref().map_or(own_log::NAME, |slot| &slot.name);
        if !request.asks_for(name) {
            continue;
        }
        let lines = match &slot {
            Some(slot) => slot.logged().await,
            None => world.own_log.lines(None),
        };
        let Some(text) = request.text(&world.config.device_id, &hub, name, &lines.iter().collect::<Vec<_>>()) else {
            continue;
        };
        let (text, bytes) =
            if request.gzip { (None, Some(to_base64(&gzip::pack(text.as_bytes())))) } else { (Some(text), None) };
        answers.push(json!({"id": name, "payload": text, "payloadBytes": bytes}));
    }
    Ok(Value::Array(answers))
}
