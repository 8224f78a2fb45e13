//! A core that only answers, behind a real control socket. Must never hide what it does:
//! all of it is in `Core::answer`.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use skerry_runtime::io::executor::Executor;
use skerry_runtime::io::socket;
use skerry_runtime::tasks::control;
use skerry_runtime::tasks::mailbox::{Answer, Ask, Call, Refusal};
use smol::channel::{Receiver, Sender, bounded};

/// Longer than anything here takes; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub type Respond = Sender<Result<Answer, Refusal>>;

/// Notes what was asked, and answers as `answer` says.
#[derive(Clone, Default)]
pub struct Core {
    pub asked: Arc<Mutex<Vec<Ask>>>,
    /// Messages to output `hold` are kept unanswered until there are this many, then answered from the last to the first.
    pub hold: usize,
    pub held: Arc<Mutex<Vec<(usize, Respond)>>>,
    /// Taps from `quiet`: open, and without a line.
    pub watched: Arc<Mutex<Vec<Sender<Value>>>>,
}

impl Core {
    async fn run(self, calls: Receiver<Call>) {
        while let Ok(Call { ask, answer }) = calls.recv().await {
            self.asked.lock().unwrap().push(ask.clone());
            self.answer(ask, answer);
        }
    }

    fn answer(&self, ask: Ask, answer: Respond) {
        let reply = match ask {
            Ask::Status => Ok(Answer::Json(json!({"device": "d"}))),
            Ask::Modules => Ok(Answer::Json(json!({"modules": [{"name": "filter", "status": "running"}]}))),
            Ask::Twin { module } => Ok(Answer::Json(json!({"module": module, "desired": {"a": 1}}))),
            Ask::Logs { follow, .. } => {
                let (lines, reader) = bounded(2_000);
                let line = json!({"at": 1_795_456_800_000i64, "level": "info", "message": "m"});
                (0..if follow { 2_000 } else { 2 }).for_each(|_| lines.try_send(line.clone()).unwrap());
                Ok(Answer::Lines(reader))
            }
            Ask::Module { module } => Err(Refusal::no_such_module(&module, ["filter", "window"])),
            Ask::Method { payload, .. } => Ok(Answer::Raw { status: 207, body: payload }),
            Ask::Tap { from: Some(from), .. } if from == "quiet" => {
                let (lines, reader) = bounded(1);
                self.watched.lock().unwrap().push(lines);
                Ok(Answer::Lines(reader))
            }
            Ask::Tap { .. } => {
                let (lines, reader) = bounded(8);
                (0..3).for_each(|i| lines.try_send(json!({"i": i})).unwrap());
                Ok(Answer::Lines(reader))
            }
            Ask::Trace { limit: 20, .. } => {
                let (lines, reader) = bounded(1);
                lines.try_send(json!({"outcome": "noRoute", "from": "f", "routes": []})).unwrap();
                Ok(Answer::Lines(reader))
            }
            Ask::Metrics => Ok(Answer::Text("up 1\n".to_owned())),
            Ask::Send { output, .. } if output == "hold" => {
                let mut held = self.held.lock().unwrap();
                let number = held.len();
                held.push((number, answer));
                if held.len() == self.hold {
                    for (number, answer) in held.drain(..).rev() {
                        let _ = answer.try_send(Ok(Answer::Json(json!({"outcome": "delivered", "number": number}))));
                    }
                }
                return;
            }
            Ask::Send { .. } => Ok(Answer::Json(json!({"outcome": "durable"}))),
            Ask::Restart { .. } => return,
            _ => Ok(Answer::Json(json!({}))),
        };
        let _ = answer.try_send(reply);
    }
}

pub struct Device {
    pub socket: PathBuf,
    pub core: Core,
    _folder: tempfile::TempDir,
}

pub fn device_with(core: Core, calls_max: usize, answers: bool) -> Device {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control.sock");
    serve(&socket, core.clone(), calls_max, answers);
    Device { socket, core, _folder: folder }
}

pub fn device() -> Device {
    device_with(Core { hold: 254, ..Core::default() }, 512, true)
}

/// Serves on a thread of its own; the socket is there when this returns.
pub fn serve(socket: &Path, core: Core, calls_max: usize, answers: bool) {
    let listener = socket::bind(socket).unwrap();
    let (calls, called) = bounded(calls_max);
    std::thread::spawn(move || {
        let executor = Rc::new(Executor::new());
        if answers {
            executor.spawn(core.run(called.clone())).detach();
        }
        let served = smol::block_on(executor.run(control::serve(executor.clone(), listener, calls, |_| ())));
        drop((served, called));
    });
}
