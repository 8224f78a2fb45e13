//! How an instance ended, in words that an operator can act on.
//! Must never guess: what is not known is left out.

use skerry_abi::wire::frame::FailureKind;
use std::fmt;

/// One end of one process. Made by the instance task from the exit status, the status page and the last frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The process ended by itself with this code.
    Code(i32),
    /// A signal ended it. `image_offset` is where in the image's file the program counter stood, when it stood in the image.
    Signal { signal: i32, image_offset: Option<u64> },
    /// A callback, or a thread of `Context::spawn`, panicked and the instance ended for it.
    Panic(String),
    /// The host's last words.
    Failed { kind: FailureKind, text: String },
    /// A callback lasted longer than `hang_after`, and the process was killed for it.
    Hung { ms: u64 },
    /// The module said of itself that it does not do its work, and was asked to end for it.
    Unhealthy(String),
    /// The host never said `Hello`.
    NeverHello,
    /// What came over the link was no frame, or a frame that had no business there.
    LinkRubbish(String),
}

impl Exit {
    /// Whether the process ended as it should: code 0. What a restart policy of `on-failure` asks.
    pub fn is_success(&self) -> bool {
        matches!(self, Exit::Code(0))
    }

    /// The code that a deployment report shows, by the custom of shells and container engines: 128 + signal.
    pub fn code(&self) -> i32 {
        match self {
            Exit::Code(code) => *code,
            Exit::Signal { signal, .. } => 128 + signal,
            Exit::Hung { .. } => 128 + 9,
            Exit::Panic(_) => 101,
            Exit::Failed { .. } | Exit::Unhealthy(_) | Exit::NeverHello | Exit::LinkRubbish(_) => 1,
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Exit::Code(code) => match HostExit::from_code(*code) {
                Some(exit) => write!(f, "ended with code {code} ({})", exit.reason()),
                None => write!(f, "ended with code {code}"),
            },
            Exit::Signal { signal, image_offset: Some(offset) } => {
                write!(f, "killed by {} at offset {offset:#x} of its image", signal_name(*signal))
            }
            Exit::Signal { signal, image_offset: None } => write!(f, "killed by {}", signal_name(*signal)),
            Exit::Panic(text) => write!(f, "panicked: {}", one_line(text)),
            Exit::Failed { kind, text } => write!(f, "{}: {}", reason(*kind), one_line(text)),
            Exit::Hung { ms } => write!(f, "killed: one callback lasted {ms} ms"),
            Exit::Unhealthy(text) => write!(f, "unhealthy: {}", one_line(text)),
            Exit::NeverHello => f.write_str("its host process never said hello"),
            Exit::LinkRubbish(text) => write!(f, "its link carried rubbish: {}", one_line(text)),
        }
    }
}

fn reason(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::Image => "its image does not load",
        FailureKind::Start => "start failed",
        FailureKind::Thread => "a thread panicked",
        FailureKind::Asked => "the module gave up",
        FailureKind::Confinement => "its process could not be started or confined",
    }
}

/// The exit codes of the module host: one a reason, so that an exit without last words still says something.
/// They lie below 101, with which Rust ends a panic. The first three are the pump's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostExit {
    /// The instance was told to stop, and said so.
    Stopped = 0,
    /// The image did not load, the process could not be confined, or the module failed. Last words were sent.
    Failed = 70,
    /// The link ended or broke, or began with another version: the runtime is gone, or not ours.
    Link = 71,
    /// Started by hand: no link on standard input.
    NoLink = 72,
    /// The runtime sent no order, or one that makes no sense.
    NoOrder = 73,
}

impl HostExit {
    pub fn code(self) -> u8 {
        self as u8
    }

    pub fn from_code(code: i32) -> Option<HostExit> {
        use HostExit::*;
        [Stopped, Failed, Link, NoLink, NoOrder].into_iter().find(|exit| *exit as i32 == code)
    }

    fn reason(self) -> &'static str {
        match self {
            HostExit::Stopped => "stopped",
            HostExit::Failed => "it failed",
            HostExit::Link => "its link ended",
            HostExit::NoLink => "its host has no link",
            HostExit::NoOrder => "its host got no order",
        }
    }
}

/// The usual name of a signal. The numbers are those of every machine that skerry builds for.
pub fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        other => return format!("signal {other}"),
    };
    name.to_owned()
}

/// A panic's text may span lines and be long; a status line may not.
fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// Characters of a module's own words that a status line repeats.
const TEXT_CHARS_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_exit_is_one_line() {
        let cases = [
            (Exit::Code(0), "ended with code 0 (stopped)"),
            (Exit::Code(3), "ended with code 3"),
            (Exit::Code(71), "ended with code 71 (its link ended)"),
            (
                Exit::Signal { signal: 11, image_offset: Some(0x1a2b) },
                "killed by SIGSEGV at offset 0x1a2b of its image",
            ),
            (Exit::Signal { signal: 9, image_offset: None }, "killed by SIGKILL"),
            (Exit::Signal { signal: 40, image_offset: None }, "killed by signal 40"),
            (Exit::Panic("left\n  right".into()), "panicked: left right"),
            (Exit::Failed { kind: FailureKind::Start, text: "no port".into() }, "start failed: no port"),
            (Exit::Hung { ms: 30_000 }, "killed: one callback lasted 30000 ms"),
            (Exit::Unhealthy("no\nsensor".into()), "unhealthy: no sensor"),
            (Exit::NeverHello, "its host process never said hello"),
            (Exit::LinkRubbish("kind 9".into()), "its link carried rubbish: kind 9"),
        ];
        for (exit, line) in cases {
            assert_eq!(exit.to_string(), line);
        }
        assert_eq!(Exit::Panic("ä".repeat(1000)).to_string().chars().count(), "panicked: ".len() + TEXT_CHARS_MAX + 1);
    }

    #[test]
    fn codes_are_those_of_shells() {
        assert_eq!(Exit::Signal { signal: 11, image_offset: None }.code(), 139);
        assert_eq!(Exit::Hung { ms: 1 }.code(), 137);
        assert!(Exit::Code(0).is_success() && !Exit::NeverHello.is_success());
    }
}
