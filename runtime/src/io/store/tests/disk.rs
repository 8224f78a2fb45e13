//! A disk in memory whose power can fail at any operation. What was not synced is then there, in part, or not: sector by
//! sector and in any order; names, too. It can also be full, or fail once and go on.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::super::disk::{Disk, DiskFile};
use super::super::{OpenError, Opened, Options, open};

const SECTOR: usize = 512;

/// A generator that is the same everywhere.
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.roll(one_in) == 0
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The power fails in the midst of that operation; counted from now.
    CutAtOperation(u64),
    /// The same, counting only syncs of files and of the folder.
    CutAtSync(u64),
    /// That operation fails, and those after it work.
    FailAtOperation(u64),
    /// The same for reads.
    FailAtRead(u64),
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    safe: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, usize),
    Remove(String),
    Rename(String, String),
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    safe_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    trouble: Option<Trouble>,
    is_off: bool,
    capacity: u64,
    operations: u64,
    syncs: u64,
}

#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    inode: usize,
}

impl SimDisk {
    pub fn new(capacity: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State { capacity, ..State::default() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic of redb on broken bytes is caught above; the disk itself is sound.
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    pub fn expect(&self, trouble: Option<Trouble>) {
        self.lock().trouble = trouble;
    }

    /// A store on this disk.
    pub fn open_store(&self, options: &Options, acknowledged: Option<u64>) -> Result<Opened, OpenError> {
        open::open_on(Arc::new(self.clone()), Path::new("sim"), options, acknowledged)
    }

    /// Nothing more is written, by whomever; what was written is there.
    pub fn freeze(&self, is_off: bool) {
        self.lock().is_off = is_off;
    }

    pub fn is_off(&self) -> bool {
        self.lock().is_off
    }

    /// Operations and syncs so far.
    pub fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.operations, state.syncs)
    }

    pub fn set_capacity(&self, bytes: u64) {
        self.lock().capacity = bytes;
    }

    /// Bytes of all files that bear such a name.
    pub fn bytes(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let state = self.lock();
        state
            .names
            .iter()
            .filter(|(name, _)| counts(name))
            .map(|(_, inode)| state.inodes[*inode].now.len() as u64)
            .sum()
    }

    /// Bytes of a file, to be read or spoilt.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        let inode = state.names[name];
        edit(&mut state.inodes[inode].now);
        state.inodes[inode].safe = state.inodes[inode].now.clone();
    }

    /// After a cut: a part of what was not synced is there.
    pub fn power_up(&self, dice: &mut Dice) {
        let mut state = self.lock();
        state.is_off = false;
        state.trouble = None;
        // All of it, none of it, or any part of it.
        let mode = dice.roll(4);
        let keeps = |dice: &mut Dice| match mode {
            0 => false,
            1 => true,
            _ => dice.chance(2),
        };
        for inode in &mut state.inodes {
            for change in std::mem::take(&mut inode.pending) {
                match change {
                    Change::Length(length) if keeps(dice) => inode.safe.resize(length as usize, 0),
                    Change::Length(_) => {}
                    Change::Write(offset, bytes) => torn(&mut inode.safe, offset, &bytes, || keeps(dice)),
                }
            }
            inode.now = inode.safe.clone();
        }
        let changes = std::mem::take(&mut state.name_changes);
        let mut names = state.safe_names.clone();
        // A journal has them in order; what is not in it yet is lost together.
        let count = if mode == 1 { changes.len() as u64 } else { dice.roll(changes.len() as u64 + 1) };
        changes.into_iter().take(count as usize).for_each(|change| change.apply(&mut names));
        state.safe_names = names.clone();
        state.names = names;
    }
}

/// Each sector by itself is old or new.
fn torn(safe: &mut Vec<u8>, offset: u64, bytes: &[u8], mut keep: impl FnMut() -> bool) {
    let mut at = 0;
    while at < bytes.len() {
        let begin = offset as usize + at;
        let length = (SECTOR - begin % SECTOR).min(bytes.len() - at);
        if keep() {
            if safe.len() < begin + length {
                safe.resize(begin + length, 0);
            }
            safe[begin..begin + length].copy_from_slice(&bytes[at..at + length]);
        }
        at += length;
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Set(name, inode) => drop(names.insert(name, inode)),
            NameChange::Remove(name) => drop(names.remove(&name)),
            NameChange::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
        }
    }
}

impl State {
    /// Before each operation that changes something. `Ok(true)`: it is to be carried out in part, and then the power is off.
    fn begin(&mut self, is_sync: bool) -> io::Result<bool> {
        if self.is_off {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        self.syncs += u64::from(is_sync);
        let count_down = |left: &mut u64| {
            let due = *left == 0;
            *left = left.wrapping_sub(1);
            due
        };
        let (cut, fails) = match &mut self.trouble {
            Some(Trouble::CutAtOperation(left)) => (count_down(left), false),
            Some(Trouble::CutAtSync(left)) if is_sync => (count_down(left), false),
            Some(Trouble::FailAtOperation(left)) => (false, count_down(left)),
            _ => (false, false),
        };
        if fails {
            self.trouble = None;
            return Err(io::Error::other("simulated failure"));
        }
        self.is_off = cut;
        Ok(cut)
    }

    fn begin_read(&mut self) -> io::Result<()> {
        if let Some(Trouble::FailAtRead(left)) = &mut self.trouble {
            if *left == 0 {
                self.trouble = None;
                return Err(io::Error::other("simulated failure"));
            }
            *left -= 1;
        }
        Ok(())
    }

    fn used(&self) -> u64 {
        self.names.values().map(|inode| self.inodes[*inode].now.len() as u64).sum()
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        let cut = self.begin(false)?;
        self.name_changes.push(change.clone());
        change.apply(&mut self.names);
        if cut { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }
}

impl Disk for SimDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let state = self.lock();
        let inode = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.inodes.push(Inode::default());
        let inode = state.inodes.len() - 1;
        state.change_names(NameChange::Set(name.to_owned(), inode))?;
        Ok(Arc::new(SimFile { disk: self.clone(), inode }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_names(NameChange::Remove(name.to_owned()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.begin(true)? {
            return Err(io::Error::other("the power is off"));
        }
        state.safe_names = state.names.clone();
        state.name_changes.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().inodes[self.inode].now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.begin_read()?;
        let now = &state.inodes[self.inode].now;
        let bytes = now.get(offset as usize..offset as usize + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let cut = state.begin(false)?;
        let end = offset as usize + bytes.len();
        let grows = end.saturating_sub(state.inodes[self.inode].now.len()) as u64;
        if state.used() + grows > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut state.inodes[self.inode];
        if inode.now.len() < end {
            inode.now.resize(end, 0);
        }
        inode.now[offset as usize..end].copy_from_slice(bytes);
        inode.pending.push(Change::Write(offset, bytes.to_vec()));
        if cut { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let cut = state.begin(false)?;
        let grows = len.saturating_sub(state.inodes[self.inode].now.len() as u64);
        if state.used() + grows > state.capacity {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = &mut state.inodes[self.inode];
        inode.now.resize(len as usize, 0);
        inode.pending.push(Change::Length(len));
        if cut { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        if state.begin(true)? {
            return Err(io::Error::other("the power is off"));
        }
        let inode = &mut state.inodes[self.inode];
        for change in std::mem::take(&mut inode.pending) {
            match change {
                Change::Length(length) => inode.safe.resize(length as usize, 0),
                Change::Write(offset, bytes) => torn(&mut inode.safe, offset, &bytes, || true),
            }
        }
        Ok(())
    }
}
