//! `skerry support-bundle`: what explains a fault, in one archive, with or without a running skerry.
//! Must never put in what was not redacted, and never fail for one thing that can't be read: that is told in its place.

mod files;
mod live;

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::check;
use super::cli::SupportBundle;
use super::config::{self, Config, RouteCheck, Surroundings};
use super::settings::Settings;
use super::table::plain;
use super::verbs::{Fault, Outcome};
use crate::io::archive::Archive;
use crate::io::clock;
use crate::logic::redact::Redactor;
use crate::model::time::Wall;

pub fn bundle(args: &SupportBundle, check_route: RouteCheck) -> Outcome {
    let (flags, place) = (args.check().flags(), Surroundings::look());
    let loaded = config::load(&flags, &place, check_route);
    let config = match &loaded {
        Ok(config) => config.clone(),
        // Its folders are then those that it would have without a file.
        Err(_) => config::resolve(Settings::default(), &flags, &place).map_err(Fault::Usage)?,
    };
    let now = clock::wall();
    let name = format!("skerry-{}-{}", config.device_id, compact(now));
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.gz")));
    let to_stdout = path.as_os_str() == "-";
    let mut bundle = Bundle::new(open(&path, to_stdout)?, &name, now, redactor(&config));
    let written = fill(&mut bundle, args, &config, &flags.config.unwrap_or_else(|| place.config_file()), check_route);
    let done = written.and_then(|()| bundle.finish());
    let (files, missing) = match done {
        Ok(told) => told,
        Err(error) => {
            // Half an archive is none.
            if !to_stdout {
                let _ = std::fs::remove_file(&path);
            }
            return Err(Fault::Broken(format!("{}: can't be written: {error}", path.display())));
        }
    };
    tell(args.json, to_stdout, &path, files, &missing)?;
    Ok(true)
}

/// Where it goes. For its owner alone, and never over another file.
fn open(path: &Path, to_stdout: bool) -> Result<Box<dyn Write>, Fault> {
    if to_stdout {
        return Ok(Box::new(io::stdout().lock()));
    }
    let file: io::Result<File> = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let fault = |error: io::Error| match error.kind() {
        io::ErrorKind::AlreadyExists => Fault::Usage(format!("{} is there already", path.display())),
        _ => Fault::Usage(format!("{} can't be written: {error}", path.display())),
    };
    Ok(Box::new(BufWriter::new(file.map_err(fault)?)))
}

fn fill(
    bundle: &mut Bundle,
    args: &SupportBundle,
    config: &Config,
    file: &Path,
    check_route: RouteCheck,
) -> io::Result<()> {
    let status = live::status(bundle, config);
    let state = status.as_ref().and_then(|status| status["state"]["folder"].as_str()).map(PathBuf::from);
    let state = state.unwrap_or_else(|| config.state_folder.clone());
    bundle.json("about.json", &about(config, status.is_some()))?;
    // Where secrets have names comes first: from there on they are known.
    files::configuration(bundle, config, file)?;
    match &status {
        Some(status) => live::add(bundle, config, status, args.since.as_deref())?,
        None => {
            files::stored(bundle, config)?;
            files::logs(bundle, &state)?;
        }
    }
    let (text, json) = check::report(&args.check(), check_route);
    bundle.text("check.txt", &text)?;
    bundle.text("check.json", &json)?;
    files::crashes(bundle, &state)?;
    files::listing(bundle, &state)
}

fn about(config: &Config, running: bool) -> Value {
    let uname = rustix::system::uname();
    json!({
        "program": "skerry", "version": env!("CARGO_PKG_VERSION"), "device": config.device_id, "running": running,
        "architecture": std::env::consts::ARCH, "kernel": uname.release().to_string_lossy(),
        "configuration": config.file, "stateFolder": config.state_folder, "controlSocket": config.control_socket,
        "time": clock::wall().to_rfc3339(),
    })
}

