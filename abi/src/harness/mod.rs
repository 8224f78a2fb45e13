//! Tests a module without a runtime: the real pump on a thread, the real frames over a real socket pair, and a
//! small runtime at the other end that the test holds in its hand. Waits are on events, with a deadline.

mod world;

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Answer, Message,
    description::Description,
    entry::create,
    export::Exported,
    pump::{self, Options, Status},
    raw::{Root, RootRef},
    wire::frame::{LINK_VERSION, Outcome, ToHost},
};

use abi_stable::{prefix_type::PrefixTypeTrait, std_types::RStr};
use world::World;
pub use world::{End, LogLine};

/// How long a harness waits for anything before the test fails.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A running instance, and the runtime that it believes in.
///
/// ```
/// # use serde_json::json;
/// # use skerry_abi::{Context, Message, Module, NoSettings, Result, export::Exported};
/// # struct Echo;
/// # impl Module for Echo {
/// #     type Settings = NoSettings;
/// #     fn start(_: &Context, _: NoSettings) -> Result<Self> { Ok(Echo) }
/// #     fn message(&mut self, cx: &Context, _: &str, message: Message) -> Result<()> {
/// #         cx.send("output1", message)?;
/// #         Ok(())
/// #     }
/// # }
/// # impl Exported for Echo {
/// #     const DESCRIPTION: &'static str = r#"{"format": 1, "name": "echo", "version": "1.0.0", "sdk_version": "",
/// #         "abi_version": "", "declared": {"inputs": {"input1": ""}, "outputs": {"output1": ""}}}"#;
/// # }
/// use skerry_abi::Harness;
/// let mut harness = Harness::start::<Echo>(json!({}));
/// harness.send("input1", Message::new("ping"));
/// assert_eq!(harness.receive("output1").body(), b"ping");
/// harness.wait_done();
/// harness.stop();
/// ```
///
/// All calls panic, with what was missing and what was logged, when nothing happens within [`DEADLINE`].
pub struct Harness {
    world: Arc<World>,
    pump: Option<JoinHandle<i32>>,
    reader: Option<JoinHandle<()>>,
    description: Description,
    own_folder: Option<PathBuf>,
}

/// How a harness begins; see [`Harness::with`].
#[must_use]
pub struct Setup {
    settings: Value,
    reported: Value,
    credit: (u32, u64),
    state_dir: Option<PathBuf>,
    log_level: u8,
}

impl Setup {
    /// The window: messages, and bytes, that may be sent and not yet safe. 1,000 and 8 MiB if not set.
    pub fn credit(mut self, messages: u32, bytes: u64) -> Setup {
        self.credit = (messages, bytes);
        self
    }

    /// What the twin reports already.
    pub fn reported(mut self, reported: Value) -> Setup {
        self.reported = reported;
        self
    }

    /// A state folder that stays: for tests of a restart. If not set, a fresh one that goes with the harness.
    pub fn state_dir(mut self, folder: impl Into<PathBuf>) -> Setup {
        self.state_dir = Some(folder.into());
        self
    }

    /// The most talkative level of the log: 1 error to 5 trace. 4, debug, if not set.
    pub fn log_level(mut self, level: u8) -> Setup {
        self.log_level = level;
        self
    }

    /// Starts the module.
    ///
    /// # Errors
    /// What the instance said when it failed to start.
    pub fn try_start<M: Exported>(self) -> Result<Harness, String> {
        let description = Description::parse(M::DESCRIPTION)?;
        let (ours, theirs) = UnixStream::pair().map_err(|error| error.to_string())?;
        let (state_dir, own_folder) = match self.state_dir {
            Some(folder) => (folder, None),
            None => {
                let folder = fresh_folder().map_err(|error| error.to_string())?;
                (folder.clone(), Some(folder))
            }
        };
        // 4 KiB a test; a page of the real host lives as long as its process, too.
        let status: &'static Status = Box::leak(Box::new(Status::new()));
        let log_level = self.log_level;
        let pump = std::thread::Builder::new().name("harness-main".to_owned()).spawn(move || {
            let options = Options { link: theirs, status, isolation: String::new(), log_level, exit: None };
            pump::run(options, |_| Ok(root::<M>()))
        });
        let pump = pump.map_err(|error| error.to_string())?;
        let outputs = description.outputs().map(str::to_owned).collect();
        let world = World::new(ours, outputs, self.reported.clone()).map_err(|error| error.to_string())?;
        let world = Arc::new(world);
        let module = description.name().to_owned();
        world.write(&ToHost::Hello {
            link_version: LINK_VERSION,
            device: "harness",
            module: &module,
            generation: 1,
            credit_messages: self.credit.0,
            credit_bytes: self.credit.1,
        });
        world.write(&ToHost::Start {
            desired_version: 1,
            desired: &self.settings.to_string(),
            reported_version: 1,
            reported: &self.reported.to_string(),
            state_dir: &state_dir.to_string_lossy(),
        });
        let reading = world.clone();
        let reader = std::thread::spawn(move || reading.read());
        let harness = Harness { world, pump: Some(pump), reader: Some(reader), description, own_folder };
        harness
            .world
            .wait("the start", |world| {
                (world.failed.is_some() || world.ended || world.started).then(|| world.failed.clone())
            })
            .map_or(Ok(harness), Err)
    }

