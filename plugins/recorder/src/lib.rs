//! Writes down which messages arrived. The lesson: a folder of one's own, and `Ok` only when what it stands for is done.
//! Must never say `Ok` to a message whose line is not in the file: it would be gone from the hub and from here.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use skerry_abi::{Context, Message, Module, Result, export_module};

#[derive(Deserialize, Serialize)]
#[serde(default)]
pub struct Settings {
    sync: bool,
    bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { sync: true, bytes_max: 16 << 20 }
    }
}

pub struct Recorder {
    settings: Settings,
    folder: PathBuf,
    file: File,
    bytes: u64,
}

impl Module for Recorder {
    type Settings = Settings;

    fn start(cx: &Context, settings: Settings) -> Result<Recorder> {
        let folder = cx.state_dir().to_owned();
        let file = open(&folder)?;
        let bytes = file.metadata()?.len();
        Ok(Recorder { settings, folder, file, bytes })
    }

    fn settings(&mut self, _: &Context, new: Settings) -> Result {
        self.settings = new;
        Ok(())
    }

    fn message(&mut self, _: &Context, _input: &str, message: Message) -> Result {
        let number = |name| message.property(name).and_then(|text| text.parse::<u64>().ok());
        let shown = |name| number(name).map_or("-".to_owned(), |number| number.to_string());
        let line = format!("{} {} {}\n", message.source_module(), shown("epoch"), shown("seq"));
        if self.bytes > 0 && self.bytes + line.len() as u64 > self.settings.bytes_max {
            fs::rename(self.folder.join(NAME), self.folder.join(OLD_NAME))?;
            self.file = open(&self.folder)?;
            self.bytes = 0;
        }
        // In one call: a process that is killed has written the whole line or none of it.
        self.file.write_all(line.as_bytes())?;
        self.bytes += line.len() as u64;
        if self.settings.sync {
            self.file.sync_data()?;
        }
        Ok(())
    }
}

fn open(folder: &Path) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(folder.join(NAME))?)
}

const NAME: &str = "record.txt";
const OLD_NAME: &str = "record.old.txt";

export_module!(Recorder);
