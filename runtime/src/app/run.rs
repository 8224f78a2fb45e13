//! `skerry run`: every channel and task is made here, and ended here.
//! Must never decide anything while it runs; nothing else wires anything.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::io::executor::Executor;
use smol::channel::{Receiver, Sender, bounded};

use super::config::{AtQuota, Config, Quota, TimeToLive};
use super::{logger, signals};
use crate::io::assignment;
use crate::io::clock::{self, Clock, TimeFloor};
use crate::io::crash_report::CrashReports;
use crate::io::hosts::Hosts;
use crate::io::images::Images;
use crate::io::process;
use crate::io::proved::Proved;
use crate::io::secret::Keys;
use crate::io::store::{self, AtWork, Opened, Options, Store};
use crate::io::ws::Dialler;
use crate::io::{again, code_pages, dial::within, kernel, peer, socket};
use crate::logic::hub::{Hub, HubConfig, REMOVED_DOCUMENTS, Restored};
use crate::logic::proof::Proof;
use crate::logic::routing::{RouteTable, Sink};
use crate::logic::twin::Twin;
use crate::logic::wear::Wear;
use crate::tasks::agent::Agent;
use crate::tasks::board::{Board, Order, Provisioned};
use crate::tasks::deployment;
pub(super) use crate::tasks::deployment::configured_routes as route_table;
use crate::tasks::identities::Wakes;
use crate::tasks::log_writer::{self, LogWriter};
use crate::tasks::mailbox::Call;
use crate::tasks::own_log::OwnLog;
use crate::tasks::port::{self, Port};
use crate::tasks::pulls::Pulls;
use crate::tasks::storage::{self, Done, JOBS_MAX, Job};
use crate::tasks::world::{PROOFS, World};
use crate::tasks::{answers, control, identities, provision, removed, reports, wear};

/// Questions that may wait for their answer.
const CALLS_MAX: usize = 64;
/// Questions and orders about identities in the hub that may wait.
const ERRANDS_MAX: usize = 8;
/// How long all instances together may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(12);
/// Commits of a stop: far more than fit into memory.
const STOP_COMMITS_MAX: usize = 64;
/// An orphan that ended behind an instance whose end is still being told waits for this at most.
const REAP_EVERY: Duration = Duration::from_secs(60);
/// After this long what is left of the start is forgotten.
const START_TIME: Duration = Duration::from_secs(1);
/// How long all connections together may take to say good-bye.
const UPLINK_STOP_WAIT: Duration = Duration::from_secs(2);

/// Runs until a signal ends it. An error is one sentence for the operator.
pub fn run(config: Config) -> Result<(), String> {
    let own_log = logger::install(config.log_level);
    again::on_panic();
    kernel::floor()?;
    process::protect_self().map_err(|e| format!("can't protect this process from its modules: {e}"))?;
    // Without it uids and Landlock still stand before the control socket; `warn_at_start` says so.
    let _ = peer::adopt_orphans();
    let signals = signals::Signals::catch().map_err(|e| format!("can't catch signals: {e}"))?;
    let routes = route_table(&config)?;
    let folder = config.state_folder.clone();
    let options = Options {
        quota_bytes: match config.store.quota {
            Quota::Auto => None,
            Quota::Bytes(bytes) => Some(bytes),
        },
        allow_volatile_state: config.store.allow_volatile_state,
        boot_id: clock::boot_id(),
    };
    make_state_folder(&config)?;
    let floor = clock::floor(&folder);
    let certain = Arc::new(TimeFloor::new(floor));
    let dialler = dialler(&config, &certain)?;
    let at_work = store::at_work(&config.store.path);
    let opened = Store::open(&config.store.path, &options).map_err(|e| e.to_string())?;
    // The socket comes after the store: who is refused the store must not have taken the socket of who has it.
    let listener = socket::bind(&config.control_socket).map_err(|e| e.to_string())?;
    let images = Images::open(&folder, config.pulls.limit_bytes)
        .map_err(|e| format!("image store in {}: {e}", folder.display()))?;
    let executor = Rc::new(Executor::new());
    let start = Start { config, routes, opened, at_work, options, floor, certain, dialler, images, own_log };
    let result = smol::block_on(executor.run(serve(Rc::clone(&executor), start, listener, signals)));
    log::info!("skerry status=stopped");
    result
}

struct Start {
    config: Config,
    routes: RouteTable,
    opened: Opened,
    /// Until the storage thread has the store.
    at_work: AtWork,
    options: Options,
    floor: crate::model::time::Wall,
    certain: Arc<TimeFloor>,
    /// Absent without a cloud.
    dialler: Option<Rc<Dialler>>,
    images: Images,
    own_log: OwnLog,
}

