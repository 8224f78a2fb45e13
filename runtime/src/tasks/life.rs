//! One process of an instance, from its first frame to its last words.
//! Must never wait for it without an end.

use std::rc::Rc;
use std::time::Duration;

use smol::channel::{Receiver, Sender};
use smol::{Async, Timer};

use super::board::{Order, Slot, Status};
use super::obituary;
use super::port::Wire;
use super::reader::{self, Said};
use super::tally::Of;
use super::world::World;
use crate::io::process::{self, Ended, Host};
use crate::logic::hub::{Ending, LinkIx};
use crate::logic::log_ring::LogLine;
use crate::logic::restart::{Due, Restart};
use crate::model::instance::Exit;
use crate::model::manifest::RestartPolicy;
use crate::model::time::Mono;
use skerry_abi::wire::frame::ToHost;

/// A host that has not said hello by then never will.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// How long `stop` may take before the process is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// What is left in the socket of a process that has ended is read for at most this long.
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);

/// Everything that can happen to a running instance.
enum Event {
    Said(Said),
    /// The link ended; a text when its bytes broke the rules.
    LinkOver(Option<String>),
    Exited,
    Order(Order),
    Check,
}

/// How a life ended: an exit, and whether somebody asked for it.
pub enum End {
    Exited(Exit),
    Asked(Order),
}

/// A process and the tasks that serve it.
pub struct Life {
    world: Rc<World>,
    slot: Rc<Slot>,
    host: Rc<Host>,
    exited: Async<std::os::fd::OwnedFd>,
    events: Receiver<Event>,
    pub link: Option<LinkIx>,
    tasks: Vec<smol::Task<()>>,
    hang_after: Duration,
    /// When it has run well for long enough to be the good version.
    well_at: Option<Mono>,
    /// The first thing that told how this ends.
    verdict: Option<Exit>,
    panic: Option<String>,
    /// What the module says is wrong with itself.
    unhealthy: Option<String>,
    hello: bool,
    ping: Option<u64>,
    /// Nothing more comes from the link, and only the end of the process is waited for.
    link_over: bool,
    begun: Mono,
}

impl Life {
    pub fn new(world: &Rc<World>, slot: &Rc<Slot>, host: Host) -> std::io::Result<Life> {
        let (say, events) = smol::channel::bounded(64);
        let exited = Async::new(host.pidfd.try_clone()?)?;
        let stream = Rc::new(Async::new(host.link.try_clone()?)?);
        let pipes = [("stdout", host.stdout.try_clone()?), ("stderr", host.stderr.try_clone()?)];
        let host = Rc::new(host);
        let image = slot.image.borrow().clone();
        let link = world.port.turn(|hub, _| hub.open_link(&slot.name, &image.outputs, &image.inputs));
        let (full, fulls) = smol::channel::bounded(1);
        world.port.connect(link, Rc::new(Wire::Socket { stream: Rc::clone(&stream), full }));
        let mut tasks = Vec::new();
        for (name, pipe) in pipes {
            let pipe = Async::new(std::fs::File::from(pipe))?;
            tasks.push(world.executor.spawn(super::reader::capture(Rc::clone(world), Rc::clone(slot), name, pipe)));
        }
        tasks.push(world.executor.spawn(write_rest(Rc::clone(world), link, Rc::clone(&stream), fulls)));
        tasks.push(world.executor.spawn(read(Rc::clone(world), Rc::clone(slot), link, stream, say)));
        let life = Life {
            world: Rc::clone(world),
            slot: Rc::clone(slot),
            host,
            exited,
            events,
            link: Some(link),
            tasks,
            hang_after: slot.setup.borrow().limits.hang_after,
            well_at: None,
            verdict: None,
            panic: None,
            unhealthy: None,
            hello: false,
            ping: None,
            link_over: false,
            begun: world.port.now().mono,
        };
        life.say_hello(link);
        Ok(life)
    }

