//! The lone binary: the static program with the module hosts behind its end, where a package's program has them as files beside it.
//! Must agree with its reader, `carried` in `runtime/src/io/hosts.rs`.

use super::tree::gzip_smallest;

/// The program, each host gzipped, the lengths of both with the least byte first, and the word that says so.
pub fn bytes(program: &[u8], glibc: &[u8], musl: &[u8]) -> Result<Vec<u8>, String> {
    let (glibc, musl) = (gzip_smallest(glibc)?, gzip_smallest(musl)?);
    let length = |packed: &[u8]| u32::try_from(packed.len()).map(u32::to_le_bytes).map_err(|e| e.to_string());
    Ok([program, &glibc, &musl, &length(&glibc)?, &length(&musl)?, WORD].concat())
}

/// By which the program knows its hosts.
pub fn digest(host: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, host);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

const WORD: &[u8] = b"skerryh1";

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_hosts_are_found_from_the_end() {
        let bytes = bytes(b"program", b"of glibc", b"of musl, longer").unwrap();
        assert!(bytes.starts_with(b"program") && bytes.ends_with(WORD));
        let end = bytes.len() - 16;
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (glibc, musl) = (length(end), length(end + 4));
        let unpacked = |from: usize, length: usize| {
            let mut out = String::new();
            flate2::read::GzDecoder::new(&bytes[from..from + length]).read_to_string(&mut out).unwrap();
            out
        };
        assert_eq!(unpacked(end - musl, musl), "of musl, longer");
        assert_eq!(unpacked(end - musl - glibc, glibc), "of glibc");
        assert_eq!(end - musl - glibc, "program".len());
    }
}
