//! Compares what the drop-in folders hold with what runs, and carries out the plan. Until a manifest is in force every
//! image there gets one instance named after it. Must never stop an instance because a file is being copied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use smol::channel::Receiver;

use super::board::{Order, Slot};
use super::instance;
use super::world::World;
use crate::io::signing;
use crate::io::watch::Watch;
use crate::logic::plan::{Running, Step, Wanted, plan};
use crate::logic::{signature, version};
use crate::model::config::ImageRef;
use crate::model::image::Image;

/// Orders that may wait for an instance that is busy ending.
const ORDERS_MAX: usize = 8;
/// Several events of one copy become one look.
const SETTLE: Duration = Duration::from_millis(20);
/// Without any event the folders are looked at this often: an event may be missed on network file systems.
const LOOK_ANYWAY: Duration = Duration::from_secs(60);

/// Inode, bytes, and when it changed.
type Stamp = (u64, u64, Option<SystemTime>);

/// What was seen of a file; the same again is not read again.
struct Seen {
    stamp: Stamp,
    /// Of its `.sig` file, where there is one.
    signed: Option<Stamp>,
    image: Option<Rc<Image>>,
}

pub struct Agent {
    world: Rc<World>,
    replan: Receiver<()>,
    files: BTreeMap<PathBuf, Seen>,
}

impl Agent {
    pub fn new(world: Rc<World>, replan: Receiver<()>) -> Agent {
        Agent { world, replan, files: BTreeMap::new() }
    }

    pub async fn run(mut self) {
        loop {
            let folders = &self.world.config.modules.folders;
            let watch = Watch::new(folders.iter().map(PathBuf::as_path));
            if let Err(error) = &watch {
                self.world.board.warn(format!("drop-in folders are looked at every minute only: inotify says {error}"));
            }
            self.look();
            self.carry_out();
            self.wait(watch.ok()).await;
        }
    }

    async fn wait(&self, watch: Option<Watch>) {
        let changed = async {
            match watch {
                Some(watch) => drop(watch.changed().await),
                None => std::future::pending().await,
            }
        };
        let anyway = async {
            smol::Timer::after(LOOK_ANYWAY).await;
        };
        let told = async {
            let _ = self.replan.recv().await;
        };
        smol::future::or(changed, smol::future::or(anyway, told)).await;
        smol::Timer::after(SETTLE).await;
    }

