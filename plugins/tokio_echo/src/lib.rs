//! Echoes from tokio tasks. The lesson: a module may bring any executor. Messages are deferred, their echoes' receipts
//! awaited, and each input is done when its echo is safe. Must never block a task on credit: it awaits receipts instead.

use std::{sync::Arc, time::Duration};

use skerry_abi::{Context, Deferred, Error, Message, Module, NoSettings, Result, SendError, export_module};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Semaphore,
};

/// Echoes under way at once.
const TASKS_MAX: usize = 1_024;

pub struct TokioEcho {
    runtime: Option<Runtime>,
    room: Arc<Semaphore>,
}

impl Module for TokioEcho {
    type Settings = NoSettings;

    fn start(_: &Context, _: NoSettings) -> Result<TokioEcho> {
        let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("echo").build()?;
        Ok(TokioEcho { runtime: Some(runtime), room: Arc::new(Semaphore::new(TASKS_MAX)) })
    }

    fn message(&mut self, cx: &Context, _input: &str, message: Message) -> Result {
        let room = self.room.clone().try_acquire_owned();
        let room = room.map_err(|_| Error::new("too many echoes are under way"))?;
        let (cx, handle) = (cx.clone(), message.defer()?);
        let runtime = self.runtime.as_ref().ok_or_else(|| Error::new("the executor has stopped"))?;
        runtime.spawn(async move {
            echo(&cx, &message, handle).await;
            drop(room);
        });
        Ok(())
    }

    fn stop(&mut self, _: &Context) -> Result {
        // Tasks that are not done drop their handles, which gives their messages back.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
        Ok(())
    }
}

async fn echo(cx: &Context, message: &Message, handle: Deferred) {
    let receipt = loop {
        match cx.try_send("output1", message) {
            Ok(receipt) => break receipt,
            Err(SendError::NoCredit) => cx.room().await,
            Err(error) => return handle.refuse(&error.to_string()),
        }
    };
    match receipt.await {
        Ok(_) => handle.complete(),
        Err(error) => handle.refuse(&error.to_string()),
    }
}

export_module!(TokioEcho);
