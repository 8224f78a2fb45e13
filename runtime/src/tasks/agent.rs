//! Compares what is asked for (by a manifest, or else by the drop-in folders and the configuration) with what runs, and carries out the
//! plan. Must never stop an instance because a file is being copied, and never touch one for another's sake.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};
use smol::channel::Receiver;

use super::board::{Asked, Order, Slot, Status, Told};
use super::dropins::{DropIns, files_of};
use super::instance;
use super::mailbox::Preview;
use super::supply::Supply;
use super::tally::Of;
use super::world::World;
use crate::io::watch::Watch;
use crate::logic::plan::{Present, Step, Wanted, foresee, plan};
use crate::logic::proof::Version;
use crate::logic::signature;
use crate::model::config::ImageRef;
use crate::model::image::Image;
use crate::model::manifest::{Manifest, ModuleSpec, SetupSpec};
use crate::model::reference::{PullPolicy, Reference};

/// Orders that may wait for an instance that is busy ending.
const ORDERS_MAX: usize = 8;
/// Several events of one copy become one look.
const SETTLE: Duration = Duration::from_millis(20);
/// Without any event the folders are looked at this often: an event may be missed on network file systems.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

pub struct Agent {
    world: Rc<World>,
    replan: Receiver<()>,
    previews: Receiver<Preview>,
    dropins: DropIns,
    supply: Supply,
    /// Images that only the image store has, by digest.
    stored: BTreeMap<String, Rc<Image>>,
}

/// What is to run under a name.
struct Target {
    spec: Rc<ModuleSpec>,
    /// With its image; absent while there is none.
    version: Option<(Version, Rc<Image>)>,
    problem: Option<String>,
    missing: bool,
}

