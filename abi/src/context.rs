//! What a module can do: send, report, sign, start threads, learn that it is to stop. Cheap to clone and
//! usable from any thread or executor. Must never block inside a callback, but for answers that are at hand.

use std::{
    borrow::Borrow,
    cell::{Cell, RefCell},
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use abi_stable::std_types::{RSlice, RStr};

use crate::{
    Error, Result,
    deferred::Deferred,
    description::Description,
    error::{AnswerError, SendError},
    message::Message,
    panics,
    raw::{HostBox, Sent, answer, ask, publish, sent, space},
    receipt::{Pending, Receipt, Room, Stopped, span_ms, text, there},
    twin::{Twin, TwinState},
    wire::frame::FailureKind,
};

/// Most handles that one message can complete, see [`Context::send_completing`]: their ids (8 bytes each) must
/// fit the frame beside a largest message.
pub const HANDLES_MAX: usize = 16_384;

/// Of the reason of [`Context::unhealthy`]; more is cut.
const HEALTH_BYTES_MAX: usize = 1_024;

/// When a message is to be safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// With the next commit, if it is not settled before: a message that is delivered in time is never written to disk.
    #[default]
    Batched,
    /// As soon as the disk can: costs a commit.
    Now,
}

/// The runtime, as one instance sees it.
///
/// ```no_run
/// # use skerry_abi::*;
/// # fn example(cx: &Context) -> Result<()> {
/// let cx = cx.clone();
/// cx.clone().spawn("sampler", move || {
///     while !cx.wait_stop(std::time::Duration::from_secs(1)) {
///         cx.send("metrics", Message::new("tick"))?;
///     }
///     Ok(())
/// })?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Context(Arc<Inner>);

struct Inner {
    host: HostBox,
    description: Description,
    /// In the order of their index on the link.
    outputs: Vec<String>,
    twin: Mutex<TwinState>,
}

