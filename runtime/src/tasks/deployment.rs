//! The manifest in force: taken whole, stored, found again after a start, and withdrawn; with it the routes of the hub.
//! Must never give up a manifest for one that is not good.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde_json::{Value, json};

use super::world::World;
use crate::logic::manifest::{self, Reading, Sections};
use crate::logic::routing::{NamedRoute, RouteTable};
use crate::logic::twin;
use crate::model::config::{Config, TimeToLive};
use crate::model::endpoint::PRIORITY_DEFAULT;
use crate::model::manifest::Manifest;

/// The document of the store.
pub const DOCUMENT: &str = "deployment";
/// Bytes of a manifest file: far beyond what fits into two twins.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a manifest came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The file that the configuration names.
    File,
    /// `skerry deploy`.
    Operator,
    Cloud,
}

impl Origin {
    const WORDS: [(&'static str, Origin); 3] =
        [("file", Origin::File), ("operator", Origin::Operator), ("cloud", Origin::Cloud)];

    pub fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, origin)| *origin == self).map_or("file", |(word, _)| word)
    }

    fn parse(text: &str) -> Option<Origin> {
        Self::WORDS.iter().find(|(word, _)| *word == text).map(|(_, origin)| *origin)
    }
}

#[derive(Clone)]
struct InForce {
    manifest: Rc<Manifest>,
    sections: Sections,
    origin: Origin,
}

#[derive(Default)]
pub struct Deployment {
    in_force: Option<InForce>,
    /// What the manifest file held when it was last taken: what it holds now is only news if it is something else.
    file: Option<Sections>,
    /// Text of each route that the hub has, by name.
    pub routes: BTreeMap<String, String>,
}

impl Deployment {
    pub fn manifest(&self) -> Option<&Rc<Manifest>> {
        self.in_force.as_ref().map(|now| &now.manifest)
    }

    pub fn origin(&self) -> Option<Origin> {
        self.in_force.as_ref().map(|now| now.origin)
    }

    /// With its passwords: not for anybody to see.
    pub fn sections(&self) -> Option<&Sections> {
        self.in_force.as_ref().map(|now| &now.sections)
    }

    fn to_json(&self) -> Option<Value> {
        if self.in_force.is_none() && self.file.is_none() {
            return None;
        }
        let now = self.in_force.as_ref();
        Some(json!({
            "origin": now.map(|now| now.origin.word()),
            "sections": now.map(|now| now.sections.clone()),
            "file": self.file,
        }))
    }
}

/// Before anything runs: what was in force, or what the file says now. Says what went wrong, if something did.
pub fn restore(world: &World, kept: Option<&Value>) {
    let origin = kept.and_then(|kept| Origin::parse(kept["origin"].as_str()?));
    let sections = kept.and_then(|kept| kept["sections"].as_object().cloned());
    let former_file = kept.and_then(|kept| kept["file"].as_object().cloned());
    let mut before = origin.zip(sections).filter(|(origin, _)| {
        // Without a cloud its manifest is nobody's.
        *origin != Origin::Cloud || !world.config.cloud.is_none()
    });
    world.board.deployment.borrow_mut().file.clone_from(&former_file);
    let from_cloud = before.as_ref().is_some_and(|(origin, _)| *origin == Origin::Cloud);
    match read_file(&world.config.manifest) {
        Ok(Some((sections, reading))) if !from_cloud && former_file.as_ref() != Some(&sections) => {
            let taken = reading.manifest.map_err(|refusal| refusal.message);
            match taken.and_then(|manifest| take(world, sections, manifest, Origin::File)) {
                Ok(()) => return,
                Err(why) => world.board.warn(format!("{} is not taken: {why}", world.config.manifest.display())),
            }
        }
        Ok(None) if before.as_ref().is_some_and(|(origin, _)| *origin == Origin::File) => before = None,
        Ok(_) => {}
        Err(why) => world.board.warn(format!("{why}; what was in force before stays")),
    }
    let Some((origin, sections)) = before else { return configured(world) };
    match manifest::from_sections(&sections).manifest {
        Ok(manifest) => {
            world.board.deployment.borrow_mut().in_force =
                Some(InForce { manifest: Rc::new(manifest), sections, origin });
            route(world);
            log::info!("deployment origin={} status=in-force", origin.word());
        }
        Err(refusal) => {
            world.board.warn(format!("the stored manifest is not good any more: {}", refusal.message));
            configured(world);
        }
    }
}

