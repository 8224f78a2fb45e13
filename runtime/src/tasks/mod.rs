//! What carries: one loop a concern, each a `match` over a closed list of events. Tasks know `port`, `board`, `world`
//! and `mailbox`, and not each other (the instance and its link's reader aside, which are two halves of one).

pub mod agent;
pub mod agent_methods;
pub mod answers;
pub mod board;
pub mod control;
pub mod dead_letters;
pub mod deployment;
pub mod depot;
pub mod dropins;
pub mod identities;
pub mod instance;
pub mod life;
pub mod log_writer;
pub mod mailbox;
pub mod methods;
pub mod metrics;
pub mod orders;
pub mod port;
pub mod provision;
pub mod pulls;
pub mod reader;
pub mod registry;
pub mod removal;
pub mod removed;
pub mod reports;
pub mod senders;
pub mod storage;
pub mod supply;
pub mod system;
pub mod taps;
pub mod traces;
pub mod upstream;
pub mod views;
pub mod wear;
pub mod world;
