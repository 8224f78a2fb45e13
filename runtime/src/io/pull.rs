//! One image from where its reference says into the store: the whole errand, for a thread of its own. Must never run on the
//! thread of the hub: it reads and hashes whole files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::clock::TimeFloor;
use super::download::{Progress, Wanted, download};
use super::fetch::{Fault, Question, Web};
use super::image::{IMAGE_BYTES_MAX, ImageError};
use super::images::{Images, StoreError};
use super::registry::{Registry, stored};
use super::signing;
use crate::model::config::Proxy;
use crate::model::image::Image;
use crate::model::reference::{HttpsReference, Reference, RegistryCredentials};

/// Bytes of a `.sig` file: a few lines.
const SIGNATURES_BYTES_MAX: usize = 16 * 1024;

/// Everything that the errand needs.
pub struct Errand {
    pub reference: Reference,
    pub credentials: Vec<RegistryCredentials>,
    pub images: Images,
    pub progress: Arc<Progress>,
    pub ca: Option<PathBuf>,
    pub proxy: Option<Proxy>,
    /// Longest silence of a server.
    pub patience: Duration,
    pub floor: Arc<TimeFloor>,
}

/// An image in the store, and the text of its signatures where some came with it.
#[derive(Debug)]
pub struct Pulled {
    pub image: Image,
    pub signatures: Option<String>,
}

impl Errand {
    /// Blocks until it is done; every wait in it has an end.
    pub fn run(self) -> Result<Pulled, Fault> {
        match &self.reference {
            Reference::Named(_) => Err(Fault::Refused(format!(
                "image {}: it is not in the drop-in folders; copy its .so there, or name it by file:, https: or oci:",
                self.reference
            ))),
            Reference::File(path) => self.copy(path),
            Reference::Https(https) => smol::block_on(self.fetch(https)),
            Reference::Oci(oci) => smol::block_on(async {
                let web = self.web()?;
                let registry = Registry::new(&web, oci, &self.credentials);
                let module = registry.find().await?;
                let image = match self.images.stored(&module.sha256) {
                    Some(image) => image,
                    None => registry.pull(&module, &self.images, &self.progress).await?,
                };
                Ok(Pulled { image, signatures: module.signatures })
            }),
        }
    }

    fn web(&self) -> Result<Web, Fault> {
        Web::new(self.ca.as_deref(), self.proxy.clone(), self.patience, Arc::clone(&self.floor))
    }

    fn copy(&self, path: &Path) -> Result<Pulled, Fault> {
        let what = self.reference.to_string();
        let image = self.images.put(path, |_| Ok(None)).map_err(|error| match error {
            // A disk may be mounted later.
            StoreError::Image(ImageError::Unreadable(_)) => Fault::Away(format!("{what}: {error}")),
            error => stored(&what, &error),
        })?;
        let unread = |e| Fault::Here(format!("{what}: its .sig file can't be read: {e}"));
        let signatures = signing::signatures(path).map_err(unread)?;
        Ok(Pulled { image, signatures })
    }

    async fn fetch(&self, https: &HttpsReference) -> Result<Pulled, Fault> {
        let what = self.reference.to_string();
        let web = self.web()?;
        let image = match self.images.stored(&https.sha256) {
            Some(image) => image,
            None => {
                self.images.make_room(0).map_err(|e| stored(&what, &e))?;
                let part = self.images.download_path(&https.sha256);
                let wanted =
                    Wanted { sha256: &https.sha256, bytes: None, bytes_max: IMAGE_BYTES_MAX, what: &https.url };
                let open = async |from| web.get(&https.url, Question { from, ..Question::default() }).await;
                download(&part, wanted, &self.progress, open).await?;
                let bytes = std::fs::metadata(&part).map_or(0, |m| m.len());
                if let Err(error) = self.images.make_room(bytes) {
                    let _ = std::fs::remove_file(&part);
                    return Err(stored(&what, &error));
                }
                self.images.adopt(&part).map_err(|e| stored(&what, &e))?
            }
        };
        let mut answer = web.get(&beside(&https.url), Question::default()).await?;
        let signatures = match answer.status {
            200 => String::from_utf8(answer.whole(SIGNATURES_BYTES_MAX).await?).ok(),
            401 | 403 | 404 | 410 => None,
            _ => return Err(answer.fault(&format!("the signatures of {}", https.url))),
        };
        Ok(Pulled { image, signatures })
    }
}

/// Where the signatures of a file lie.
fn beside(url: &str) -> String {
    match url.split_once('?') {
        Some((path, query)) => format!("{path}.sig?{query}"),
        None => format!("{url}.sig"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_lie_beside_the_file() {
        assert_eq!(beside("https://a/b.so"), "https://a/b.so.sig");
        assert_eq!(beside("https://a/b.so?c=d"), "https://a/b.so.sig?c=d");
    }
}
