//! What a signature is worth, as cases, and the format as other tools see it.

use super::*;
use crate::model::image::{Libc, Machine};

fn image(version: &str, digest: &str) -> Image {
    Image {
        name: "filter".into(),
        package: "skerry-filter".into(),
        version: version.into(),
        description: String::new(),
        inputs: Vec::new(),
        outputs: Vec::new(),
        input_texts: Vec::new(),
        output_texts: Vec::new(),
        settings: Vec::new(),
        sdk_version: "0.1.0".into(),
        abi_version: "1.0.0".into(),
        machine: Machine { number: 62, bits: 64, big_endian: false },
        libc: Libc::Any,
        glibc_floor: None,
        build_id: None,
        digest: digest.into(),
        bytes: 1,
    }
}

fn key(seed: u8) -> SigningKey {
    SigningKey::new(&Secret::new(vec![seed; KEY_BYTES])).unwrap()
}

/// Each line: policy, who is trusted, who signed (`Ax`: A, another file), version, what ran well, and `+pinned` or
/// `+rollback`; then what comes of it.
const CASES: &str = "
    require A  -    1.0.0 -          => not signed
    require A  A    1.0.0 -          => runs
    require A  Ax   1.0.0 -          => changed after it was signed
    require A  B    1.0.0 -          => not a key that is trusted
    require AB B    1.0.0 -          => runs
    require A  BA   1.0.0 -          => runs
    require A  BAx  1.0.0 -          => changed after it was signed
    require A  AxA  1.0.0 -          => runs
    require A  A?   1.0.0 -          => line 3 of its .sig file
    require A  A    1.0.0 0.9.0      => runs
    require A  A    1.0.0 1.0.0      => runs
    require A  A    1.0.0 1.0.1      => version 1.0.0 goes back behind 1.0.1
    require A  A    1.9.0 1.10.0     => version 1.9.0 goes back behind 1.10.0
    require A  A    1.0.0 1.0.1 +pinned   => runs
    require A  A    1.0.0 1.0.1 +rollback => runs
    require A  -    1.0.0 1.0.1 +pinned   => not signed
    warn    A  -    1.0.0 -          => runs, but: not signed
    warn    A  Ax   1.0.0 -          => runs, but: the signature by
    warn    A  A    1.0.0 1.0.1      => runs
    off     A  Ax   1.0.0 1.0.1      => runs
";

#[test]
fn what_a_signature_is_worth() {
    for case in CASES.lines().filter(|line| !line.trim().is_empty()) {
        let (given, expected) = case.split_once("=>").unwrap();
        let words: Vec<&str> = given.split_whitespace().collect();
        let seed = |c: char| key(c as u8);
        let signatures = match words[0] {
            "require" => Signatures::Require,
            "warn" => Signatures::Warn,
            _ => Signatures::Off,
        };
        let trust_keys = words[1].chars().map(|c| seed(c).public()).collect();
        let policy = ImagesConfig { signatures, trust_keys, allow_rollback: words.contains(&"+rollback") };
        let image = image(words[3], "ab12");
        let text = (words[2] != "-").then(|| signatures_by(words[2], &image));
        let proved = Some(words[4]).filter(|version| *version != "-");
        let found = match admit(&policy, &image, text.as_deref(), proved, words.contains(&"+pinned")) {
            Ok(None) => "runs".to_owned(),
            Ok(Some(remark)) => format!("runs, but: {remark}"),
            Err(reason) => reason,
        };
        let expected = expected.trim();
        let as_expected = if expected == "runs" { found == expected } else { found.contains(expected) };
        assert!(as_expected && !found.contains('\n'), "{case}: {found}");
    }
}

/// `AxB?`: a good one of A for another file, then a good one of B, then a line that is none.
fn signatures_by(who: &str, image: &Image) -> String {
    let mut text = String::new();
    let mut letters = who.chars().peekable();
    while let Some(letter) = letters.next() {
        let other = self::image(&image.version, "cd34");
        let of = if letters.next_if_eq(&'x').is_some() { &other } else { image };
        match letter {
            '?' => text.push_str("ed25519:AAAA BBBB\n"),
            letter => text.push_str(&key(letter as u8).sign(of, "")),
        }
    }
    text
}

#[test]
fn nothing_of_what_is_signed_can_change() {
    let (key, good) = (key(7), image("1.0.0", "ab12"));
    let text = key.sign(&good, "");
    assert_eq!(signer(&good, Some(&text), &[key.public()]), Ok(key.public()));
    let mut named = good.clone();
    named.name = "other".into();
    for changed in [image("1.0.1", "ab12"), image("1.0.0", "ab13"), named] {
        let found = signer(&changed, Some(&text), &[key.public()]);
        assert_eq!(found, Err(SignatureFault::Other(key.public())));
    }
}

#[test]
fn several_sign_one_file_and_each_once() {
    let image = image("1.0.0", "ab12");
    let (a, b) = (key(1), key(2));
    let both = b.sign(&image, &a.sign(&image, ""));
    assert_eq!(both.lines().count(), 3);
    assert_eq!(a.sign(&image, &both).lines().count(), 3);
    for one in [&a, &b] {
        assert_eq!(signer(&image, Some(&both), &[one.public()]), Ok(one.public()));
    }
    // What was for another version goes.
    assert_eq!(b.sign(&self::image("1.0.1", "cd34"), &both).lines().count(), 2);
}

/// The same, as another tool has computed it from RFC 8032's first test key.
#[test]
fn the_format_stays() {
    let seed = data_encoding::HEXLOWER.decode(b"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
    let seed = Secret::new(seed.unwrap());
    let key = SigningKey::parse(&private_text(&seed)).unwrap();
    assert_eq!(key.public().to_string(), "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
    assert_eq!(parse_key(&key.public().to_string()), Ok(key.public()));
    let image = image("1.2.0", "00ff");
    let expected = "# filter 1.2.0 sha256:00ff\ned25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo= H5BbXrd9qmXdglgJbwHwjYlgf0EIXUxZTALHlNSDVPFtQRqjb4d4ds+pT7cD+cK5CBB3SwU8ZAZR4LS9gIoYBw==\n";
    assert_eq!(key.sign(&image, ""), expected);
    for bad in ["", "ed25519:", "ed25519:AAAA", "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=", &private_text(&seed)] {
        assert!(parse_key(bad).is_err(), "{bad}");
    }
}
