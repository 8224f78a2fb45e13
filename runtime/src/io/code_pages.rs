//! What only the start needed of the program's code: its pages are no longer counted as this process's, and come back from the file when
//! they are needed. Must never touch anything that can be written.
#![allow(unsafe_code)] // Memory by its address.

use std::ffi::c_void;
use std::fs;

use rustix::mm::{Advice, madvise};

/// The kernel maps sixteen pages around each that is touched, so that a start maps nearly all of the code.
pub fn forget() {
    let own = fs::read_link("/proc/self/exe").unwrap_or_default();
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (begin, end) in maps.lines().filter_map(|line| code(line, own.to_str()?)) {
        // SAFETY: the range is mapped from the program's file, privately and not for writing, as the kernel itself just said; the
        // program's code is never changed, so what comes back from the file is what was there.
        let forgotten = unsafe { madvise(begin as *mut c_void, end - begin, Advice::LinuxDontNeed) };
        if let Err(error) = forgotten {
            log::debug!("code pages kept=true reason=\"{error}\"");
        }
    }
}

/// `7f00-7f40 r-xp 00000000 08:01 1234    /usr/bin/skerry`: where it begins and ends.
fn code(line: &str, own: &str) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (range, mode) = (words.next()?, words.next()?);
    let path = words.nth(3)?;
    let (begin, end) = range.split_once('-')?;
    let number = |hex| usize::from_str_radix(hex, 16).ok();
    (mode == "r-xp" && path == own).then_some((number(begin)?, number(end)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_program_s_own_code_is_meant() {
        let line = |mode: &str, path: &str| code(&format!("7f00-7f40 {mode} 00000000 08:01 1234    {path}"), "/bin/x");
        assert_eq!(line("r-xp", "/bin/x"), Some((0x7f00, 0x7f40)));
        assert_eq!((line("r--p", "/bin/x"), line("rw-p", "/bin/x"), line("r-xp", "/lib/libc.so")), (None, None, None));
        assert_eq!(code("7f00-7f40 rw-p 00000000 00:00 0", "/bin/x"), None);
    }

    #[test]
    fn this_test_goes_on_without_its_pages() {
        let own = fs::read_link("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        assert!(maps.lines().any(|line| code(line, own.to_str().unwrap()).is_some()));
        forget();
        assert_eq!((1..=10).product::<u64>(), 3_628_800);
    }
}
