//! Where an image comes from, as written in a manifest, in config.toml or on the command line, and who may fetch it.
//! Must never guess: what can be meant in two ways is an error that says how to write each.

use std::fmt;
use std::path::PathBuf;

use super::config::{Host, ImageRef, instance_name_fault};
use super::identity::Secret;

/// A reference to one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `NAME` or `NAME@VERSION`: a file of the drop-in folders.
    Named(ImageRef),
    /// `file:/PATH`, absolute.
    File(PathBuf),
    /// `https://HOST/PATH#sha256=DIGEST`.
    Https(HttpsReference),
    /// `oci://HOST/NAME:TAG`, `oci://HOST/NAME@sha256:DIGEST`, or the same without `oci://`.
    Oci(OciReference),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpsReference {
    /// Without the fragment.
    pub url: String,
    /// Of the file, lower-case hex.
    pub sha256: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OciReference {
    /// As written: `HOST` or `HOST:PORT`.
    pub registry: String,
    /// Path of the repository, such as `modules/filter`.
    pub repository: String,
    pub version: OciVersion,
}

/// Which manifest of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OciVersion {
    /// May be another one tomorrow.
    Tag(String),
    /// SHA-256 of the manifest or index, lower-case hex.
    Digest(String),
}

/// Name and password for one registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryCredentials {
    /// As in references: `HOST` or `HOST:PORT`.
    pub address: String,
    pub username: String,
    pub password: Secret,
}

/// When an image is asked for where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Each time that an instance is made; where that can't be reached, what is at hand will do.
    OnCreate,
    /// Never: it has to be at hand.
    Never,
}

/// What a registry calls the newest; taken where a reference names neither tag nor digest.
pub const TAG_DEFAULT: &str = "latest";
/// Characters of a reference; a twin's string holds no more.
const REFERENCE_LENGTH_MAX: usize = 4096;
/// Characters of a tag, and of a repository: the OCI specification's.
const TAG_LENGTH_MAX: usize = 128;
const REPOSITORY_LENGTH_MAX: usize = 255;

impl Reference {
    /// The error is a sentence that begins with the text.
    pub fn parse(text: &str) -> Result<Reference, String> {
        let wrong = |why: String| Err(format!("image {text:?}: {why}"));
        if text.is_empty() || text.len() > REFERENCE_LENGTH_MAX {
            return wrong(format!("an image reference has 1 to {REFERENCE_LENGTH_MAX} characters; {FORMS}"));
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return wrong(format!("{bad:?} can't stand in an image reference"));
        }
        let parsed = match text.split_once(':') {
            Some(("file", path)) => file(path),
            Some(("oci", rest)) => match rest.strip_prefix("//") {
                Some(rest) => oci(rest),
                None => Err("write oci://HOST/NAME:TAG".to_owned()),
            },
            Some(("https", _)) => https(text),
            Some(("http", rest)) => http(text, rest),
            Some((scheme, rest)) if rest.starts_with("//") => Err(format!("scheme {scheme:?} is not known; {FORMS}")),
            _ => schemeless(text),
        };
        parsed.or_else(wrong)
    }

    /// The same with a digest that stands beside it, as `sha256:…`. The error is a sentence for the manifest.
    pub fn pinned(self, digest: &str) -> Result<Reference, String> {
        let Some(hex) = digest.strip_prefix("sha256:").filter(|hex| is_digest(hex)).map(str::to_ascii_lowercase) else {
            return Err(format!("{digest:?} is no digest: \"sha256:\" and 64 hexadecimal digits"));
        };
        match self {
            Reference::Oci(oci) if matches!(&oci.version, OciVersion::Digest(own) if *own != hex) => {
                Err(format!("{oci} names another digest; leave one of them out"))
            }
            Reference::Oci(oci) => Ok(Reference::Oci(OciReference { version: OciVersion::Digest(hex), ..oci })),
            Reference::Https(https) if https.sha256 == hex => Ok(Reference::Https(https)),
            Reference::Https(https) => Err(format!("{} names another digest; leave one of them out", https.url)),
            Reference::Named(_) | Reference::File(_) => {
                Err("a file of this device is not pulled by a digest; leave it out, or sign the image".to_owned())
            }
        }
    }