    /// Reads what is new in the folders. A file that is not whole yet leaves its former image in place.
    fn look(&mut self) {
        let mut found = Vec::new();
        for folder in &self.world.config.modules.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let paths = entries.flatten().map(|entry| entry.path());
            found.extend(paths.filter(|p| p.extension().is_some_and(|e| e == "so")));
        }
        self.files.retain(|path, _| found.contains(path));
        self.world.board.rejected.borrow_mut().retain(|path, _| found.contains(&PathBuf::from(path)));
        for path in found {
            self.look_at(&path);
        }
    }

    fn look_at(&mut self, path: &Path) {
        let Some(stamp) = stamp_of(path) else { return };
        let signed = stamp_of(&signing::signatures_path(path));
        let name = path.display().to_string();
        let before = self.files.get(path);
        // Who was let in is not asked again; who was refused may have got a signature.
        let refused = self.world.board.rejected.borrow().contains_key(&name);
        if before.is_some_and(|seen| seen.stamp == stamp && (seen.signed == signed || !refused)) {
            return;
        }
        let image = match self.world.images.put(path, |image| self.admit(path, image)) {
            Ok(image) => {
                self.world.board.rejected.borrow_mut().remove(&name);
                Some(Rc::new(image))
            }
            Err(error) => {
                let reason = error.to_string();
                let known = self.world.board.rejected.borrow_mut().insert(name.clone(), reason.clone());
                if known.as_ref() != Some(&reason) {
                    log::warn!("image={name} refused: {reason}");
                }
                before.and_then(|seen| seen.image.clone())
            }
        };
        self.files.insert(path.to_owned(), Seen { stamp, signed, image });
    }

    /// Whether the image at `path` may run here: signatures, and no way back.
    fn admit(&self, path: &Path, image: &Image) -> Result<(), String> {
        let config = &self.world.config;
        let signatures = signing::signatures(path).map_err(|e| format!("its .sig file can't be read: {e}"))?;
        let proved = self.world.proved.version(&image.name);
        let pinned = config.modules.asks_for(&image.name, &image.version);
        let remark = signature::admit(&config.images, image, signatures.as_deref(), proved.as_deref(), pinned)?;
        if let Some(remark) = remark {
            self.world.board.warn(format!("{} may run all the same: {remark}", path.display()));
        }
        Ok(())
    }

    /// Every instance that there should be, with its image.
    fn wanted(&self) -> BTreeMap<String, Rc<Image>> {
        let modules = &self.world.config.modules;
        let mut wanted = BTreeMap::new();
        if modules.autostart {
            for image in self.files.values().filter_map(|seen| seen.image.as_ref()) {
                wanted
                    .entry(image.name.clone())
                    .and_modify(|known: &mut Rc<Image>| {
                        if version::is_newer(&image.version, &known.version) {
                            *known = Rc::clone(image);
                        }
                    })
                    .or_insert_with(|| Rc::clone(image));
            }
        }
        for (name, instance) in &modules.instances {
            wanted.remove(name);
            if !instance.enabled {
                continue;
            }
            match self.resolve(&instance.image) {
                Some(image) => drop(wanted.insert(name.clone(), image)),
                None => self.world.board.warn(format!(
                    "instance {name} has no image: no file in the drop-in folders is a module named {:?}{}",
                    instance.image.name,
                    instance.image.version.as_ref().map_or(String::new(), |v| format!(" of version {v}"))
                )),
            }
        }
        wanted
    }

    fn resolve(&self, wanted: &ImageRef) -> Option<Rc<Image>> {
        let images = self.files.values().filter_map(|seen| seen.image.as_ref());
        let fitting =
            images.filter(|i| i.name == wanted.name && wanted.version.as_ref().is_none_or(|v| *v == i.version));
        fitting.reduce(|a, b| if version::is_newer(&b.version, &a.version) { b } else { a }).cloned()
    }

    fn carry_out(&self) {
        let wanted = self.wanted();
        let asked = wanted.iter().map(|(name, i)| (name.clone(), Wanted { digest: i.digest.clone() })).collect();
        let running = self
            .world
            .board
            .slots
            .borrow()
            .iter()
            .map(|(name, slot)| {
                let digest = slot.image.borrow().digest.clone();
                (name.clone(), Running { digest, ending: slot.ending.get() })
            })
            .collect();
        for step in plan(&asked, &running) {
            match step {
                Step::Start { name } => self.start(&name, &wanted[&name]),
                Step::Replace { name } => self.order(&name, Order::Replace(Rc::clone(&wanted[&name]))),
                Step::Stop { name } => self.order(&name, Order::Stop),
            }
        }
        self.collect();
    }

    fn start(&self, name: &str, image: &Rc<Image>) {
        let (orders, receiver) = smol::channel::bounded(ORDERS_MAX);
        let slot = Rc::new(Slot::new(name, Rc::clone(image), orders, self.world.port.now()));
        self.world.board.slots.borrow_mut().insert(name.to_owned(), Rc::clone(&slot));
        let _ = self.world.came.try_send(());
        self.world.executor.spawn(instance::run(Rc::clone(&self.world), slot, receiver)).detach();
    }

    fn order(&self, name: &str, order: Order) {
        let Some(slot) = self.world.board.slot(name) else { return };
        if matches!(order, Order::Stop) {
            slot.ending.set(true);
        }
        log::info!(
            "instance={}/{} order={}",
            name,
            slot.generation.get(),
            match &order {
                Order::Stop => "stop".to_owned(),
                Order::Restart => "restart".to_owned(),
                Order::Replace(image) => format!("replace version={} digest={}", image.version, &image.digest[..12]),
            }
        );
        if slot.orders.try_send(order).is_err() {
            // It is looked at again; nothing is lost but a minute.
            log::warn!("instance={name} orders=full");
        }
    }

    /// Images that no file and no instance needs.
    fn collect(&self) {
        let slots = self.world.board.slots.borrow();
        let running = slots.values().map(|slot| slot.image.borrow().digest.clone());
        let dropped = self.files.values().filter_map(|seen| seen.image.as_ref()).map(|i| i.digest.clone());
        let keep: Vec<String> = running.chain(dropped).collect();
        let keep: Vec<&str> = keep.iter().map(String::as_str).collect();
        if let Err(error) = self.world.images.collect(&keep) {
            log::warn!("image store: {error}");
        }
    }
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()))
}
