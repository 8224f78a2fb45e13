//! Images from elsewhere, as many at once as there are servers, each on a thread of its own, with its progress for others to see.
//! Must never lose an image that is at hand because the network is away, and never hold up the thread of the hub.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smol::lock::Mutex;

use crate::io::clock::{self, TimeFloor};
use crate::io::download::Progress;
use crate::io::fetch::Fault;
use crate::io::images::Images;
use crate::io::pull::{Errand, Pulled};
use crate::model::config::{Proxy, PullsConfig};
use crate::model::image::Image;
use crate::model::reference::{PullPolicy, Reference, RegistryCredentials};

pub struct Pulls {
    images: Images,
    config: PullsConfig,
    proxy: Option<Proxy>,
    floor: Arc<TimeFloor>,
    going_on: RefCell<BTreeMap<String, Arc<Progress>>>,
    /// One errand a server at a time: politeness, and nobody downloads the same twice.
    queues: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
}

/// How far a pull is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulling {
    /// In full.
    pub reference: String,
    pub bytes: u64,
    /// Where it is known.
    pub bytes_total: Option<u64>,
}

/// An image, with what came with it.
#[derive(Clone, Debug)]
pub struct Got {
    pub image: Rc<Image>,
    /// The text of its `.sig` file.
    pub signatures: Option<String>,
    /// Why it was not asked for again: what is at hand is used.
    pub stale: Option<String>,
}

impl Pulls {
    pub fn new(images: Images, config: PullsConfig, proxy: Option<Proxy>, floor: Arc<TimeFloor>) -> Pulls {
        Pulls { images, config, proxy, floor, going_on: RefCell::default(), queues: RefCell::default() }
    }

    /// The image of a reference: brought here if need be. Without a network the one that was brought before will do, also under a
    /// tag. The error is a sentence for the operator, with the reference in it. Dropped before its end, the pull ends too; what has
    /// come by then is continued the next time.
    pub async fn get(
        &self,
        reference: &Reference,
        credentials: &[RegistryCredentials],
        policy: PullPolicy,
    ) -> Result<Got, String> {
        let at_hand = self.at_hand(reference).await;
        if let Some(got) = at_hand.clone().filter(|_| policy == PullPolicy::Never || !reference.may_move()) {
            return Ok(got);
        }
        if policy == PullPolicy::Never {
            return Err(format!(
                "{reference}: it is not at hand, and imagePullPolicy is \"never\"; pull it with skerry pull first"
            ));
        }
        match self.pull(reference, credentials).await {
            Ok(Pulled { image, signatures }) => {
                log::info!("image={reference} name={} version={} digest={}", image.name, image.version, image.digest);
                Ok(Got { image: Rc::new(image), signatures, stale: None })
            }
            Err(fault) => match (fault, at_hand) {
                (Fault::Away(why), Some(got)) => {
                    log::warn!("image={reference} pulled=false used={} reason=\"{why}\"", got.image.digest);
                    Ok(Got { stale: Some(why), ..got })
                }
                (fault, _) => Err(fault.text().to_owned()),
            },
        }
    }

    /// What was brought before for a reference, without asking anybody.
    pub async fn at_hand(&self, reference: &Reference) -> Option<Got> {
        let book = self.images.book();
        let digest = book.references.get(&reference.to_string())?.digest.clone();
        let signatures = book.signatures.get(&digest).cloned();
        let images = self.images.clone();
        let image = smol::unblock(move || images.stored(&digest)).await?;
        Some(Got { image: Rc::new(image), signatures, stale: None })
    }

    /// Everything that is being pulled.
    pub fn progress(&self) -> Vec<Pulling> {
        let going_on = self.going_on.borrow();
        let pulling = going_on.iter().map(|(reference, progress)| {
            let total = progress.total.load(Ordering::Relaxed);
            let bytes = progress.done.load(Ordering::Relaxed);
            Pulling { reference: reference.clone(), bytes, bytes_total: (total > 0).then_some(total) }
        });
        pulling.collect()
    }

    async fn pull(&self, reference: &Reference, credentials: &[RegistryCredentials]) -> Result<Pulled, Fault> {
        let queue = Rc::clone(self.queues.borrow_mut().entry(server(reference)).or_default());
        let _turn = queue.lock().await;
        let name = reference.to_string();
        let progress = Arc::new(Progress::default());
        self.going_on.borrow_mut().insert(name.clone(), Arc::clone(&progress));
        let _end = End { pulls: self, name, progress: Arc::clone(&progress) };
        let errand = Errand {
            reference: reference.clone(),
            // The manifest's own come first.
            credentials: [credentials, &self.config.registries].concat(),
            images: self.images.clone(),
            progress,
            ca: self.config.ca.clone(),
            proxy: self.proxy.clone(),
            patience: self.config.timeout,
            floor: Arc::clone(&self.floor),
        };
        let now = clock::wall();
        smol::unblock(move || {
            let (name, images) = (errand.reference.to_string(), errand.images.clone());
            let pulled = errand.run()?;
            let noted = images.remember(&name, &pulled.image, pulled.signatures.as_deref(), now);
            noted.map_err(|e| Fault::Here(format!("{name}: the image store can't be written: {e}")))?;
            Ok(pulled)
        })
        .await
    }
}

/// Tidies up, whichever way a pull ends.
struct End<'a> {
    pulls: &'a Pulls,
    name: String,
    progress: Arc<Progress>,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.progress.given_up.store(true, Ordering::Relaxed);
        self.pulls.going_on.borrow_mut().remove(&self.name);
    }
}

fn server(reference: &Reference) -> String {
    match reference {
        Reference::Oci(oci) => oci.registry.clone(),
        Reference::Https(https) => https.url.split('/').nth(2).unwrap_or_default().to_owned(),
        Reference::File(_) | Reference::Named(_) => String::new(),
    }
}
