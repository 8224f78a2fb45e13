//! Packs bytes as gzip. Must never be fed more than fits into memory twice.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    // A vector takes everything.
    let _ = packer.write_all(bytes);
    packer.finish().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_is_packed_comes_out_again() {
        let text = "a line\n".repeat(1_000);
        let packed = pack(text.as_bytes());
        assert!(packed.len() < text.len() / 10 && packed.starts_with(&[0x1f, 0x8b]));
        let mut out = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut out).unwrap();
        assert_eq!(out, text);
    }
}
