//! Which threads are at work in the store: redb answers some broken pages with a panic, and a panic ends what this process does. Where it
//! came from such a thread, the next start finds word of it and makes the index anew. Must never touch the index itself.

use std::cell::{Cell, RefCell};
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use super::disk::{Disk, Folder};
use super::open::INDEX;
use super::progress::Progress;

thread_local! {
    static FOLDER: RefCell<Option<PathBuf>> = const { RefCell::new(None) };
    static IS_COPYING: Cell<bool> = const { Cell::new(false) };
}

/// For as long as it lives, what this thread panics over is the store's. It stays on its thread.
pub struct AtWork(PhantomData<*const ()>);

/// Whoever opens a store, and whoever works in it.
pub fn at_work(folder: &Path) -> AtWork {
    FOLDER.set(Some(folder.to_owned()));
    AtWork(PhantomData)
}

impl Drop for AtWork {
    fn drop(&mut self) {
        FOLDER.set(None);
    }
}

/// Around a step of the salvage, which another start does not repeat for ever: it may end this process as often as there are steps.
pub(super) fn copying<R>(step: impl FnOnce() -> R) -> R {
    IS_COPYING.set(true);
    let result = step();
    IS_COPYING.set(false);
    result
}

/// What a panic of this thread means for the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspicion {
    /// It had nothing to do with it.
    None,
    /// The next start makes the index anew.
    Noted,
    /// It is being made anew, and the next start goes on with that.
    Copying,
}

/// To be asked on the thread that panics.
pub fn suspect(reason: &str) -> Suspicion {
    if IS_COPYING.get() {
        return Suspicion::Copying;
    }
    let Some(folder) = FOLDER.take() else { return Suspicion::None };
    if let Err(error) = note(&Folder::without_lock(folder), reason) {
        log::error!("store index=suspect noted=false reason=\"{error}\"");
    }
    Suspicion::Noted
}

/// What a salvage that is under way has come to know stays.
pub(super) fn note(disk: &dyn Disk, reason: &str) -> std::io::Result<()> {
    let is_there = |name: &str| disk.names().is_ok_and(|names| names.iter().any(|n| n == name));
    let under_way = Progress::read(disk).is_some_and(|p| p.aside.is_some()) && !is_there(INDEX);
    if under_way { Ok(()) } else { Progress { reason: reason.to_owned(), ..Progress::default() }.write(disk) }
}
