//! The command line, as the real binary. Must never be a child of the server, which would refuse it:
//! the server is this test started again, so the two are siblings.

use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::core::{Core, serve};

const SOCKET: &str = "SKERRY_TEST_SERVE";

/// Not a test by itself: with a socket in its environment this serves until its input ends.
#[test]
fn server() {
    let Some(socket) = std::env::var_os(SOCKET) else { return };
    serve(Path::new(&socket), Core { hold: 3, ..Core::default() }, 64, true);
    println!("\nready");
    let _ = std::io::stdin().read(&mut [0]);
}

struct Server {
    child: Child,
    /// Kept open, so that it can say how its test went.
    _lines: Lines<BufReader<ChildStdout>>,
    folder: tempfile::TempDir,
}

impl Server {
    fn start() -> Server {
        let folder = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "verbs::server", "--nocapture"])
            .env(SOCKET, folder.path().join("s"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().map_while(Result::ok).any(|line| line == "ready"));
        Server { child, _lines: lines, folder }
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = skerry(line);
        command.env("SKERRY_CONTROL", self.folder.path().join("s"));
        command
    }

    /// Runs a verb; its exit code, standard output and standard error.
    fn run(&self, line: &[&str], input: &str) -> (i32, String, String) {
        let mut child = self.command(line).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        said(child)
    }

    #[track_caller]
    fn check(&self, line: &[&str], input: &str, expected: (i32, &str, &str)) {
        let (code, out, err) = self.run(line, input);
        assert_eq!((code, out.trim_end(), err.trim_end()), expected, "{line:?}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn skerry(line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_skerry"));
    command.args(line).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn said(child: Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn verbs_print_and_say_how_it_went() {
    let server = Server::start();
    server.check(&["status", "--json"], "", (0, r#"{"device":"d"}"#, ""));
    assert!(server.run(&["list"], "").1.contains("filter  running"));
    server.check(&["twin", "get", "m", "--json"], "", (0, r#"{"desired":{"a":1},"module":"m"}"#, ""));
    server.check(&["twin", "set", "m", "{\"a\":2}", "--json"], "", (0, "{}", ""));
    server.check(&["twin", "set", "m", "--json"], "{\"a\":2}", (0, "{}", ""));
    server.check(&["method", "m", "do", "[1]", "--timeout", "5s"], "", (0, "status 207\n[\n  1\n]", ""));
    server.check(&["logs", "m"], "", (0, ["2026-11-23T18:00:00.000Z info  m"; 2].join("\n").as_str(), ""));
    server.check(&["tap", "--json"], "", (0, "{\"i\":0}\n{\"i\":1}\n{\"i\":2}", ""));
    let traced = "- f -\n  dropped: it matched no route\n  no route is for messages from there";
    server.check(&["trace", "--source", "m"], "", (0, traced, ""));
    let dropped = "skerry: the question was dropped without an answer";
    server.check(&["restart", "m"], "", (1, "", dropped));
    let json = r#"{"error":{"message":"the question was dropped without an answer","status":500}}"#;
    server.check(&["restart", "m", "--json"], "", (1, "", json));
    let (code, _, err) = server.run(&["twin", "set", "m", "{a:1}"], "");
    assert_eq!((code, err.starts_with("skerry: the patch is not JSON: key must be a string at line 1")), (2, true));
}

#[test]
fn sent_lines_are_answered_one_by_one() {
    let server = Server::start();
    server.check(&["send", "m", "o", "--body", "{\"t\":1}", "--property", "a=b"], "", (0, "1 durable", ""));
    let lines = "{\"body\":1}\n\n{\"body\":2}\n{\"body\":3}\n";
    server.check(&["send", "m", "hold"], lines, (0, "1 delivered\n2 delivered\n3 delivered", ""));
    let bad = "{\"body\":1}\n{\n{\"body\":3}";
    let refused = "refused: line 2: not JSON: EOF while parsing an object at column 1";
    server.check(&["send", "m", "o"], bad, (1, format!("1 durable\n2 {refused}\n3 durable").as_str(), ""));
    server.check(&["send", "m", "o"], "", (0, "", ""));
}

/// An answer is printed before the next line is typed.
#[test]
fn send_does_not_wait_for_the_end_of_its_input() {
    let server = Server::start();
    let mut child = server.command(&["send", "m", "o"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
    for number in 1..=3 {
        input.write_all(b"{\"body\":1}\n").unwrap();
        assert_eq!(answers.next().unwrap().unwrap(), format!("{number} durable"));
    }
    drop(input);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_reader_that_has_enough_is_no_error() {
    let server = Server::start();
    let mut child = server.command(&["logs", "-f", "m"]).spawn().unwrap();
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    let (code, _, err) = said(child);
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn without_a_runtime() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("none");
    let run = |line: &[&str]| said(skerry(line).env("SKERRY_CONTROL", &socket).spawn().unwrap());
    let (code, _, err) = run(&["status"]);
    assert_eq!(code, 1);
    assert!(err.contains("no skerry is running there"), "{err}");
    assert_eq!(run(&["version"]).1, format!("skerry {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!((run(&["stauts"]).0, run(&[]).0, run(&["--help"]).0), (2, 2, 0));
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "[stor]").unwrap();
    let (code, _, err) = run(&["run", "--check", "--config", file.to_str().unwrap()]);
    let expected = format!("{}:1: unknown key `stor`: did you mean `store`?\n", file.display());
    assert_eq!((code, err), (2, expected));
    std::fs::write(&file, "[store]").unwrap();
    assert_eq!(run(&["run", "--check", "--config", file.to_str().unwrap()]).0, 0);
}