async fn serve(
    executor: Rc<Executor>,
    start: Start,
    listener: std::os::unix::net::UnixListener,
    mut signals: signals::Signals,
) -> Result<(), String> {
    let Start { mut config, routes, opened, at_work, options, floor, certain, dialler, images, own_log } = start;
    let Opened { mut store, restored, clock: last_clock, report } = opened;
    let board = remembered(&mut store, &mut config, report)?;
    let deployed = documents(&mut store, deployment::DOCUMENT)?.remove("");
    let gone = store.documents(REMOVED_DOCUMENTS)?;
    let (jobs, dones, storage) = start_storage(store, &config, options)?;
    drop(at_work);
    let hub = restored_hub(&config, routes, restored, gone);
    let (hub_port, rearmed) = Port::new(hub, Clock::start(&last_clock, floor), jobs.clone());
    let hub_port = Rc::new(hub_port);
    let ((replan, replans), (came, changed), (errands, errand)) = (bounded(1), bounded(1), bounded(ERRANDS_MAX));
    let ((report, reports), (previews, previewed)) = (bounded(1), bounded(1));
    let (calls, call_queue) = bounded::<Call>(CALLS_MAX);
    log_start(&config);
    let proved = Arc::new(Proved::open(&config.state_folder));
    let pulls = Pulls::new(images.clone(), &config, Arc::clone(&proved), Arc::clone(&certain));
    let (logs, log_thread) = start_logs(&config)?;
    let world = Rc::new(World {
        keys: Keys::new(&config.state_folder),
        proved,
        floor: certain,
        dialler,
        hosts: RefCell::new(Hosts::new(&config.state_folder)),
        crashes: Arc::new(Mutex::new(CrashReports::new(&config.state_folder))),
        config,
        started: hub_port.now().mono,
        begun: Cell::new(None),
        port: Rc::clone(&hub_port),
        board,
        images,
        pulls,
        logs: logs.clone(),
        own_log,
        senders: RefCell::default(),
        wear: RefCell::new(Wear::new(hub_port.now().mono, hub_port.now().wall)),
        executor: Rc::clone(&executor),
        scratch: RefCell::default(),
        came,
        previews,
        report,
        errands,
        replan,
    });
    deployment::restore(&world, deployed.as_ref());
    warn_at_start(&world);
    executor.spawn(port::run_timer(Rc::clone(&hub_port), rearmed)).detach();
    executor.spawn(take_done(Rc::clone(&hub_port), dones)).detach();
    executor.spawn(answers::run(Rc::clone(&world), call_queue, jobs.clone())).detach();
    keep_house(&executor, &world);
    let agent = executor.spawn(Agent::new(Rc::clone(&world), replans, previewed).run());
    let reports = executor.spawn(reports::run(Rc::clone(&world), reports));
    let identities = executor.spawn(identities::run(Rc::clone(&world), Wakes { changed, errands: errand }));
    let control = start_control(&world, listener, calls);
    until_asked_to_end(&mut signals).await;
    // With the agent there, what has just stopped would be started again.
    drop((control, agent, reports, identities));
    let _ = std::fs::remove_file(&world.config.control_socket);
    stop(&world, jobs).await;
    drop(world);
    let _ = storage.join();
    end_logs(logs, log_thread);
    Ok(())
}

/// What is looked after once in a while.
fn keep_house(executor: &Executor, world: &Rc<World>) {
    executor.spawn(wear::run(Rc::clone(world))).detach();
    executor.spawn(removed::run(Rc::clone(world))).detach();
    executor.spawn(reap_orphans(Rc::clone(world))).detach();
    executor.spawn(end_start()).detach();
}

/// It ends when what is returned is dropped.
fn start_control(world: &Rc<World>, listener: std::os::unix::net::UnixListener, calls: Sender<Call>) -> smol::Task<()> {
    let executor = Rc::clone(&world.executor);
    let of_world = Rc::clone(world);
    let control = control::serve(Rc::clone(&executor), listener, calls, move |refused| of_world.refuse_peer(refused));
    executor.spawn(async move {
        if let Err(error) = control.await {
            log::error!("control socket status=ended reason=\"{error}\"");
        }
    })
}

/// What was known before this start, and what the store has to tell.
fn remembered(store: &mut Store, config: &mut Config, report: Option<String>) -> Result<Board, String> {
    let board = Board::default();
    remember_hub(config, &board);
    *board.twins.borrow_mut() = twins(store, config)?;
    *board.identities.borrow_mut() = documents(store, "identity/")?;
    let proofs = documents(store, PROOFS)?.into_iter();
    *board.proofs.borrow_mut() = proofs.map(|(name, kept)| (name, Proof::from_json(&kept))).collect();
    report.into_iter().chain(again::report()).for_each(|report| board.warn(report));
    Ok(board)
}

