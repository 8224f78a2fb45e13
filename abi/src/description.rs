//! What an image says about itself, as JSON text in the ELF section `.skerry.module`: readable without
//! running any of its code. One reader for both sides. Must never be trusted for more than names and texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The ELF section that holds the text.
pub const SECTION: &str = ".skerry.module";
/// The version of the text that this code reads and writes.
pub const FORMAT: u32 = 1;
/// Longest text, bytes. A longer section is refused unread.
pub const DESCRIPTION_BYTES_MAX: usize = 256 * 1024;

/// The description of an image.
///
/// ```
/// use skerry_abi::description::Description;
/// let text = r#"{"format": 1, "name": "skerry-filter", "version": "1.2.0", "sdk_version": "0.1.0",
///     "abi_version": "1.0.0", "declared": {"name": "filter", "outputs": {"alerts": "what is too hot"}}}"#;
/// let image = Description::parse(text).unwrap();
/// assert_eq!((image.name(), image.version.as_str()), ("filter", "1.2.0"));
/// assert_eq!(image.outputs().collect::<Vec<_>>(), ["alerts"]);
/// ```
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Description {
    /// [`FORMAT`] of the SDK that wrote it.
    pub format: u32,
    /// Name of the cargo package.
    #[serde(rename = "name")]
    pub package: String,
    /// Version of the cargo package.
    pub version: String,
    /// Version of the SDK.
    pub sdk_version: String,
    /// Version of the binary interface, see `raw::ABI_VERSION`.
    pub abi_version: String,
    /// The module's `settings.json`.
    pub declared: Declared,
}

/// The file `settings.json` that lies beside a module's source.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Declared {
    /// Name of the image, if not the package's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// One sentence.
    pub description: String,
    /// Names of the inputs, each with a text. The index on the link is the place in byte order.
    pub inputs: BTreeMap<String, String>,
    /// Names of the outputs, each with a text. The index on the link is the place in byte order.
    pub outputs: BTreeMap<String, String>,
    /// The desired properties that the module knows.
    pub settings: BTreeMap<String, Setting>,
}

/// One desired property.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setting {
    /// The value when the twin has none.
    pub default: Value,
    /// Unit of the value, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// One sentence.
    pub text: String,
}

impl Description {
    /// Reads the text of the section. Zero bytes at its end are ignored.
    ///
    /// # Errors
    /// Text for a person: not JSON, fields missing, or written in a later format.
    pub fn parse(text: &str) -> Result<Description, String> {
        if text.len() > DESCRIPTION_BYTES_MAX {
            return Err(format!("description of {} bytes, the limit is {DESCRIPTION_BYTES_MAX}", text.len()));
        }
        let description: Description = serde_json::from_str(text.trim_end_matches('\0'))
            .map_err(|error| format!("the module's description can't be read: {error}"))?;
        if description.format != FORMAT {
            return Err(format!(
                "the module's description has format {}, this program reads format {FORMAT}",
                description.format
            ));
        }
        Ok(description)
    }

    /// Name of the image: the declared one, else the package's.
    pub fn name(&self) -> &str {
        self.declared.name.as_deref().unwrap_or(&self.package)
    }

    /// Names of the inputs, in the order of their index on the link.
    pub fn inputs(&self) -> impl Iterator<Item = &str> {
        self.declared.inputs.keys().map(String::as_str)
    }

    /// Names of the outputs, in the order of their index on the link.
    pub fn outputs(&self) -> impl Iterator<Item = &str> {
        self.declared.outputs.keys().map(String::as_str)
    }
}
