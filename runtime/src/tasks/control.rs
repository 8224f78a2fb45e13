//! The control socket: takes requests apart into `Ask`s and answers into JSON. Must never decide
//! anything about the runtime, serve a process that descends from it, or let one slow client hold up another.

use std::cell::Cell;
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::io::executor::Executor;
use serde_json::{Value, json};
use smol::channel::{Receiver, Sender, TrySendError};
use smol::stream::StreamExt;
use smol::{Async, Timer};

use self::resource::Resource;
use super::mailbox::{Answer, Ask, Call, Refusal, flag, letter_id, which};
use crate::io::http::{self, Body, BodyFault, Content, Reply, Request};
use crate::io::peer::{self, PeerRefusal};
use crate::logic::log_ring::Choice;
use crate::logic::message_json::{record_from_line, to_base64};
use crate::logic::nearest::nearest;
use crate::logic::units;
use crate::model::time::Wall;

mod resource;

/// Connections served at once; an operator has a few, a monitoring system one. Each costs some 20 KiB.
const CONNECTIONS_MAX: usize = 64;
/// Connections that are being told no at once; more are closed without a word.
const REFUSALS_MAX: usize = 16;
/// How long a refused client may take to hear it.
const REFUSAL_WAIT: Duration = Duration::from_secs(5);
/// Bytes of a twin patch or method payload: IoT Hub takes 32 KiB and 128 KiB.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// How long such a body may take to arrive.
const BODY_WAIT: Duration = Duration::from_secs(30);
/// Bytes of one message as a JSON line: 256 KiB of control characters, each six bytes in JSON, and some room.
const LINE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Messages of one `send` that are not yet acknowledged.
const OPEN_MAX: usize = 256;
/// How long the runtime may take to answer what needs no module; beyond it something is broken.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Messages that `trace` tells of if nothing else is asked for.
const TRACE_LIMIT: usize = 20;
/// Seconds that a method may take: IoT Hub's default, and its bounds.
const METHOD_TIMEOUT_S: u32 = 30;
const METHOD_TIMEOUT_S_MAX: u32 = 300;

/// Accepts for as long as it is polled. `calls` is bounded; when it is full the client is told 503. `refused` is told whom it refuses.
pub async fn serve(
    executor: Rc<Executor>,
    listener: UnixListener,
    calls: Sender<Call>,
    refused: impl Fn(&PeerRefusal),
) -> std::io::Result<()> {
    let listener = smol::net::unix::UnixListener::from(Async::new(listener)?);
    let (open, refusing) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: without a pause this would spin until one is free.
                log::warn!("control socket cannot accept: {error}");
                Timer::after(Duration::from_millis(100)).await;
                continue;
            }
        };
        let refusal = match peer::check(&stream) {
            Err(refusal) => {
                refused(&refusal);
                Some((403, refusal.why))
            }
            Ok(_) if open.get() >= CONNECTIONS_MAX => Some((503, "too many connections to the control socket")),
            Ok(_) => None,
        };
        if let Some((status, why)) = refusal {
            if let Some(slot) = Slot::take(&refusing, REFUSALS_MAX) {
                let told = http::serve_connection(stream, true, move |_| async move { Reply::error(status, why) });
                let task = smol::future::or(told, async {
                    Timer::after(REFUSAL_WAIT).await;
                });
                executor.spawn(async move { (task.await, drop(slot)).0 }).detach();
            }
        } else if let Some(slot) = Slot::take(&open, CONNECTIONS_MAX) {
            let (calls, inner) = (calls.clone(), Rc::downgrade(&executor));
            let task = async move {
                let answer = |request| {
                    let (calls, executor) = (calls.clone(), inner.upgrade());
                    async move {
                        match executor {
                            Some(executor) => answer(request, &calls, &executor).await,
                            None => Reply::error(503, "skerry is stopping"),
                        }
                    }
                };
                http::serve_connection(stream, false, answer).await;
                drop(slot);
            };
            executor.spawn(task).detach();
        }
    }
}

