//! Paths of the REST interfaces, taken apart: which thing is meant. Must never decide whether it is there, or who may
//! touch it.

use crate::topic::decode;

/// An identity is `Hannover01` or `Hannover01/insight`, as everywhere else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    Devices,
    Query,
    DeviceCount,
    ConnectionCount,
    Device {
        device: String,
    },
    Modules {
        device: String,
    },
    Module {
        device: String,
        module: String,
    },
    Configure {
        device: String,
    },
    Twin {
        identity: String,
    },
    Methods {
        identity: String,
    },
    /// The last three are the provisioning side.
    Register {
        scope: String,
        registration: String,
    },
    Operation {
        scope: String,
        registration: String,
        operation: String,
    },
}

impl Resource {
    /// `None` where nothing is. `POST /devices/query` is no device of that name.
    pub fn parse(method: &str, target: &str) -> Option<Resource> {
        let path = target.split('?').next()?.strip_prefix('/')?;
        let parts = path.split('/').map(decode).collect::<Option<Vec<String>>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if parts.iter().any(|part| part.is_empty() || part.contains('/')) {
            return None;
        }
        let own = |part: &str| part.to_owned();
        Some(match parts[..] {
            ["devices"] => Resource::Devices,
            ["devices", "query"] if method == "POST" => Resource::Query,
            ["statistics", "devices"] => Resource::DeviceCount,
            ["statistics", "service"] => Resource::ConnectionCount,
            ["devices", device] => Resource::Device { device: own(device) },
            ["devices", device, "modules"] => Resource::Modules { device: own(device) },
            ["devices", device, "modules", module] => Resource::Module { device: own(device), module: own(module) },
            ["devices", device, "applyConfigurationContent"] => Resource::Configure { device: own(device) },
            ["twins", device] => Resource::Twin { identity: own(device) },
            ["twins", device, "methods"] => Resource::Methods { identity: own(device) },
            ["twins", device, "modules", module] => Resource::Twin { identity: format!("{device}/{module}") },
            ["twins", device, "modules", module, "methods"] => {
                Resource::Methods { identity: format!("{device}/{module}") }
            }
            [scope, "registrations", registration, "register"] => {
                Resource::Register { scope: own(scope), registration: own(registration) }
            }
            [scope, "registrations", registration, "operations", operation] => {
                Resource::Operation { scope: own(scope), registration: own(registration), operation: own(operation) }
            }
            _ => return None,
        })
    }
}

/// Of the query string.
pub fn parameter(target: &str, name: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(have, _)| *have == name).and_then(|(_, value)| decode(value))
}

/// Modules came with the first of these; the form is a date, and perhaps `-preview`.
pub fn is_known_version(version: &str) -> bool {
    let date = version.strip_suffix("-preview").unwrap_or(version);
    let is_date = date.len() == 10
        && date
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() });
    is_date && ("2017-11-08"..="2021-04-12").contains(&date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        let check = |method: &str, target: &str, expected: Option<&str>| {
            let came = Resource::parse(method, target).map(|resource| format!("{resource:?}"));
            assert_eq!(came.as_deref(), expected, "{method} {target}");
        };
        check("POST", "/devices/query?api-version=2021-04-12", Some("Query"));
        check("GET", "/devices/query", Some(r#"Device { device: "query" }"#));
        check("GET", "/devices/a/modules/%24edgeHub", Some(r#"Module { device: "a", module: "$edgeHub" }"#));
        check("POST", "/twins/a/modules/b/methods", Some(r#"Methods { identity: "a/b" }"#));
        check("PUT", "/0ne1/registrations/x/register?a=1", Some(r#"Register { scope: "0ne1", registration: "x" }"#));
        for nothing in
            ["", "/", "devices", "/devices/", "/devices/a/b", "/devices/%4", "/devices/a%2Fb", "/twins", "/x"]
        {
            check("GET", nothing, None);
        }
    }

    #[test]
    fn versions_have_a_form_and_a_span() {
        for good in ["2017-11-08-preview", "2018-06-30", "2020-06-30-preview", "2021-04-12"] {
            assert!(is_known_version(good), "{good}");
        }
        for bad in ["", "2016-11-14", "2022-01-01", "2021-04-12x", "2021_04_12", "2021-04-1\u{fc}"] {
            assert!(!is_known_version(bad), "{bad}");
        }
        assert_eq!(parameter("/a?x=1&api-version=2%2F3", "api-version").as_deref(), Some("2/3"));
        assert_eq!(parameter("/a", "api-version"), None);
    }
}