    fn say_hello(&self, link: LinkIx) {
        let (credit_messages, credit_bytes) = self.world.port.look(|hub| hub.credit(link));
        let hello = ToHost::Hello {
            link_version: skerry_abi::wire::frame::LINK_VERSION,
            device: &self.world.config.device_id,
            module: &self.slot.name,
            generation: self.slot.generation.get(),
            credit_messages,
            credit_bytes,
        };
        self.world.port.send(link, &hello);
    }

    /// Until the process is over or somebody wants it to be.
    pub async fn watch(&mut self, orders: &Receiver<Order>, restart: &mut Restart) -> End {
        let waits = self.world.config.wait_debugger.contains(&self.slot.name);
        let mut deadline = (!waits).then(|| self.world.port.now().mono.after(HELLO_WAIT));
        loop {
            let event = self.next(orders, deadline, restart).await;
            match event {
                Event::Said(said) => {
                    if let Said::Hello { .. } = said {
                        deadline = None;
                    }
                    self.heard(said, restart);
                }
                Event::LinkOver(fault) => {
                    self.link_over = true;
                    self.verdict = self.verdict.take().or(fault.map(Exit::LinkRubbish));
                    // Without its link it can only be ended.
                    self.host.kill();
                }
                Event::Exited => return End::Exited(self.classify().await),
                Event::Order(order) => {
                    self.slot.ending.set(matches!(order, Order::End));
                    self.stop().await;
                    return End::Asked(order);
                }
                Event::Check => {
                    let now = self.world.port.now().mono;
                    if deadline.is_some_and(|at| at <= now) {
                        self.verdict.get_or_insert(Exit::NeverHello);
                        self.host.kill();
                        deadline = None;
                    }
                    if let Some(Due::Healthy) = restart.on_timeout(now) {
                        log::info!("instance={}/{} healthy=true", self.slot.name, self.slot.generation.get());
                    }
                    self.check_hang();
                    if self.verdict.is_none() && self.unhealthy.is_none() && self.well_at.is_some_and(|at| at <= now) {
                        self.well_at = None;
                        self.world.ran_well(&self.slot);
                    }
                }
            }
            if let Some(exit) = self.is_to_end() {
                // It can still end in order: what it has in hand is given back, and it is asked before it is killed.
                self.stop().await;
                return End::Exited(exit);
            }
        }
    }

    async fn next(&self, orders: &Receiver<Order>, deadline: Option<Mono>, restart: &Restart) -> Event {
        let now = self.world.port.now().mono;
        let check = self.hang_after.as_millis() as u64 / 3;
        let timers = deadline.into_iter().chain(restart.next_timeout()).chain(self.well_at);
        let check = timers.map(|at| at.since(now)).fold(check, u64::min);
        let timer = async {
            Timer::after(Duration::from_millis(check.max(10))).await;
            Event::Check
        };
        // A closed channel is ready for ever: it would starve everything else, the whole executor included.
        let events = async {
            if self.link_over {
                std::future::pending::<()>().await;
            }
            self.events.recv().await.unwrap_or(Event::LinkOver(None))
        };
        let exited = async {
            // Readable is what a pidfd becomes at the end; an error would be the end as well.
            let _ = self.exited.readable().await;
            Event::Exited
        };
        let orders = async {
            match orders.recv().await {
                Ok(order) => Event::Order(order),
                Err(_) => Event::Order(Order::End),
            }
        };
        smol::future::or(smol::future::or(events, orders), smol::future::or(exited, timer)).await
    }

    fn heard(&mut self, said: Said, restart: &mut Restart) {
        match said {
            Said::Hello { isolation } => {
                self.hello = true;
                *self.slot.isolation.borrow_mut() = isolation;
                if let Some(link) = self.link {
                    self.start_module(link);
                }
            }
            Said::Started => {
                let now = self.world.port.now();
                self.world.board.tally.time(Of::Command, &["start"], now.mono.since(self.begun));
                restart.handle_started(now.mono);
                self.slot.set_status(Status::Running, now);
                self.show_health();
                self.well_at = self.world.window(&self.slot).map(|window| now.mono.after(window));
                let _ = self.world.replan.try_send(());
                self.slot.link.set(self.link);
                self.world.board.arrived();
                if let Some(link) = self.link {
                    self.world.port.turn(|hub, _| hub.ready(link));
                }
                log::info!(
                    "instance={}/{} status=running pid={} image={}@{}",
                    self.slot.name,
                    self.slot.generation.get(),
                    self.host.pid,
                    self.slot.image.borrow().name,
                    self.slot.image.borrow().version
                );
            }
            Said::Failed { kind, text } => {
                self.verdict.get_or_insert(Exit::Failed { kind, text });
            }
            Said::Panicked { text } => self.panicked(text),
            Said::Pong => self.ping = None,
            Said::Health { text } => self.say_health(text),
            Said::Stopped => {}
        }
    }