/// One of a limited number of places, given back when dropped.
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn take(taken: &Rc<Cell<usize>>, max: usize) -> Option<Slot> {
        (taken.get() < max).then(|| {
            taken.set(taken.get() + 1);
            Slot(taken.clone())
        })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn answer(mut request: Request, calls: &Sender<Call>, executor: &Executor) -> Reply {
    let Some(resource) = Resource::find(&request.path) else {
        return Reply::error(404, &format!("no such path: /{}", request.path.join("/")));
    };
    if !resource.allow().split(", ").any(|method| method == request.method) {
        let message = format!("{} is not possible here, only {}", request.method, resource.allow());
        return Reply { allow: Some(resource.allow()), ..Reply::error(405, &message) };
    }
    let outcome = match resource {
        Resource::Version => Ok(Reply::json(&version())),
        Resource::Messages(module, output) => send_messages(module, output, request.body, calls, executor).await,
        resource => match ask(resource, &mut request).await {
            Ok(ask) => call(calls, ask).await,
            Err(refusal) => {
                executor.spawn(drain(request.body)).detach();
                Err(refusal)
            }
        },
    };
    outcome.unwrap_or_else(|refusal| Reply::error(refusal.status, &refusal.message))
}

/// What `GET /version` says.
pub fn version() -> Value {
    json!({"name": "skerry", "version": env!("CARGO_PKG_VERSION")})
}

async fn ask(resource: Resource, request: &mut Request) -> Result<Ask, Refusal> {
    let query = &request.query;
    if let Some((unknown, _)) = query.iter().find(|(key, _)| !resource.query_keys().contains(&key.as_str())) {
        let known = resource.query_keys();
        let hint = nearest(unknown, known.iter().copied()).map_or(String::new(), |k| format!(": did you mean {k:?}?"));
        return Err(Refusal::new(400, format!("unknown query key {unknown:?}{hint}")));
    }
    let value = |key: &str| query.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str());
    let wrong = |key: &str, expected: &str| Refusal::new(400, format!("{key}: expected {expected}"));
    let yes = |key: &str| value(key).map_or(Some(false), flag).ok_or_else(|| wrong(key, "true or false"));
    Ok(match resource {
        Resource::Status => Ask::Status,
        Resource::Modules => Ask::Modules,
        Resource::Module(module) => Ask::Module { module },
        Resource::Restart(module) => Ask::Restart { module },
        Resource::Twin(module) if request.method == "GET" => Ask::Twin { module },
        Resource::Twin(module) => {
            let patch = json_body(request).await?;
            if !patch.is_object() {
                return Err(Refusal::new(400, "a patch of desired properties must be a JSON object"));
            }
            Ask::PatchDesired { module, patch }
        }
        Resource::Method(module, name) => {
            let timeout = match value("timeout") {
                None => Duration::from_secs(METHOD_TIMEOUT_S.into()),
                Some(text) => units::duration(text).ok_or_else(|| wrong("timeout", units::DURATION_EXPECTED))?,
            };
            if timeout.is_zero() || timeout > Duration::from_secs(METHOD_TIMEOUT_S_MAX.into()) {
                return Err(wrong("timeout", &format!("more than 0 and at most {METHOD_TIMEOUT_S_MAX} s")));
            }
            let payload = whole(&mut request.body).await?;
            Ask::Method { module, name, payload, timeout_ms: timeout.as_millis() as u32 }
        }
        Resource::Logs(module) => logs_of(module, value)?,
        Resource::Tap => {
            Ask::Tap { from: value("from").map(str::to_owned), condition: value("where").map(str::to_owned) }
        }
        Resource::Metrics => Ask::Metrics,
        Resource::Deployment if request.method == "GET" => Ask::Deployment,
        Resource::Deployment if request.method == "DELETE" => Ask::Withdraw,
        Resource::Deployment => {
            let dry_run = yes("dryRun")?;
            Ask::Deploy { manifest: json_body(request).await?, dry_run }
        }
        Resource::Images if request.method == "GET" => Ask::Images,
        Resource::Images => Ask::Pull { reference: value("reference").unwrap_or_default().to_owned() },
        Resource::Identities => Ask::Identities { hub: yes("hub")? },
        Resource::Identity(module) => Ask::RemoveIdentity { module },
        Resource::DeadLetters => {
            let limit = value("limit").map_or(Some(usize::MAX), |text| text.parse().ok().filter(|n| *n > 0));
            let limit = limit.ok_or_else(|| wrong("limit", "a number of dead letters, 1 or more"))?;
            Ask::DeadLetters { endpoint: value("endpoint").map(str::to_owned), limit }
        }
        Resource::DeadLetter(id) => Ask::DeadLetter { id: letter_id(&id)? },
        Resource::ReplayDead => Ask::ReplayDead(which(query)?),
        Resource::PurgeDead => Ask::PurgeDead(which(query)?),
        Resource::Trace => {
            let limit = value("limit").map_or(Some(TRACE_LIMIT), |text| text.parse().ok().filter(|n| *n > 0));
            let limit = limit.ok_or_else(|| wrong("limit", "a number of messages, 1 or more"))?;
            let text = |key: &str| value(key).map(str::to_owned);
            Ask::Trace { source: text("source"), output: text("output"), id: text("id"), limit }
        }
        Resource::Version | Resource::Messages(..) => unreachable!("answered before"),
    })
}

