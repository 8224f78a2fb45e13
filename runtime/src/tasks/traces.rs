//! What `trace` tells of a message: the routes it was judged by, with their reasons, and where it is on its way to each
//! endpoint. Reasons are worked out when somebody asks. Must never hold up the hub: one message a turn of the executor.

use std::rc::Rc;

use serde_json::{Value, json};

use super::mailbox::Answer;
use super::views::outcome_name;
use super::world::World;
use crate::logic::hub::{EndState, Fate, Traced, TracedEnd};
use crate::logic::message_json;
use crate::logic::routing::{Envelope, Instant, RecordSubject, RouteTable, Truth, View, reason};
use crate::model::endpoint::Endpoint;
use crate::model::limits::TRACE_MESSAGES;
use skerry_abi::wire::record::{Record, System};

/// The newest that fit, as JSON lines. Names ignore case, as routes do.
pub fn newest(
    world: &Rc<World>,
    source: Option<String>,
    output: Option<String>,
    id: Option<String>,
    limit: usize,
) -> Answer {
    let is = |wanted: &Option<String>, name: &str| wanted.as_deref().is_none_or(|w| w.eq_ignore_ascii_case(name));
    let now = world.port.now();
    let found = world.port.look(|hub| {
        hub.traced(now, limit.min(TRACE_MESSAGES), |from, record| {
            is(&source, &from.module)
                && is(&output, &from.output)
                && (id.is_none() || message_id(record) == id.as_deref())
        })
    });
    let (to, lines) = smol::channel::bounded(found.len().max(1));
    let world_of_task = Rc::clone(world);
    let telling = async move {
        for traced in found {
            let line = world_of_task.port.look(|hub| line(&traced, hub.routes(), &world_of_task.config.device_id));
            if to.try_send(line).is_err() {
                break;
            }
            smol::future::yield_now().await;
        }
    };
    world.executor.spawn(telling).detach();
    Answer::Lines(lines)
}

fn message_id(record: &[u8]) -> Option<&str> {
    Record::parse_trusted(record)?.system(System::MessageId)
}

fn line(traced: &Traced, table: &RouteTable, device: &str) -> Value {
    let record = Record::parse_trusted(&traced.record);
    let whole = traced.record.len() == traced.bytes as usize;
    let mut map = record.as_ref().map_or_else(Default::default, message_json::record_to_json);
    if !whole {
        map.remove("body");
        map.remove("bodyBase64");
    }
    let (fate, why) = match &traced.fate {
        Fate::Taken => ("taken", None),
        Fate::NoRoute => ("noRoute", None),
        Fate::Refused(why) => ("refused", Some(why.to_string())),
    };
    let routes = traced.routes.as_ref().map(|routes| judged(traced, routes, table, device, record.filter(|_| whole)));
    map.insert("at".to_owned(), traced.enqueued.0.into());
    map.insert("from".to_owned(), traced.source.path().into());
    map.insert("bytes".to_owned(), traced.bytes.into());
    map.insert("outcome".to_owned(), fate.into());
    map.insert("reason".to_owned(), why.into());
    map.insert("routes".to_owned(), routes.into());
    map.insert("endpoints".to_owned(), traced.ends.iter().map(endpoint).collect::<Vec<_>>().into());
    Value::Object(map)
}

/// Each route of the message's source with its reason, where the whole message is still known.
fn judged(
    traced: &Traced,
    routes: &[(usize, Option<Truth>)],
    table: &RouteTable,
    device: &str,
    record: Option<Record<'_>>,
) -> Vec<Value> {
    let enqueued = Instant::new(traced.enqueued);
    let envelope = Envelope {
        device_id: device,
        module_id: Some(&traced.source.module),
        output: Some(&traced.source.output),
        enqueued_time: Some(&enqueued),
        ..Envelope::default()
    };
    let subject = record.map(|record| RecordSubject { record, envelope });
    let view = subject.as_ref().map(|subject| View::new(subject));
    let one = |(route, known): &(usize, Option<Truth>)| {
        let condition = &table.route(*route).condition;
        let truth = known.or_else(|| view.as_ref().map(|view| condition.evaluate(view)));
        let why = match (truth, &view) {
            (Some(Truth::True), _) | (None, _) => None,
            (Some(_), Some(view)) => reason(&condition.explain(view)),
            (Some(_), None) => {
                Some(format!("the message was not kept, so its reason is not known: {} bytes", traced.bytes))
            }
        };
        let truth = truth.map_or("unknown".to_owned(), |truth| truth.to_string());
        json!({"name": table.name(*route), "result": truth, "why": why, "condition": condition.text()})
    };
    routes.iter().map(one).collect()
}