/// The hub that this device was assigned before: the provisioning service may be away.
fn remember_hub(config: &mut Config, board: &Board) {
    let Some(dps) = &config.cloud.dps else { return };
    let Some(assigned) = assignment::load(&config.state_folder, dps) else { return };
    let since = assignment::written(&config.state_folder);
    *board.provisioned.borrow_mut() = Provisioned::assigned(&assigned, since);
    config.cloud.device = Some(provision::device(dps, &assigned));
    if config.device_id == dps.registration_id {
        config.device_id = assigned.device;
    }
}

/// The thread that alone touches the store.
type Storage = (Sender<Job>, Receiver<Done>, std::thread::JoinHandle<()>);

fn start_storage(store: Store, config: &Config, options: Options) -> Result<Storage, String> {
    let (jobs, job_queue) = bounded(JOBS_MAX);
    let (done, dones) = bounded(JOBS_MAX);
    let folder = config.store.path.clone();
    let thread = std::thread::Builder::new().name("store".to_owned());
    let thread = thread.spawn(move || {
        let _at_work = store::at_work(&folder);
        let reopen = |acknowledged| Store::reopen(&folder, &options, acknowledged);
        storage::run(store, reopen, job_queue, done);
    });
    Ok((jobs, dones, thread.map_err(|e| format!("can't start the storage thread: {e}"))?))
}

/// Who writes what modules log, if that is wanted.
fn start_logs(config: &Config) -> Result<(Option<LogWriter>, Option<JoinHandle<()>>), String> {
    let Some(files) = config.log_files.clone() else { return Ok((None, None)) };
    let (writer, thread) = log_writer::start(files).map_err(|e| format!("can't start the thread of logs: {e}"))?;
    Ok((Some(writer), Some(thread)))
}

/// What modules said last is still written.
fn end_logs(writer: Option<LogWriter>, thread: Option<JoinHandle<()>>) {
    writer.iter().for_each(LogWriter::close);
    thread.map(JoinHandle::join);
}

/// The way to the cloud, if any identity has one.
fn dialler(config: &Config, floor: &Arc<TimeFloor>) -> Result<Option<Rc<Dialler>>, String> {
    let cloud = &config.cloud;
    if cloud.is_none() {
        return Ok(None);
    }
    let (address, proxy) = (cloud.address.clone(), cloud.proxy.clone());
    let dialler = Dialler::new(cloud.ca.as_deref(), address, proxy, cloud.operation_timeout, Arc::clone(floor))?;
    Ok(Some(Rc::new(dialler)))
}

fn log_start(config: &Config) {
    log::info!(
        "skerry version={} device={} status=running state={} control={}",
        env!("CARGO_PKG_VERSION"),
        config.device_id,
        config.state_folder.display(),
        config.control_socket.display()
    );
}

/// What an operator should know before the first message waits in vain.
fn warn_at_start(world: &World) {
    use std::os::unix::fs::MetadataExt;
    let (board, config) = (&world.board, &world.config);
    let (warnings, empty, upstream) = world.port.look(|hub| {
        let routes = hub.routes();
        let warnings: Vec<String> =
            routes.warnings().map(|(name, w)| format!("route {name}, column {}: {}", w.column, w.message)).collect();
        let upstream = routes.endpoints().iter().any(|sink| matches!(sink, Sink::Upstream));
        (warnings, routes.is_empty(), upstream)
    });
    warnings.into_iter().for_each(|warning| board.warn(warning));
    if empty {
        board.warn("there are no routes: messages of modules go nowhere; add some to [routes]".to_owned());
    }
    if upstream && config.cloud.is_none() {
        board.warn(
            "routes lead to $upstream, but there is no cloud: messages wait for it until they expire; give [provisioning] the device's \
             connection string, or source = \"dps\""
                .to_owned(),
        );
    }
    if !peer::adopts_orphans() {
        board.warn("a process that a module leaves behind is not known as that module's here: the system lets nobody adopt orphans".to_owned());
    }
    let open = |file: &std::path::Path| std::fs::metadata(file).is_ok_and(|m| m.mode() & 0o044 != 0);
    if let Some(file) = config.file.as_deref().filter(|file| config.cloud.inline_keys && open(file)) {
        let file = file.display();
        board.warn(format!("{file} holds a key and others can read it: chmod 600 it, or use connection_string_file"));
    }
}

/// Its modules run by then, or are about to.
async fn end_start() {
    smol::Timer::after(START_TIME).await;
    code_pages::forget();
}

