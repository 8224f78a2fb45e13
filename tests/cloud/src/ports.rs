//! The two TCP ports, and the loop that accepts on them. Must never let go of a port while the cloud is cut off: it would
//! come back under another one.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use smol::net::TcpStream;
use smol::{LocalExecutor, Task, Timer};
use std::time::Instant;

use crate::connection::{Connection, Shared};
use crate::world::End;

const BACKLOG: i32 = 128;

/// A port that is ours, also while nobody listens on it.
pub struct Port {
    pub address: SocketAddr,
    held: Option<OwnedFd>,
}

/// For the thread of the emulator.
pub enum Job {
    Accepted(TcpStream, Kind),
    Cut(std::sync::mpsc::SyncSender<Result<(), String>>),
    Heal(std::sync::mpsc::SyncSender<Result<(), String>>),
    /// Somebody waits so long for the answer to this call.
    Call {
        identity: String,
        rid: String,
        until: Instant,
    },
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hub,
    Proxy,
}

impl Port {
    pub fn bind(address: SocketAddr) -> io::Result<Port> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &address)?;
        let bound = SocketAddr::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Port { address: bound, held: Some(socket) })
    }

    /// Nobody can connect before.
    fn listen(&mut self) -> io::Result<smol::net::TcpListener> {
        if self.held.is_none() {
            self.hold()?;
        }
        let socket = self.held.take().ok_or(io::ErrorKind::NotConnected)?;
        listen(&socket, BACKLOG)?;
        smol::net::TcpListener::try_from(TcpListener::from(socket))
    }

    fn hold(&mut self) -> io::Result<()> {
        *self = Port::bind(self.address)?;
        Ok(())
    }
}

/// The emulator, until its `Cloud` is dropped. Everything that it started ends with it.
pub fn run(shared: &Arc<Shared>, jobs: &(Sender<Job>, Receiver<Job>), ports: [Port; 2]) {
    let executor = LocalExecutor::new();
    let mut doors = Doors { shared: shared.clone(), jobs: jobs.0.clone(), ports, open: Vec::new() };
    smol::block_on(executor.run(async {
        while let Ok(job) = jobs.1.recv().await {
            match job {
                Job::Accepted(tcp, kind) => accepted(shared, &executor, tcp, kind, doors.open.is_empty()),
                Job::Cut(done) => drop(done.send(doors.close().await)),
                Job::Heal(done) => drop(done.send(doors.open(&executor))),
                Job::Call { identity, rid, until } => {
                    let shared = shared.clone();
                    let wait = async move {
                        Timer::at(until).await;
                        shared.world().answer_call(&identity, &rid, 504, serde_json::Value::Null);
                    };
                    executor.spawn(wait).detach();
                }
                Job::End => break,
            }
        }
    }));
}

fn accepted(shared: &Arc<Shared>, executor: &LocalExecutor<'_>, tcp: TcpStream, kind: Kind, is_cut: bool) {
    if is_cut || shared.world().faults.refuse {
        return;
    }
    if let Some(connection) = Connection::begin(shared) {
        executor.spawn(connection.serve(tcp, kind == Kind::Proxy)).detach();
    }
}

struct Doors {
    shared: Arc<Shared>,
    jobs: Sender<Job>,
    ports: [Port; 2],
    /// Empty while cut.
    open: Vec<Task<()>>,
}

impl Doors {
    fn open(&mut self, executor: &LocalExecutor<'_>) -> Result<(), String> {
        if !self.open.is_empty() {
            return Ok(());
        }
        for (port, kind) in self.ports.iter_mut().zip([Kind::Hub, Kind::Proxy]) {
            match port.listen() {
                Ok(listener) => self.open.push(executor.spawn(accept(listener, kind, self.jobs.clone()))),
                Err(error) => {
                    self.open.clear();
                    return Err(format!("{}: {error}", port.address));
                }
            }
        }
        Ok(())
    }

    async fn close(&mut self) -> Result<(), String> {
        for task in self.open.drain(..) {
            task.cancel().await;
        }
        self.shared.world().end_of(None, End::Reset, "cut");
        self.ports.iter_mut().try_for_each(|port| port.hold().map_err(|e| format!("{}: {e}", port.address)))
    }
}

async fn accept(listener: smol::net::TcpListener, kind: Kind, jobs: Sender<Job>) {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                if jobs.send(Job::Accepted(tcp, kind)).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, mostly: others end meanwhile.
            Err(_) => drop(Timer::after(std::time::Duration::from_millis(50)).await),
        }
    }
}