    /// Whether another image may stand behind it tomorrow.
    pub fn may_move(&self) -> bool {
        match self {
            Reference::Named(_) | Reference::File(_) => true,
            Reference::Https(_) => false,
            Reference::Oci(oci) => matches!(oci.version, OciVersion::Tag(_)),
        }
    }
}

/// As it is written in full; parsed again it is the same.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Named(ImageRef { name, version: None }) => f.write_str(name),
            Reference::Named(ImageRef { name, version: Some(version) }) => write!(f, "{name}@{version}"),
            Reference::File(path) => write!(f, "file:{}", path.display()),
            Reference::Https(HttpsReference { url, sha256 }) => write!(f, "{url}#sha256={sha256}"),
            Reference::Oci(oci) => oci.fmt(f),
        }
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OciReference { registry, repository, version } = self;
        match version {
            OciVersion::Tag(tag) => write!(f, "oci://{registry}/{repository}:{tag}"),
            OciVersion::Digest(digest) => write!(f, "oci://{registry}/{repository}@sha256:{digest}"),
        }
    }
}

fn file(path: &str) -> Result<Reference, String> {
    let path = path.strip_prefix("//").unwrap_or(path);
    if !path.starts_with('/') {
        return Err("a file is named by its whole path: file:/usr/lib/modules/NAME.so".to_owned());
    }
    Ok(Reference::File(PathBuf::from(path)))
}

fn https(text: &str) -> Result<Reference, String> {
    let (url, fragment) = text.split_once('#').unwrap_or((text, ""));
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        return Err("a password has no place in a reference, which is shown; leave it out".to_owned());
    }
    if host(authority).is_none() || path.is_empty() {
        return Err("write https://HOST/PATH#sha256=DIGEST".to_owned());
    }
    match fragment.strip_prefix("sha256=") {
        Some(digest) if is_digest(digest) => {
            Ok(Reference::Https(HttpsReference { url: url.to_owned(), sha256: digest.to_ascii_lowercase() }))
        }
        Some(_) => Err("sha256= must be followed by 64 hexadecimal digits".to_owned()),
        None => Err("its digest is missing: end it with #sha256=DIGEST, as `sha256sum FILE` prints it".to_owned()),
    }
}

/// Unencrypted only where nobody is in between.
fn http(text: &str, rest: &str) -> Result<Reference, String> {
    let authority = rest.trim_start_matches('/').split('/').next().unwrap_or_default();
    if host(authority).is_some_and(|host| is_loopback(&host.name)) {
        return https(text);
    }
    Err("http is not encrypted; use https (http is taken for this device itself only)".to_owned())
}

/// As container tools write it: a first part with a dot or a port, or `localhost`, is a registry's host.
fn schemeless(text: &str) -> Result<Reference, String> {
    match text.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => oci(text),
        Some(_) => {
            Err(format!("it names no registry; write oci://HOST/{text}, or HOST/{text} with the whole host name"))
        }
        None => match ImageRef::parse(text) {
            Ok(image) => Ok(Reference::Named(image)),
            Err(_) => Err(match text.split_once(':') {
                Some((name, tag)) if instance_name_fault(name).is_none() => format!(
                    "it names no registry; write {name}@{tag} for a file of the drop-in folders, or oci://HOST/{text}"
                ),
                _ => FORMS.to_owned(),
            }),
        },
    }
}

fn oci(rest: &str) -> Result<Reference, String> {
    let form = || "write oci://HOST/NAME:TAG or oci://HOST/NAME@sha256:DIGEST".to_owned();
    let (registry, path) = rest.split_once('/').ok_or_else(form)?;
    if registry.contains('@') {
        return Err("a password has no place in a reference, which is shown; give registry credentials".to_owned());
    }
    if host(registry).is_none() {
        return Err(format!("{registry:?} is no host of a registry; {}", form()));
    }
    let (path, digest) = match path.split_once('@') {
        Some((path, digest)) => (path, Some(digest)),
        None => (path, None),
    };
    let (repository, tag) = path.split_once(':').map_or((path, None), |(path, tag)| (path, Some(tag)));
    if let Some(fault) = repository_fault(repository) {
        return Err(fault);
    }
    let good_tag = |tag: &str| {
        let good = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        (1..=TAG_LENGTH_MAX).contains(&tag.len()) && !tag.starts_with(['-', '.']) && tag.chars().all(good)
    };
    if let Some(tag) = tag.filter(|tag| !good_tag(tag)) {
        return Err(format!(
            "{tag:?} is no tag: 1 to {TAG_LENGTH_MAX} letters, digits and - . _, not beginning with - or ."
        ));
    }
    // With both, the digest says which: the tag is there for the reader.
    let version = match digest.map(|digest| (digest, digest.strip_prefix("sha256:"))) {
        Some((_, Some(hex))) if is_digest(hex) => OciVersion::Digest(hex.to_ascii_lowercase()),
        Some((digest, _)) => return Err(format!("{digest:?} is no digest: \"sha256:\" and 64 hexadecimal digits")),
        None => OciVersion::Tag(tag.unwrap_or(TAG_DEFAULT).to_owned()),
    };
    Ok(Reference::Oci(OciReference { registry: registry.to_owned(), repository: repository.to_owned(), version }))
}