    /// What a module says of itself counts from its start on, also what it says in it.
    fn say_health(&mut self, text: String) {
        let (name, generation) = (&self.slot.name, self.slot.generation.get());
        match text.as_str() {
            "" => log::info!("instance={name}/{generation} unhealthy=no"),
            reason => log::warn!("instance={name}/{generation} unhealthy={reason:?}"),
        }
        self.slot.unhealthy.replace(text.clone());
        self.unhealthy = Some(text).filter(|text| !text.is_empty());
        self.show_health();
    }

    fn show_health(&self) {
        let shown = match (self.slot.status.get(), &self.unhealthy) {
            (Status::Running, Some(_)) => Status::Unhealthy,
            (Status::Unhealthy, None) => Status::Running,
            _ => return,
        };
        self.slot.set_status(shown, self.world.port.now());
        let _ = self.world.replan.try_send(());
    }

    /// It runs, says that it is not well, and its policy is not to leave it so.
    fn is_to_end(&self) -> Option<Exit> {
        let runs = self.slot.status.get() == Status::Unhealthy && !self.link_over && self.verdict.is_none();
        let reason = self.unhealthy.as_ref().filter(|_| runs && self.slot.policy.get() != RestartPolicy::Never)?;
        Some(Exit::Unhealthy(reason.clone()))
    }

    /// A callback panicked and was caught: nobody else writes that down.
    fn panicked(&mut self, text: String) {
        log::warn!("instance={}/{} {text}", self.slot.name, self.slot.generation.get());
        let at = self.world.port.now().wall;
        self.slot.log(LogLine { at, level: 1, stream: "panic".to_owned(), text: text.clone() });
        self.panic = Some(text);
    }

    /// The second frame: twin and folder.
    fn start_module(&self, link: LinkIx) {
        let mut twins = self.world.board.twins.borrow_mut();
        let twin = twins.entry(self.slot.name.clone()).or_default();
        let desired = serde_json::Value::Object(twin.desired().clone()).to_string();
        let reported = serde_json::Value::Object(twin.reported().clone()).to_string();
        let state_dir = self.world.config.state_folder.join("modules").join(&self.slot.name);
        let frame = ToHost::Start {
            desired_version: twin.desired_version(),
            desired: &desired,
            reported_version: twin.reported_version(),
            reported: &reported,
            state_dir: &state_dir.to_string_lossy(),
        };
        self.world.port.send(link, &frame);
        self.world.board.tally.count(Of::TwinRead, &["edge_hub", &self.world.named(&self.slot.name)]);
    }

    /// One callback that lasts too long, or a host that does not answer, is a hang; not while a debugger has it.
    fn check_hang(&mut self) {
        let Ok(page) = self.host.status.read() else { return };
        if process::tracer_of(self.host.pid).is_some() || !self.hello {
            self.ping = None;
            return;
        }
        let now = self.world.port.now().mono;
        let limit = self.hang_after.as_millis() as u64;
        let lasted = match page.callback_started_ms {
            0 => 0,
            started => now.0.saturating_sub(started),
        };
        let silent = self.ping.map_or(0, |sent| now.0.saturating_sub(sent));
        if lasted.max(silent) >= limit {
            self.slot.set_status(Status::Unhealthy, self.world.port.now());
            self.verdict.get_or_insert(Exit::Hung { ms: lasted.max(silent) });
            self.host.kill();
        } else if self.ping.is_none()
            && let Some(link) = self.link
        {
            self.ping = Some(now.0);
            self.world.port.send(link, &ToHost::Ping { n: now.0 });
        }
    }

