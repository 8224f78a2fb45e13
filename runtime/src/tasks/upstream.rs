//! One identity's way to the cloud: dials when its session says so, carries bytes between connection and session, messages
//! between hub and session, twin and methods between cloud and instance. Must never hold up another identity, and never
//! complete a message that the cloud has not acknowledged.

use std::future::{Future, pending};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use smol::channel::{Receiver, Sender, bounded};

use super::board::Uplink;
use super::methods;
use super::port::Wire;
use super::upstream_tally::{Tallied, UPSTREAM};
use super::world::World;
use crate::io::dial::within;
use crate::io::ws::{self, Connection, Dialler, Fault};
use crate::logic::dialect;
use crate::logic::hub::{Ending, LinkIx};
use crate::logic::session::{Action, Event, Loss, Session};
use crate::logic::twin_sync::{Request, TwinSync};
use crate::model::limits::{METHOD_BYTES_MAX, METHOD_WAIT_MAX, METHODS_MAX};
use crate::model::time::Mono;
use skerry_abi::wire::frame::{self, Completion, ToHost};
use skerry_abi::wire::record::Record;

/// How long a good-bye may take.
const GOOD_BYE: Duration = Duration::from_secs(1);
/// What a method of a module may take. The cloud knows how long its caller waits, and does not tell: an answer that is too late there is
/// for nothing, and one that is cut off here would be wrong.
const METHOD_TIMEOUT_MS: u32 = METHOD_WAIT_MAX.as_millis() as u32;

/// A method's answer on its way to the cloud: topic and payload.
type Answer = (String, Vec<u8>);
/// A frame being written; gives the sender back.
type Writing = Pin<Box<dyn Future<Output = (ws::Sender, Result<(), String>)>>>;

/// Everything that can happen while connected.
enum Happened {
    Read(Result<Vec<u8>, String>),
    Written(ws::Sender, Result<(), String>),
    /// Messages wait, something was reported, or it is to end.
    Woken,
    Answered(Answer),
    Due,
}

pub struct Upstream {
    world: Rc<World>,
    uplink: Rc<Uplink>,
    dialler: Rc<Dialler>,
    session: Session,
    twin: TwinSync,
    link: LinkIx,
    wakes: Receiver<()>,
    answer: Sender<Answer>,
    answers: Receiver<Answer>,
    /// What was logged last, so that the same is not said again with every attempt.
    said: Option<String>,
    tallied: Tallied,
    /// The same of the twin.
    said_of_twin: Option<String>,
}

impl Upstream {
    pub fn new(
        world: &Rc<World>,
        uplink: &Rc<Uplink>,
        dialler: &Rc<Dialler>,
        session: Session,
        wakes: Receiver<()>,
    ) -> Upstream {
        let link = world.port.turn(|hub, _| hub.open_upstream(&uplink.module));
        world.port.connect(link, Rc::new(Wire::Task { wake: uplink.wake.clone() }));
        let (answer, answers) = bounded(METHODS_MAX);
        let is_rested = session.is_resting();
        if is_rested {
            // What waits is handed over, and has it connect.
            world.port.turn(|hub, _| hub.ready(link));
        }
        uplink.resting.set(is_rested);
        Upstream {
            world: Rc::clone(world),
            uplink: Rc::clone(uplink),
            dialler: Rc::clone(dialler),
            session,
            twin: TwinSync::new(world.config.cloud.operation_timeout),
            link,
            wakes,
            answer,
            answers,
            said: None,
            tallied: Tallied::default(),
            said_of_twin: None,
        }
    }

    /// Until the uplink is to end. What is not acknowledged by then is the hub's again.
    pub async fn run(mut self) {
        while !self.uplink.ending.get() {
            self.turn(|_, _| ());
            match self.session.poll_action() {
                Some(Action::Dial) => {
                    self.expire();
                    self.connect().await;
                }
                // There is no connection any more.
                Some(Action::HangUp) => {}
                None => {
                    let due = self.until_due();
                    let woken = async {
                        let _ = self.wakes.recv().await;
                    };
                    smol::future::or(woken, due).await;
                }
            }
        }
        let link = self.link;
        self.world.port.turn(|hub, now| hub.close_link(now, link, Ending::Quietly));
        self.world.port.disconnect(link);
        self.world.board.uplinks.borrow_mut().remove(&self.uplink.module);
        let _ = self.world.came.try_send(());
    }

