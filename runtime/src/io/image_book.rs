//! What the image store knows beside the files: which reference led to which image. One JSON document,
//! `STATE/images/book.json`. Must never be needed to run what runs: without it, images are pulled again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// References that are remembered; the oldest go.
const REFERENCES_MAX: usize = 512;
const NAME: &str = "book.json";

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Book {
    /// By reference, in full.
    pub references: BTreeMap<String, Pulled>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pulled {
    /// Of the image, not of its manifest.
    pub digest: String,
    /// When it was last asked for, ms since 1970. By a clock that may jump: it only says what goes first when there is no room.
    pub at: i64,
}

impl Book {
    /// Empty where there is none; one that can't be read is an error that costs no more than pulls.
    pub fn read(folder: &Path) -> io::Result<Book> {
        match fs::read(folder.join(NAME)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
            Err(error) => Err(error),
        }
    }

    pub fn write(&mut self, folder: &Path) -> io::Result<()> {
        while self.references.len() > REFERENCES_MAX {
            let oldest = self.references.iter().min_by_key(|(_, pulled)| pulled.at).map(|(name, _)| name.clone());
            self.references.remove(&oldest.unwrap_or_default());
        }
        let part = folder.join("book.part");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&part, folder.join(NAME))?;
        File::open(folder)?.sync_all()
    }

    /// Forgets an image that is gone.
    pub fn forget(&mut self, digest: &str) {
        self.references.retain(|_, pulled| pulled.digest != digest);
    }
}
