//! The command line as typed: one struct a verb. Must never do what a verb says (that is `verbs`
//! and `run`), only tell what was asked, or why it can't be understood.

use std::ffi::OsString;
use std::path::PathBuf;

use argh::FromArgs;

pub use super::cli_dead::{DeadCommand, DeadLetters, DeadList, DeadPurge, DeadReplay, DeadShow};
pub use super::cli_images::{Images, Pull};
pub use super::cli_signing::{Inspect, Key, KeyCommand, Sign, Verify};
pub use super::cli_support::{Logs, SupportBundle};
use super::config::Flags;
use super::verbs::Target;
use crate::logic::nearest::nearest;

/// skerry runs modules, each in a process of its own, and keeps their messages safe.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    note = "All but run, check, support-bundle, inspect, key, sign, verify, route and version ask the running skerry, over its control socket:\n--control PATH, or the environment's SKERRY_CONTROL.",
    error_code(0, "done"),
    error_code(1, "the request failed"),
    error_code(2, "the command line or the configuration is wrong")
)]
pub struct Cli {
    #[argh(subcommand)]
    pub command: Command,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum Command {
    Run(Run),
    Check(Check),
    Status(Status),
    List(List),
    Restart(Restart),
    Deploy(Deploy),
    Pull(Pull),
    Images(Images),
    Twin(Twin),
    Identity(Identity),
    Method(CallMethod),
    Send(Send),
    Tap(Tap),
    Trace(Trace),
    DeadLetters(DeadLetters),
    Logs(Logs),
    SupportBundle(SupportBundle),
    Inspect(Inspect),
    Key(Key),
    Sign(Sign),
    Verify(Verify),
    Route(Route),
    Version(Version),
}

#[rustfmt::skip]
const COMMANDS: [&str; 23] = [
    "run", "check", "status", "list", "restart", "deploy", "pull", "images", "twin", "identity", "method", "send", "tap", "trace",
    "dead-letters", "logs", "support-bundle", "inspect", "key", "sign", "verify", "route", "version",
];

/// run the modules until told to stop
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "run")]
pub struct Run {
    /// configuration file (default: /etc/skerry/config.toml, for users ~/.config/skerry/config.toml)
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// folder of modules; may be given several times
    #[argh(option, arg_name = "folder")]
    pub modules: Vec<PathBuf>,
    /// folder of store, keys and images
    #[argh(option, arg_name = "folder")]
    pub state: Option<PathBuf>,
    /// control socket
    #[argh(option, arg_name = "path")]
    pub control: Option<PathBuf>,
    /// device id
    #[argh(option, arg_name = "id")]
    pub device: Option<String>,
    /// let the process of this instance wait for a debugger; may be given several times
    #[argh(option, arg_name = "module")]
    pub wait_debugger: Vec<String>,
    /// only check the configuration
    #[argh(switch)]
    pub check: bool,
}

impl Run {
    pub fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            modules: self.modules.clone(),
            state: self.state.clone(),
            control: self.control.clone(),
            device: self.device.clone(),
            wait_debugger: self.wait_debugger.clone(),
        }
    }
}

