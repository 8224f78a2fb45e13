//! Signatures of images: Ed25519 over name, version and digest, as lines of a `.sig` file beside the image. Says who signed,
//! and whether an image may run. Must never take a signature for good that it did not verify against the image itself.

use std::fmt;

use data_encoding::BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use super::version;
use crate::model::config::{ImagesConfig, PublicKey, Signatures};
use crate::model::identity::Secret;
use crate::model::image::Image;

pub const KEY_EXPECTED: &str = "\"ed25519:\" and 32 bytes in base64, as `skerry key new` prints it";
const PUBLIC: &str = "ed25519:";
const PRIVATE: &str = "ed25519-private:";
/// Bytes of a key, private or public.
pub const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;

/// `ed25519:` and base64. The error says what was expected.
pub fn parse_key(text: &str) -> Result<PublicKey, String> {
    let bytes = text.trim().strip_prefix(PUBLIC).and_then(|rest| BASE64.decode(rest.as_bytes()).ok());
    let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
    bytes.map(PublicKey).ok_or_else(|| KEY_EXPECTED.to_owned())
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PUBLIC}{}", BASE64.encode(&self.0))
    }
}

/// Whoever has it can sign.
pub struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    pub fn new(private: &Secret) -> Option<SigningKey> {
        Ed25519KeyPair::from_seed_unchecked(private.bytes()).ok().map(SigningKey)
    }

    /// From the text of a private key's file.
    pub fn parse(text: &str) -> Option<SigningKey> {
        let bytes = BASE64.decode(text.trim().strip_prefix(PRIVATE)?.as_bytes()).ok()?;
        SigningKey::new(&Secret::new(bytes))
    }

    pub fn public(&self) -> PublicKey {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(bytes)
    }

    /// The text of a `.sig` file; signatures of others that were in it and are good for this image stay.
    pub fn sign(&self, image: &Image, before: &str) -> String {
        let signature = self.0.sign(statement(image).as_bytes());
        let mut text = format!("# {} {} sha256:{}\n", image.name, image.version, image.digest);
        for signed in entries(before).unwrap_or_default() {
            if signed.key != self.public() && signed.is_good(image) {
                text.push_str(&signed.to_string());
            }
        }
        text + &Signed { key: self.public(), signature: signature.as_ref().to_vec() }.to_string()
    }
}

/// The text of a private key's file.
pub fn private_text(private: &Secret) -> String {
    format!("{PRIVATE}{}\n", BASE64.encode(private.bytes()))
}

/// What is signed. The digest would be enough; the rest is for whoever signs with another tool, to see what it is.
fn statement(image: &Image) -> String {
    format!("skerry image 1\nname {}\nversion {}\ndigest sha256:{}\n", image.name, image.version, image.digest)
}

/// One line of a `.sig` file: the key and the signature.
struct Signed {
    key: PublicKey,
    signature: Vec<u8>,
}

impl Signed {
    fn is_good(&self, image: &Image) -> bool {
        UnparsedPublicKey::new(&ED25519, self.key.0).verify(statement(image).as_bytes(), &self.signature).is_ok()
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}", self.key, BASE64.encode(&self.signature))
    }
}

/// The lines of a `.sig` file but for comments; the error is the number of one that is none.
fn entries(text: &str) -> Result<Vec<Signed>, usize> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let entry = |line: &str| {
        let (key, signature) = line.trim().split_once(' ')?;
        let signature = BASE64.decode(signature.as_bytes()).ok()?;
        (signature.len() == SIGNATURE_BYTES).then_some(Signed { key: parse_key(key).ok()?, signature })
    };
    lines.map(|(at, line)| entry(line).ok_or(at + 1)).collect()
}

/// Why nobody who is trusted vouches for an image; each is one sentence.
#[derive(Debug, PartialEq, Eq)]
pub enum SignatureFault {
    /// There is no signature at all.
    Unsigned,
    /// This line of the `.sig` file is none.
    Line(usize),
    /// By this one, who is trusted, but of another file.
    Other(PublicKey),
    /// Only by somebody who is not trusted.
    Stranger(PublicKey),
}

impl fmt::Display for SignatureFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignatureFault::Unsigned => {
                f.write_str("not signed: there is no signature in a .sig file beside it; `skerry sign` makes one")
            }
            SignatureFault::Line(line) => {
                write!(f, "line {line} of its .sig file is no signature; copy that file again")
            }
            SignatureFault::Other(key) => write!(
                f,
                "the signature by {key} is not for this file: it was changed after it was signed, or its .sig file is that of \
                 another version"
            ),
            SignatureFault::Stranger(key) => write!(f, "signed by {key}, which is not a key that is trusted"),
        }
    }
}

/// Who of those that are trusted signed the image; `signatures` is the text of its `.sig` file.
pub fn signer(image: &Image, signatures: Option<&str>, trusted: &[PublicKey]) -> Result<PublicKey, SignatureFault> {
    let signed = entries(signatures.unwrap_or_default()).map_err(SignatureFault::Line)?;
    let mut fault = SignatureFault::Unsigned;
    for one in &signed {
        if !trusted.contains(&one.key) {
            if fault == SignatureFault::Unsigned {
                fault = SignatureFault::Stranger(one.key);
            }
        } else if one.is_good(image) {
            return Ok(one.key);
        } else {
            fault = SignatureFault::Other(one.key);
        }
    }
    Err(fault)
}

/// Whether the image may run; with what is to be said about it all the same. `proved` is the newest version of that name
/// that ran well here, `pinned` that the operator asked for exactly this version.
pub fn admit(
    policy: &ImagesConfig,
    image: &Image,
    signatures: Option<&str>,
    proved: Option<&str>,
    pinned: bool,
) -> Result<Option<String>, String> {
    if policy.signatures == Signatures::Off {
        return Ok(None);
    }
    if let Err(fault) = signer(image, signatures, &policy.trust_keys) {
        let strict = policy.signatures == Signatures::Require;
        return if strict { Err(fault.to_string()) } else { Ok(Some(fault.to_string())) };
    }
    let back = proved.filter(|proved| version::is_newer(proved, &image.version));
    match back.filter(|_| !policy.allow_rollback && !pinned && policy.signatures == Signatures::Require) {
        Some(proved) => Err(format!(
            "version {} goes back behind {proved}, which ran well here; to allow it, name it as `image = \"{}@{}\"` for an instance, or set \
             allow_rollback = true in [images]",
            image.version, image.name, image.version
        )),
        None => Ok(None),
    }
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