/// Knows every secret of the configuration, so that none of them gets through in a log line either.
fn redactor(config: &Config) -> Redactor {
    let mut redactor = Redactor::default();
    let cloud = &config.cloud;
    for credentials in cloud.device.iter().chain(cloud.modules.values()) {
        redactor.know(credentials.key.bytes());
    }
    if let Some(dps) = &cloud.dps {
        redactor.know(dps.key.bytes());
    }
    if let Some((_, password)) = cloud.proxy.as_ref().and_then(|proxy| proxy.user.as_ref()) {
        redactor.know(password.bytes());
    }
    for registry in &config.pulls.registries {
        redactor.know(registry.password.bytes());
    }
    for key in files::keys(&config.state_folder) {
        redactor.know(&key);
    }
    redactor
}

/// The archive, and what is said of it. Everything passes the redactor here.
struct Bundle {
    archive: Archive<Box<dyn Write>>,
    redactor: Redactor,
    files: Vec<String>,
    missing: Vec<(String, String)>,
}

impl Bundle {
    fn new(to: Box<dyn Write>, folder: &str, now: Wall, redactor: Redactor) -> Bundle {
        Bundle { archive: Archive::new(to, folder, now), redactor, files: Vec::new(), missing: Vec::new() }
    }

    fn json(&mut self, name: &str, value: &Value) -> io::Result<()> {
        let shown = self.redactor.json(value);
        self.put(name, &format!("{shown:#}\n"))
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        let shown = self.redactor.text(text);
        self.put(name, &shown)
    }

    fn toml(&mut self, name: &str, text: &str) -> io::Result<()> {
        let shown = self.redactor.toml(text);
        self.put(name, &shown)
    }

    /// It can't be had, for this reason.
    fn missing(&mut self, name: &str, why: impl std::fmt::Display) {
        let why = self.redactor.text(&why.to_string());
        self.missing.push((name.to_owned(), why));
    }

    fn put(&mut self, name: &str, shown: &str) -> io::Result<()> {
        self.files.push(name.to_owned());
        self.archive.add(name, shown.as_bytes())
    }

    /// How many files there are, and what is missing.
    fn finish(mut self) -> io::Result<(usize, Vec<(String, String)>)> {
        let missing: Vec<Value> = self.missing.iter().map(|(name, why)| json!({"file": name, "why": why})).collect();
        let contents = json!({"files": self.files, "missing": missing, "secrets": "not shown, wherever they were known or looked like some"});
        self.json("contents.json", &contents)?;
        self.archive.finish()?.flush()?;
        Ok((self.files.len(), self.missing))
    }
}

fn tell(json: bool, to_stdout: bool, path: &Path, files: usize, missing: &[(String, String)]) -> io::Result<()> {
    let mut text = String::new();
    if json {
        let missing: Vec<Value> = missing.iter().map(|(file, why)| json!({"file": file, "why": why})).collect();
        text = format!("{}\n", json!({"archive": path, "files": files, "missing": missing}));
    } else {
        text.push_str(&format!("{}: {files} files, without secrets\n", path.display()));
        text.push_str(&missing_text(missing));
    }
    // Standard output is the archive's own then.
    if to_stdout { io::stderr().write_all(text.as_bytes()) } else { io::stdout().write_all(text.as_bytes()) }
}

/// A line for each reason.
fn missing_text(missing: &[(String, String)]) -> String {
    let mut reasons: Vec<(Vec<&str>, &str)> = Vec::new();
    for (file, why) in missing {
        match reasons.iter_mut().find(|(_, known)| known == why) {
            Some((files, _)) => files.push(file),
            None => reasons.push((vec![file], why)),
        }
    }
    reasons.iter().map(|(files, why)| format!("not in it: {}: {}\n", files.join(", "), plain(why))).collect()
}

/// `20261129T063015Z`, for a file's name.
fn compact(at: Wall) -> String {
    let text = at.to_rfc3339();
    let seconds: String = text.chars().take("2026-11-29T06:30:15".len()).filter(|c| !"-:".contains(*c)).collect();
    seconds + "Z"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_told_once() {
        let missing = [("a", "x"), ("b", "y"), ("c", "x")].map(|(file, why)| (file.to_owned(), why.to_owned()));
        assert_eq!(missing_text(&missing), "not in it: a, c: x\nnot in it: b: y\n");
        assert_eq!(missing_text(&[]), "");
    }

    #[test]
    fn names_of_archives_sort_by_time() {
        assert_eq!(compact(Wall(1_795_456_800_250)), "20261123T180000Z");
    }
}