    /// What waited here since the last connection goes when it is too old, as what waits in its queue does.
    fn expire(&mut self) {
        let link = self.link;
        for delivery in self.world.port.turn(|hub, now| hub.expire_window(now, link)) {
            self.session.forget(delivery);
        }
    }

    async fn connect(&mut self) {
        let host = self.session.identity().host_name.clone();
        let dialler = Rc::clone(&self.dialler);
        let (uplink, wakes) = (Rc::clone(&self.uplink), self.wakes.clone());
        let ended = async {
            while !uplink.ending.get() {
                let _ = wakes.recv().await;
            }
            None
        };
        let dialled = async { Some(dialler.dial(&host, dialect::WEBSOCKET_PATH).await) };
        match smol::future::or(dialled, ended).await {
            Some(Ok(connection)) => self.serve(connection).await,
            Some(Err(Fault { why, busy })) => {
                let loss = match busy {
                    Some(asked) => Loss::Busy { why, asked },
                    None => Loss::Unreachable(why),
                };
                self.turn(|session, now| session.handle_closed(now, loss));
            }
            None => {}
        }
    }

    /// Until the connection is over.
    async fn serve(&mut self, connection: Connection) {
        let Connection { sender, mut receiver, date } = connection;
        if let Some(date) = date {
            self.world.learn_time(date);
        }
        let clock = self.world.floor.now();
        self.turn(|session, now| session.handle_open(now, clock));
        let mut idle = Some(sender);
        let mut writing: Option<Writing> = None;
        loop {
            if let Some(Action::HangUp) = self.session.poll_action() {
                return self.hang_up(idle, writing).await;
            }
            if let Some(mut sender) = idle.take() {
                let bytes = self.session.take_output();
                if bytes.is_empty() {
                    idle = Some(sender);
                } else {
                    self.uplink.bytes_out.set(self.uplink.bytes_out.get() + bytes.len() as u64);
                    writing = Some(Box::pin(async move {
                        let written = sender.write(bytes).await;
                        (sender, written)
                    }));
                }
            }
            match self.next(&mut receiver, &mut writing).await {
                Happened::Read(Ok(bytes)) => {
                    self.uplink.bytes_in.set(self.uplink.bytes_in.get() + bytes.len() as u64);
                    self.turn(|session, now| session.handle_bytes(now, &bytes));
                }
                Happened::Read(Err(why)) => return self.lost(why),
                Happened::Written(sender, written) => {
                    writing = None;
                    idle = Some(sender);
                    if let Err(why) = written {
                        return self.lost(why);
                    }
                }
                Happened::Woken if self.uplink.ending.get() => self.turn(|session, _| session.handle_stop()),
                Happened::Woken | Happened::Due => self.turn(|_, _| ()),
                Happened::Answered((topic, payload)) => {
                    self.turn(|session, now| session.request(now, &topic, &payload));
                }
            }
        }
    }

    async fn next(&self, receiver: &mut ws::Receiver, writing: &mut Option<Writing>) -> Happened {
        let read = async { Happened::Read(receiver.read().await.map(|bytes| bytes.to_vec())) };
        let written = async {
            match writing {
                Some(writing) => {
                    let (sender, written) = writing.await;
                    Happened::Written(sender, written)
                }
                None => pending().await,
            }
        };
        let woken = async {
            let _ = self.wakes.recv().await;
            Happened::Woken
        };
        let answered = async {
            match self.answers.recv().await {
                Ok(answer) => Happened::Answered(answer),
                Err(_) => pending().await,
            }
        };
        let due = async {
            self.until_due().await;
            Happened::Due
        };
        // By turns: a cloud that always has something to say must not keep us from speaking.
        smol::future::race(smol::future::race(read, written), smol::future::or(smol::future::or(answered, woken), due))
            .await
    }

    fn lost(&mut self, why: String) {
        self.turn(|session, now| session.handle_closed(now, Loss::Ended(why)));
    }

    /// Writes what is left, for a while, and closes.
    async fn hang_up(&mut self, idle: Option<ws::Sender>, writing: Option<Writing>) {
        let left = self.session.take_output();
        let good_bye = async move {
            let sender = match writing {
                Some(writing) => writing.await.0.into(),
                None => idle,
            };
            let Some(mut sender) = sender else { return };
            if left.is_empty() || sender.write(left).await.is_ok() {
                sender.close().await;
            }
        };
        within(GOOD_BYE, good_bye).await;
        self.lost(String::new());
    }

