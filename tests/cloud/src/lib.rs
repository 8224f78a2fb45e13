//! An IoT Hub on the loopback interface, for tests, demonstrations and measurements: the cloud's side of the wire, with
//! faults on demand. Must never be a part of the product, and never be taken for the cloud's own word: official SDKs are
//! its judges.

mod apply;
mod certificate;
mod clock;
mod command;
mod connection;
mod dps;
mod event;
mod faults;
mod frames;
mod journal;
mod peer;
mod ports;
mod registry;
pub mod sas;
mod session;
pub mod topic;
mod twin;
mod upgrade;
mod world;

pub use certificate::Tls;
pub use command::{Command, DpsOutcome, Trap, Wrong};
pub use event::{Event, Telemetry, What};
pub use journal::Stored;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use connection::Shared;
use dps::Dps;
use journal::Journal;
use peer::{Peer, random_key};
use ports::{Job, Port};
use world::World;

/// For the emulator's thread to do what it was asked.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const JOBS_MAX: usize = 256;

#[derive(Clone, Debug)]
pub struct Options {
    pub device: String,
    pub modules: Vec<String>,
    /// More identities, such as `Hannover02` and `Hannover02/insight`; others can be made over REST.
    pub others: Vec<String>,
    /// Default: a free port of 127.0.0.1.
    pub listen: Option<SocketAddr>,
    pub listen_proxy: Option<SocketAddr>,
    pub host_name: String,
    /// The primary key of every identity, of the policy and of the group, in base64; default: random ones.
    pub key: Option<String>,
    /// Of the provisioning side.
    pub id_scope: String,
    /// A token is taken so long after its expiry.
    pub grace_s: u64,
    /// User and password that the proxy wants.
    pub proxy_login: Option<(String, String)>,
    /// `false` for measurements: messages are counted, and make no events.
    pub keep_telemetry: bool,
    pub tls: Tls,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            device: "Hannover01".to_owned(),
            modules: Vec::new(),
            others: Vec::new(),
            listen: None,
            listen_proxy: None,
            host_name: "skerry-test.azure-devices.net".to_owned(),
            key: None,
            id_scope: "0ne0SKERRY0".to_owned(),
            grace_s: 0,
            proxy_login: None,
            keep_telemetry: true,
            tls: Tls::Any,
        }
    }
}

impl Options {
    pub fn new(device: &str, modules: &[&str]) -> Options {
        let modules = modules.iter().map(|module| (*module).to_owned()).collect();
        Options { device: device.to_owned(), modules, ..Options::default() }
    }
}

/// What a client has to know.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// TLS: WebSocket, REST, and MQTT without WebSocket alike.
    pub address: SocketAddr,
    pub proxy: SocketAddr,
    pub host_name: String,
    /// PEM, to be trusted.
    pub ca_file: PathBuf,
    pub device: Identity,
    pub modules: Vec<Identity>,
    pub others: Vec<Identity>,
    /// Of a back end that may do everything.
    pub policy_connection_string: String,
    pub dps: Provisioning,
}

/// What a device is told that has no connection string.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Provisioning {
    /// Only the proxy leads to it by this name; `address` is the same door.
    pub host: String,
    pub id_scope: String,
    /// In base64; devices derive their own from it.
    pub group_key: String,
}

/// `Hannover01` or `Hannover01/insight`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    pub id: String,
    pub connection_string: String,
}

/// Over all connections of an identity so far: bytes on TCP, TLS and proxy included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    pub received: u64,
    pub sent: u64,
}

/// Connections of an identity whose CONNECT was accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub is_open: bool,
    /// So far.
    pub accepted: u64,
}

/// Runs until it is dropped.
pub struct Cloud {
    ready: Ready,
    shared: Arc<Shared>,
    journal: Arc<Journal>,
    jobs: async_channel::Sender<Job>,
    thread: Option<JoinHandle<()>>,
    /// With the certificate of the authority.
    _folder: tempfile::TempDir,
}

impl Cloud {
    pub fn start(options: Options) -> Result<Cloud, String> {
        let folder = tempfile::Builder::new().prefix("skerry-cloud-").tempdir().map_err(|e| e.to_string())?;
        let authority = certificate::Authority::new(&options.host_name, options.tls)?;
        let ca_file = folder.path().join("ca.pem");
        std::fs::write(&ca_file, authority.pem()).map_err(|e| format!("{}: {e}", ca_file.display()))?;
        let peers = peers(&options)?;
        let identity =
            |peer: &Peer| Identity { id: peer.id(), connection_string: peer.connection_string(&options.host_name) };
        let mut identities: Vec<Identity> = peers.iter().map(identity).collect();
        let others = identities.split_off(1 + options.modules.len());
        let key = || options.key.clone().map_or_else(random_key, Ok);
        let (policy_key, group_key) = (key()?, key()?);
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let open = |wanted: Option<SocketAddr>| {
            let wanted = wanted.unwrap_or(free);
            Port::bind(wanted).map_err(|e| format!("{wanted}: {e}"))
        };
        let ports = [open(options.listen)?, open(options.listen_proxy)?];
        let ready = Ready {
            address: ports[0].address,
            proxy: ports[1].address,
            host_name: options.host_name.clone(),
            ca_file,
            device: identities.remove(0),
            modules: identities,
            others,
            policy_connection_string: sas::policy_connection_string(&options.host_name, registry::POLICY, &policy_key),
            dps: Provisioning {
                host: dps::HOST.to_owned(),
                id_scope: options.id_scope.clone(),
                group_key: group_key.clone(),
            },
        };
        let journal = Arc::new(Journal::default());
        let mut world = World::new(&options.host_name, peers, Dps::new(&options.id_scope, group_key), journal.clone());
        (world.grace_s, world.keep_telemetry) = (options.grace_s, options.keep_telemetry);
        world.policy_key = policy_key;
        let tls = authority.server(None)?;
        let shared = Arc::new(Shared::new(world, authority, tls, options.proxy_login));
        let jobs = async_channel::bounded(JOBS_MAX);
        let sender = jobs.0.clone();
        let own = shared.clone();
        let run = move || ports::run(&own, &jobs, ports);
        let thread = std::thread::Builder::new().name("cloud".to_owned()).spawn(run).map_err(|e| e.to_string())?;
        let cloud = Cloud { ready, shared, journal, jobs: sender, thread: Some(thread), _folder: folder };
        // Listening when it returns.
        cloud.ask(Job::Heal)?;
        Ok(cloud)
    }

    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// As it is now: keys can be replaced.
    pub fn identity(&self, id: &str) -> Option<Identity> {
        let world = self.shared.world();
        let peer = world.peers.get(id)?;
        Some(Identity { id: peer.id(), connection_string: peer.connection_string(&world.host) })
    }