    /// Starts the module; the test fails when that does.
    pub fn start<M: Exported>(self) -> Harness {
        match self.try_start::<M>() {
            Ok(harness) => harness,
            Err(text) => panic!("the module did not start: {text}"),
        }
    }
}

impl Harness {
    /// Starts a module with these desired properties; the test fails when that does.
    pub fn start<M: Exported>(settings: Value) -> Harness {
        Harness::with(settings).start::<M>()
    }

    /// A start with more to say.
    pub fn with(settings: Value) -> Setup {
        Setup { settings, reported: serde_json::json!({}), credit: (1_000, 8 << 20), state_dir: None, log_level: 4 }
    }

    /// Delivers a message to an input; its number, for [`end_of`](Harness::end_of). What is refused is delivered again,
    /// up to [`attempts_max`](Harness::attempts_max).
    pub fn send(&mut self, input: &str, message: Message) -> u64 {
        let Some(index) = self.description.inputs().position(|name| name == input) else {
            panic!("the module declares no input {input:?} in its settings.json");
        };
        let mut record = Vec::new();
        if let Err(error) = message.encode(&mut record) {
            panic!("this is no message: {error}");
        }
        self.world.deliver(index as u16, record)
    }

    /// The next message of an output, in the order in which they were sent.
    pub fn receive(&mut self, output: &str) -> Message {
        let index = self.output(output);
        self.world.wait(&format!("a message from output {output:?}"), |world| world.outputs[index].pop_front())
    }

    /// The next message of an output, if one comes within `span`.
    pub fn receive_within(&mut self, output: &str, span: Duration) -> Option<Message> {
        let index = self.output(output);
        self.world.wait_within(span, |world| world.outputs[index].pop_front())
    }

    /// Waits until every message that was delivered has ended for good: done, or given up after too many refusals.
    pub fn wait_done(&mut self) {
        self.world.wait("the end of all messages", |world| world.is_done().then_some(()));
    }

    /// How a message ended, waiting for it. A message that was refused and is delivered again has not ended.
    pub fn end_of(&mut self, number: u64) -> End {
        self.world.wait(&format!("the end of message {number}"), |world| world.ends.get(&number).cloned())
    }

    /// How a message ended, if it has.
    pub fn end_so_far(&self, number: u64) -> Option<End> {
        self.world.look(|world| world.ends.get(&number).cloned())
    }

    /// The reasons of all refusals so far, oldest first.
    pub fn refusals(&self) -> Vec<String> {
        self.world.look(|world| world.refusals.clone())
    }

    /// A message is given up after this many refusals. 10 if not set.
    pub fn attempts_max(&mut self, attempts: u16) {
        self.world.look(|world| world.attempts_max = attempts);
    }

    /// From now on nothing that the module sends is safe until [`release`](Harness::release).
    pub fn hold(&mut self) {
        self.world.look(|world| world.holds = true);
    }

    /// Everything that is held comes to this outcome, and what comes later is safe at once again.
    pub fn release(&mut self, outcome: Outcome, reason: &str) {
        self.world.release(outcome, reason);
    }

    /// How many messages the module has sent that are not safe.
    pub fn held(&self) -> usize {
        self.world.look(|world| world.held.len())
    }

    /// Changes the window.
    pub fn credit(&mut self, messages: u32, bytes: u64) {
        self.world.write(&ToHost::Credit { messages, bytes });
    }

