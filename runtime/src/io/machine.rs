//! The serial number of this machine, from where boards and PCs tell it. Must never take a vendor's filler for a number: many devices
//! have the same one.

use std::fs;
use std::path::Path;

/// Boards, then PCs (for root only).
const PLACES: [&str; 4] = [
    "/sys/firmware/devicetree/base/serial-number",
    "/proc/device-tree/serial-number",
    "/sys/class/dmi/id/product_serial",
    "/sys/class/dmi/id/board_serial",
];
/// What vendors write where they should have written a number.
const FILLERS: [&str; 9] = [
    "none",
    "n/a",
    "unknown",
    "default string",
    "to be filled by o.e.m.",
    "not specified",
    "system serial number",
    "chassis serial number",
    "invalid",
];

/// The first one that can be used.
pub fn serial() -> Option<String> {
    PLACES.iter().find_map(|place| serial_in(Path::new(place)).ok())
}

/// The number in a file. The error is a sentence for the operator.
pub fn serial_in(path: &Path) -> Result<String, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let serial = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let filler = FILLERS.contains(&serial.to_ascii_lowercase().as_str());
    let same = serial.chars().all(|c| c == '0' || c == '-') || serial == "0123456789" || serial == "123456789";
    match serial {
        "" => Err(format!("{} is empty; write the serial number of this device there", path.display())),
        _ if filler || same => Err(format!("{} holds {serial:?}, which is no serial number", path.display())),
        serial => Ok(serial.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fillers_are_no_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("serial");
        for (bytes, expected) in [
            (&b"10000000abcd\0"[..], Some("10000000abcd")),
            (b" SN-7\n", Some("SN-7")),
            (b"\0", None),
            (b"To Be Filled By O.E.M.\n", None),
            (b"0000000000", None),
            (b"0123456789\n", None),
        ] {
            fs::write(&path, bytes).unwrap();
            assert_eq!(serial_in(&path).ok().as_deref(), expected);
        }
        assert!(serial_in(&folder.path().join("none")).unwrap_err().contains("none"));
    }
}
