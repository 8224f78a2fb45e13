//! The binary interface between a module host and an image: what is layout-checked when an image is
//! loaded. Authors never see it; `Module`, `Context` and `export_module!` stand on top of it.
//! Must only ever grow at the end: a method or field after the one marked `last_prefix_field` is the
//! only change that an image built before still loads with. Nothing here may unwind across the boundary.
#![allow(unsafe_code, non_local_definitions, clippy::undocumented_unsafe_blocks)]
#![allow(missing_docs, clippy::missing_safety_doc)]

use abi_stable::{
    StableAbi,
    abi_stability::abi_checking::check_layout_compatibility,
    library::{CheckTypeLayout, LibHeader, LibraryError, RootModule, RootModuleResult},
    marker_type::ErasedPrefix,
    prefix_type::{PrefixRefTrait, PrefixTypeTrait},
    sabi_trait,
    sabi_types::VersionStrings,
    std_types::{RBox, ROption, RResult, RSlice, RStr, RString, RVec},
    type_layout::TypeLayout,
};

/// Version of this interface, `major.minor.patch`. A different major refuses the image; a minor is raised by an addition.
pub const ABI_VERSION: &str = "1.0.0";

/// What a host gives to an image: the way to the runtime.
pub type HostBox = Host_TO<'static, RBox<()>>;
/// What an image gives to its host: one instance.
pub type InstanceBox = Instance_TO<'static, RBox<()>>;
/// Whom to wake when an answer is there.
pub type WakeBox = Wake_TO<'static, RBox<()>>;

/// The root module of an image: all that is looked up by name.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = RootRef, prefix_fields = RootFields)))]
#[sabi(missing_field(panic))]
pub struct Root {
    /// Version of the SDK that the image was built with.
    pub sdk_version: RStr<'static>,
    /// Makes the one instance of this process. The error is text for a person.
    #[sabi(last_prefix_field)]
    pub create: extern "C" fn(host: HostBox) -> RResult<InstanceBox, RString>,
}

impl RootModule for RootRef {
    abi_stable::declare_root_module_statics! {RootRef}
    const BASE_NAME: &'static str = "skerry_module";
    const NAME: &'static str = "skerry module";
    const VERSION_STRINGS: VersionStrings = VersionStrings::new(ABI_VERSION);
}

