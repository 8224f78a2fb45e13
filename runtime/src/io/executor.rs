//! smol's executor for one thread, with its tasks boxed: what it makes of every kind of future is then made once, and not for each of
//! some thirty (0.2 MB of the program). Must never be where a task is polled often for little: each poll is an indirect call.

use smol::future::FutureExt;
use smol::{LocalExecutor, Task};

#[derive(Debug, Default)]
pub struct Executor(LocalExecutor<'static>);

impl Executor {
    pub fn new() -> Executor {
        Executor::default()
    }

    /// Dropping the task ends it.
    pub fn spawn<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> Task<T> {
        self.0.spawn(task.boxed_local())
    }

    /// Polls all tasks until this one is done.
    pub async fn run<T>(&self, until: impl Future<Output = T>) -> T {
        self.0.run(until.boxed_local()).await
    }
}
