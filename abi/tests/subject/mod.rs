//! A module that does what a test tells it to, one order a message.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, Sender, channel},
    },
    task::{Context as TaskContext, Poll, Wake, Waker},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skerry_abi::{Answer, AnswerError, Context, Deferred, Error, Message, Module, Result, SendError, export_module};

#[derive(Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    interval_ms: u64,
    start: String,
}

pub struct Subject {
    settings: Settings,
    held: Vec<Deferred>,
    ticks: u64,
    refuse: u64,
}

/// Callbacks of the order `block` end when the test sends here.
pub static GATE: Mutex<Option<Receiver<()>>> = Mutex::new(None);

pub fn gate() -> Sender<()> {
    let (open, gate) = channel();
    *GATE.lock().unwrap() = Some(gate);
    open
}

/// A thread that the stop ends says here how far it came.
static STOPPED_AT: Mutex<Option<Sender<u64>>> = Mutex::new(None);

pub fn stopped_at() -> Receiver<u64> {
    let (tell, told) = channel();
    *STOPPED_AT.lock().unwrap() = Some(tell);
    told
}

impl Module for Subject {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Subject> {
        match settings.start.as_str() {
            "fail" => return Err(Error::new("as told")),
            "panic" => panic!("as told"),
            _ => {}
        }
        let times = cx.twin().reported()["starts"].as_u64().unwrap_or(0);
        if times > 0 {
            cx.twin().report(&json!({"starts": times + 1}))?.wait()?;
        }
        Ok(Subject { settings, held: Vec::new(), ticks: 0, refuse: 0 })
    }

    fn settings(&mut self, _: &Context, new: Settings) -> Result {
        match new.start.as_str() {
            "fail" => return Err(Error::new("as told")),
            "panic" => panic!("as told"),
            _ => self.settings = new,
        }
        Ok(())
    }

    fn interval(&self) -> Option<Duration> {
        (self.settings.interval_ms > 0).then(|| Duration::from_millis(self.settings.interval_ms))
    }

    fn tick(&mut self, cx: &Context) -> Result {
        self.ticks += 1;
        cx.send("out", Message::new(format!("tick {}", self.ticks)))?;
        Ok(())
    }

    fn method(&mut self, cx: &Context, name: &str, payload: Value) -> Result<Answer> {
        match name {
            "echo" => Ok(payload.into()),
            "fail" => Err(Error::new("as told")),
            "panic" => panic!("as told"),
            "who" => Ok(json!([cx.identity().path(), cx.identity().sign(b"x")?.len(), cx.state_dir()]).into()),
            "complete" => {
                self.held.drain(..).for_each(Deferred::complete);
                Ok(Answer::done())
            }
            "drop" => {
                self.held.clear();
                Ok(Answer::done())
            }
            "health" => {
                match payload.as_str() {
                    Some(reason) => cx.unhealthy(reason),
                    None => cx.healthy(),
                }
                Ok(Answer::done())
            }
            "together" => {
                cx.send_completing("out", Message::new("together"), &mut self.held)?;
                Ok(json!(self.held.len()).into())
            }
            _ => Ok(Answer::unknown(name)),
        }
    }

    fn message(&mut self, cx: &Context, input: &str, message: Message) -> Result {
        let order: Value = message.json()?;
        let count = order["count"].as_u64().unwrap_or(1);
        match order["do"].as_str().unwrap_or_default() {
            "pass" => {
                cx.send("out", message)?;
            }
            "send" => {
                for i in 0..count {
                    cx.send("out", Message::new(i.to_string()))?;
                }
            }
            "large" => {
                cx.send("out", Message::new(vec![0; 300_000]))?;
            }
            "undeclared" => {
                cx.send("nowhere", message)?;
            }
            "refuse" => {
                self.refuse += 1;
                if self.refuse <= count {
                    return Err(Error::new(format!("refusal {}", self.refuse)));
                }
                cx.send("out", message)?;
            }
            "panic" => panic!("as told on {input}"),
            "defer" => self.held.push(message.defer()?),
            "defer twice" => {
                self.held.push(message.defer()?);
                self.held.push(message.defer()?);
            }
            "defer to thread" => {
                let handle = message.defer()?;
                std::thread::spawn(move || handle.complete()).join().unwrap();
            }
            "wait" => match cx.send("out", message)?.wait() {
                Err(AnswerError::InsideCallback) => return Ok(()),
                other => return Err(Error::new(format!("{other:?}"))),
            },
            "wait elsewhere" => {
                let own = cx.clone();
                let outcome =
                    std::thread::spawn(move || own.send("threads", Message::new("own"))?.wait().map_err(Error::from))
                        .join()
                        .unwrap()?;
                cx.send("out", Message::new(format!("{outcome:?}")))?;
            }
            "block" => {
                let gate = GATE.lock().unwrap().take().unwrap();
                gate.recv_timeout(Duration::from_secs(10))?;
            }
            "log" => log::warn!("as told"),
            "fail" => cx.fail("as told"),
            "thread panics" => drop(cx.spawn("bad", || panic!("as told"))?),
            "threads" => {
                let waits = order["blind"] != true;
                self.threads(cx, order["threads"].as_u64().unwrap_or(1), count, waits)?;
            }
            "await" => {
                let own = cx.clone();
                cx.spawn("awaits", move || {
                    let outcome = block_on(own.send("threads", Message::new("1"))?)?;
                    own.send("threads", Message::new(format!("{outcome:?}")))?;
                    Ok(())
                })?;
            }
            "try" => {
                let sent = (0..count).map(|i| cx.try_send("out", Message::new(i.to_string())));
                let full = sent.filter(|sent| matches!(sent, Err(SendError::NoCredit))).count();
                cx.twin().report(&json!({ "full": full }))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, cx: &Context) -> Result {
        cx.send("out", Message::new("last words"))?;
        Ok(())
    }
}

impl Subject {
    fn threads(&self, cx: &Context, threads: u64, count: u64, waits: bool) -> Result {
        for thread in 0..threads {
            let own = cx.clone();
            cx.spawn("sender", move || {
                for i in 0..count {
                    match own.send("threads", Message::new(format!("{thread} {i}"))) {
                        Ok(receipt) if waits && i % 3 == 0 => drop(receipt.wait()),
                        Ok(_) => {}
                        Err(SendError::Stopping) => {
                            if let Some(tell) = (!waits).then(|| STOPPED_AT.lock().unwrap().take()).flatten() {
                                tell.send(i)?;
                            }
                            return Ok(());
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

export_module!(Subject);
