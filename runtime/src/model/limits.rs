//! Every limit of the hub, with unit and reason. What is configurable has its default here.
//! Must never hold a number without both.

use std::time::Duration;

/// Oldest a message may be, unsafe, before it is committed. One sync a second is what flash bears for years.
pub const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// An endpoint that has acknowledged nothing for this long counts as stalled: a blocked sender then waits for the disk instead.
pub const STALLED_AFTER: Duration = Duration::from_millis(20);
/// Longest that changed documents and settled rows of an otherwise idle store stay unwritten.
pub const IDLE_COMMIT_INTERVAL: Duration = Duration::from_secs(3600);
/// Time to live of a message without one; the field's default.
pub const TTL: Duration = Duration::from_secs(7200);
/// How long what waits for a module that was removed is kept, in case it comes back.
pub const REMOVED_KEPT: Duration = Duration::from_secs(86_400);
/// Refusals after which a message goes to the dead letters.
pub const REFUSALS_MAX: u16 = 5;
/// Dead letters that are put back at once: they are in memory without a sender whose credit would bound them.
pub const REPLAYS_MAX: usize = 64;
/// Memory for everything queued, bytes: records and their bookkeeping.
pub const MEMORY_BYTES: u64 = 8 * 1024 * 1024;
/// Messages that one sender may have unacknowledged.
pub const CREDIT_MESSAGES: u32 = 4_096;
/// Bytes that one sender may have unacknowledged: four largest messages, and an eighth of the default memory.
pub const CREDIT_BYTES: u64 = 1024 * 1024;
/// How far a sender inside a callback may overdraw, as a multiple of its window. Beyond it the hub refuses.
pub const CREDIT_OVERDRAFT: u64 = 2;
/// The same for small windows, messages and bytes: twice what the SDK lets a callback have beyond them, since one that died
/// may have left as much.
pub const CREDIT_OVERDRAFT_MESSAGES: u64 = 128;
pub const CREDIT_OVERDRAFT_BYTES: u64 = 1024 * 1024;
/// Of the memory, in eighths, what may be in use when more of a backlog is read back for a consumer that has something to do:
/// above what is kept of queues that lie on disk anyway, below where memory counts as short.
pub const LOAD_EIGHTHS: u64 = 5;
/// Messages on their way to one module, not counting those it deferred. Hides the latency of a wake-up, not more.
pub const WINDOW_MESSAGES: usize = 1_024;
/// Bytes on their way to one module; below the default buffer of a socket pair.
pub const WINDOW_BYTES: u64 = 256 * 1024;
/// Messages on their way to the cloud for one identity. Hides a round trip of 100 ms at 1,000 messages a second.
pub const UPSTREAM_WINDOW_MESSAGES: usize = 128;
/// Bytes on their way to the cloud for one identity: kept in memory while it is away, too.
pub const UPSTREAM_WINDOW_BYTES: u64 = 128 * 1024;
/// Largest payload of a method's answer, bytes: the cloud's own limit, beyond which it ends the connection.
pub const METHOD_BYTES_MAX: usize = 128 * 1024;
/// A connection of a module that is gone is given up when nothing was said on it for this long.
pub const IDLE_CLOSE_GONE: Duration = Duration::from_secs(60);
/// One that is given up although its module runs is made again after this, to hear what the cloud has for it.
pub const REST_MAX: Duration = Duration::from_secs(3_600);
/// Longest name of a method, characters; IoT Edge's own.
pub const METHOD_NAME_MAX: usize = 100;
/// Longest wait for a module to run, and for its answer; the cloud's own.
pub const METHOD_WAIT_MAX: Duration = Duration::from_secs(300);
/// Method calls from the cloud that one module may have open, and calls of other modules that it may have open itself.
pub const METHODS_MAX: usize = 16;
/// Messages that one module may hold deferred; then it gets no more until it completes some. Also when half of the memory is in
/// use, since they stay in it.
pub const DEFERRED_MAX: usize = 65_536;
/// Uncompressed bytes of one block row. Larger rows amortise a commit better, but cost memory when read back.
pub const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes that a message takes in a block beside its record, and again for each of its queues, at most.
pub const MESSAGE_BLOCK_BYTES: u64 = 64;
/// Uncompressed bytes of one commit: bounds the time until the next sender gets its answer.
pub const COMMIT_BYTES: usize = 1024 * 1024;
/// Memory one queue keeps of messages that lie on disk anyway, bytes.
pub const HEAD_BYTES: u64 = 512 * 1024;
/// Bookkeeping of one queued message, bytes, added to its record in the account of memory.
pub const ENTRY_BYTES: u64 = 160;
/// Longest reason a module may give, bytes; longer ones are cut.
pub const REASON_BYTES: usize = 512;
/// Tried again this long after the store failed.
pub const STORE_RETRY: Duration = Duration::from_secs(5);
/// Messages that `trace` remembers. Enough to find the one that just went astray.
pub const TRACE_MESSAGES: usize = 1_000;
/// Records of those messages that are kept, bytes; older ones are forgotten first. With the marks a full trace takes
/// 0.7 MiB, and what the hub works on still fits into the cache of a small processor.
pub const TRACE_BYTES: usize = 512 * 1024;
/// Largest record that is kept whole, bytes; of a larger one its properties, so that a few large ones do not displace the rest.
pub const TRACE_RECORD_BYTES: usize = 16 * 1024;
/// Bytes of all stored images: a dozen debug builds, or hundreds of stripped ones.
pub const IMAGES_BYTES_MAX: u64 = 512 * 1024 * 1024;