/// `None`: there is no such file.
fn read_file(path: &Path) -> Result<Option<(Sections, Reading)>, String> {
    let shown = path.display();
    let length = match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("{shown} can't be read: {error}")),
        Ok(metadata) => metadata.len(),
    };
    if length > FILE_BYTES_MAX {
        return Err(format!("{shown} is larger than a manifest can be ({FILE_BYTES_MAX} bytes)"));
    }
    let bytes = std::fs::read(path).map_err(|error| format!("{shown} can't be read: {error}"))?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|error| format!("{shown}: not JSON: {error}"))?;
    Ok(Some(manifest::from_files(&[json])))
}

/// What can only be said of a manifest that is good by itself: that its routes go together, and that twins take its properties.
pub fn judge(manifest: &Manifest) -> Result<(), String> {
    routes_of(manifest)?;
    for (module, section) in &manifest.twins {
        let path = format!("{module}.properties.desired");
        twin::validate(&Value::Object(section.clone())).map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// Puts a good manifest in force and stores it. The agent does the rest.
pub fn take(world: &World, sections: Sections, manifest: Manifest, origin: Origin) -> Result<(), String> {
    judge(&manifest)?;
    let twins = manifest.twins.clone();
    {
        let mut deployment = world.board.deployment.borrow_mut();
        if origin == Origin::File {
            deployment.file = Some(sections.clone());
        }
        deployment.in_force = Some(InForce { manifest: Rc::new(manifest), sections, origin });
    }
    route(world);
    for (module, section) in twins {
        set_twin(world, &module, section);
    }
    log::info!("deployment origin={} status=taken", origin.word());
    world.board.taken_at.set(Some(world.port.now().mono));
    keep(world);
    let _ = world.replan.try_send(());
    Ok(())
}

/// Back to the drop-in folders and the configuration. False: there was none.
pub fn withdraw(world: &World) -> bool {
    if world.board.deployment.borrow_mut().in_force.take().is_none() {
        return false;
    }
    log::info!("deployment status=withdrawn");
    configured(world);
    keep(world);
    let _ = world.replan.try_send(());
    true
}

fn keep(world: &World) {
    let bytes = world.board.deployment.borrow().to_json().map(|json| json.to_string().into_bytes());
    world.port.turn(|hub, now| hub.put_document(now, DOCUMENT, bytes, true));
}

/// The cloud's properties of a module are the cloud's.
fn set_twin(world: &World, module: &str, section: serde_json::Map<String, Value>) {
    if world.board.uplinks.borrow().contains_key(module) {
        world.board.warn(format!("the manifest's properties of {module} are not used: the cloud has its twin"));
        return;
    }
    {
        let mut twins = world.board.twins.borrow_mut();
        let twin = twins.entry(module.to_owned()).or_default();
        if *twin.desired() == section {
            return;
        }
        let version = twin.desired_version() + 1;
        twin.adopt_desired(section, version);
    }
    world.desired_changed(module);
}

/// The routes of the manifest in force, for new messages.
fn route(world: &World) {
    let Some(manifest) = world.board.deployment.borrow().manifest().cloned() else { return };
    // `take` has judged them, or it would not be in force.
    let Ok(table) = routes_of(&manifest) else { return };
    let texts = manifest.routes.iter().map(|route| (route.name.clone(), route.text.clone())).collect();
    set(world, table, manifest.ttl, texts);
}

/// The routes of the configuration.
fn configured(world: &World) {
    let config = &world.config;
    let Ok(table) = configured_routes(config) else { return };
    let ttl = match config.store.ttl {
        TimeToLive::After(time) => Some(time),
        TimeToLive::Never => None,
    };
    set(world, table, ttl, config.routes.iter().map(|r| (r.name.clone(), r.route.clone())).collect());
}

fn set(world: &World, table: RouteTable, ttl: Option<Duration>, texts: BTreeMap<String, String>) {
    world.board.deployment.borrow_mut().routes = texts;
    world.port.turn(|hub, _| {
        hub.set_routes(table);
        hub.set_ttl(ttl);
    });
}

fn routes_of(manifest: &Manifest) -> Result<RouteTable, String> {
    let routes = manifest.routes.iter().map(|route| NamedRoute {
        name: route.name.clone(),
        text: route.text.clone(),
        priority: route.priority,
        ttl_secs: route.ttl_secs,
    });
    RouteTable::new(routes).map_err(|e| e.to_string())
}

/// `[routes]`.
pub fn configured_routes(config: &Config) -> Result<RouteTable, String> {
    let routes = config.routes.iter().map(|route| NamedRoute {
        name: route.name.clone(),
        text: route.route.clone(),
        priority: (route.priority != PRIORITY_DEFAULT).then_some(route.priority),
        ttl_secs: match route.ttl {
            TimeToLive::After(time) => Some(time.as_secs().max(1)),
            TimeToLive::Never => Some(u64::MAX),
        },
    });
    RouteTable::new(routes).map_err(|e| e.to_string())
}
