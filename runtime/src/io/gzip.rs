//! Packs bytes as gzip, and unpacks them: logs for the cloud, and the module hosts that the lone binary carries.
//! Must never be fed more than fits into memory twice.

use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

pub fn pack(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    // A vector takes everything.
    let _ = packer.write_all(bytes);
    packer.finish().unwrap_or_default()
}

pub fn unpack(packed: impl Read) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    GzDecoder::new(packed).read_to_end(&mut out)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_out_again() {
        let text = "a line\n".repeat(1_000);
        let packed = pack(text.as_bytes());
        assert!(packed.len() < text.len() / 10 && packed.starts_with(&[0x1f, 0x8b]));
        assert_eq!(unpack(&packed[..]).unwrap(), text.as_bytes());
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
    }
}
