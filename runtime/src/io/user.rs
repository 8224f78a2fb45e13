//! Who an instance runs as: its own user, and the groups of the system that it was granted. Must never leave it a group of
//! the runtime's.
#![allow(unsafe_code)] // Between fork and exec, where std can set no groups.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The numbers of these groups, of the system's own file. Only a runtime that is root can grant any.
pub fn groups(names: &[String], uid: Option<u32>) -> io::Result<Vec<u32>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if uid.is_none() {
        return Err(io::Error::other(
            "its groups can't be granted: skerry is not root; take `groups` out, or run it as root",
        ));
    }
    let file = fs::read_to_string(FILE).map_err(|error| io::Error::other(format!("{FILE}: {error}")))?;
    names.iter().map(|name| find(&file, name)).collect()
}

fn find(file: &str, name: &str) -> io::Result<u32> {
    let of = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    };
    let missing =
        || io::Error::other(format!("its group {name:?} is not known here: {FILE} has none; correct `groups`"));
    match file.lines().find_map(of) {
        Some(0) => {
            Err(io::Error::other(format!("its group {name:?} is root's: that would give it the runtime's files")))
        }
        found => found.ok_or_else(missing),
    }
}

/// Lets the command begin as this user with this group, with these groups beside it and no other.
pub fn become_at_start(command: &mut Command, uid: u32, gid: u32, groups: &[u32]) {
    let groups = groups.to_vec();
    let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: three system calls, no allocation; the list was made before the fork. Groups first: a user has no right to.
    unsafe {
        command.pre_exec(move || {
            done(libc::setgroups(groups.len() as _, groups.as_ptr()))?;
            done(libc::setgid(gid))?;
            done(libc::setuid(uid))
        });
    }
}

/// Read as it is, since a static program has no way to ask for more.
const FILE: &str = "/etc/group";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_name() {
        let file = "root:x:0:\ndialout:x:20:somebody\n+::\n";
        assert_eq!(find(file, "dialout").unwrap(), 20);
        assert!(find(file, "gpio").unwrap_err().to_string().contains("\"gpio\" is not known here"));
        assert!(find(file, "root").is_err());
        assert_eq!(groups(&[], None).unwrap(), Vec::<u32>::new());
        assert!(groups(&["dialout".into()], None).unwrap_err().to_string().contains("not root"));
    }
}
