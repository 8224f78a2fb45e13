//! The pull side of an OCI registry: token, manifest, index, and the blob that is the module. Must never believe a registry:
//! every manifest and every blob is proved by the digest under which it was asked for.

use std::cell::RefCell;

use data_encoding::BASE64;

use super::download::{Progress, Wanted, download};
use super::fetch::{Answer, Fault, Question, Web};
use super::http::escape;
use super::image::{self, digest};
use super::images::{Images, StoreError};
use crate::logic::oci::{self, Challenge, Found, Module};
use crate::model::image::Image;
use crate::model::reference::{OciReference, OciVersion, RegistryCredentials, host, is_loopback};

/// Bytes of a manifest: the OCI specification's limit.
const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a token server's answer.
const TOKEN_BYTES_MAX: usize = 256 * 1024;

/// One repository of one registry.
pub struct Registry<'a> {
    web: &'a Web,
    reference: &'a OciReference,
    credentials: Option<&'a RegistryCredentials>,
    /// What the registry wants with each request, once that is known.
    authorization: RefCell<Option<String>>,
}

impl<'a> Registry<'a> {
    pub fn new(web: &'a Web, reference: &'a OciReference, credentials: &'a [RegistryCredentials]) -> Registry<'a> {
        let credentials = credentials.iter().find(|c| c.address.eq_ignore_ascii_case(&reference.registry));
        Registry { web, reference, credentials, authorization: RefCell::default() }
    }

    /// The module that the reference leads to on this device.
    pub async fn find(&self) -> Result<Module, Fault> {
        let (path, expected) = match &self.reference.version {
            OciVersion::Tag(tag) => (tag.clone(), None),
            OciVersion::Digest(digest) => (format!("sha256:{digest}"), Some(digest.as_str())),
        };
        match self.read(&path, expected, false).await? {
            Found::Module(module) => Ok(module),
            Found::Manifest(digest) => match self.read(&format!("sha256:{digest}"), Some(&digest), true).await? {
                Found::Module(module) => Ok(module),
                Found::Manifest(_) => Err(Fault::Refused(format!("{}: its index holds another index", self.reference))),
            },
        }
    }

    /// Brings the module into the store.
    pub async fn pull(&self, module: &Module, images: &Images, progress: &Progress) -> Result<Image, Fault> {
        let what = self.reference.to_string();
        let bytes_max = image::IMAGE_BYTES_MAX;
        if module.bytes > bytes_max {
            return Err(Fault::Refused(format!("{what} has {} bytes; an image may have {bytes_max}", module.bytes)));
        }
        images.make_room(module.bytes).map_err(|e| stored(&what, &e))?;
        let url = self.url("blobs", &format!("sha256:{}", module.sha256));
        let part = images.download_path(&module.sha256);
        let wanted = Wanted { sha256: &module.sha256, bytes: Some(module.bytes), bytes_max, what: &what };
        download(&part, wanted, progress, async |from| self.get(&url, None, from).await).await?;
        images.adopt(&part).map_err(|e| stored(&what, &e))
    }

    async fn read(&self, version: &str, expected: Option<&str>, nested: bool) -> Result<Found, Fault> {
        let mut answer = self.get(&self.url("manifests", version), Some(oci::ACCEPT), 0).await?;
        if answer.status != 200 {
            return Err(answer.fault(&self.reference.to_string()));
        }
        let told = answer.header("docker-content-digest").and_then(|d| d.strip_prefix("sha256:")).map(str::to_owned);
        let bytes = answer.whole(MANIFEST_BYTES_MAX).await?;
        let found = digest(&bytes);
        if let Some(other) = expected.or(told.as_deref()).filter(|other| *other != found) {
            return Err(Fault::Refused(format!(
                "{}: {} sends a manifest with the digest sha256:{found} as sha256:{other}; it was changed on its way or where it lies",
                self.reference, answer.host
            )));
        }
        oci::read(&bytes, image::device(), nested).map_err(|why| Fault::Refused(format!("{}: {why}", self.reference)))
    }

    fn url(&self, kind: &str, version: &str) -> String {
        let OciReference { registry, repository, .. } = self.reference;
        // Docker's own registry is reached under another name than it is called by.
        let address = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let here = host(registry).is_some_and(|host| is_loopback(&host.name));
        let scheme = if here { "http" } else { "https" };
        format!("{scheme}://{address}/v2/{repository}/{kind}/{version}")
    }

    /// Asks, and once more with what the registry wants to see first. A token may end during a long download.
    async fn get(&self, url: &str, accept: Option<&str>, from: u64) -> Result<Answer, Fault> {
        let known = self.authorization.borrow().clone();
        let question = Question { accept, authorization: known.as_deref(), from };
        let answer = self.web.get(url, question).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let Some(wanted) = answer.headers("www-authenticate").find_map(oci::challenge) else { return Ok(answer) };
        let Some(authorization) = self.authorize(wanted).await? else { return Ok(answer) };
        if known.as_ref() == Some(&authorization) {
            return Ok(answer);
        }
        *self.authorization.borrow_mut() = Some(authorization.clone());
        self.web.get(url, Question { authorization: Some(&authorization), ..question }).await
    }

    /// `None`: nothing more can be shown than was.
    async fn authorize(&self, wanted: Challenge) -> Result<Option<String>, Fault> {
        let basic = self.credentials.map(|c| {
            let pair = [c.username.as_bytes(), b":", c.password.bytes()].concat();
            format!("Basic {}", BASE64.encode(&pair))
        });
        let Challenge::Bearer { realm, service, scope } = wanted else { return Ok(basic) };
        let here = host(&self.reference.registry).is_some_and(|host| is_loopback(&host.name));
        if !here && !realm.starts_with("https://") {
            return Err(Fault::Refused(format!(
                "{} wants its tokens asked for without encryption",
                self.reference.registry
            )));
        }
        let mut url = format!("{realm}{}", if realm.contains('?') { "&" } else { "?" });
        if let Some(service) = service {
            url.push_str(&format!("service={}&", escape(&service)));
        }
        let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", self.reference.repository));
        url.push_str(&format!("scope={}", escape(&scope)));
        let question = Question { authorization: basic.as_deref(), ..Question::default() };
        let mut answer = self.web.get(&url, question).await?;
        if answer.status != 200 {
            return Err(answer.fault(&format!("a token for {}", self.reference)));
        }
        let bytes = answer.whole(TOKEN_BYTES_MAX).await?;
        match oci::token(&bytes) {
            Some(token) => Ok(Some(format!("Bearer {token}"))),
            None => Err(Fault::Refused(format!("{} answers without a token for {}", answer.host, self.reference))),
        }
    }
}

/// What the image store says of a file, with its name.
pub fn stored(what: &str, error: &StoreError) -> Fault {
    let text = format!("{what}: {error}");
    match error {
        StoreError::Image(_) => Fault::Refused(text),
        _ => Fault::Here(text),
    }
}