fn repository_fault(repository: &str) -> Option<String> {
    let part = |part: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        part.chars().all(good) && edge(part.chars().next()) && edge(part.chars().next_back())
    };
    if repository.chars().any(|c| c.is_ascii_uppercase()) {
        return Some(format!("registries have no upper-case names: {:?}", repository.to_ascii_lowercase()));
    }
    let bad = repository.len() > REPOSITORY_LENGTH_MAX || !repository.split('/').all(part);
    bad.then(|| {
        format!("{repository:?} is no name in a registry: lower-case letters, digits and - . _ between slashes")
    })
}

/// The host of a registry or a server, with the port where one is written; 0 otherwise.
pub fn host(authority: &str) -> Option<Host> {
    let good = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    if let Some(inner) = authority.strip_prefix('[') {
        let (name, port) = inner.split_once(']')?;
        name.parse::<core::net::Ipv6Addr>().ok()?;
        let port = if port.is_empty() { 0 } else { port.strip_prefix(':')?.parse().ok()? };
        return Some(Host { name: name.to_owned(), port });
    }
    match authority.split_once(':') {
        Some((name, port)) if good(name) => {
            Some(Host { name: name.to_owned(), port: port.parse().ok().filter(|p| *p > 0)? })
        }
        None if good(authority) => Some(Host { name: authority.to_owned(), port: 0 }),
        _ => None,
    }
}

/// Whether that is this device itself.
pub fn is_loopback(name: &str) -> bool {
    name == "localhost" || name.parse::<core::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// SHA-256 in hexadecimal digits.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const FORMS: &str = "an image is NAME or NAME@VERSION of the drop-in folders, file:/PATH, https://HOST/PATH#sha256=DIGEST or \
                     oci://HOST/NAME:TAG";

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of `TEXT => MEANING`, in `tests/data/references.txt`: D stands for a digest; a meaning that begins with `!` is an error
    /// that has it.
    #[test]
    fn references_mean_what_the_cases_say() {
        let cases = include_str!("../../../tests/data/references.txt");
        let digest = "0123456789abcdef".repeat(4);
        let mut count = 0;
        for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (text, meaning) = line.split_once(" => ").unwrap_or_else(|| panic!("no ` => ` in {line:?}"));
            let text = text.trim_end().replace("{D}", &digest);
            let meaning = meaning.trim().replace("{D}", &digest);
            count += 1;
            match (Reference::parse(&text), meaning.strip_prefix('!')) {
                (Ok(found), None) => {
                    assert_eq!(shown(&found), meaning, "{text}");
                    assert_eq!(Reference::parse(&found.to_string()), Ok(found.clone()), "{text}");
                }
                (Err(error), Some(part)) => {
                    assert!(error.starts_with(&format!("image {text:?}: ")), "{error}");
                    assert!(error.contains(part.trim()), "{text}: {error}");
                }
                (found, _) => panic!("{text}: {found:?}, expected {meaning}"),
            }
        }
        assert!(count > 30);
    }

    fn shown(reference: &Reference) -> String {
        match reference {
            Reference::Named(image) => format!("name {} {}", image.name, image.version.as_deref().unwrap_or("-")),
            Reference::File(path) => format!("file {}", path.display()),
            Reference::Https(https) => format!("https {} {}", https.url, https.sha256),
            Reference::Oci(OciReference { registry, repository, version }) => match version {
                OciVersion::Tag(tag) => format!("oci {registry} {repository} tag {tag}"),
                OciVersion::Digest(digest) => format!("oci {registry} {repository} digest {digest}"),
            },
        }
    }
}
