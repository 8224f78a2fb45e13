//! What operators do with dead letters: look at them, put them back, throw them away. In pages, so that memory does not
//! grow with how many there are. Must never touch one that was not asked for.

use std::rc::Rc;

use serde_json::{Value, json};
use smol::channel::Receiver;

use super::mailbox::{Answer, Refusal, Which, letter_name};
use super::storage::Asks;
use super::world::World;
use crate::io::store::Letter;
use crate::logic::hub::{DeadLetter, LetterId};
use crate::logic::message_json;
use crate::logic::nearest::nearest;
use crate::model::limits::REPLAYS_MAX;
use skerry_abi::wire::record::Record;

/// Dead letters of one page: as many as may be put back at once.
const PAGE: usize = REPLAYS_MAX;

/// What is done with each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Replay,
    Purge,
}

/// The oldest that fit, as JSON lines without their bodies.
pub async fn list(world: &World, asks: &Rc<Asks>, endpoint: Option<String>, limit: usize) -> Result<Answer, Refusal> {
    known_endpoint(world, endpoint.as_deref())?;
    let (to, lines) = smol::channel::bounded(PAGE);
    let asks = Rc::clone(asks);
    let mut page = page(&asks, (0, 0)).await?;
    let telling = async move {
        let mut left = limit;
        loop {
            let Some(last) = page.last().map(|(id, _)| *id) else { return };
            for letter in page.iter().filter(|letter| is_of(letter, endpoint.as_deref())) {
                if left == 0 || to.send(line(letter, false)).await.is_err() {
                    return;
                }
                left -= 1;
            }
            // The first page told whether there is a store to ask; one that breaks meanwhile ends the list.
            let Ok(next) = self::page(&asks, after(last)).await else { return };
            page = next;
        }
    };
    world.executor.spawn(telling).detach();
    Ok(Answer::Lines(lines))
}

/// One, with its body.
pub async fn one(asks: &Asks, id: LetterId) -> Result<Answer, Refusal> {
    Ok(Answer::Json(line(&find(asks, id).await?, true)))
}

/// All that were asked for, the oldest first. Says how many; ends at the first that can't be.
pub async fn act(world: &World, asks: &Asks, which: Which, act: Act) -> Result<Answer, Refusal> {
    let done = match which {
        Which::Ids(ids) => {
            // First all are looked for: who mistypes one of three wants none of them touched.
            let mut letters = Vec::new();
            for id in ids {
                letters.push(find(asks, id).await?);
            }
            act_on(world, letters, act).await.map_err(|(refusal, _)| refusal)?
        }
        Which::Endpoint(endpoint) => {
            known_endpoint(world, Some(&endpoint))?;
            act_on_all(world, asks, Some(&endpoint), act).await?
        }
        Which::All => act_on_all(world, asks, None, act).await?,
    };
    Ok(Answer::Json(match act {
        Act::Replay => json!({"replayed": done}),
        Act::Purge => json!({"purged": done}),
    }))
}

async fn act_on_all(world: &World, asks: &Asks, endpoint: Option<&str>, act: Act) -> Result<u64, Refusal> {
    let (mut done, mut from) = (0, (0, 0));
    // What dies anew on its way is a new letter, and not for this round.
    let end = world.port.look(|hub| hub.next_seq());
    loop {
        let mut page = page(asks, from).await?;
        page.retain(|(id, _)| id.0 < end);
        let Some(last) = page.last().map(|(id, _)| *id) else { return Ok(done) };
        from = after(last);
        page.retain(|letter| is_of(letter, endpoint) && (act == Act::Purge || letter.1.is_some()));
        match act_on(world, page, act).await {
            Ok(count) => done += count,
            Err((refusal, count)) => {
                let message = format!("{}; {} before it are done", refusal.message, done + count);
                return Err(Refusal::new(refusal.status, message));
            }
        }
    }
}

/// A page at once; how many before the first refusal.
async fn act_on(world: &World, letters: Vec<Letter>, act: Act) -> Result<u64, (Refusal, u64)> {
    let mut waiting: Vec<(LetterId, Receiver<Result<(), String>>)> = Vec::new();
    let mut refused = None;
    for (id, letter) in letters {
        let taken = world.port.turn(|hub, now| match (act, letter) {
            (Act::Purge, _) => hub.purge(id),
            (Act::Replay, Some(letter)) => hub.replay(now, letter),
            (Act::Replay, None) => Err("it can't be read; it can only be purged".to_owned()),
        });
        match taken {
            Ok(()) => waiting.push((id, world.port.when_answered(id))),
            Err(reason) => {
                refused = Some((id, reason));
                break;
            }
        }
    }
    let mut done = 0;
    for (id, answered) in waiting {
        match answered.recv().await {
            Ok(Ok(())) => done += 1,
            Ok(Err(reason)) => drop(refused.get_or_insert((id, reason))),
            Err(_) => drop(refused.get_or_insert((id, "the runtime is stopping".to_owned()))),
        }
    }
    match refused {
        None => Ok(done),
        Some((id, reason)) => Err((Refusal::new(409, format!("dead letter {}: {reason}", letter_name(id))), done)),
    }
}