/// The processes that a module leaves behind become ours, and would stay as zombies. Those of instances are left to who
/// watches them: their exit status is still wanted.
async fn reap_orphans(world: Rc<World>) {
    // Without the signal, as with it while an instance stands in front: once in a while is enough.
    let mut ended = signals::Children::catch().ok();
    loop {
        let mine = |pid| world.board.slots.borrow().values().any(|slot| slot.pid.get() == Some(pid));
        let count = peer::reap_orphans(mine);
        if count > 0 {
            log::debug!("orphans reaped={count}");
        }
        let signal = async {
            match &mut ended {
                Some(children) => children.wait().await,
                None => std::future::pending().await,
            }
        };
        let later = async {
            smol::Timer::after(REAP_EVERY).await;
        };
        smol::future::or(signal, later).await;
    }
}

/// Waits for the signal to end.
async fn until_asked_to_end(signals: &mut signals::Signals) {
    let signal = signals.wait().await;
    log::info!("skerry status=stopping signal={signal}");
}

async fn take_done(hub_port: Rc<Port>, dones: Receiver<Done>) {
    while let Ok(done) = dones.recv().await {
        hub_port.handle_done(done);
    }
}

/// All instances at once, then what is left to write.
async fn stop(world: &Rc<World>, jobs: Sender<Job>) {
    world.board.stopping.set(true);
    let slots: Vec<_> = world.board.slots.borrow().values().cloned().collect();
    for slot in slots {
        slot.ending.set(true);
        let _ = slot.orders.try_send(Order::End);
    }
    let gone = async {
        while !world.board.slots.borrow().is_empty() {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    };
    let late = async {
        smol::Timer::after(STOP_WAIT).await;
    };
    smol::future::or(gone, late).await;
    reports::farewell(world).await;
    // After the instances: their last messages may still get through.
    for uplink in world.board.uplinks.borrow().values() {
        uplink.end();
    }
    let gone = async {
        while !world.board.uplinks.borrow().is_empty() {
            smol::Timer::after(Duration::from_millis(5)).await;
        }
    };
    within(UPLINK_STOP_WAIT, gone).await;
    // One after the other: a commit has its limit, and one may be under way.
    for _ in 0..STOP_COMMITS_MAX {
        let Some(settled) = world.port.commit_rest() else { break };
        let _ = settled.recv().await;
    }
    jobs.close();
}

fn restored_hub(config: &Config, routes: RouteTable, restored: Restored, gone: Vec<(String, Vec<u8>)>) -> Hub {
    let mut hub = Hub::new(&config.device_id, hub_config(config), routes, restored);
    for (name, text) in gone {
        hub.restore_removed(name.trim_start_matches(REMOVED_DOCUMENTS), &text);
    }
    hub
}

fn hub_config(config: &Config) -> HubConfig {
    HubConfig {
        flush_interval: config.store.flush_interval,
        ttl: match config.store.ttl {
            TimeToLive::After(time) => Some(time),
            TimeToLive::Never => None,
        },
        memory_bytes: config.store.memory_bytes_max,
        credit_messages: config.store.credit_messages,
        credit_bytes: config.store.credit_bytes,
        refusals_max: config.store.max_refusals,
        evict: config.store.at_quota == AtQuota::Evict,
    }
}

/// 0711: modules reach their own folders below it, and nobody lists it.
fn make_state_folder(config: &Config) -> Result<(), String> {
    use std::os::unix::fs::DirBuilderExt;
    let folder = &config.state_folder;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| {
        format!("state folder {}: {e}; make it, or name another with [state] folder or --state", folder.display())
    })
}

/// Documents of one kind, by what follows it in their names.
fn documents(store: &mut Store, kind: &str) -> Result<std::collections::BTreeMap<String, serde_json::Value>, String> {
    let documents = store.documents(kind)?.into_iter();
    // One that can't be read is made again; that does no harm.
    Ok(documents
        .filter_map(|(name, bytes)| Some((name.strip_prefix(kind)?.to_owned(), serde_json::from_slice(&bytes).ok()?)))
        .collect())
}

/// From the store; a module's configured settings are its desired properties until it has some.
fn twins(store: &mut Store, config: &Config) -> Result<std::collections::BTreeMap<String, Twin>, String> {
    let mut twins = std::collections::BTreeMap::new();
    for (name, bytes) in store.documents("twin/")? {
        let module = name.trim_start_matches("twin/").to_owned();
        let parsed = serde_json::from_slice(&bytes).ok().and_then(Twin::from_json);
        twins.insert(module, parsed.ok_or_else(|| format!("the stored document {name} is broken"))?);
    }
    for (name, instance) in &config.modules.instances {
        if instance.settings.is_empty() {
            continue;
        }
        let twin: &mut Twin = twins.entry(name.clone()).or_default();
        if twin.desired_version() <= 1 && twin.desired().is_empty() {
            let settings = serde_json::Value::Object(instance.settings.clone());
            twin.apply_desired(&settings).map_err(|e| format!("[modules.{name}] settings: {e}"))?;
        }
    }
    Ok(twins)
}