    /// Reads what is left on the link, then says how it ended.
    async fn classify(&mut self) -> Exit {
        // Not for ever: a grandchild may hold the other end.
        let mut heard = Vec::new();
        let rest = async {
            while let Ok(event) = self.events.recv().await {
                match event {
                    Event::Said(said) => heard.push(said),
                    Event::LinkOver(_) => return,
                    _ => {}
                }
            }
        };
        let late = async {
            Timer::after(LAST_WORDS_WAIT).await;
        };
        smol::future::or(rest, late).await;
        heard.into_iter().for_each(|said| self.heard_last(said));
        let page = self.host.status.read().unwrap_or_default();
        let ended = self.host.try_wait().ok().flatten();
        if let Some(verdict) = self.verdict.take() {
            return verdict;
        }
        match ended {
            Some(Ended::Signal(signal)) => Exit::Signal { signal, image_offset: page.image_offset() },
            Some(Ended::Code(code)) if code != 0 || self.hello => Exit::Code(code),
            Some(Ended::Code(_)) | None => Exit::NeverHello,
        }
    }

    fn heard_last(&mut self, said: Said) {
        match said {
            Said::Failed { kind, text } => {
                self.verdict.get_or_insert(Exit::Failed { kind, text });
            }
            Said::Panicked { text } => self.panicked(text),
            _ => {}
        }
    }

    /// Asks it to end, and sees to it that it does.
    async fn stop(&mut self) {
        let begin = self.world.port.now().mono;
        if let Some(link) = self.link {
            self.world.port.send(link, &ToHost::Stop { grace_ms: STOP_GRACE.as_millis() as u32 });
        }
        let ended = async { self.exited.readable().await.is_ok() };
        let late = async {
            Timer::after(STOP_GRACE).await;
            false
        };
        if !smol::future::or(ended, late).await {
            log::warn!("instance={}/{} stop=late action=killed", self.slot.name, self.slot.generation.get());
            self.host.kill();
            let _ = self.exited.readable().await;
        }
        self.world.board.tally.time(Of::Command, &["stop"], self.world.port.now().mono.since(begin));
    }

    /// Reaps the process and keeps what is worth keeping of a crash.
    pub async fn bury(&mut self, end: &End) -> Ending {
        let page = self.host.status.read().unwrap_or_default();
        let _ = self.host.try_wait();
        // Last answers that are still in the socket count.
        let drained = async {
            while let Ok(event) = self.events.recv().await {
                if matches!(event, Event::LinkOver(_)) {
                    break;
                }
            }
        };
        let late = async {
            Timer::after(LAST_WORDS_WAIT).await;
        };
        if matches!(end, End::Asked(_) | End::Exited(Exit::Unhealthy(_))) {
            smol::future::or(drained, late).await;
        }
        self.tasks.clear();
        let End::Exited(exit) = end else { return Ending::Quietly };
        obituary::write(&self.world, &self.slot, self.link, self.panic.as_deref(), exit, &page).await;
        match page.delivery {
            // The callback may be over by the time that the rubbish which it wrote is read.
            0 if matches!(exit, Exit::LinkRubbish(_)) => Ending::Somewhere,
            0 => Ending::Quietly,
            delivery => Ending::During(delivery),
        }
    }
}

async fn read(
    world: Rc<World>,
    slot: Rc<Slot>,
    link: LinkIx,
    stream: Rc<Async<std::os::unix::net::UnixStream>>,
    say: Sender<Event>,
) {
    let over = reader::run(&world, &slot, link, &stream, async |said| {
        let _ = say.send(Event::Said(said)).await;
    })
    .await;
    let _ = say.send(Event::LinkOver(over)).await;
}

/// Writes what a full socket did not take at once.
async fn write_rest(
    world: Rc<World>,
    link: LinkIx,
    stream: Rc<Async<std::os::unix::net::UnixStream>>,
    fulls: Receiver<()>,
) {
    while fulls.recv().await.is_ok() {
        while stream.writable().await.is_ok() && !world.port.flush(link) {}
    }
}
