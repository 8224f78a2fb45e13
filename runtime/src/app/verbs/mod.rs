//! The client's side of each verb: asks over the control socket, prints the answer, says how it went.
//! Must never know more of the runtime than its JSON, and never fail on a field that it does not know.

pub mod dead;
pub mod deploy;
pub mod identity;
pub mod images;
pub mod live;
pub mod modules;
pub mod send;
pub mod status;

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::io::executor::Executor;
use serde_json::Value;

use super::config::{SYSTEM_SOCKET, Surroundings};
use crate::io::http::{self, Body, BodyFault, Response, Upload};

/// Bytes of one answer, and of one line of a stream: the largest is a message of 256 KiB in JSON.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Whom to ask, and how to print.
#[derive(Debug)]
pub struct Target {
    pub socket: PathBuf,
    pub json: bool,
}

impl Target {
    /// A user's own runtime, if there is one, comes before the system's.
    pub fn new(control: Option<PathBuf>, json: bool) -> Target {
        let named =
            control.or_else(|| std::env::var_os("SKERRY_CONTROL").filter(|path| !path.is_empty()).map(PathBuf::from));
        let socket = named.unwrap_or_else(|| {
            let own = Surroundings::look().control_socket();
            let system = PathBuf::from(SYSTEM_SOCKET);
            if !own.exists() && system.exists() { system } else { own }
        });
        Target { socket, json }
    }
}

/// Why a verb could not do what it was asked.
#[derive(Debug)]
pub enum Fault {
    /// The arguments are wrong.
    Usage(String),
    /// The runtime said no.
    Refused { status: u16, message: String },
    /// There was nobody to ask.
    Unreachable { socket: PathBuf, error: io::Error },
    /// The answer ended early or made no sense.
    Broken(String),
    /// Standard output or input failed.
    Stdio(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Stdio(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Usage(message) | Fault::Broken(message) => f.write_str(message),
            Fault::Refused { message, .. } => f.write_str(message),
            Fault::Stdio(error) => write!(f, "standard input or output: {error}"),
            Fault::Unreachable { socket, error } => {
                let what = match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        "no skerry is running there (start one with `skerry run`, or name another socket with --control)"
                    }
                    io::ErrorKind::PermissionDenied => "no permission (be root, or in the group of the socket)",
                    _ => "cannot be asked",
                };
                write!(f, "{}: {what}: {error}", socket.display())
            }
        }
    }
}

/// How a verb went: what it printed is complete, and whether all of it is good news.
pub type Outcome = Result<bool, Fault>;

/// Prints a fault and makes the exit code: 0 done, 1 the request failed, 2 the command line is wrong.
pub fn finish(outcome: Outcome, json: bool) -> ExitCode {
    let fault = match outcome {
        Ok(good) => return if good { ExitCode::SUCCESS } else { ExitCode::FAILURE },
        // `skerry logs | head`: the reader has what it wanted.
        Err(Fault::Stdio(error)) if error.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(fault) => fault,
    };
    let status = match &fault {
        Fault::Refused { status, .. } => *status,
        _ => 0,
    };
    let text = fault.to_string();
    // Nothing is left to be told if standard error is closed too.
    let _ = if json {
        writeln!(io::stderr(), "{}", http::error_json(status, &text))
    } else {
        writeln!(io::stderr(), "skerry: {text}")
    };
    ExitCode::from(if matches!(fault, Fault::Usage(_)) { 2 } else { 1 })
}

/// One request with one answer of any kind, as it came.
pub fn fetch(socket: &Path, target: &str) -> Result<Vec<u8>, Fault> {
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, socket, "GET", target, Upload::Whole(Vec::new())).await?;
        response.body.whole(ANSWER_BYTES_MAX).await.map_err(broken)
    }))
}

/// One request with one JSON answer.
pub fn ask(socket: &Path, method: &str, target: &str, body: Vec<u8>) -> Result<Value, Fault> {
    let executor = Executor::new();
    smol::block_on(executor.run(async {
        let mut response = open(&executor, socket, method, target, Upload::Whole(body)).await?;
        let bytes = response.body.whole(ANSWER_BYTES_MAX).await.map_err(broken)?;
        serde_json::from_slice(&bytes).map_err(|e| Fault::Broken(format!("the answer is not JSON: {e}")))
    }))
}

/// Sends a request; the answer is good, and its body still to be read.
async fn open(
    executor: &Executor,
    socket: &Path,
    method: &str,
    target: &str,
    upload: Upload,
) -> Result<Response, Fault> {
    let response = http::request(executor, socket, method, target, upload).await;
    let mut response = response.map_err(|error| Fault::Unreachable { socket: socket.to_owned(), error })?;
    let status = response.status;
    if status == 200 {
        return Ok(response);
    }
    let bytes = response.body.whole(ANSWER_BYTES_MAX).await.map_err(broken)?;
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = answer.pointer("/error/message").and_then(Value::as_str);
    Err(Fault::Refused { status, message: message.map_or_else(|| format!("status {status}"), str::to_owned) })
}

/// The next JSON line of a stream.
async fn next(body: &mut Body) -> Result<Option<Value>, Fault> {
    match body.line(ANSWER_BYTES_MAX).await.map_err(broken)? {
        None => Ok(None),
        Some(line) => {
            serde_json::from_slice(&line).map(Some).map_err(|e| Fault::Broken(format!("a line is not JSON: {e}")))
        }
    }
}

fn broken(fault: BodyFault) -> Fault {
    Fault::Broken(match fault {
        BodyFault::TooLarge => format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"),
        BodyFault::Broken(why) => format!("the connection was cut: {why}"),
    })
}

/// A path on the control socket, from its segments.
fn path(segments: &[&str]) -> String {
    segments.iter().map(|segment| format!("/{}", http::escape(segment))).collect()
}