    /// Changes the desired properties (all of them). Messages that are sent later come after the change.
    pub fn set_settings(&mut self, desired: Value) {
        let version = self.world.look(|world| {
            world.desired_version += 1;
            world.desired_version
        });
        self.world.write(&ToHost::Desired { version, desired: &desired.to_string() });
    }

    /// Calls a direct method, and waits for its answer.
    pub fn method(&mut self, name: &str, payload: Value) -> Answer {
        let rid = self.world.look(|world| {
            world.last_rid += 1;
            world.last_rid
        });
        let payload = payload.to_string();
        self.world.write(&ToHost::Method { rid, name, payload: payload.as_bytes(), timeout_ms: 10_000 });
        self.world.wait(&format!("the answer of method {name:?}"), |world| world.answers.remove(&rid))
    }

    /// From now on another module answers this to a [`Context::call`](crate::Context::call) of the one that is tested. What nobody
    /// answers is refused with 404.
    pub fn answer_call(&mut self, module: &str, method: &str, answer: Answer) {
        self.world.look(|world| world.others.insert((module.to_owned(), method.to_owned()), answer));
    }

    /// Pings the instance, and waits for its pong: it is alive, also inside a long callback.
    pub fn ping(&mut self) {
        let n = self.world.look(|world| world.pongs + 1);
        self.world.write(&ToHost::Ping { n });
        self.world.wait("the pong", |world| (world.pongs >= n).then_some(()));
    }

    /// The reported properties as they are.
    pub fn reported(&self) -> Value {
        self.world.look(|world| world.reported.clone())
    }

    /// Waits until the reported properties are as wanted, and returns them.
    pub fn wait_reported(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.world.wait("the reported properties", |world| wanted(&world.reported).then(|| world.reported.clone()))
    }

    /// What was logged so far.
    pub fn logs(&self) -> Vec<LogLine> {
        self.world.look(|world| world.logs.clone())
    }

    /// Waits until a line that contains `text` was logged.
    pub fn wait_log(&mut self, text: &str) -> LogLine {
        self.world.wait(&format!("a log line with {text:?}"), |world| {
            world.logs.iter().find(|line| line.text.contains(text)).cloned()
        })
    }

    /// The panics that were caught so far.
    pub fn panics(&self) -> Vec<String> {
        self.world.look(|world| world.panics.clone())
    }

    /// Why the instance says that it is [unhealthy](crate::Context::unhealthy), if it does.
    pub fn unhealthy(&self) -> Option<String> {
        self.world.look(|world| world.unhealthy.clone())
    }

    /// Waits until the instance says that it is unhealthy, and returns the reason.
    pub fn wait_unhealthy(&mut self) -> String {
        self.world.wait("an unhealthy instance", |world| world.unhealthy.clone())
    }

    /// Waits until the instance has failed, and returns what it said.
    pub fn wait_failed(&mut self) -> String {
        self.world.wait("the failure", |world| world.failed.clone())
    }

    /// Stops the instance, and waits until it has stopped. Messages that it had not begun have ended as
    /// [`End::Returned`]; what it sent can still be received.
    pub fn stop(&mut self) {
        if !self.world.look(|world| world.stopping) {
            self.ask_to_stop();
        }
        self.world.wait("the stop", |world| (world.stopped || world.ended).then_some(()));
        self.join();
    }

    /// Asks the instance to stop, without waiting; [`stop`](Harness::stop) waits.
    pub fn ask_to_stop(&mut self) {
        self.world.look(|world| world.stopping = true);
        self.world.write(&ToHost::Stop { grace_ms: 10_000 });
    }

    /// Ends the link without a word, as a runtime that dies does, and waits until the instance has ended.
    pub fn cut(&mut self) {
        self.world.close();
        self.join();
    }

    fn output(&self, output: &str) -> usize {
        match self.description.outputs().position(|name| name == output) {
            Some(index) => index,
            None => panic!("the module declares no output {output:?} in its settings.json"),
        }
    }

    fn join(&mut self) {
        if let Some(pump) = self.pump.take() {
            let _ = pump.join();
        }
        self.world.close();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        self.world.close();
        // A test that has failed does not wait for a module that hangs.
        if !std::thread::panicking() {
            self.join();
        }
        if let Some(folder) = &self.own_folder {
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

fn root<M: Exported>() -> RootRef {
    Root { sdk_version: RStr::from_str(crate::SDK_VERSION), create: create::<M> }.leak_into_prefix()
}

fn fresh_folder() -> std::io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!("skerry-harness-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