    /// The first event since the start that fits, waiting for it until the deadline has passed.
    pub fn wait(&self, deadline: Duration, fits: impl FnMut(&Event) -> bool) -> Option<Event> {
        self.events_from(0).find(deadline, fits)
    }

    /// Events from now on.
    pub fn events(&self) -> Events {
        self.events_from(self.journal.next())
    }

    /// Events by number, from 0; those that are too old are left out.
    pub fn events_from(&self, next: usize) -> Events {
        Events { journal: self.journal.clone(), next }
    }

    /// Looks again after whatever happened, until there is something to return. Where many messages come, look at
    /// `stored` and not at all of `telemetry`.
    pub fn wait_until<T>(&self, deadline: Duration, mut look: impl FnMut(&Cloud) -> Option<T>) -> Option<T> {
        self.journal.look(Instant::now() + deadline, || look(self))
    }

    /// Everything that was stored, in the order of arrival, with what was sent again.
    pub fn telemetry(&self) -> Vec<Arc<Telemetry>> {
        self.telemetry_from(0)
    }

    /// The same without the first ones.
    pub fn telemetry_from(&self, first: usize) -> Vec<Arc<Telemetry>> {
        self.journal.telemetry(first)
    }

    /// By identity, also what was not kept.
    pub fn stored(&self) -> BTreeMap<String, Stored> {
        self.journal.stored()
    }

    /// By identity.
    pub fn connections(&self) -> BTreeMap<String, Connections> {
        let world = self.shared.world();
        let of = |peer: &Peer| Connections { is_open: peer.link.is_some(), accepted: peer.connects };
        world.peers.iter().map(|(id, peer)| (id.clone(), of(peer))).collect()
    }

    /// By identity; under the empty one what came and went without a CONNECT that was accepted.
    pub fn bytes(&self) -> BTreeMap<String, Bytes> {
        let bytes = self.shared.world().bytes();
        bytes.into_iter().map(|(id, (received, sent))| (id, Bytes { received, sent })).collect()
    }

    /// As a GET answers: `desired` and `reported`, each with its `$version`; null for an unknown identity.
    pub fn twin(&self, identity: &str) -> Value {
        self.shared.world().peer(identity).map(|peer| peer.twin.view()).unwrap_or_default()
    }

    fn send(&self, job: Job) -> Result<(), String> {
        self.jobs.send_blocking(job).map_err(|_| "the emulator has ended".to_owned())
    }

    fn ask(&self, job: impl FnOnce(std::sync::mpsc::SyncSender<Result<(), String>>) -> Job) -> Result<Value, String> {
        let (done, answer) = sync_channel(1);
        self.send(job(done))?;
        let answer = answer.recv_timeout(ANSWER_WITHIN).map_err(|_| "the emulator does not answer".to_owned())?;
        answer.map(|()| Value::Null)
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = self.send(Job::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.journal.end();
    }
}

/// A place in the list of events.
pub struct Events {
    journal: Arc<Journal>,
    next: usize,
}

impl Events {
    /// The next one, within this time; `None` also when the cloud has ended.
    pub fn next(&mut self, within: Duration) -> Option<Event> {
        self.find(within, |_| true)
    }

    /// The next one that fits; those before it are passed over.
    pub fn find(&mut self, within: Duration, fits: impl FnMut(&Event) -> bool) -> Option<Event> {
        let (at, event) = self.journal.wait(self.next, Instant::now() + within, fits)?;
        self.next = at + 1;
        Some(event)
    }
}

/// The device first, then its modules, then the others.
fn peers(options: &Options) -> Result<Vec<Peer>, String> {
    let modules = options.modules.iter().map(|module| (options.device.as_str(), Some(module.as_str())));
    let others = options.others.iter();
    let others =
        others.map(|id| id.split_once('/').map_or((id.as_str(), None), |(device, module)| (device, Some(module))));
    let all: Vec<_> = std::iter::once((options.device.as_str(), None)).chain(modules).chain(others).collect();
    let mut peers: Vec<Peer> = Vec::new();
    for (device, module) in all {
        let primary = options.key.clone().map_or_else(random_key, Ok)?;
        let peer = Peer::new(device, module, [primary, random_key()?]);
        if peers.iter().any(|other| other.id() == peer.id()) {
            return Err(format!("there are two identities `{}`", peer.id()));
        }
        if module.is_some() && !peers.iter().any(|other| other.module.is_none() && other.device == device) {
            return Err(format!("`{}` is a module of no device", peer.id()));
        }
        peers.push(peer);
    }
    Ok(peers)
}