/// look over configuration, folders, store, kernel, clock and routes, and say what is wrong and what to do
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "check")]
pub struct Check {
    /// configuration file, as for run
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// folder of modules; may be given several times
    #[argh(option, arg_name = "folder")]
    pub modules: Vec<PathBuf>,
    /// folder of store, keys and images
    #[argh(option, arg_name = "folder")]
    pub state: Option<PathBuf>,
    /// control socket
    #[argh(option, arg_name = "path")]
    pub control: Option<PathBuf>,
    /// device id
    #[argh(option, arg_name = "id")]
    pub device: Option<String>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

impl Check {
    pub fn flags(&self) -> Flags {
        // The environment's socket is that of every other verb; a flag beats it.
        let named = std::env::var_os("SKERRY_CONTROL").filter(|path| !path.is_empty()).map(PathBuf::from);
        Flags {
            config: self.config.clone(),
            modules: self.modules.clone(),
            state: self.state.clone(),
            control: self.control.clone().or(named),
            device: self.device.clone(),
            wait_debugger: Vec::new(),
        }
    }
}

/// A verb that asks the runtime: its arguments, and the two options that all of them have. argh can't flatten.
macro_rules! verb {
    // The fields go through as they are: argh looks at the words of a type, and a matched one hides them.
    ($(#[$doc:meta])* $name:ident, $word:literal, { $($fields:tt)* }) => {
        $(#[$doc])*
        #[derive(FromArgs, Debug, PartialEq)]
        #[argh(subcommand, name = $word)]
        pub struct $name {
            $($fields)*
            /// control socket of the runtime
            #[argh(option, arg_name = "path")]
            pub control: Option<PathBuf>,
            /// print JSON
            #[argh(switch)]
            pub json: bool,
        }

        impl $name {
            pub fn target(&self) -> Target {
                Target::new(self.control.clone(), self.json)
            }
        }
    };
}
pub(super) use verb;

verb!(
    /// show the device, its modules, queues, routes and warnings
    Status, "status", {}
);
verb!(
    /// list the modules
    List, "list", {}
);
verb!(
    /// start a module anew
    Restart, "restart", {
        /// module
        #[argh(positional)]
        pub module: String,
    }
);
verb!(
    /// put a deployment manifest in force, as a file of IoT Edge's "set modules"
    Deploy, "deploy", {
        /// the manifest, and layers that go over it
        #[argh(positional)]
        pub file: Vec<PathBuf>,
        /// only show what everything in it means here, and what would be done
        #[argh(switch)]
        pub dry_run: bool,
        /// withdraw the manifest in force: back to the drop-in folders
        #[argh(switch)]
        pub remove: bool,
    }
);
verb!(
    /// show desired and reported properties
    TwinGet, "get", {
        /// module
        #[argh(positional)]
        pub module: String,
    }
);
verb!(
    /// change desired properties
    TwinSet, "set", {
        /// module
        #[argh(positional)]
        pub module: String,
        /// merge patch, a JSON object; null removes a property (default: standard input)
        #[argh(positional)]
        pub patch: Option<String>,
    }
);
verb!(
    /// list the modules' identities in the cloud
    IdentityList, "list", {
        /// ask the hub, too, which identities it has for this device
        #[argh(switch)]
        pub hub: bool,
    }
);
verb!(
    /// remove a module's identity, in the cloud and here
    IdentityRemove, "remove", {
        /// module
        #[argh(positional)]
        pub module: String,
    }
);
verb!(
    /// call a direct method of a module
    CallMethod, "method", {
        /// module
        #[argh(positional)]
        pub module: String,
        /// name of the method
        #[argh(positional)]
        pub name: String,
        /// payload, as JSON (default: null)
        #[argh(positional)]
        pub payload: Option<String>,
        /// how long the module may take (default: 30s)
        #[argh(option, arg_name = "duration")]
        pub timeout: Option<String>,
    }
);
verb!(
    /// send messages as if a module had sent them: JSON lines with "body", "properties" and "system", from standard input
    Send, "send", {
        /// module
        #[argh(positional)]
        pub module: String,
        /// output
        #[argh(positional)]
        pub output: String,
        /// one message with this body instead: JSON, or else text
        #[argh(option, arg_name = "body")]
        pub body: Option<String>,
        /// an application property of that message; may be given several times
        #[argh(option, arg_name = "key=value")]
        pub property: Vec<String>,
    }
);
verb!(
    /// show messages as they pass
    Tap, "tap", {
        /// only from this source, as in a route's FROM: /messages/modules/filter/*
        #[argh(option, arg_name = "source")]
        pub from: Option<String>,
        /// only those for which this is true, as in a route's WHERE
        #[argh(option, long = "where", arg_name = "condition")]
        pub condition: Option<String>,
    }
);
verb!(
    /// show what became of the last messages: how each route came out and why, and where they are
    Trace, "trace", {
        /// only those of this module
        #[argh(option, arg_name = "module")]
        pub source: Option<String>,
        /// only those of this output
        #[argh(option, arg_name = "name")]
        pub output: Option<String>,
        /// only those with this message id
        #[argh(option, arg_name = "message-id")]
        pub id: Option<String>,
        /// only so many of the newest (default: 20; 1000 are kept)
        #[argh(option, arg_name = "count")]
        pub limit: Option<u32>,
    }
);
/// read or change a module's twin
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "twin")]
pub struct Twin {
    #[argh(subcommand)]
    pub command: TwinCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum TwinCommand {
    Get(TwinGet),
    Set(TwinSet),
}

/// list or remove the modules' identities in the cloud
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "identity")]
pub struct Identity {
    #[argh(subcommand)]
    pub command: IdentityCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum IdentityCommand {
    List(IdentityList),
    Remove(IdentityRemove),
}

/// try routes
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "route")]
pub struct Route {
    #[argh(subcommand)]
    pub command: RouteCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum RouteCommand {
    Eval(RouteEval),
}

/// show what a route does with messages: JSON lines as for send, from standard input
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "eval")]
pub struct RouteEval {
    /// rows of (condition, message, expected) in JSON: prints each mismatch, and a last line with the counts
    #[argh(option, arg_name = "file")]
    pub cases: Option<PathBuf>,
    /// a whole route, or a condition alone, to be explained on one message
    #[argh(option, arg_name = "text")]
    pub route: Option<String>,
    /// the message for --route: a JSON file with body, properties, system and source
    #[argh(option, arg_name = "file")]
    pub message: Option<PathBuf>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// show the version of this program
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "version")]
pub struct Version {
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// Nothing to run: a text to print, and whether that is what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Stop {
    pub text: String,
    pub asked_for: bool,
}