    async fn until_due(&self) {
        let now = self.world.port.now().mono;
        let due = self.session.next_timeout().min(self.twin.next_timeout(now));
        if due == Mono::NEVER {
            return pending().await;
        }
        smol::Timer::after(Duration::from_millis(due.since(now))).await;
    }

    /// One call into the session, and everything that follows from it.
    fn turn(&mut self, act: impl FnOnce(&mut Session, Mono)) {
        let now = self.world.port.now().mono;
        act(&mut self.session, now);
        self.session.set_idle(now, self.world.idle_of(&self.uplink.module));
        if self.session.next_timeout() <= now {
            self.session.on_timeout(now);
        }
        self.twin.on_timeout(now);
        loop {
            while let Some(event) = self.session.poll_event() {
                self.handle_event(now, event);
            }
            let taken = self.take_messages(now);
            self.sync_twin(now);
            if !taken {
                break;
            }
        }
        self.uplink.in_flight.set(self.session.in_flight());
        self.uplink.resting.set(self.session.is_resting());
    }

    /// What the hub has for the cloud, into the session. False when there was nothing.
    fn take_messages(&mut self, now: Mono) -> bool {
        let frames = self.world.port.take_output(self.link);
        let mut rest = frames.as_slice();
        while let Ok(Some(bytes)) = frame::split(&mut rest) {
            let Ok(ToHost::Deliver { id, record, .. }) = ToHost::decode(bytes) else { continue };
            let Some(record) = Record::parse_trusted(record) else { continue };
            let topic = dialect::telemetry_topic(self.session.identity(), &record);
            self.session.publish(now, id, &topic, record.body());
        }
        !frames.is_empty()
    }

    fn sync_twin(&mut self, now: Mono) {
        let request = {
            let mut twins = self.world.board.twins.borrow_mut();
            let twin = twins.entry(self.uplink.module.clone()).or_default();
            if self.session.is_resting() && self.twin.has_news(twin) {
                self.session.handle_need(now);
            }
            let request = self.twin.poll_request(now, twin);
            self.uplink.twin_in_step.set(self.twin.is_in_step(twin));
            request
        };
        request.iter().for_each(|request| self.tallied.asked(request, now));
        match request {
            Some(Request::Get { rid }) => self.session.request(now, &dialect::twin_get_topic(rid), b" "),
            Some(Request::Report { rid, patch }) => {
                let patch = serde_json::Value::Object(patch).to_string();
                self.session.request(now, &dialect::reported_topic(rid), patch.as_bytes());
            }
            None => {}
        }
    }

    fn handle_event(&mut self, now: Mono, event: Event) {
        let link = self.link;
        let client = self.session.identity().client_id();
        match event {
            Event::Up => self.up(&client),
            Event::Ready => self.twin.handle_ready(now),
            Event::Down { why, retry_in_ms, refused } => {
                self.world.port.turn(|hub, _| hub.pause(link));
                self.twin.handle_lost();
                self.uplink.refused.set(refused);
                if refused {
                    let _ = self.world.came.try_send(());
                }
                self.down(&client, why, retry_in_ms);
            }
            Event::Rested => {
                self.twin.handle_lost();
                self.uplink.connected.set(false);
                self.uplink.since.set(self.world.port.now().wall);
                log::debug!("upstream identity={client} status=idle");
            }
            Event::Acked { first, count } => {
                let done = self.world.port.turn(|hub, now| hub.complete(now, link, first, count, Completion::Done, ""));
                if let Err(fault) = done {
                    log::error!("upstream identity={client} acknowledged=unknown reason=\"{fault}\"");
                }
            }
            Event::Rejected { delivery, reason } => {
                log::warn!("upstream identity={client} message=dead-lettered reason=\"{reason}\"");
                self.world.port.turn(|hub, now| hub.give_up(now, link, delivery, &reason));
            }
            Event::TwinAnswer { rid, status, body, .. } => {
                self.tallied.answered(&self.world.board.tally, &self.uplink, rid, status, now);
                self.twin_changed(&client, |sync, twin| sync.handle_answer(now, twin, rid, status, &body));
            }
            Event::Desired { version, body } => {
                self.twin_changed(&client, |sync, twin| sync.handle_desired(now, twin, version, &body));
            }
            Event::Method { name, rid, payload } => self.method(name, rid, payload),
        }
    }

