//! Shared access signatures: the tokens with which identities prove who they are, taken apart, checked and made. Must
//! never decode the resource before the signature was checked over it: clients escape it in different ways.

use data_encoding::BASE64;
use ring::hmac;

use crate::topic::{decode, encode};

const SCHEME: &str = "SharedAccessSignature ";

/// A token as it came, in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Escaped as received: the signature covers exactly this text.
    pub resource: String,
    pub signature: Vec<u8>,
    /// Seconds since 1970.
    pub expiry: u64,
    pub policy: Option<String>,
}

impl Token {
    pub fn parse(text: &str) -> Result<Token, String> {
        let fields = text.strip_prefix(SCHEME).ok_or("the password is no shared access signature")?;
        let (mut resource, mut signature, mut expiry, mut policy) = (None, None, None, None);
        for field in fields.split('&') {
            let (key, value) = field.split_once('=').ok_or_else(|| format!("`{field}` in the token has no value"))?;
            match key {
                "sr" => resource = Some(value.to_owned()),
                "sig" => {
                    let plain = decode(value).ok_or("`sig` is badly escaped")?;
                    signature = Some(BASE64.decode(plain.as_bytes()).map_err(|e| format!("`sig`: {e}"))?);
                }
                "se" => expiry = Some(value.parse().map_err(|e| format!("`se`: {e}"))?),
                "skn" => policy = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(Token {
            resource: resource.ok_or("the token has no `sr`")?,
            signature: signature.ok_or("the token has no `sig`")?,
            expiry: expiry.ok_or("the token has no `se`")?,
            policy,
        })
    }

    /// Whether this key, in base64, made it.
    pub fn is_signed_by(&self, key: &str) -> bool {
        let Ok(key) = BASE64.decode(key.as_bytes()) else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        hmac::verify(&key, format!("{}\n{}", self.resource, self.expiry).as_bytes(), &self.signature).is_ok()
    }

    /// Whether it was made for exactly this resource. Some clients escape an id before they escape the whole, and some
    /// make it lower-case.
    pub fn is_for(&self, resource: &str) -> bool {
        let Some(once) = decode(&self.resource) else { return false };
        let twice = || decode(&once).is_some_and(|twice| twice.eq_ignore_ascii_case(resource));
        once.eq_ignore_ascii_case(resource) || twice()
    }

    /// Whether it was made for this resource, or for one that it lies in.
    pub fn covers(&self, resource: &str) -> bool {
        let Some(own) = decode(&self.resource) else { return false };
        let inside = |(head, rest): (&str, &str)| head.eq_ignore_ascii_case(&own) && rest.starts_with('/');
        self.is_for(resource) || resource.split_at_checked(own.len()).is_some_and(inside)
    }
}

/// A token as a client makes it; `key` in base64.
pub fn sign(resource: &str, key: &str, expiry: u64) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(key.as_bytes()).ok()?);
    let resource = encode(resource);
    let signature = hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes());
    Some(format!("{SCHEME}sr={resource}&sig={}&se={expiry}", encode(&BASE64.encode(signature.as_ref()))))
}

/// What a device's configuration holds.
pub fn connection_string(host: &str, device: &str, module: Option<&str>, key: &str) -> String {
    let module = module.map_or_else(String::new, |module| format!(";ModuleId={module}"));
    format!("HostName={host};DeviceId={device}{module};SharedAccessKey={key}")
}

/// The same for a back end.
pub fn policy_connection_string(host: &str, policy: &str, key: &str) -> String {
    format!("HostName={host};SharedAccessKeyName={policy};SharedAccessKey={key}")
}

/// What a device of a group proves itself with; keys in base64.
pub fn derive_key(group_key: &str, registration: &str) -> Option<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(group_key.as_bytes()).ok()?);
    Some(BASE64.encode(hmac::sign(&key, registration.as_bytes()).as_ref()))
}