thread_local! {
    /// The instance whose thread this is: for `Message::defer`, and for the logger.
    static CURRENT: RefCell<Option<Context>> = const { RefCell::new(None) };
    /// Where messages are encoded, so that a send allocates nothing.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A scratch buffer that grew beyond this is given back, bytes.
const SCRATCH_BYTES_KEPT: usize = 64 * 1024;

impl Context {
    pub(crate) fn new(host: HostBox, description: Description) -> Context {
        let outputs = description.outputs().map(str::to_owned).collect();
        let twin = Mutex::new(TwinState::new(host.reported()));
        Context(Arc::new(Inner { host, description, outputs, twin }))
    }

    /// Sends a message to an output.
    ///
    /// Inside a callback this never blocks; the input completes only when the message is safe. Elsewhere it waits
    /// for credit. The message can be given by reference, to have it still when this fails.
    ///
    /// # Errors
    /// See [`SendError`]; the message is then nowhere.
    pub fn send(&self, output: &str, message: impl Borrow<Message>) -> Result<Receipt, SendError> {
        self.publish(output, message.borrow(), 0, &[])
    }

    /// Like [`send`](Context::send), with a say in when the message is to be safe.
    ///
    /// # Errors
    /// As `send`.
    pub fn send_with(
        &self,
        output: &str,
        message: impl Borrow<Message>,
        durability: Durability,
    ) -> Result<Receipt, SendError> {
        let flags = if durability == Durability::Now { publish::NOW } else { 0 };
        self.publish(output, message.borrow(), flags, &[])
    }

    /// Like [`send`](Context::send), but never waits, and never overdraws the credit.
    ///
    /// # Errors
    /// As `send`; `NoCredit` also outside of callbacks.
    pub fn try_send(&self, output: &str, message: impl Borrow<Message>) -> Result<Receipt, SendError> {
        self.publish(output, message.borrow(), publish::TRY, &[])
    }

    /// A future that ends when there is credit again, for tasks, which must not block their executor in
    /// [`send`](Context::send). Somebody else may have taken the credit by the time of the `try_send`. Ends at the stop, too.
    ///
    /// ```no_run
    /// # use skerry_abi::*;
    /// # async fn example(cx: Context, message: Message) -> Result<Receipt, SendError> {
    /// loop {
    ///     match cx.try_send("output1", &message) {
    ///         Err(SendError::NoCredit) => cx.room().await,
    ///         other => break other,
    ///     }
    /// }
    /// # }
    /// ```
    pub fn room(&self) -> Room {
        Room(self.ask_for(ask::CREDIT))
    }

    /// Sends a message that stands for others: the deferred inputs complete when it is safe, in one step with it.
    /// Takes all handles out of `handles`, unless it fails.
    ///
    /// ```no_run
    /// # use skerry_abi::*;
    /// # fn example(cx: &Context, held: &mut Vec<Deferred>) -> Result<()> {
    /// cx.send_completing("averages", Message::new("23.5"), held)?;
    /// assert!(held.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As `send`, and `TooManyHandles`.
    pub fn send_completing(
        &self,
        output: &str,
        message: impl Borrow<Message>,
        handles: &mut Vec<Deferred>,
    ) -> Result<Receipt, SendError> {
        if handles.len() > HANDLES_MAX {
            return Err(SendError::TooManyHandles(HANDLES_MAX));
        }
        let parents: Vec<u64> = handles.iter().map(Deferred::delivery).collect();
        let receipt = self.publish(output, message.borrow(), 0, &parents)?;
        handles.drain(..).for_each(Deferred::complete);
        Ok(receipt)
    }

    /// Who this instance is.
    pub fn identity(&self) -> Identity<'_> {
        Identity(self)
    }

    /// The desired and reported properties of this instance.
    pub fn twin(&self) -> Twin<'_> {
        Twin(self)
    }

    /// What the deployment gives this instance as `Cmd` of its createOptions; empty otherwise, and in tests.
    ///
    /// ```
    /// # fn example(cx: &skerry_abi::Context) {
    /// let verbose = cx.arguments().iter().any(|argument| argument == "-v");
    /// # }
    /// ```
    pub fn arguments(&self) -> Vec<String> {
        let mut all = std::env::args_os().skip(1);
        if all.next().is_none_or(|word| word != "module-host") {
            return Vec::new();
        }
        all.skip_while(|word| word != "--").skip(1).map(|word| word.to_string_lossy().into_owned()).collect()
    }

    /// A folder of this instance's own that survives restarts, updates and roll-backs.
    pub fn state_dir(&self) -> &Path {
        Path::new(self.host().state_dir().as_str())
    }

    /// Starts a thread. When it panics or returns an error, the instance fails with it and is started anew.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn spawn<F>(&self, name: &str, run: F) -> Result<JoinHandle<()>>
    where
        F: FnOnce() -> Result<()> + Send + 'static,
    {
        let cx = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            cx.make_current();
            let failure = match panics::guarded(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic,
            };
            cx.host().fail(FailureKind::Thread as u8, RStr::from_str(&failure));
        })?;
        Ok(thread)
    }

    /// The instance is to stop: threads of the module should come to an end.
    pub fn is_stopping(&self) -> bool {
        self.host().stopping()
    }

    /// Sleeps, but no longer than until the instance is to stop. True when it is.
    pub fn wait_stop(&self, span: Duration) -> bool {
        self.ask_for(ask::STOP).wait(span_ms(span)).state != answer::PENDING
    }

    /// A future that ends when the instance is to stop.
    pub fn stopped(&self) -> Stopped {
        Stopped(self.ask_for(ask::STOP))
    }

    /// Ends this instance as failed: the runtime starts it anew, by the restart policy. Returns at once; the process
    /// ends soon after.
    pub fn fail(&self, reason: &str) {
        self.host().fail(FailureKind::Asked as u8, RStr::from_str(reason));
    }

    /// Says that this instance does not do its work although it runs: its device does not answer, its calibration is lost. Shown by
    /// `skerry list` and reported. By the restart policy (all but `never`) it is then stopped and started anew after a back-off, and a new
    /// image that still has to prove itself goes back to the last good one. The same reason again says nothing new.
    ///
    /// ```no_run
    /// # use skerry_abi::*;
    /// # struct Probe { silent_s: u64 }
    /// # impl Probe {
    /// fn tick(&mut self, cx: &Context) -> Result<()> {
    ///     match self.silent_s {
    ///         0..60 => cx.healthy(),
    ///         silent => cx.unhealthy(&format!("the sensor says nothing for {silent} s")),
    ///     }
    ///     Ok(())
    /// }
    /// # }
    /// ```
    pub fn unhealthy(&self, reason: &str) {
        let reason = if reason.trim().is_empty() { "it says no reason" } else { reason };
        self.say_health(&reason[..reason.floor_char_boundary(HEALTH_BYTES_MAX)]);
    }

    /// Takes [`unhealthy`](Context::unhealthy) back. An instance is well as long as it says nothing.
    pub fn healthy(&self) {
        self.say_health("");
    }

    fn say_health(&self, text: &str) {
        let id = self.host().ask(ask::HEALTH, RSlice::from_slice(text.as_bytes()));
        let said = Pending { context: self.clone(), space: space::ASK, id, open: true }.wait(0);
        if said.code == 501 {
            log::warn!("this runtime is older than the health of modules; not told: {text:?}");
        }
    }

    pub(crate) fn host(&self) -> &HostBox {
        &self.0.host
    }

    pub(crate) fn description(&self) -> &Description {
        &self.0.description
    }

    pub(crate) fn twin_state(&self) -> std::sync::MutexGuard<'_, TwinState> {
        self.0.twin.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn make_current(&self) {
        CURRENT.with_borrow_mut(|current| {
            if !current.as_ref().is_some_and(|current| current.is(self)) {
                *current = Some(self.clone());
            }
        });
    }

    pub(crate) fn current() -> Option<Context> {
        // A thread that ends logs from its destructors, when there is no thread-local any more.
        CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
    }

    /// The very same instance.
    pub(crate) fn is(&self, other: &Context) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn ask_for(&self, kind: u8) -> Pending {
        let id = self.host().ask(kind, RSlice::EMPTY);
        Pending { context: self.clone(), space: space::ASK, id, open: true }
    }

    fn publish(&self, output: &str, message: &Message, flags: u32, parents: &[u64]) -> Result<Receipt, SendError> {
        let Some(index) = self.0.outputs.iter().position(|name| name == output) else {
            return Err(SendError::UndeclaredOutput(output.to_owned()));
        };
        // Taken out: whoever waits here for credit wakes others meanwhile, and those may send on this thread.
        let mut record = SCRATCH.take();
        record.clear();
        let encoded = message.encode(&mut record).map_err(SendError::Message);
        let sent = encoded.map(|()| {
            let (parents, record) = (RSlice::from_slice(parents), RSlice::from_slice(&record));
            self.host().publish(index as u16, flags | publish::RECEIPT, parents, record)
        });
        if record.capacity() <= SCRATCH_BYTES_KEPT {
            SCRATCH.set(record);
        }
        match sent? {
            Sent { code: sent::TAKEN, ticket } => Ok(Receipt::new(self.clone(), ticket)),
            Sent { code: sent::NO_CREDIT, .. } => Err(SendError::NoCredit),
            Sent { code: sent::TOO_LARGE, .. } => Err(SendError::TooManyHandles(HANDLES_MAX)),
            _ => Err(SendError::Stopping),
        }
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({})", self.identity().path())
    }
}

/// Who an instance is, and its signature. The key itself never leaves the runtime.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a>(&'a Context);

impl<'a> Identity<'a> {
    /// Id of the device.
    pub fn device(&self) -> &'a str {
        self.0.host().device().as_str()
    }

    /// Id of the module, as the manifest names it.
    pub fn module(&self) -> &'a str {
        self.0.host().module().as_str()
    }

    /// Counts the starts of this module.
    pub fn generation(&self) -> u64 {
        self.0.host().generation()
    }

    /// `/devices/<device>/modules/<module>`.
    pub fn path(&self) -> String {
        format!("/devices/{}/modules/{}", self.device(), self.module())
    }

    /// The HMAC-SHA256 of `bytes` under the identity's key: 32 bytes. Allowed inside a callback.
    ///
    /// # Errors
    /// The runtime holds no key for this identity, or the link has ended.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let host = self.0.host();
        let rid = host.ask(ask::SIGN, RSlice::from_slice(bytes));
        let answer = there(host.wait(space::ASK, rid, -1))?;
        if answer.code == 200 {
            Ok(answer.bytes.into_vec())
        } else {
            Err(Error::from(AnswerError::Refused(text(&answer))).during("signing"))
        }
    }
}