async fn find(asks: &Asks, id: LetterId) -> Result<Letter, Refusal> {
    let found = ask(asks, id, 1).await?.pop().filter(|(found, _)| *found == id);
    found.ok_or_else(|| {
        Refusal::new(404, format!("no dead letter {}; `skerry dead-letters list` shows them", letter_name(id)))
    })
}

async fn page(asks: &Asks, from: LetterId) -> Result<Vec<Letter>, Refusal> {
    ask(asks, from, PAGE).await
}

async fn ask(asks: &Asks, from: LetterId, limit: usize) -> Result<Vec<Letter>, Refusal> {
    let letters = asks.dead_letters(from, limit).await;
    let letters = letters.ok_or_else(|| Refusal::new(503, "the runtime is stopping"))?;
    letters.map_err(|reason| Refusal::new(507, format!("the store can't be read: {reason}")))
}

/// A misspelled endpoint is told, rather than answered with "none".
fn known_endpoint(world: &World, endpoint: Option<&str>) -> Result<(), Refusal> {
    let Some(wanted) = endpoint else { return Ok(()) };
    let queues = world.port.look(|hub| hub.overview()).queues;
    let known: Vec<String> = queues.iter().map(|queue| queue.endpoint.to_string()).collect();
    if known.iter().any(|known| known == wanted) {
        return Ok(());
    }
    let hint = nearest(wanted, known.iter().map(String::as_str));
    let hint =
        hint.map_or_else(|| ": `skerry status` shows them".to_owned(), |near| format!(": did you mean {near:?}?"));
    Err(Refusal::new(404, format!("no endpoint {wanted:?}{hint}")))
}

fn after(id: LetterId) -> LetterId {
    (id.0, id.1.saturating_add(1))
}

fn is_of(letter: &Letter, endpoint: Option<&str>) -> bool {
    endpoint.is_none_or(|wanted| letter.1.as_ref().is_some_and(|letter| letter.endpoint == wanted))
}

fn line((id, letter): &Letter, whole: bool) -> Value {
    let Some(letter) = letter else { return json!({"id": letter_name(*id), "unreadable": true}) };
    let DeadLetter { endpoint, source, enqueued, refusals, reason, record, .. } = letter;
    let mut map = Record::parse_trusted(record).map_or_else(Default::default, |r| message_json::record_to_json(&r));
    if !whole {
        map.remove("body");
        map.remove("bodyBase64");
    }
    map.insert("id".to_owned(), letter_name(*id).into());
    map.insert("endpoint".to_owned(), endpoint.as_str().into());
    map.insert("from".to_owned(), source.path().into());
    map.insert("at".to_owned(), enqueued.0.into());
    map.insert("refusals".to_owned(), (*refusals).into());
    map.insert("reason".to_owned(), reason.as_str().into());
    map.insert("bytes".to_owned(), record.len().into());
    Value::Object(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::endpoint::Source;
    use crate::model::time::Wall;

    #[test]
    fn a_line_is_as_it_is_promised() {
        let record = message_json::record_from_line(br#"{"body":"b","properties":{"level":"low"}}"#).unwrap();
        let bytes = record.len();
        let letter = DeadLetter {
            seq: 17,
            queue: 3,
            endpoint: "modules/f/inputs/i".into(),
            source: Source { module: "m".into(), output: "o".into() },
            enqueued: Wall(1_000),
            refusals: 5,
            reason: "no".into(),
            record,
        };
        let mut expected = json!({"id": "17-3", "endpoint": "modules/f/inputs/i", "from": "/messages/modules/m/outputs/o/",
            "at": 1_000, "refusals": 5, "reason": "no", "bytes": bytes, "body": "b", "properties": {"level": "low"}, "system": {}});
        let letter = ((17, 3), Some(letter));
        assert_eq!(line(&letter, true), expected);
        expected.as_object_mut().unwrap().remove("body");
        assert_eq!(line(&letter, false), expected);
        assert_eq!(line(&((1, 2), None), true), json!({"id": "1-2", "unreadable": true}));
    }
}