fn logs_of<'a>(module: String, value: impl Fn(&str) -> Option<&'a str>) -> Result<Ask, Refusal> {
    let wrong = |key: &str, expected: &str| Refusal::new(400, format!("{key}: expected {expected}"));
    let follow = value("follow").map_or(Some(false), flag).ok_or_else(|| wrong("follow", "true or false"))?;
    let time = |key: &str| {
        let ms = value(key).map(|text| moment(text).ok_or_else(|| wrong(key, MOMENT_EXPECTED)));
        ms.transpose().map(|ms| ms.map(Wall))
    };
    let (since, until) = (time("since")?, time("until")?);
    if follow && until.is_some() {
        return Err(wrong("until", "no follow: what comes is later"));
    }
    let tail = value("tail").map(|text| text.parse().map_err(|_| wrong("tail", "a number of lines")));
    Ok(Ask::Logs { module, choice: Choice { since, until, tail: tail.transpose()? }, follow })
}

async fn json_body(request: &mut Request) -> Result<Value, Refusal> {
    let body = whole(&mut request.body).await?;
    serde_json::from_slice(&body).map_err(|e| Refusal::new(400, format!("not JSON: {e}")))
}

const MOMENT_EXPECTED: &str = "how long ago (\"10min\"), a time (\"2026-11-23T18:00:00Z\"), or milliseconds since 1970";

/// A wall clock that jumped shows more or fewer lines, nothing else.
fn moment(text: &str) -> Option<i64> {
    if text.len() > 10
        && let Ok(ms) = text.parse()
    {
        return Some(ms);
    }
    let ago = units::duration(text).map(|ago| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.saturating_sub(ago).as_millis() as i64
    });
    ago.or_else(|| units::timestamp_ms(text))
}

async fn whole(body: &mut Body) -> Result<Vec<u8>, Refusal> {
    let late = async {
        Timer::after(BODY_WAIT).await;
        Err(BodyFault::Broken(format!("it did not arrive within {} s", BODY_WAIT.as_secs())))
    };
    smol::future::or(body.whole(BODY_BYTES_MAX), late).await.map_err(|fault| match fault {
        BodyFault::TooLarge => Refusal::new(413, format!("the body is larger than {BODY_BYTES_MAX} bytes")),
        BodyFault::Broken(why) => Refusal::new(400, format!("the body can't be read: {why}")),
    })
}

async fn drain(body: Body) {
    let enough = async {
        Timer::after(REFUSAL_WAIT).await;
    };
    smol::future::or(body.drain(), enough).await;
}

async fn call(calls: &Sender<Call>, ask: Ask) -> Result<Reply, Refusal> {
    let is_method = matches!(ask, Ask::Method { .. });
    let wait = match &ask {
        // The runtime keeps the deadline itself; this one only notices that it did not.
        Ask::Method { timeout_ms, .. } => Duration::from_millis((*timeout_ms).into()) + ANSWER_WAIT,
        _ => ANSWER_WAIT,
    };
    let (answer, answered) = smol::channel::bounded(1);
    calls.try_send(Call { ask, answer }).map_err(|error| match error {
        TrySendError::Full(_) => Refusal::new(503, "skerry is busy: try again"),
        TrySendError::Closed(_) => Refusal::new(503, "skerry is stopping"),
    })?;
    let late = async {
        Timer::after(wait).await;
        Err(Refusal::new(504, format!("no answer within {} s", wait.as_secs())))
    };
    match smol::future::or(received(&answered), late).await? {
        Answer::Json(value) => Ok(Reply::json(&value)),
        Answer::Lines(lines) => {
            let lines = lines.map(|value| http::line(&value));
            Ok(Reply { status: 200, allow: None, content: Content::Lines(Box::pin(lines)) })
        }
        Answer::Text(text) => Ok(Reply { status: 200, allow: None, content: Content::Metrics(text) }),
        // As IoT Hub's service API has it: the status of the method is not the status of the request.
        Answer::Raw { status, body } if is_method => Ok(Reply::json(&method_json(status, &body))),
        Answer::Raw { status, body } => Ok(Reply { status, allow: None, content: Content::Json(body) }),
    }
}

