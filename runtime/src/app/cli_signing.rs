//! The command line of module files, keys and signatures as typed, like `cli`, and what signing and verifying do: they need no
//! running skerry.
//! Must never print a private key.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use argh::FromArgs;
use serde_json::json;

use super::verbs::{Fault, Outcome};
use crate::io::{image, secret, signing};
use crate::logic::signature::{self, KEY_BYTES, SigningKey};
use crate::model::config::PublicKey;
use crate::model::image::Image;

/// show what a module's file says of itself, without running it
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "inspect")]
pub struct Inspect {
    /// module file
    #[argh(positional)]
    pub file: PathBuf,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

/// make keys to sign images with
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "key")]
pub struct Key {
    #[argh(subcommand)]
    pub command: KeyCommand,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
pub enum KeyCommand {
    New(KeyNew),
}

/// make a private key, for nobody else to read, and FILE.pub with its public key
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "new")]
pub struct KeyNew {
    /// file of the private key, which must not be there yet
    #[argh(positional)]
    pub file: PathBuf,
}

/// sign a module's file: writes FILE.sig beside it
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "sign")]
pub struct Sign {
    /// file of the private key
    #[argh(option, arg_name = "file")]
    pub key: PathBuf,
    /// module file
    #[argh(positional)]
    pub file: PathBuf,
}

/// see whether a module's file is signed by that key, in FILE.sig beside it
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "verify")]
pub struct Verify {
    /// public key, or a file with it
    #[argh(option, arg_name = "key")]
    pub key: String,
    /// module file
    #[argh(positional)]
    pub file: PathBuf,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

pub fn key_new(args: &KeyNew) -> Outcome {
    let private = &args.file;
    let mut public = private.clone().into_os_string();
    public.push(".pub");
    let public = Path::new(&public);
    // Both or none: a private key without its public one would be in the way of the next attempt.
    if let Some(there) = [private.as_path(), public].into_iter().find(|path| path.symlink_metadata().is_ok()) {
        return Err(Fault::Broken(format!("{} is there already; it was not touched", there.display())));
    }
    let seed = signing::random(KEY_BYTES)?;
    let key = SigningKey::new(&seed).ok_or_else(|| Fault::Broken("the key can't be used".to_owned()))?;
    signing::write_new(private, 0o600, &signature::private_text(&seed)).map_err(|e| failed(private, &e))?;
    signing::write_new(public, 0o644, &format!("{}\n", key.public())).map_err(|e| failed(public, &e))?;
    let mut out = io::stdout().lock();
    writeln!(out, "{}: the private key; keep it off the devices", private.display())?;
    writeln!(out, "{}: the public key, for config.toml of the devices:", public.display())?;
    writeln!(out, "[images]\ntrust_keys = [\"{}\"]", key.public())?;
    Ok(true)
}

pub fn sign(args: &Sign) -> Outcome {
    let text = secret::read_private(&args.key).map_err(|e| Fault::Broken(e.to_string()))?;
    let key = SigningKey::parse(&text).ok_or_else(|| {
        Fault::Broken(format!("{} is no private key; make one with `skerry key new`", args.key.display()))
    })?;
    let image = image_of(&args.file)?;
    let before = signing::signatures(&args.file).map_err(|e| failed(&signing::signatures_path(&args.file), &e))?;
    let signed = key.sign(&image, &before.unwrap_or_default());
    let target = signing::signatures_path(&args.file);
    signing::write_signatures(&args.file, &signed).map_err(|e| failed(&target, &e))?;
    writeln!(io::stdout(), "{}: {} {} signed by {}", target.display(), image.name, image.version, key.public())?;
    Ok(true)
}

pub fn verify(args: &Verify) -> Outcome {
    let key = public_key(&args.key)?;
    let image = image_of(&args.file)?;
    let signatures = signing::signatures(&args.file).map_err(|e| failed(&signing::signatures_path(&args.file), &e))?;
    let reason = signature::signer(&image, signatures.as_deref(), &[key]).err().map(|fault| fault.to_string());
    let mut out = io::stdout().lock();
    if args.json {
        let digest = format!("sha256:{}", image.digest);
        writeln!(
            out,
            "{}",
            json!({"file": args.file, "name": image.name, "version": image.version, "digest": digest,
                "key": key.to_string(), "good": reason.is_none(), "reason": reason})
        )?;
    } else {
        match &reason {
            None => writeln!(out, "{}: {} {} is signed by {key}", args.file.display(), image.name, image.version)?,
            Some(reason) => writeln!(out, "{}: {reason}", args.file.display())?,
        }
    }
    Ok(reason.is_none())
}

/// The key itself, or the file that it is in.
fn public_key(text: &str) -> Result<PublicKey, Fault> {
    if let Ok(key) = signature::parse_key(text) {
        return Ok(key);
    }
    let written = std::fs::read_to_string(text).map_err(|e| {
        Fault::Usage(format!(
            "--key: {text:?} is neither a public key nor a file with one ({e}); expected {}",
            signature::KEY_EXPECTED
        ))
    })?;
    signature::parse_key(&written)
        .map_err(|expected| Fault::Usage(format!("--key: {text} does not hold a public key; expected {expected}")))
}

fn image_of(file: &Path) -> Result<Image, Fault> {
    image::read(file).map_err(|error| Fault::Broken(format!("{}: {error}", file.display())))
}

fn failed(path: &Path, error: &io::Error) -> Fault {
    Fault::Broken(format!("{}: {error}", path.display()))
}