/// Takes the arguments after the program's name.
pub fn parse(args: impl Iterator<Item = OsString>) -> Result<Command, Stop> {
    let wrong = |text: String| Stop { text, asked_for: false };
    let args = args.map(OsString::into_string).collect::<Result<Vec<_>, _>>();
    let args = args.map_err(|arg| wrong(format!("argument {arg:?} is not UTF-8")))?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.first() {
        Some(&("--version" | "-V")) => return Ok(Command::Version(Version { json: args.contains(&"--json") })),
        Some(word) if !word.starts_with('-') && *word != "help" && !COMMANDS.contains(word) => {
            let hint = nearest(word, COMMANDS).map_or(String::new(), |known| format!(": did you mean `{known}`?"));
            return Err(wrong(format!("no command `{word}`{hint}\nRun `skerry --help` to see all.")));
        }
        _ => {}
    }
    Cli::from_args(&["skerry"], &args).map(|cli| cli.command).map_err(|exit| {
        let asked_for = exit.status.is_ok();
        let text = exit.output.trim_end().to_owned();
        Stop { text: if asked_for { text } else { format!("{text}\nRun with --help to see how.") }, asked_for }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, Stop> {
        super::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn verbs_are_understood() {
        let Ok(Command::Logs(logs)) = parse("logs filter -f --since 10min --tail 5 --json") else { panic!() };
        assert_eq!(logs.until, None);
        let found = (logs.module.as_str(), logs.follow, logs.since.as_deref(), logs.tail, logs.json);
        assert_eq!(found, ("filter", true, Some("10min"), Some(5), true));
        let Ok(Command::Run(run)) = parse("run --modules a --modules b --wait-debugger x --device d") else { panic!() };
        assert_eq!(run.flags().modules, [PathBuf::from("a"), PathBuf::from("b")]);
        let Ok(Command::Tap(tap)) = parse("tap --from /messages/* --where a=1 --control /s") else { panic!() };
        assert_eq!((tap.condition.as_deref(), tap.control), (Some("a=1"), Some(PathBuf::from("/s"))));
        assert!(matches!(parse("twin get m"), Ok(Command::Twin(Twin { command: TwinCommand::Get(_) }))));
        assert!(matches!(parse("--version"), Ok(Command::Version(_))));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        let text = |line: &str| parse(line).unwrap_err().text;
        assert!(text("stauts").starts_with("no command `stauts`: did you mean `status`?"));
        assert!(text("logs --tail x m").contains("--tail"));
        assert!(text("twin set").contains("module"));
        for line in ["--help", "help", "run --help", "twin get --help"] {
            let stop = parse(line).unwrap_err();
            assert!(stop.asked_for && stop.text.starts_with("Usage: skerry"), "{line}: {}", stop.text);
        }
        assert!(!parse("").unwrap_err().asked_for);
        for word in COMMANDS {
            assert!(parse("--help").unwrap_err().text.contains(word), "{word}");
        }
    }
}
