//! The tables of the index, and the number of their format. A change to what a row means needs a new number and a way from
//! the old one. Must never hold anything but names and types.

use redb::TableDefinition;

/// The format that this program writes. 1: everything in one redb file; 2: blocks in the log, redb as its index;
/// 3: dead letters can go again.
pub const FORMAT: u32 = 3;

/// Block number to a packed block. Only what was written in the first format.
pub const BLOCKS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("blocks");
/// Block number to where it lies in the log, and how much of it is open.
pub const PLACES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("places");
/// Segment of the log to blocks in it that are needed, and what of their bytes.
pub const SEGMENTS: TableDefinition<'_, u64, (u64, u64)> = TableDefinition::new("segments");
/// (queue, block) to what of it is settled.
pub const ROWS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("rows");
/// Block number to how many rows name it. Only in the first format.
pub const REFS: TableDefinition<'_, u64, u32> = TableDefinition::new("refs");
/// Queue number to endpoint, priority and ledger.
pub const QUEUES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("queues");
/// (queue, message) to refusals.
pub const ATTEMPTS: TableDefinition<'_, (u32, u64), u16> = TableDefinition::new("attempts");
/// (message, queue) to a dead letter.
pub const DEAD: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("dead");
/// Small documents by name: twins.
pub const DOCUMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("documents");
/// Format version, counters, clocks, sums of the dead letters, and how far in the log the index is.
pub const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
