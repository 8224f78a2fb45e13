//! The file system that a folder lies on: which, how large, how much is free, and whether it is memory.
//! Must never change anything there.

use std::fs;
use std::io;
use std::path::Path;

/// One file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// The device, such as `/dev/mmcblk0p2`; for others what the kernel shows instead.
    pub name: String,
    /// Such as `ext4`.
    pub filesystem: String,
    /// Bytes that the runtime's user may still take.
    pub available: u64,
    pub total: u64,
}

/// Of the nearest folder above that exists.
pub fn of(folder: &Path) -> io::Result<Disk> {
    let folder = folder.ancestors().find(|above| above.exists()).unwrap_or(Path::new("/"));
    let stat = rustix::fs::statvfs(folder)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = folder.canonicalize()?;
    let (name, filesystem) = mount_of(&mounts, &at).unwrap_or_default();
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Disk { name, filesystem, available: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
}

/// Lost when the power goes.
pub fn is_memory(disk: &Disk) -> bool {
    ["tmpfs", "ramfs"].contains(&disk.filesystem.as_str())
}

/// Source and kind of the innermost mount: of two at one place the later hides the earlier.
fn mount_of(mounts: &str, at: &Path) -> Option<(String, String)> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = plain(before.split(' ').nth(4)?);
        let mut words = after.split(' ');
        let (kind, source) = (words.next()?, words.next()?);
        at.starts_with(&point).then(|| (Path::new(&point).components().count(), plain(source), kind.to_owned()))
    };
    mounts.lines().filter_map(mount).max_by_key(|(depth, ..)| *depth).map(|(_, source, kind)| (source, kind))
}

/// Blanks are written as `\040` there.
fn plain(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:20 / /var/my\\040tmp rw shared:1 - tmpfs tmpfs rw\n\
                      31 30 8:2 / /var/my\\040tmp rw - f2fs /dev/sdb rw\nnonsense\n";
        let check = |at: &str, expected: (&str, &str)| {
            let found = mount_of(mounts, Path::new(at)).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{at}");
        };
        check("/var/lib", ("/dev/sda1", "ext4"));
        check("/var/my tmp/x", ("/dev/sdb", "f2fs"));
        let here = of(Path::new("/proc/self/no/such/folder")).unwrap();
        assert_eq!((here.filesystem.as_str(), is_memory(&here)), ("proc", false));
        assert!(of(Path::new("/")).unwrap().total > 0);
    }
}