/// The runtime as an instance sees it. Implemented by the pump, called by the SDK from any thread.
#[sabi_trait]
pub trait Host: Send + Sync {
    fn device(&self) -> RStr<'_>;
    fn module(&self) -> RStr<'_>;
    fn generation(&self) -> u64;
    fn state_dir(&self) -> RStr<'_>;
    /// The reported section of the twin as it was when the instance started.
    fn reported(&self) -> Document;
    /// The most talkative level that the runtime wants: 1 error to 5 trace.
    fn log_level(&self) -> u8;
    fn log(&self, level: u8, target: RStr<'_>, text: RStr<'_>);
    /// Hands over one encoded record. `output` is an index into the sorted names of the image's outputs,
    /// `flags` a sum of `publish::*`, `parents` the deliveries (beside the one in progress) that complete with it.
    fn publish(&self, output: u16, flags: u32, parents: RSlice<'_, u64>, record: RSlice<'_, u8>) -> Sent;
    /// Takes a delivery out of its callback's hands. False unless that callback is in progress on this thread,
    /// or when it was done before.
    fn defer(&self, delivery: u64) -> bool;
    /// Ends a deferred delivery; `completion` as in `wire::frame::Completion`. Unknown ids are ignored.
    fn complete(&self, delivery: u64, completion: u8, reason: RStr<'_>);
    /// Asks the runtime (`ask::*`). The id of the answer in the space `space::ASK`.
    fn ask(&self, kind: u8, payload: RSlice<'_, u8>) -> u64;
    /// The answer, if it is there; otherwise `wake` is kept (the last one wins) and called once.
    fn poll(&self, space: u8, id: u64, wake: ROption<WakeBox>) -> Answer;
    /// Waits up to `timeout_ms` (negative: without end).
    fn wait(&self, space: u8, id: u64, timeout_ms: i64) -> Answer;
    /// Nobody will ask for this answer any more.
    fn forget(&self, space: u8, id: u64);
    /// The instance was asked to stop, or the link has ended.
    fn stopping(&self) -> bool;
    /// Last words (`kind` as in `wire::frame::FailureKind`). The process ends soon after.
    #[sabi(last_prefix_field)]
    fn fail(&self, kind: u8, text: RStr<'_>);
}

/// One instance as its host sees it. Implemented by the SDK around the author's `Module`; every method catches panics.
#[sabi_trait]
pub trait Instance: Send {
    fn start(&mut self, desired_version: u64, desired: RStr<'_>) -> End;
    fn message(&mut self, delivery: &Delivery<'_>) -> End;
    fn settings(&mut self, desired_version: u64, desired: RStr<'_>) -> End;
    fn method(&mut self, name: RStr<'_>, payload: RSlice<'_, u8>, timeout_ms: u32) -> MethodEnd;
    fn tick(&mut self) -> End;
    /// How long from the end of one tick to the next; 0 for never. Asked after every callback but `message`.
    fn interval_ms(&self) -> u64;
    #[sabi(last_prefix_field)]
    fn stop(&mut self) -> End;
}

/// A waker of the module's executor.
#[sabi_trait]
pub trait Wake: Send + Sync {
    #[sabi(last_prefix_field)]
    fn wake(&self);
}

/// A JSON object and its version.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Document {
    pub version: u64,
    pub json: RString,
}

/// One message on its way into a callback. Fields as in `wire::frame::ToHost::Deliver`.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Delivery<'a> {
    pub id: u64,
    pub enqueued_ms: i64,
    pub input: u16,
    pub attempts: u16,
    pub source_module: RStr<'a>,
    pub source_output: RStr<'a>,
    pub record: RSlice<'a, u8>,
}

/// How a callback ended.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct End {
    /// One of `end::*`.
    pub code: u8,
    /// Empty, the error, or the panic's message with its place and thread.
    pub text: RString,
}

/// How a method call ended. Status and payload (JSON) are the answer, also when the callback failed.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct MethodEnd {
    pub end: End,
    pub status: i32,
    pub payload: RVec<u8>,
}

/// What became of a call of `publish`.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct Sent {
    /// One of `sent::*`.
    pub code: u8,
    /// The id of the receipt in the space `space::MESSAGE`, when taken.
    pub ticket: u64,
}

/// What `poll` and `wait` know.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Answer {
    /// One of `answer::*`.
    pub state: u8,
    /// A receipt's `wire::frame::Outcome`, or an HTTP-like status.
    pub code: u16,
    pub version: u64,
    /// A digest, or text: the reason.
    pub bytes: RVec<u8>,
}

/// Flags of `Host::publish`.
pub mod publish {
    /// Commit to disk now (`Durability::Now`).
    pub const NOW: u32 = 1;
    /// Never wait for credit, and never overdraw it.
    pub const TRY: u32 = 2;
    /// Keep the outcome until it is asked for or forgotten.
    pub const RECEIPT: u32 = 4;
}

/// Results of `Host::publish`.
pub mod sent {
    pub const TAKEN: u8 = 0;
    /// No credit, and waiting is not allowed here or was not wanted.
    pub const NO_CREDIT: u8 = 1;
    /// The instance stops, or the link is gone.
    pub const STOPPING: u8 = 2;
    /// Record and parents do not fit a frame.
    pub const TOO_LARGE: u8 = 3;
}

