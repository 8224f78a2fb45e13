//! Which signals end the runtime. SIGPIPE and SIGHUP do not: a reader of the control socket or a terminal may go.
//! Must never be where anything is decided: they only say that a signal came.

use std::io;

use async_signal::{Signal, Signals as Caught};
use smol::stream::StreamExt;

/// That a child has ended.
pub struct Children(Caught);

impl Children {
    pub fn catch() -> io::Result<Children> {
        Ok(Children(Caught::new([Signal::Child])?))
    }

    /// Several ends may come as one.
    pub async fn wait(&mut self) {
        if self.0.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }
}

pub struct Signals(Caught);

impl Signals {
    pub fn catch() -> io::Result<Signals> {
        Ok(Signals(Caught::new([Signal::Term, Signal::Int, Signal::Hup])?))
    }

    /// The name of the signal that asks for the end.
    pub async fn wait(&mut self) -> &'static str {
        loop {
            match self.0.next().await {
                Some(Ok(Signal::Term)) => return "SIGTERM",
                Some(Ok(Signal::Int)) => return "SIGINT",
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}
