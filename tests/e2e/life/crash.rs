//! Modules that end in every way there is: told in the list, kept in a report, started again, and the message that they
//! died with is delivered again, but not for ever.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use skerry_tests::{Device, Image, c_program, is_alive, numbered, wait_for};

const ROUTES: &str = r#"[routes]
in = 'FROM /messages/modules/tester/outputs/faulty INTO BrokeredEndpoint("/modules/faulty/inputs/input1")'
out = 'FROM /messages/modules/faulty/* INTO BrokeredEndpoint("/modules/scribe/inputs/input1")'
"#;

/// `faulty` runs, and what it lets through stands in the scribe's book.
fn device(config: &str) -> Device {
    let mut device = Device::new(&format!("{config}{ROUTES}"));
    device.drop_in("faulty.so", &Image::of("faulty"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    device.wait_running("faulty");
    device.wait_running("scribe");
    device
}

/// Ends by `word`, and its end is told with `text`: in the list, in a report, and by what it logged last.
fn ends(word: &str, text: &str, code: i64) {
    let device = device("");
    device.method("faulty", "log", &json!({"count": 3}));
    device.wait_logged("faulty", "line 2");
    let before = device.wait_running("faulty");
    device.method("faulty", word, &json!({"count": 1_000_000}));
    let exit = device.wait_exit("faulty", text);
    assert_eq!(exit["code"], code, "{exit}");
    let after = device.wait_after("faulty", before.generation);
    assert!(after.pid != before.pid && !is_alive(before.pid));
    let listed = device.skerry(&["list"]);
    assert!(listed.out.contains(text), "{listed:?}");
    let report = std::fs::read_to_string(device.path("state/crashes/faulty/00000001.txt")).unwrap();
    assert!(report.contains(text) && report.contains("image: faulty ") && report.contains("build_id: "), "{report}");
    assert!(report.contains("line 2"), "its last words are not in: {report}");
}

#[test]
fn a_segfault() {
    ends("segfault", "killed by SIGSEGV at offset 0x", 139);
}

#[test]
fn an_abort() {
    ends("abort", "killed by SIGABRT", 134);
}

#[test]
fn a_stack_overflow() {
    ends("overflow", "killed by SIG", 139);
}

#[test]
fn an_exit() {
    ends("exit", "ended with code 3", 3);
}

#[test]
fn a_thread_that_panics() {
    ends("thread_panic", "a thread panicked: ", 1);
}

#[test]
fn one_that_gives_up() {
    ends("fail", "the module gave up: as told", 1);
}

#[test]
fn a_panic_in_a_method_is_an_answer_and_no_end() {
    let device = device("");
    let before = device.wait_running("faulty");
    let answer = device.method("faulty", "panic", &json!({}));
    assert_eq!(answer["status"], 500, "{answer}");
    assert_eq!(device.running("faulty"), Some(before));
    device.wait_logged("faulty", "as told");
}

#[test]
fn killed_from_outside_it_comes_back_later_each_time() {
    let device = device("[restart]\nbackoff_base = \"100ms\"\nbackoff_max = \"400ms\"\n");
    for (generation, wait) in [(1, 100), (2, 200), (3, 400), (4, 400)] {
        let faulty = device.wait_running("faulty");
        assert_eq!(faulty.generation, generation);
        kill_process(Pid::from_raw(faulty.pid).unwrap(), Signal::KILL).unwrap();
        device.wait_log(&format!("instance=faulty/{generation} restart_in_ms={wait}"));
        device.wait_exit("faulty", "killed by SIGKILL");
        device.wait_after("faulty", generation);
    }
}

#[test]
fn after_too_many_failures_it_stays_down_until_it_is_told_otherwise() {
    let device =
        device("[restart]\nbackoff_base = \"1ms\"\nmax_restarts = 2\n[modules.faulty.settings]\nalways = \"exit\"\n");
    // Every delivery ends it.
    let mut sender = device.sender("tester", "faulty");
    sender.send([1]);
    wait_for("faulty is failed", || (device.module("faulty")["status"] == "failed").then_some(()));
    assert!(device.status()["warnings"].to_string().contains("faulty is failed"));
    assert_eq!(device.skerry(&["twin", "set", "faulty", r#"{"always": ""}"#]).code, Some(0));
    assert_eq!(device.skerry(&["restart", "faulty"]).code, Some(0));
    device.wait_book("scribe", "the message that it fell over", |line| line["body"]["seq"] == 1);
}

#[test]
fn the_message_in_progress_is_delivered_again() {
    let device = device("");
    let before = device.wait_running("faulty");
    let mut sender = device.sender("tester", "faulty");
    // The first is kept, neither completed nor refused, and so the second comes behind it.
    assert!(sender.send_lines(&[json!({"body": {"seq": 1, "do": "keep"}}), numbered(2)]));
    device.wait_book("scribe", "the second", |line| line["body"]["seq"] == 2);
    kill_process(Pid::from_raw(before.pid).unwrap(), Signal::KILL).unwrap();
    let after = device.wait_after("faulty", before.generation);
    wait_for("the first is in its hands again", || (device.module("faulty")["deferred"] == 1).then_some(()));
    assert_eq!(device.running("faulty"), Some(after));
}

#[test]
fn poison_goes_to_the_dead_letters_and_the_rest_goes_on() {
    for poison in ["segfault", "panic", "error"] {
        println!("poison: {poison}");
        let device = device("[store]\nflush_interval = \"10ms\"\n");
        let lines = [numbered(1), json!({"body": {"seq": 2, "do": poison}}), numbered(3)];
        let answers = device.send_all("tester", "faulty", &lines);
        let good = |answer: &serde_json::Value| answer["outcome"] == "delivered" || answer["outcome"] == "durable";
        assert!(good(&answers[0]) && good(&answers[2]), "{answers:?}");
        device.wait_book("scribe", "the one behind", |line| line["body"]["seq"] == 3);
        device.wait_count("faulty", "deadLettered", 1);
        device.wait_count("faulty", "delivered", 2);
        device.wait_count("faulty", "pending", 0);
        if poison == "segfault" {
            let report = std::fs::read_to_string(device.path("state/crashes/faulty/00000001.txt")).unwrap();
            assert!(
                report.contains("message_in_progress: message 2 of ") && report.contains(" from tester/faulty"),
                "{report}"
            );
        }
    }
}

#[test]
fn what_a_module_leaves_behind_does_not_stay_as_a_zombie() {
    let device = device("");
    for _ in 0..3 {
        let answer = device.method("faulty", "orphan", &json!({}));
        let pid = answer["payload"].as_i64().unwrap_or_else(|| panic!("{answer}"));
        let gone = || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(());
        wait_for(&format!("{pid} is reaped"), gone);
    }
    // And the status of an instance is not taken away by it.
    device.method("faulty", "exit", &json!({}));
    assert_eq!(device.wait_exit("faulty", "ended with code 3")["code"], 3);
}

#[test]
fn a_hang_is_killed_for_and_told() {
    let device = device("[modules.faulty]\nhang_after = \"1s\"\n");
    let before = device.wait_running("faulty");
    let mut sender = device.sender("tester", "faulty");
    sender.send_lines(&[json!({"body": {"do": "hang"}})]);
    let exit = device.wait_exit("faulty", "killed: one callback lasted");
    assert_eq!(exit["code"], 137, "{exit}");
    device.wait_after("faulty", before.generation);
}

/// A process that is the tracer of another for as long as this lives.
struct Tracer(Child);

impl Tracer {
    fn of(pid: i32) -> Tracer {
        let program = c_program(
            "int main(int n, char **a) { if (ptrace(PTRACE_SEIZE, atoi(a[1]), 0, 0)) { perror(\"seize\"); return 1; }
             puts(\"attached\"); fflush(stdout); for (char c; read(0, &c, 1) > 0;); return 0; }",
        );
        let mut command = Command::new(&program);
        let command = command.arg(pid.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tracer = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(tracer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "attached\n");
        Tracer(tracer)
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn who_is_debugged_does_not_hang() {
    let device = device("[modules.faulty]\nhang_after = \"1s\"\n");
    let faulty = device.wait_running("faulty");
    let tracer = Tracer::of(faulty.pid);
    let mut sender = device.sender("tester", "faulty");
    sender.send_lines(&[json!({"body": {"do": "hang"}})]);
    wait_for("it is in that callback", || (device.module("faulty")["inHand"] == 1).then_some(()));
    // Two spans after which it would have been killed, measured by the runtime's own clock.
    let begin = device.status()["uptimeSeconds"].as_u64().unwrap();
    wait_for("three seconds", || (device.status()["uptimeSeconds"].as_u64() >= Some(begin + 3)).then_some(()));
    assert_eq!(device.running("faulty"), Some(faulty));
    drop(tracer);
    device.wait_exit("faulty", "killed: one callback lasted");
}

#[test]
fn one_waits_for_its_debugger() {
    let mut device = Device::new("[modules.filter]\nhang_after = \"1s\"\n");
    device.argument("--wait-debugger");
    device.argument("filter");
    device.drop_in("filter.so", &Image::of("filter"));
    device.drop_in("scribe.so", &Image::of("scribe"));
    device.start();
    let line = device.wait_log("waits for a debugger: gdb -p ");
    let pid: i32 = line.rsplit(' ').next().unwrap().parse().unwrap();
    device.wait_running("scribe");
    assert_eq!(device.module("filter")["status"], "starting");
    let _tracer = Tracer::of(pid);
    assert_eq!(device.wait_running("filter").pid, pid);
}
