//! Images from elsewhere, as many at once as there are servers, each on a thread of its own, with its progress for others to see.
//! Must never lose an image that is at hand because the network is away, and never hold up the thread of the hub.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use smol::lock::Mutex;

use crate::io::clock::{self, TimeFloor};
use crate::io::download::Progress;
use crate::io::fetch::Fault;
use crate::io::images::Images;
use crate::io::proved::Proved;
use crate::io::pull::{Errand, Pulled};
use crate::logic::{signature, units};
use crate::model::config::{Config, ImagesConfig, Proxy, PullsConfig};
use crate::model::image::Image;
use crate::model::reference::{PullPolicy, Reference, RegistryCredentials};

pub struct Pulls {
    images: Images,
    /// Who may run.
    policy: ImagesConfig,
    proved: Arc<Proved>,
    config: PullsConfig,
    proxy: Option<Proxy>,
    floor: Arc<TimeFloor>,
    going_on: RefCell<BTreeMap<String, Arc<Progress>>>,
    /// One errand a server at a time: politeness, and nobody downloads the same twice.
    queues: RefCell<BTreeMap<String, Rc<Mutex<()>>>>,
    /// What operators brought, for those who wait to try it again. Until the agent's next look.
    brought: RefCell<BTreeSet<String>>,
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

impl Pulling {
    /// For a report: another one with each tenth that has come.
    pub fn sentence(&self) -> String {
        let tenths = self.bytes_total.map(|total| (self.bytes.min(total) * 10) / total.max(1));
        match (tenths, self.bytes_total) {
            (Some(tenths), Some(total)) => {
                format!("its image is being pulled: {} % of {}", tenths * 10, units::show_bytes(total))
            }
            _ => "its image is being pulled".to_owned(),
        }
    }
}

/// An image, with what came with it.
#[derive(Clone, Debug)]
pub struct Got {
    pub image: Rc<Image>,
    /// The text of its `.sig` file.
    pub signatures: Option<String>,
    /// Why it was not asked for again: what is at hand is used.
    pub stale: Option<String>,
    /// What is to be said about it although it may run.
    pub remark: Option<String>,
}

impl Pulls {
    pub fn new(images: Images, config: &Config, proved: Arc<Proved>, floor: Arc<TimeFloor>) -> Pulls {
        let (policy, proxy, config) = (config.images.clone(), config.cloud.proxy.clone(), config.pulls.clone());
        Pulls {
            images,
            policy,
            proved,
            config,
            proxy,
            floor,
            going_on: RefCell::default(),
            queues: RefCell::default(),
            brought: RefCell::default(),
        }
    }

    /// The image of a reference: brought here if need be, and let in. Without a network the one that was brought before will do, also
    /// under a tag. The error is a sentence for the operator, with the reference in it. Dropped before its end, the pull ends too;
    /// what has come by then is continued the next time.
    pub async fn get(
        &self,
        reference: &Reference,
        credentials: &[RegistryCredentials],
        policy: PullPolicy,
    ) -> Result<Got, String> {
        let at_hand = self.stored(reference).await;
        let enough = policy == PullPolicy::Never || !reference.may_move();
        let got = match at_hand {
            Some(got) if enough => got,
            None if policy == PullPolicy::Never => {
                return Err(format!(
                    "{reference} is not at hand, and imagePullPolicy is \"never\"; bring it here with skerry pull"
                ));
            }
            at_hand => match (self.pull(reference, credentials).await, at_hand) {
                (Ok(Pulled { image, signatures }), _) => {
                    log::info!(
                        "image={reference} name={} version={} digest={}",
                        image.name,
                        image.version,
                        image.digest
                    );
                    Got { image: Rc::new(image), signatures, stale: None, remark: None }
                }
                (Err(Fault::Away(why)), Some(got)) => {
                    log::warn!("image={reference} pulled=false used={} reason=\"{why}\"", got.image.digest);
                    Got { stale: Some(why), ..got }
                }
                (Err(fault), _) => return Err(fault.text().to_owned()),
            },
        };
        self.admit(reference, got)
    }

    /// What was brought before for a reference, if it is let in today; nobody is asked.
    pub async fn at_hand(&self, reference: &Reference) -> Option<Result<Got, String>> {
        Some(self.admit(reference, self.stored(reference).await?))
    }

    fn admit(&self, reference: &Reference, got: Got) -> Result<Got, String> {
        let Got { image, signatures, .. } = &got;
        let proved = self.proved.version(&image.name);
        // Who names a digest means this one and no other.
        let pinned = !reference.may_move();
        let remark = signature::admit(&self.policy, image, signatures.as_deref(), proved.as_deref(), pinned);
        Ok(Got { remark: remark.map_err(|why| format!("{reference}: {why}"))?, ..got })
    }

    async fn stored(&self, reference: &Reference) -> Option<Got> {
        let book = self.images.book();
        let digest = book.references.get(&reference.to_string())?.digest.clone();
        let signatures = self.images.signatures(&digest);
        let images = self.images.clone();
        let image = smol::unblock(move || images.stored(&digest)).await?;
        Some(Got { image: Rc::new(image), signatures, stale: None, remark: None })
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

    /// An operator brought it.
    pub fn handle_brought(&self, reference: &Reference) {
        self.brought.borrow_mut().insert(reference.to_string());
    }

    pub fn was_brought(&self, reference: &Reference) -> bool {
        self.brought.borrow().contains(&reference.to_string())
    }

    /// Everybody who waited was told.
    pub fn forget_brought(&self) {
        self.brought.borrow_mut().clear();
    }

    /// How far the pull of one is, in a sentence.
    pub fn sentence(&self, reference: &Reference) -> String {
        let mine = self.progress().into_iter().find(|pulling| pulling.reference == reference.to_string());
        mine.map_or_else(|| "its image is to be pulled".to_owned(), |pulling| pulling.sentence())
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
