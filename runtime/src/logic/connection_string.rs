//! Connection strings as IoT Hub's portal shows them: `HostName=…;DeviceId=…;ModuleId=…;SharedAccessKey=…`.
//! Must never repeat a key in an error.

use std::fmt;

use data_encoding::BASE64;

use super::nearest::nearest;
use crate::model::identity::{Credentials, Secret};

const KEYS: [&str; 4] = ["HostName", "DeviceId", "ModuleId", "SharedAccessKey"];
/// Longest text that is looked at, bytes: ids, a host name and a key of 64 bytes fit several times.
const BYTES_MAX: usize = 4_096;

/// Longest name of a part that is shown, bytes.
const NAME_BYTES_MAX: usize = 24;

/// Why a text is not a connection string. Names the part, never a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionStringError {
    TooLong,
    /// Number of the part, from 1.
    NoEquals(usize),
    Unknown {
        key: String,
        meant: Option<&'static str>,
    },
    Twice(&'static str),
    Missing(&'static str),
    Empty(&'static str),
    HostName,
    Id(&'static str),
    Key,
    /// A part that asks for what this version can't do.
    Unsupported(&'static str),
}

impl fmt::Display for ConnectionStringError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ConnectionStringError::*;
        match self {
            TooLong => write!(f, "longer than {BYTES_MAX} bytes"),
            NoEquals(part) => write!(f, "part {part} has no `=`; expected HostName=…;DeviceId=…;SharedAccessKey=…"),
            Unknown { key, meant: Some(meant) } => write!(f, "unknown part {key}: did you mean `{meant}`?"),
            Unknown { key, meant: None } => write!(f, "unknown part {key}; known are {}", KEYS.join(", ")),
            Twice(key) => write!(f, "`{key}` is given twice"),
            Missing(key) => write!(f, "`{key}` is missing; copy the whole connection string of the device or module"),
            Empty(key) => write!(f, "`{key}` is empty"),
            HostName => write!(f, "`HostName` is no host name; expected something like myhub.azure-devices.net"),
            Id(key) => write!(f, "`{key}` must be 1 to 128 of IoT Hub's characters for ids"),
            Key => write!(f, "`SharedAccessKey` is not base64; copy it again, with its `=` at the end"),
            Unsupported("SharedAccessKeyName") => write!(
                f,
                "`SharedAccessKeyName` belongs to a service's connection string; take the one of the device or module"
            ),
            Unsupported(part) => write!(f, "`{part}` is not in this version; use a connection string with a key"),
        }
    }
}

impl std::error::Error for ConnectionStringError {}

pub fn parse(text: &str) -> Result<Credentials, ConnectionStringError> {
    use ConnectionStringError as E;
    if text.len() > BYTES_MAX {
        return Err(E::TooLong);
    }
    let mut values: [Option<&str>; KEYS.len()] = [None; KEYS.len()];
    let parts = text.trim().split(';').filter(|part| !part.trim().is_empty());
    for (number, part) in parts.enumerate() {
        let (key, value) = part.split_once('=').ok_or(E::NoEquals(number + 1))?;
        let key = key.trim();
        for unsupported in ["SharedAccessKeyName", "x509", "GatewayHostName", "SharedAccessSignature"] {
            if key.eq_ignore_ascii_case(unsupported) {
                return Err(E::Unsupported(unsupported));
            }
        }
        let Some(at) = KEYS.iter().position(|known| known.eq_ignore_ascii_case(key)) else {
            // A key whose name was forgotten must not be taken for a name, and shown.
            let is_name = key.len() <= NAME_BYTES_MAX && key.bytes().all(|b| b.is_ascii_alphabetic());
            let shown = if is_name { format!("`{key}`") } else { format!("number {}", number + 1) };
            return Err(E::Unknown { meant: nearest(key, KEYS).filter(|_| is_name), key: shown });
        };
        let value = value.trim();
        if value.is_empty() {
            return Err(E::Empty(KEYS[at]));
        }
        if values[at].replace(value).is_some() {
            return Err(E::Twice(KEYS[at]));
        }
    }
    let take = |at: usize| values[at].ok_or(E::Missing(KEYS[at]));
    let id = |key: &'static str, id: &str| match crate::model::config::id_fault(id) {
        Some(_) => Err(E::Id(key)),
        None => Ok(id.to_owned()),
    };
    let host_name = take(0)?.to_owned();
    if !is_host_name(&host_name) {
        return Err(E::HostName);
    }
    let key = BASE64.decode(take(3)?.as_bytes()).map_err(|_| E::Key)?;
    Ok(Credentials {
        host_name,
        device_id: id("DeviceId", take(1)?)?,
        module_id: values[2].map(|module| id("ModuleId", module)).transpose()?,
        key: Secret::new(key),
    })
}

fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

    #[test]
    fn a_module_and_a_device() {
        let module =
            parse(&format!("HostName=h.azure-devices.net;DeviceId=d1;ModuleId=m;SharedAccessKey={KEY}")).unwrap();
        assert_eq!(module.client_id(), "d1/m");
        assert_eq!(module.resource_uri(), "h.azure-devices.net/devices/d1/modules/m");
        assert_eq!(module.key.bytes(), (0..32).collect::<Vec<u8>>());
        let device = parse(&format!(" hostname=h;SharedAccessKey={KEY};DEVICEID=d1;\n")).unwrap();
        assert_eq!((device.client_id().as_str(), device.resource_uri().as_str()), ("d1", "h/devices/d1"));
        assert!(!format!("{device:?}").contains("AAEC"));
    }

    #[test]
    fn every_fault_names_its_part_and_no_value() {
        let cases = [
            ("", "`HostName` is missing"),
            ("HostName=h;DeviceId=d;SharedAccessKey=_secret_", "`SharedAccessKey` is not base64"),
            ("HostName=h;DeviceId=d;SharedAccessKey=", "`SharedAccessKey` is empty"),
            ("HostName=h;DeviceId=d", "`SharedAccessKey` is missing"),
            ("HostName=h;HostName=h", "given twice"),
            ("HostName=h_;DeviceId=d e;SharedAccessKey=AA==", "`DeviceId` must be"),
            ("HostName=-h;DeviceId=d;SharedAccessKey=AA==", "`HostName` is no host name"),
            ("HostName", "part 1 has no `=`"),
            ("HostNam=h", "did you mean `HostName`"),
            ("HostName=h;DeviceId=d;_secret_c2VjcmV0c2VjcmV0=", "unknown part number 3;"),
            ("HostName=h;DeviceId=d;x509=true", "`x509` is not in this version"),
            ("HostName=h;SharedAccessKeyName=iothubowner;SharedAccessKey=AA==", "service's connection string"),
        ];
        for (text, part) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
            assert!(!error.contains("_secret_"));
        }
        assert_eq!(parse(&"x".repeat(5_000)), Err(ConnectionStringError::TooLong));
    }
}
