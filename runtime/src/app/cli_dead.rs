//! `skerry dead-letters` as typed: one struct a verb, apart from `cli` only for its length.
//! Must never do what a verb says, only tell what was asked.

use std::path::PathBuf;

use argh::FromArgs;

use super::cli::verb;
use super::verbs::Target;

verb!(
    /// show the dead letters, oldest first
    DeadList, "list", {
        /// only those of this endpoint, as status shows it
        #[argh(option, arg_name = "endpoint")]
        pub endpoint: Option<String>,
        /// only so many of the oldest
        #[argh(option, arg_name = "count")]
        pub limit: Option<u32>,
    }
);
verb!(
    /// show one with its body
    DeadShow, "show", {
        /// its id
        #[argh(positional)]
        pub id: String,
    }
);
verb!(
    /// put them back into the queues they came from, behind what waits there
    DeadReplay, "replay", {
        /// ids
        #[argh(positional)]
        pub ids: Vec<String>,
        /// all of this endpoint
        #[argh(option, arg_name = "endpoint")]
        pub endpoint: Option<String>,
        /// all there are
        #[argh(switch)]
        pub all: bool,
    }
);
verb!(
    /// throw them away
    DeadPurge, "purge", {
        /// ids
        #[argh(positional)]
        pub ids: Vec<String>,
        /// all of this endpoint
        #[argh(option, arg_name = "endpoint")]
        pub endpoint: Option<String>,
        /// all there are
        #[argh(switch)]
        pub all: bool,
    }
);

/// list, show, replay or purge messages that their endpoint refused too often
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "dead-letters")]
pub struct DeadLetters {
    #[argh(subcommand)]
    pub command: DeadCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum DeadCommand {
    List(DeadList),
    Show(DeadShow),
    Replay(DeadReplay),
    Purge(DeadPurge),
}
