//! Who somebody is in the cloud, and the key that proves it.
//! Must never show a key: not in `Debug`, not in an error.

use std::fmt;

/// The bytes of a symmetric key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Secret {
        Secret(bytes.into())
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret")
    }
}

/// A device or one of its modules, as an IoT hub knows it. Ids and host stand in client id, user name and topics as they
/// are, never percent-encoded (spec iot-hub-wire 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The hub's own host name, which user name and audience carry also where somebody else is dialled.
    pub host_name: String,
    pub device_id: String,
    pub module_id: Option<String>,
    pub key: Secret,
}

impl Credentials {
    /// `DEVICE` or `DEVICE/MODULE`: what the protocol calls the client id.
    pub fn client_id(&self) -> String {
        match &self.module_id {
            Some(module) => format!("{}/{module}", self.device_id),
            None => self.device_id.clone(),
        }
    }

    /// What a token is for, without a scheme.
    pub fn resource_uri(&self) -> String {
        match &self.module_id {
            Some(module) => format!("{}/devices/{}/modules/{module}", self.host_name, self.device_id),
            None => format!("{}/devices/{}", self.host_name, self.device_id),
        }
    }
}
