//! A `skerry send` that goes on for as long as it is let, and what it was answered. The judge of durability: a message
//! counts as acknowledged when its answer was printed, and not before.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, Stdio};

use serde_json::{Value, json};

use crate::stream::Lines;

pub struct Sender {
    child: Child,
    input: Option<ChildStdin>,
    answers: Lines,
    seqs: Vec<u64>,
}

impl Sender {
    pub(crate) fn start(mut command: Command, module: &str, output: &str) -> Sender {
        command.args(["send", module, output, "--json"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program");
        let answers = Lines::default();
        answers.read(child.stdout.take().expect("its output"));
        Sender { input: child.stdin.take(), child, answers, seqs: Vec::new() }
    }

    /// Sends `{"seq": n}` for each. False when the runtime is gone.
    pub fn send(&mut self, seqs: impl IntoIterator<Item = u64>) -> bool {
        let mut text = String::new();
        for seq in seqs {
            self.seqs.push(seq);
            text.push_str(&format!("{}\n", json!({"body": {"seq": seq}})));
        }
        self.input.as_mut().is_some_and(|input| input.write_all(text.as_bytes()).is_ok())
    }

    /// Waits until so many were answered; what they were is not asked.
    pub fn wait_answers(&self, count: usize) {
        self.answers.wait(&format!("{count} answers"), |lines| (lines.len() >= count).then_some(()));
    }

    /// What was acknowledged until the end of the input or of the runtime, and everything that was sent.
    pub fn end(mut self) -> (Vec<u64>, Vec<u64>) {
        drop(self.input.take());
        let _ = self.child.wait();
        self.answers.wait_ended(1);
        let lines = self.answers.all();
        // One answer a line, in the order of the lines.
        let safe = |line: &String| {
            let answer: Value = serde_json::from_str(line).unwrap_or_default();
            matches!(answer["outcome"].as_str(), Some("durable" | "delivered"))
        };
        let acknowledged = self.seqs.iter().zip(&lines).filter(|(_, line)| safe(line)).map(|(seq, _)| *seq).collect();
        (acknowledged, std::mem::take(&mut self.seqs))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