impl Agent {
    pub fn new(world: Rc<World>, replan: Receiver<()>, previews: Receiver<Preview>) -> Agent {
        Agent {
            world,
            replan,
            previews,
            dropins: DropIns::default(),
            supply: Supply::default(),
            stored: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) {
        loop {
            let folders = &self.world.config.modules.folders;
            let watch = Watch::new(folders.iter().map(PathBuf::as_path));
            if let Err(error) = &watch {
                self.world.board.warn(format!("drop-in folders are looked at every minute only: inotify says {error}"));
            }
            self.dropins.look(&self.world).await;
            self.carry_out().await;
            while let Some(preview) = self.wait(watch.as_ref().ok()).await {
                let steps = self.preview(&preview.manifest).await;
                let _ = preview.answer.try_send(steps);
            }
            smol::Timer::after(SETTLE).await;
        }
    }

    /// For anything that may change the plan; or for somebody who asks for one.
    async fn wait(&self, watch: Option<&Watch>) -> Option<Preview> {
        let changed = async {
            match watch {
                Some(watch) => drop(watch.changed().await),
                None => std::future::pending().await,
            }
            None
        };
        let anyway = async {
            smol::Timer::after(LOOK_ANYWAY).await;
            None
        };
        let told = async {
            let _ = self.replan.recv().await;
            None
        };
        let asked = async {
            match self.previews.recv().await {
                Ok(preview) => Some(preview),
                Err(_) => std::future::pending().await,
            }
        };
        smol::future::or(smol::future::or(changed, told), smol::future::or(anyway, asked)).await
    }

    /// The steps for a manifest, without taking any.
    async fn preview(&mut self, manifest: &Manifest) -> Vec<Value> {
        self.dropins.look(&self.world).await;
        self.dropins.look_at(&self.world, &files_of(manifest.modules.values())).await;
        let mut targets = BTreeMap::new();
        for (name, spec) in &manifest.modules {
            targets.insert(name.clone(), self.target(name, Rc::new(spec.clone()), true).await);
        }
        let wanted = targets.iter().map(|(name, target)| (name.clone(), wanted(target))).collect();
        let steps = foresee(&wanted, present(&self.world));
        let steps = steps.iter().filter(|step| !matches!(step, Step::Fetch { .. }));
        let mut shown: Vec<Value> = steps.map(|step| step_json(step, &targets)).collect();
        for (name, target) in targets.iter().filter(|(_, target)| target.missing) {
            shown.push(json!({"step": "fetch", "module": name, "image": target.spec.image.to_string(), "problem": target.problem}));
        }
        shown
    }

    /// Every module that there should be.
    fn asked(&self) -> BTreeMap<String, Rc<ModuleSpec>> {
        if let Some(manifest) = self.world.board.deployment.borrow().manifest() {
            return manifest.modules.iter().map(|(name, spec)| (name.clone(), Rc::new(spec.clone()))).collect();
        }
        let modules = &self.world.config.modules;
        let mut asked = BTreeMap::new();
        if modules.autostart {
            for image in self.dropins.images() {
                let reference = ImageRef { name: image.name.clone(), version: None };
                asked.insert(image.name.clone(), Rc::new(ModuleSpec::plain(reference, SetupSpec::default())));
            }
        }
        for (name, instance) in &modules.instances {
            asked.remove(name);
            if instance.enabled {
                let setup = SetupSpec { env: instance.env.clone(), ..SetupSpec::default() };
                asked.insert(name.clone(), Rc::new(ModuleSpec::plain(instance.image.clone(), setup)));
            }
        }
        asked
    }

    fn image(&mut self, spec: &ModuleSpec, preview: bool) -> Result<Rc<Image>, String> {
        match &spec.image {
            Reference::Named(named) => self.dropins.named(named),
            Reference::File(path) => self.dropins.file(path),
            reference @ (Reference::Https(_) | Reference::Oci(_)) if preview => self.supply.known(reference),
            reference @ (Reference::Https(_) | Reference::Oci(_)) => {
                let manifest = self.world.board.deployment.borrow().manifest().cloned();
                let registries = manifest.as_ref().map_or(&[][..], |manifest| &manifest.registries);
                self.supply.image(&self.world, reference, registries, spec.pull)
            }
        }
    }

    async fn targets(&mut self) -> BTreeMap<String, Target> {
        let asked = self.asked();
        let files = files_of(asked.values().map(Rc::as_ref));
        self.dropins.forget(&files);
        self.dropins.look_at(&self.world, &files).await;
        self.supply.forget(&asked.values().map(|spec| spec.image.to_string()).collect::<Vec<_>>());
        let anew = asked.iter().filter(|(name, spec)| self.is_made_anew(name, spec));
        anew.map(|(_, spec)| &spec.image)
            .collect::<Vec<_>>()
            .into_iter()
            .for_each(|image| self.supply.ask_again(image));
        let mut targets = BTreeMap::new();
        for (name, spec) in asked {
            let target = self.target(&name, spec, false).await;
            targets.insert(name, target);
        }
        targets
    }

    /// It is asked for with the same image and as another: `on-create` then looks what stands behind a tag today, as the field does.
    fn is_made_anew(&self, name: &str, spec: &ModuleSpec) -> bool {
        let asked = self.world.board.asked.borrow();
        let Some(before) = asked.get(name).map(|asked| &asked.spec) else { return false };
        let same = before.version == spec.version && before.setup == spec.setup && before.written == spec.written;
        before.image == spec.image && spec.pull == PullPolicy::OnCreate && !same
    }

    /// A preview leaves everything as it is.
    async fn target(&mut self, name: &str, spec: Rc<ModuleSpec>, preview: bool) -> Target {
        let setup = self.world.setup(name, &spec.setup);
        match self.image(&spec, preview) {
            Ok(image) => {
                let wanted = Version { digest: image.digest.clone(), setup };
                let (version, problem) = self.choose(name, wanted, image, preview).await;
                Target { spec, version: Some(version), problem, missing: false }
            }
            Err(problem) => {
                // What ran well goes on, also after a start.
                let good = self.world.board.proofs.borrow().get(name).and_then(|proof| proof.good().cloned());
                let running = self.world.board.slot(name).map(|slot| slot.told.borrow().version.clone());
                let version = match running.or(good) {
                    Some(version) => self.stored(&version.digest).await.map(|image| (version, image)),
                    None => None,
                };
                Target { spec, version, problem: Some(format!("it has no image: {problem}")), missing: true }
            }
        }
    }

    /// The wanted version, or the last good one where that was rejected.
    async fn choose(
        &mut self,
        name: &str,
        wanted: Version,
        image: Rc<Image>,
        preview: bool,
    ) -> ((Version, Rc<Image>), Option<String>) {
        let known = self.world.board.proofs.borrow().get(name).cloned();
        let Some(mut proof) = known else { return ((wanted, image), None) };
        let (version, news) = proof.choose(&wanted);
        let reason = proof.rejected().map(|r| r.reason.clone());
        if news && !preview {
            self.world.board.proofs.borrow_mut().insert(name.to_owned(), proof);
            self.world.keep_proof(name);
        }
        if version == wanted {
            return ((version, image), None);
        }
        match self.stored(&version.digest).await {
            Some(good) => {
                let problem = format!(
                    "{} {} was rejected and {} runs again: {}",
                    image.name,
                    image.version,
                    good.version,
                    reason.unwrap_or_default()
                );
                ((version, good), Some(problem))
            }
            None => {
                self.world.board.warn(format!("{name}: the last good image is lost, so the new one has to do"));
                if let Some(proof) = self.world.board.proofs.borrow_mut().get_mut(name) {
                    proof.handle_good_lost();
                }
                self.world.keep_proof(name);
                ((wanted, image), None)
            }
        }
    }

    async fn stored(&mut self, digest: &str) -> Option<Rc<Image>> {
        if let Some(slot) = self.world.board.slots.borrow().values().find(|slot| slot.image.borrow().digest == digest) {
            return Some(Rc::clone(&slot.image.borrow()));
        }
        if !self.stored.contains_key(digest) {
            // On another thread, since all of it is read.
            let (images, wanted) = (self.world.images.clone(), digest.to_owned());
            let image = smol::unblock(move || images.stored(&wanted)).await?;
            // It may be from before signatures were asked for. To go back to it is what it is kept for.
            let signatures = self.world.images.signatures(digest);
            if let Err(why) = signature::admit(&self.world.config.images, &image, signatures.as_deref(), None, true) {
                self.world.board.warn(format!("{} {} was stored and may not run: {why}", image.name, image.version));
                return None;
            }
            self.stored.insert(digest.to_owned(), Rc::new(image));
        }
        self.stored.get(digest).cloned()
    }

    async fn carry_out(&mut self) {
        let targets = self.targets().await;
        self.post(&targets);
        let wanted = targets.iter().map(|(name, target)| (name.clone(), wanted(target))).collect();
        let (steps, there) = (plan(&wanted, &present(&self.world)), present(&self.world));
        if steps.is_empty() && !there.values().any(|now| now.starting || now.ending) {
            self.world.deployed();
        }
        for step in steps {
            match step {
                // What can be fetched is being fetched.
                Step::Fetch { .. } => {}
                Step::Remove { name } => self.remove(&name),
                Step::Create { name } => self.create(&name, &targets[&name]),
                Step::Change { name } => self.change(&name, &targets[&name]),
                Step::Stop { name } => self.tell(&name, Order::Stop, |told| told.running = false),
                Step::Start { name } => self.tell(&name, Order::Start, |told| told.running = true),
            }
        }
        // What needs no new process.
        for (name, target) in &targets {
            if let Some(slot) = self.world.board.slot(name) {
                slot.policy.set(target.spec.policy);
                slot.told.borrow_mut().order = target.spec.startup_order;
            }
        }
        self.supply.settle(&self.world);
        self.forget_proofs(&targets);
        self.collect().await;
        let _ = self.world.report.try_send(());
    }

    /// For everybody to see.
    fn post(&self, targets: &BTreeMap<String, Target>) {
        let asked = targets.iter().map(|(name, target)| {
            let coming = self.supply.is_coming(&target.spec.image);
            if let Some(problem) = &target.problem {
                let before = self.world.board.asked.borrow().get(name).and_then(|asked| asked.problem.clone());
                if before.as_ref() != Some(problem) {
                    let level = if coming { log::Level::Info } else { log::Level::Warn };
                    log::log!(level, "instance={name} problem={problem:?}");
                }
            }
            (name.clone(), Asked { spec: Rc::clone(&target.spec), problem: target.problem.clone(), coming })
        });
        let asked = asked.collect();
        *self.world.board.asked.borrow_mut() = asked;
    }

    fn create(&self, name: &str, target: &Target) {
        let Some((version, image)) = &target.version else { return };
        let (orders, receiver) = smol::channel::bounded(ORDERS_MAX);
        let told = Told { version: version.clone(), running: target.spec.running, order: target.spec.startup_order };
        let now = self.world.port.now();
        let slot =
            Rc::new(Slot::new(name, Rc::clone(image), told, target.spec.policy, orders, now, self.world.logs.clone()));
        self.world.board.slots.borrow_mut().insert(name.to_owned(), Rc::clone(&slot));
        let _ = self.world.came.try_send(());
        self.world.executor.spawn(instance::run(Rc::clone(&self.world), slot, receiver)).detach();
    }

    fn change(&self, name: &str, target: &Target) {
        let Some((version, image)) = &target.version else { return };
        let Some(slot) = self.world.board.slot(name) else { return };
        let starts = target.spec.running && !slot.told.borrow().running;
        let order = Order::Become(Rc::clone(image), Rc::new(version.setup.clone()));
        self.world.board.tally.count(Of::Prepare, &[name, &image.version]);
        self.tell(name, order, |told| {
            told.version = version.clone();
            told.running = target.spec.running;
        });
        if starts {
            self.tell(name, Order::Start, |_| ());
        }
    }

    fn remove(&self, name: &str) {
        if let Some(slot) = self.world.board.slot(name) {
            slot.ending.set(true);
        }
        self.tell(name, Order::End, |_| ());
    }

    /// What it is told counts from now on, although it may take a while to carry it out.
    fn tell(&self, name: &str, order: Order, change: impl FnOnce(&mut Told)) {
        let Some(slot) = self.world.board.slot(name) else { return };
        let text = match &order {
            Order::End => "end".to_owned(),
            Order::Stop => "stop".to_owned(),
            Order::Start => "start".to_owned(),
            Order::Restart => "restart".to_owned(),
            Order::Become(image, _) => format!("become version={} digest={}", image.version, &image.digest[..12]),
        };
        log::info!("instance={}/{} order={text}", name, slot.generation.get());
        if slot.orders.try_send(order).is_err() {
            // It is looked at again; nothing is lost but a minute.
            log::warn!("instance={name} orders=full");
            return;
        }
        change(&mut slot.told.borrow_mut());
    }

    /// Of instances that nobody asks for any more.
    fn forget_proofs(&self, targets: &BTreeMap<String, Target>) {
        let gone: Vec<String> = {
            let (slots, proofs) = (self.world.board.slots.borrow(), self.world.board.proofs.borrow());
            proofs.keys().filter(|name| !targets.contains_key(*name) && !slots.contains_key(*name)).cloned().collect()
        };
        for name in gone {
            self.world.board.proofs.borrow_mut().remove(&name);
            self.world.keep_proof(&name);
        }
    }

    /// Images that no file, no instance and no proof needs, on disk or in memory.
    async fn collect(&mut self) {
        let mut keep: Vec<String> = self.dropins.digests().map(str::to_owned).chain(self.supply.digests()).collect();
        for slot in self.world.board.slots.borrow().values() {
            keep.push(slot.image.borrow().digest.clone());
            keep.push(slot.told.borrow().version.digest.clone());
        }
        for proof in self.world.board.proofs.borrow().values() {
            keep.extend(proof.digests().map(str::to_owned));
        }
        if self.world.board.proofs_unkept.get() > 0 {
            return self.world.images.need(&keep.iter().map(String::as_str).collect::<Vec<_>>());
        }
        self.stored.retain(|digest, _| keep.contains(digest));
        let images = self.world.images.clone();
        let collect = move || images.collect(&keep.iter().map(String::as_str).collect::<Vec<_>>());
        if let Err(error) = smol::unblock(collect).await {
            log::warn!("image store: {error}");
        }
    }
}

fn step_json(step: &Step, targets: &BTreeMap<String, Target>) -> Value {
    let (word, name) = match step {
        Step::Remove { name } => ("remove", name),
        Step::Fetch { name } => ("fetch", name),
        Step::Create { name } => ("create", name),
        Step::Change { name } => ("change", name),
        Step::Stop { name } => ("stop", name),
        Step::Start { name } => ("start", name),
    };
    let target = targets.get(name);
    let image = target.and_then(|target| target.version.as_ref()).map(|(_, i)| format!("{}@{}", i.name, i.version));
    json!({"step": word, "module": name, "image": image, "problem": target.and_then(|target| target.problem.clone())})
}

fn wanted(target: &Target) -> Wanted<Version> {
    Wanted {
        version: target.version.as_ref().map(|(version, _)| version.clone()),
        missing: target.missing,
        running: target.spec.running,
        order: target.spec.startup_order,
    }
}

fn present(world: &World) -> BTreeMap<String, Present<Version>> {
    let slots = world.board.slots.borrow();
    let one = |slot: &Rc<Slot>| {
        let told = slot.told.borrow();
        Present {
            version: told.version.clone(),
            running: told.running,
            order: told.order,
            starting: slot.status.get() == Status::Starting,
            ending: slot.ending.get(),
        }
    };
    slots.iter().map(|(name, slot)| (name.clone(), one(slot))).collect()
}