fn endpoint(end: &TracedEnd) -> Value {
    let consumer = match &end.endpoint {
        Endpoint::Input { module, .. } => module.as_str(),
        Endpoint::Upstream { .. } => "the cloud",
    };
    let state = match end.state {
        EndState::Waiting => "waiting",
        EndState::Stored => "stored",
        EndState::Consumer => "consumer",
        EndState::Dying => "givenUp",
        EndState::Settled(outcome) => outcome_name(outcome),
    };
    json!({
        "endpoint": end.endpoint.to_string(), "priority": end.priority, "consumer": consumer, "state": state,
        "at": end.at.0, "refusals": end.refusals,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::routing::NamedRoute;
    use crate::model::endpoint::Source;
    use crate::model::time::Wall;

    /// The form of one line, as programs read it.
    #[test]
    fn a_line_is_as_it_is_promised() {
        let named = |name: &str, text: &str| NamedRoute {
            name: name.into(),
            text: text.into(),
            priority: None,
            ttl_secs: None,
        };
        let table = RouteTable::new([
            named("hot", "FROM /* WHERE level = 'high' INTO $upstream"),
            named("odd", "FROM /* WHERE area = 'x' AND level = 'low' INTO $upstream"),
            named("all", "FROM /* INTO $upstream"),
        ])
        .unwrap();
        let record = message_json::record_from_line(br#"{"body":"b","properties":{"level":"low"}}"#).unwrap();
        let truths = [Some(Truth::False), Some(Truth::Undefined), Some(Truth::True)];
        let mut traced = Traced {
            seq: 7,
            source: Source { module: "m".into(), output: "o".into() },
            enqueued: Wall(1_000),
            bytes: record.len() as u32,
            record: record.into(),
            fate: Fate::Taken,
            routes: Some(truths.into_iter().enumerate().collect()),
            ends: vec![TracedEnd {
                endpoint: Endpoint::Upstream { identity: "m".into() },
                priority: 3,
                state: EndState::Settled(skerry_abi::wire::frame::Outcome::Delivered),
                at: Wall(1_250),
                refusals: 1,
            }],
        };
        let expected = json!({
            "at": 1_000, "from": "/messages/modules/m/outputs/o/", "bytes": traced.bytes, "outcome": "taken", "reason": null,
            "body": "b", "properties": {"level": "low"}, "system": {},
            "routes": [
                {"name": "hot", "result": "false", "why": "level is 'low'", "condition": "level = 'high'"},
                {"name": "odd", "result": "undefined", "condition": "area = 'x' AND level = 'low'",
                    "why": "the message has no application property area"},
                {"name": "all", "result": "true", "why": null, "condition": "true"},
            ],
            "endpoints": [{"endpoint": "upstream/m", "priority": 3, "consumer": "the cloud", "state": "delivered",
                "at": 1_250, "refusals": 1}],
        });
        assert_eq!(line(&traced, &table, "d"), expected);
        traced.bytes += 100_000;
        let cut = line(&traced, &table, "d");
        assert_eq!((cut.get("body"), &cut["routes"][1]["result"]), (None, &json!("undefined")));
        assert!(cut["routes"][1]["why"].as_str().unwrap().contains("was not kept"), "{cut}");
        traced.routes = None;
        assert_eq!(line(&traced, &table, "d")["routes"], Value::Null);
    }
}