    fn up(&mut self, client: &str) {
        let now = self.world.port.now();
        self.tallied.up(&self.world.board.tally, client, now.mono);
        self.uplink.connected.set(true);
        self.uplink.since.set(now.wall);
        self.uplink.connects.set(self.uplink.connects.get() + 1);
        *self.uplink.fault.borrow_mut() = None;
        *self.uplink.revoked.borrow_mut() = None;
        let renewed = self.said.take().is_none() && self.uplink.connects.get() > 1;
        let level = if renewed { log::Level::Debug } else { log::Level::Info };
        log::log!(level, "upstream identity={client} status=connected host={}", self.session.identity().host_name);
        let link = self.link;
        self.world.port.turn(|hub, _| hub.ready(link));
    }

    /// One line for one reason, however often it is met.
    fn down(&mut self, client: &str, why: Option<String>, retry_in_ms: u64) {
        let was_connected = self.uplink.connected.replace(false);
        if why.is_some() {
            self.tallied.down(&self.world.board.tally, client, was_connected, self.world.port.now().mono);
        }
        self.tallied.given_up(&self.world.board.tally, &self.uplink);
        self.uplink.since.set(self.world.port.now().wall);
        let Some(why) = why else { return };
        let level = if self.said.as_ref() == Some(&why) { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "upstream identity={client} status=disconnected retry_in_ms={retry_in_ms} reason={why:?}");
        *self.uplink.fault.borrow_mut() = Some(why.clone());
        self.said = Some(why);
    }

    fn twin_changed(
        &mut self,
        client: &str,
        change: impl FnOnce(&mut TwinSync, &mut crate::logic::twin::Twin) -> Result<bool, String>,
    ) {
        let changed = {
            let mut twins = self.world.board.twins.borrow_mut();
            change(&mut self.twin, twins.entry(self.uplink.module.clone()).or_default())
        };
        match changed {
            Ok(changed) => {
                self.said_of_twin = None;
                if changed {
                    self.world.desired_changed(&self.uplink.module);
                }
            }
            Err(reason) => {
                let level =
                    if self.said_of_twin.as_ref() == Some(&reason) { log::Level::Debug } else { log::Level::Warn };
                log::log!(level, "upstream identity={client} twin=refused reason={reason:?}");
                self.said_of_twin = Some(reason);
            }
        }
    }

    /// Asked of the instance beside everything else; too many at once are refused.
    fn method(&mut self, name: String, rid: String, payload: Vec<u8>) {
        if self.uplink.methods.get() >= METHODS_MAX {
            let body = serde_json::json!({"message": format!("{METHODS_MAX} methods are open already; try again")});
            let topic = dialect::method_answer_topic(429, &rid);
            let now = self.world.port.now().mono;
            return self.session.request(now, &topic, body.to_string().as_bytes());
        }
        self.uplink.methods.set(self.uplink.methods.get() + 1);
        let (world, uplink, answer) = (Rc::clone(&self.world), Rc::clone(&self.uplink), self.answer.clone());
        let asked = async move {
            let called = methods::call(&world, UPSTREAM, &uplink.module, &name, &payload, METHOD_TIMEOUT_MS).await;
            let (status, body) = called.unwrap_or_else(|refusal| {
                let body = serde_json::json!({"message": refusal.message}).to_string();
                (i32::from(refusal.status), body.into_bytes())
            });
            let (status, body) = if body.len() > METHOD_BYTES_MAX { too_large(body.len()) } else { (status, body) };
            uplink.methods.set(uplink.methods.get() - 1);
            let _ = answer.send((dialect::method_answer_topic(status, &rid), body)).await;
        };
        self.world.executor.spawn(asked).detach();
    }
}

/// In the place of an answer that the cloud would not take.
fn too_large(bytes: usize) -> (i32, Vec<u8>) {
    let message = format!("the answer has {bytes} bytes; the limit is {METHOD_BYTES_MAX}");
    (413, serde_json::json!({ "message": message }).to_string().into_bytes())
}
