//! `skerry inspect FILE.so`: what an image says of itself and needs, and whether it runs here.
//! Must never run any of the image's code.

use crate::io::image;
use crate::logic::oci;
use crate::model::image::Image;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::Path;

/// What to print, and whether the image runs on this device; `Err` when the file is no image at all.
pub fn inspect(file: &Path, as_json: bool) -> Result<(String, bool), String> {
    let image = image::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let refusal = image::fits(&image, image::device()).err().map(|error| error.to_string());
    let runs = refusal.is_none();
    let text = if as_json { format!("{:#}\n", to_json(&image, refusal)) } else { to_text(&image, refusal) };
    Ok((text, runs))
}

fn to_text(image: &Image, refusal: Option<String>) -> String {
    let mut text = format!("{} {}\n", image.name, image.version);
    if !image.description.is_empty() {
        let _ = writeln!(text, "{}", image.description);
    }
    text.push('\n');
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<9} {value}");
    };
    line("package", image.package.clone());
    line("sdk", format!("{} (ABI {})", image.sdk_version, image.abi_version));
    line("machine", image.machine.to_string());
    line(
        "libc",
        match image.glibc_floor {
            Some(floor) => format!("{} {floor} or newer", image.libc),
            None => image.libc.to_string(),
        },
    );
    line("size", format!("{} bytes", image.bytes));
    line("digest", format!("sha256:{}", image.digest));
    line("build id", image.build_id.clone().unwrap_or_else(|| "none".into()));
    line("runs here", refusal.map_or_else(|| "yes".into(), |refusal| format!("no: {refusal}")));
    ports("inputs", &image.inputs, &image.input_texts, &mut text);
    ports("outputs", &image.outputs, &image.output_texts, &mut text);
    settings_table(image, &mut text);
    text
}

fn ports(title: &str, names: &[String], texts: &[String], text: &mut String) {
    if names.is_empty() {
        let _ = writeln!(text, "\n{title}: none");
        return;
    }
    let _ = writeln!(text, "\n{title}");
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (name, what) in names.iter().zip(texts) {
        let _ = writeln!(text, "{}", format!("  {name:<width$}  {what}").trim_end());
    }
}

fn settings_table(image: &Image, text: &mut String) {
    if image.settings.is_empty() {
        return;
    }
    text.push_str("\nsettings (desired properties)\n");
    let name_width = image.settings.iter().map(|s| s.name.chars().count()).max().unwrap_or(0);
    let value = |s: &crate::model::image::Setting| format!("{} {}", s.default, s.unit).trim_end().to_owned();
    let value_width = image.settings.iter().map(|s| value(s).chars().count()).max().unwrap_or(0);
    for setting in &image.settings {
        let line = format!("  {:<name_width$}  {:<value_width$}  {}", setting.name, value(setting), setting.text);
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

fn to_json(image: &Image, refusal: Option<String>) -> Value {
    let setting = |s: &crate::model::image::Setting| {
        let default: Value = serde_json::from_str(&s.default).unwrap_or(Value::Null);
        (s.name.clone(), json!({ "default": default, "unit": s.unit, "text": s.text }))
    };
    let pairs = |names: &[String], texts: &[String]| -> serde_json::Map<String, Value> {
        names.iter().cloned().zip(texts.iter().cloned().map(Value::String)).collect()
    };
    json!({
        "name": image.name,
        "package": image.package,
        "version": image.version,
        "description": image.description,
        "inputs": pairs(&image.inputs, &image.input_texts),
        "outputs": pairs(&image.outputs, &image.output_texts),
        "settings": image.settings.iter().map(setting).collect::<serde_json::Map<_, _>>(),
        "sdkVersion": image.sdk_version,
        "abiVersion": image.abi_version,
        "machine": image.machine.to_string(),
        "libc": image.libc.to_string(),
        "glibcFloor": image.glibc_floor.map(|floor| floor.to_string()),
        "platform": platform(image),
        "buildId": image.build_id,
        "digest": format!("sha256:{}", image.digest),
        "bytes": image.bytes,
        "runsHere": refusal.is_none(),
        "refusal": refusal,
    })
}

/// As an index of a registry names it; null for a machine that has no name there.
fn platform(image: &Image) -> Value {
    let Some((architecture, variant)) = oci::platform_of(image.machine) else { return Value::Null };
    let mut platform = json!({ "os": "linux", "architecture": architecture });
    if let Some(variant) = variant {
        platform["variant"] = variant.into();
    }
    if let Some(feature) = oci::libc_feature(image.libc) {
        platform["os.features"] = json!([feature]);
    }
    platform
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image::{GlibcVersion, Libc, Machine, Setting};

    fn image() -> Image {
        let setting = |name: &str, default: &str, unit: &str, text: &str| Setting {
            name: name.into(),
            default: default.into(),
            unit: unit.into(),
            text: text.into(),
        };
        Image {
            name: "filter".into(),
            package: "skerry-filter".into(),
            version: "1.2.0".into(),
            description: "Lets through what is beyond a threshold".into(),
            inputs: vec!["in".into()],
            outputs: vec!["alerts".into(), "rest".into()],
            input_texts: vec![String::new()],
            output_texts: vec!["too hot".into(), "all else".into()],
            settings: vec![
                setting("label", "\"hot\"", "", "Written into each alert"),
                setting("threshold", "21.5", "°C", "Above it, an alert"),
            ],
            sdk_version: "0.1.0".into(),
            abi_version: "1.0.0".into(),
            machine: Machine { number: 183, bits: 64, big_endian: false },
            libc: Libc::Glibc,
            glibc_floor: Some(GlibcVersion { major: 2, minor: 17 }),
            build_id: None,
            digest: "ab12".into(),
            bytes: 4096,
        }
    }

    #[test]
    fn text_for_people() {
        let expected = "\
filter 1.2.0
Lets through what is beyond a threshold

package   skerry-filter
sdk       0.1.0 (ABI 1.0.0)
machine   aarch64
libc      glibc 2.17 or newer
size      4096 bytes
digest    sha256:ab12
build id  none
runs here no: built for aarch64, this device is x86_64

inputs
  in

outputs
  alerts  too hot
  rest    all else

settings (desired properties)
  label      \"hot\"    Written into each alert
  threshold  21.5 °C  Above it, an alert
";
        assert_eq!(to_text(&image(), Some("built for aarch64, this device is x86_64".into())), expected);
    }

    #[test]
    fn json_for_programs() {
        let value = to_json(&image(), None);
        assert_eq!(
            value["settings"]["threshold"],
            json!({ "default": 21.5, "unit": "°C", "text": "Above it, an alert" })
        );
        let platform = json!({ "os": "linux", "architecture": "arm64", "variant": "v8", "os.features": ["glibc"] });
        assert_eq!(value["platform"], platform);
        assert_eq!((&value["runsHere"], &value["glibcFloor"]), (&json!(true), &json!("2.17")));
    }

    #[test]
    fn what_is_no_image_is_named() {
        assert_eq!(inspect(Path::new("/dev/null"), false).unwrap_err(), "/dev/null: not an ELF file");
    }
}