/// Kinds of `Host::ask`.
pub mod ask {
    /// The payload is a merge patch for the reported section. Answer: status, version, reason.
    pub const REPORT: u8 = 1;
    /// The payload is to be signed with the identity's key. Answer: status 200 and the digest, or an error.
    pub const SIGN: u8 = 2;
    /// Answered, with status 200, when the instance is asked to stop. The payload is empty.
    pub const STOP: u8 = 3;
    /// Answered, with status 200, when there is credit for a message, or at the stop. The payload is empty.
    pub const CREDIT: u8 = 4;
    /// Calls a method of another module: the payload is a `wire::frame::FromHost::Call` whose `rid` does not count. Answer: 200, the
    /// module's own status as the version (`i32` as `u32`) and its payload; or another status and the reason. A host that is older
    /// than this question answers 501, as it does to all that it does not know.
    pub const CALL: u8 = 5;
    /// What the module says of its own health: the payload is empty when it is well, and otherwise the reason why not, as text.
    /// Answered at once with status 200; with 501 by a host that is older than this question.
    pub const HEALTH: u8 = 6;
}

/// Where the ids of `poll`, `wait` and `forget` come from.
pub mod space {
    /// Tickets of `publish`.
    pub const MESSAGE: u8 = 0;
    /// Ids of `ask`.
    pub const ASK: u8 = 1;
    /// Ids of `ask`, for answers that may take long: waiting for one inside a callback is not allowed.
    pub const CALL: u8 = 2;
}

/// States of an `Answer`.
pub mod answer {
    pub const THERE: u8 = 0;
    pub const PENDING: u8 = 1;
    /// Waiting for a receipt is not allowed inside a callback.
    pub const INSIDE: u8 = 2;
    /// The link ended; no answer will come.
    pub const CLOSED: u8 = 3;
}

/// Codes of an `End`.
pub mod end {
    pub const OK: u8 = 0;
    pub const REFUSED: u8 = 1;
    pub const PANICKED: u8 = 2;
}

/// The root module of an image, if its layouts fit: the only way by which a host should come to it.
///
/// # Errors
/// Another ABI version, or layouts that differ by more than additions at the end, on whichever side.
pub fn root_of(header: &LibHeader) -> Result<RootRef, LibraryError> {
    let strict = match header.init_root_module::<RootRef>() {
        Err(LibraryError::AbiInstability(error)) => error,
        other => return other,
    };
    // abi_stable takes an image that has more than its host knows, but not one that has less: one that was built
    // before an addition. Every addition is behind a last prefix field, where the host looks before it calls.
    match header.layout() {
        Some(theirs) if layouts_fit(RootRef::LAYOUT, theirs) => {
            // SAFETY: the layouts were just compared.
            unsafe { header.init_root_module_with_unchecked_layout::<RootRef>() }
        }
        _ => Err(LibraryError::AbiInstability(strict)),
    }
}

/// Whether two layouts of one type are the same but for additions at the end of one of them.
pub fn layouts_fit(ours: &'static TypeLayout, theirs: &'static TypeLayout) -> bool {
    check_layout_compatibility(ours, theirs).is_ok() || check_layout_compatibility(theirs, ours).is_ok()
}

/// The constructor that an image's header points to. Used by `export_module!` only.
pub type Constructor = extern "C" fn() -> RootModuleResult;

/// The header of an image: what the host looks up in it. Used by `export_module!` only.
pub const fn header(constructor: Constructor) -> LibHeader {
    // SAFETY: every `Constructor` is made by `export_module!` from `erase`, so what it returns was a `RootRef`.
    unsafe { LibHeader::from_constructor::<RootRef>(constructor, CheckTypeLayout::Yes) }
}

/// The body of a `Constructor`.
pub fn erase(root: Root) -> RootModuleResult {
    let root: RootRef = root.leak_into_prefix();
    // SAFETY: `header` says that this is a `RootRef`, and the host checks that layout before it casts back.
    RootModuleResult::ROk(unsafe { root.to_prefix_ref().cast::<ErasedPrefix>() })
}
