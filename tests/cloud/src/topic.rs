//! The topics of IoT Hub's dialect and the property bags in them, both ways. Must never take `+` for a blank: the bag is
//! escaped like a path, not like a form.

use std::collections::BTreeMap;

/// Beyond it the hub closes the connection: body and properties together.
pub const MESSAGE_BYTES_MAX: usize = 256 * 1024;

/// Properties of one kind; `None` is a key without `=`.
pub type Properties = BTreeMap<String, Option<String>>;

/// What a client publishes, by its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upward {
    Telemetry { device: String, module: Option<String>, system: Properties, properties: Properties },
    MethodAnswer { status: i64, rid: String },
    TwinGet { rid: String },
    Reported { rid: String },
}

/// What a client can subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    CloudToDevice,
    Inputs,
    Methods,
    TwinAnswers,
    Desired,
}

impl Upward {
    pub fn parse(topic: &str) -> Result<Upward, String> {
        if let Some(rest) = topic.strip_prefix("$iothub/methods/res/") {
            let (status, query) = rest.split_once("/?").ok_or("an answer to a method has no request id")?;
            let status = status.parse().map_err(|_| format!("`{status}` is no status of a method"))?;
            return Ok(Upward::MethodAnswer { status, rid: rid(query)? });
        }
        if let Some(query) = topic.strip_prefix("$iothub/twin/GET/?") {
            return Ok(Upward::TwinGet { rid: rid(query)? });
        }
        if let Some(query) = topic.strip_prefix("$iothub/twin/PATCH/properties/reported/?") {
            return Ok(Upward::Reported { rid: rid(query)? });
        }
        let unknown = || format!("nothing can be published to `{topic}`");
        let rest = topic.strip_prefix("devices/").ok_or_else(unknown)?;
        let (device, rest) = rest.split_once('/').ok_or_else(unknown)?;
        let (module, rest) = match rest.strip_prefix("modules/") {
            Some(rest) => {
                rest.split_once('/').map(|(module, rest)| (Some(module.to_owned()), rest)).ok_or_else(unknown)?
            }
            None => (None, rest),
        };
        let rest = rest.strip_prefix("messages/events").ok_or_else(unknown)?;
        let bag = if rest.is_empty() { "" } else { rest.strip_prefix('/').ok_or_else(unknown)? };
        let (system, properties) = parse_bag(bag)?;
        Ok(Upward::Telemetry { device: device.to_owned(), module, system, properties })
    }
}

impl Channel {
    /// `None` for a filter that this identity may not have.
    pub fn parse(filter: &str, device: &str, module: Option<&str>) -> Option<Channel> {
        match filter {
            "$iothub/methods/POST/#" => return Some(Channel::Methods),
            "$iothub/twin/res/#" => return Some(Channel::TwinAnswers),
            "$iothub/twin/PATCH/properties/desired/#" => return Some(Channel::Desired),
            _ => {}
        }
        let own = filter.strip_prefix("devices/")?.strip_prefix(device)?.strip_prefix('/')?;
        match module {
            None => (own == "messages/devicebound/#").then_some(Channel::CloudToDevice),
            Some(module) => {
                let own = own.strip_prefix("modules/")?.strip_prefix(module)?;
                (own == "/#" || own == "/inputs/#").then_some(Channel::Inputs)
            }
        }
    }
}

/// System properties and the others. `$` may be escaped or not; one slash at the end is Node's and says nothing.
pub fn parse_bag(bag: &str) -> Result<(Properties, Properties), String> {
    let bag = bag.strip_suffix('/').unwrap_or(bag);
    let (mut system, mut properties) = (Properties::new(), Properties::new());
    for pair in bag.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').map_or((pair, None), |(key, value)| (key, Some(value)));
        let plain = |text: &str| decode(text).ok_or_else(|| format!("`{text}` in the property bag is badly escaped"));
        let key = plain(key)?;
        let value = value.map(plain).transpose()?;
        let kind = if is_system(&key) { &mut system } else { &mut properties };
        if kind.insert(key, value).is_some() {
            return Err(format!("a key stands twice in the property bag: {pair}"));
        }
    }
    Ok((system, properties))
}

fn is_system(key: &str) -> bool {
    key.starts_with("$.") || key == "iothub-ack" || key == "iothub-operation"
}

/// `key=` for an empty value: some clients read a bare key as the text `undefined`.
pub fn bag(properties: &BTreeMap<String, String>) -> String {
    let pair = |(key, value): (&String, &String)| format!("{}={}", encode(key), encode(value));
    properties.iter().map(pair).collect::<Vec<_>>().join("&")
}

pub fn cloud_to_device(device: &str, properties: &BTreeMap<String, String>) -> String {
    format!("devices/{device}/messages/devicebound/{}", bag(properties))
}

/// With a slash after the input also when the bag is empty: Node drops the message without it.
pub fn input(device: &str, module: &str, input: &str, properties: &BTreeMap<String, String>) -> String {
    format!("devices/{device}/modules/{module}/inputs/{input}/{}", bag(properties))
}

pub fn method(name: &str, rid: &str) -> String {
    format!("$iothub/methods/POST/{name}/?$rid={rid}")
}

pub fn desired(version: u64) -> String {
    format!("$iothub/twin/PATCH/properties/desired/?$version={version}")
}

pub fn twin_answer(status: u16, rid: &str, version: Option<u64>) -> String {
    let version = version.map_or_else(String::new, |version| format!("&$version={version}"));
    format!("$iothub/twin/res/{status}/?$rid={rid}{version}")
}

/// Echoed as it came.
fn rid(query: &str) -> Result<String, String> {
    let found = query.split('&').find_map(|pair| pair.strip_prefix("$rid="));
    found.map(str::to_owned).ok_or_else(|| format!("`{query}` has no $rid"))
}

/// Everything but the unreserved characters.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out += &format!("%{byte:02X}");
        }
    }
    out
}

/// `None` when an escape is cut off, or what comes out is no UTF-8.
pub fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}