async fn received(answered: &Receiver<Result<Answer, Refusal>>) -> Result<Answer, Refusal> {
    answered.recv().await.unwrap_or_else(|_| Err(Refusal::new(500, "the question was dropped without an answer")))
}

fn method_json(status: u16, body: &[u8]) -> Value {
    match serde_json::from_slice::<Value>(body) {
        Ok(payload) => json!({"status": status, "payload": payload}),
        Err(_) if body.is_empty() => json!({"status": status, "payload": null}),
        Err(_) => json!({"status": status, "payloadBase64": to_base64(body)}),
    }
}

/// One answer a line, in the order of the lines. The first answer decides the status of the whole; a later
/// line that is refused says so in its own answer, and the lines after it are taken all the same.
async fn send_messages(
    module: String,
    output: String,
    mut body: Body,
    calls: &Sender<Call>,
    executor: &Executor,
) -> Result<Reply, Refusal> {
    // What is on its way: this channel, the one whose answer is awaited, and the one being put in.
    let (open, pending) = smol::channel::bounded::<Receiver<Result<Answer, Refusal>>>(OPEN_MAX - 2);
    let calls = calls.clone();
    let reading = async move {
        let mut number = 0;
        loop {
            number += 1;
            let (answer, answered) = smol::channel::bounded(1);
            let line = body.line(LINE_BYTES_MAX).await;
            let ended = matches!(line, Err(BodyFault::Broken(_)));
            match line {
                Ok(None) => break,
                Ok(Some(line)) if line.trim_ascii().is_empty() => continue,
                line => match record_of(line, number) {
                    Ok(record) => {
                        let ask = Ask::Send { module: module.clone(), output: output.clone(), record };
                        // Full means wait, not 503: the sender is slowed down through its own socket.
                        let _ = calls.send(Call { ask, answer }).await;
                    }
                    Err(refusal) => drop(answer.try_send(Err(refusal))),
                },
            }
            if open.send(answered).await.is_err() || ended {
                break;
            }
        }
        drain(body).await;
    };
    executor.spawn(reading).detach();
    let lines = |first: Option<Vec<u8>>| {
        let rest = pending.clone().then(|answered| async move { http::line(&outcome(received(&answered).await)) });
        Content::Lines(Box::pin(smol::stream::iter(first).chain(rest)))
    };
    let first = match pending.recv().await {
        Ok(answered) => Some(http::line(&outcome(Ok(received(&answered).await?)))),
        Err(_) => None,
    };
    Ok(Reply { status: 200, allow: None, content: lines(first) })
}

fn record_of(line: Result<Option<Vec<u8>>, BodyFault>, number: usize) -> Result<Vec<u8>, Refusal> {
    let refuse = |status, message: &str| Err(Refusal::new(status, format!("line {number}: {message}")));
    match line {
        Ok(line) => record_from_line(&line.unwrap_or_default())
            .or_else(|fault| refuse(if fault.too_large { 413 } else { 400 }, &fault.message)),
        Err(BodyFault::TooLarge) => refuse(413, &format!("longer than {LINE_BYTES_MAX} bytes")),
        Err(BodyFault::Broken(why)) => refuse(400, &format!("can't be read: {why}")),
    }
}

fn outcome(answer: Result<Answer, Refusal>) -> Value {
    match answer {
        Ok(Answer::Json(value)) => value,
        Ok(Answer::Raw { .. } | Answer::Lines(_) | Answer::Text(_)) => {
            http::error_json(500, "not the answer to a message")
        }
        Err(refusal) => http::error_json(refusal.status, &refusal.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_time_or_how_long_ago() {
        assert_eq!(moment("1795456800000"), Some(1_795_456_800_000));
        assert_eq!(moment("2026-11-23T18:00:00Z"), Some(1_795_456_800_000));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let ago = moment("10min").unwrap();
        assert!((now - 601_000..=now - 599_000).contains(&ago) || ago == 0, "{ago}");
        assert_eq!(moment("yesterday"), None);
    }
}
