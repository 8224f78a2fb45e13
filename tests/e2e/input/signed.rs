//! Signed images: only what somebody signed who is trusted runs, and what ran stays when something else is put in its place.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use serde_json::json;
use skerry_tests::{Device, Image, wait_for};

/// A device with a key that it trusts, and more configuration.
fn device(config: &str) -> Device {
    let device = Device::new("");
    let file = device.path("release.key");
    let made = device.skerry(&["key", "new", file.to_str().unwrap()]);
    assert_eq!(made.code, Some(0), "{made:?}");
    let public = fs::read_to_string(device.path("release.key.pub")).unwrap();
    assert!(made.out.contains(&format!("trust_keys = [\"{}\"]", public.trim())), "{made:?}");
    device.configure(&format!("[images]\ntrust_keys = [\"{}\"]\n{config}", public.trim()));
    device
}

/// Signs the image on the side, and brings its signature to the folder of modules.
fn sign(device: &Device, file: &str, image: &Image) {
    let (key, aside) = (device.path("release.key"), device.path(file));
    fs::write(&aside, image.bytes()).unwrap();
    let signed = device.skerry(&["sign", "--key", key.to_str().unwrap(), aside.to_str().unwrap()]);
    assert_eq!(signed.code, Some(0), "{signed:?}");
    let name = format!("{file}.sig");
    fs::rename(device.path(&name), device.module_file(&name)).unwrap();
}

#[test]
fn what_is_not_signed_waits_for_its_signature() {
    let mut device = device("");
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    let reason = device.wait_rejected("filter.so", "not signed");
    device.wait_log(&format!("filter.so refused: {reason}"));
    assert!(device.module("filter").is_null());
    let stored = fs::read_dir(device.path("state/images")).unwrap().flatten();
    assert_eq!(stored.filter(|entry| entry.path().extension().is_some_and(|e| e == "so")).count(), 0);
    let shown = device.skerry(&["status"]);
    assert!(shown.out.contains("filter.so") && shown.out.contains("not signed"), "{shown:?}");

    sign(&device, "filter.so", &Image::of("filter"));
    device.wait_running("filter");
    assert_eq!(device.rejected("filter.so"), None);
}

#[test]
fn what_was_changed_is_refused_and_what_ran_goes_on() {
    let mut device = device("");
    sign(&device, "filter.so", &Image::of("filter"));
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    let filter = device.wait_running("filter");
    // The same file with one byte more, then one of another version with the old signature.
    let mut longer = Image::of("filter").bytes().to_vec();
    longer.push(0);
    for changed in [longer, Image::of("filter").with_version("0.9.7").bytes().to_vec()] {
        fs::write(device.path("aside"), changed).unwrap();
        fs::rename(device.path("aside"), device.module_file("filter.so")).unwrap();
        device.wait_rejected("filter.so", "is not for this file: it was changed after it was signed");
        assert_eq!(device.running("filter"), Some(filter.clone()));
    }
    // With its own signature the other version runs: nothing proved itself yet.
    sign(&device, "filter.so", &Image::of("filter").with_version("0.9.7"));
    assert_eq!(device.wait_after("filter", filter.generation).version, "0.9.7");
}

#[test]
fn somebody_elses_signature_counts_for_nothing() {
    let mut device = device("");
    let image = device.path("filter.so");
    sign(&device, "filter.so", &Image::of("filter"));
    let other = device.path("other.key");
    device.skerry(&["key", "new", other.to_str().unwrap()]);
    fs::write(device.module_file("filter.so.sig"), "").unwrap();
    let signed = device.skerry(&["sign", "--key", other.to_str().unwrap(), image.to_str().unwrap()]);
    assert_eq!(signed.code, Some(0), "{signed:?}");
    fs::rename(device.path("filter.so.sig"), device.module_file("filter.so.sig")).unwrap();
    device.drop_in("filter.so", &Image::of("filter"));
    let check = device.skerry(&[
        "check",
        "--config",
        device.path("config.toml").to_str().unwrap(),
        "--modules",
        device.path("modules").to_str().unwrap(),
    ]);
    assert!(check.out.contains("which is not a key that is trusted"), "{check:?}");
    device.start();
    device.wait_rejected("filter.so", "which is not a key that is trusted");
}

#[test]
fn there_is_no_way_back_behind_what_ran_well() {
    let mut device = device("[restart]\nhealth_window = \"1s\"\n");
    let newer = Image::of("filter").with_version("9.9.9");
    sign(&device, "filter.so", &newer);
    device.drop_in("filter.so", &newer);
    device.start();
    let filter = device.wait_running("filter");
    device.wait_log("proved=true");
    sign(&device, "filter.so", &Image::of("filter"));
    device.drop_in("filter.so", &Image::of("filter"));
    device.wait_rejected("filter.so", "goes back behind 9.9.9, which ran well here");
    assert_eq!(device.running("filter"), Some(filter));
    // Not after a restart either, until it is asked for by its version.
    device.stop();
    device.start();
    device.wait_rejected("filter.so", "goes back behind 9.9.9");
    device.stop();
    let config = fs::read_to_string(device.path("config.toml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    device.configure(&format!("{config}[modules.filter]\nimage = \"filter@{version}\"\n"));
    device.start();
    assert_eq!(device.wait_running("filter").version, version);
}

/// What ran well is kept in the store and goes on when its file is gone; not past a policy that came later.
#[test]
fn what_ran_well_unsigned_does_not_come_back_when_signatures_are_asked_for() {
    const REST: &str = "[modules.filter]\n[restart]\nhealth_window = \"1s\"\n";
    let mut device = device(REST);
    let strict = fs::read_to_string(device.path("config.toml")).unwrap();
    device.configure(REST);
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    device.wait_running("filter");
    device.wait_log("proved=true");
    device.stop();
    device.configure(&strict);
    device.start();
    device.wait_rejected("filter.so", "not signed");
    wait_for("the warning", || {
        let status = device.status();
        let mut warnings = status["warnings"].as_array()?.iter().filter_map(|warning| warning.as_str());
        warnings.any(|warning| warning.contains("was stored and may not run: not signed")).then_some(())
    });
    assert_eq!(device.running("filter"), None);
    // With its signature it does.
    sign(&device, "filter.so", &Image::of("filter"));
    device.wait_running("filter");
}

#[test]
fn what_is_only_warned_of_runs() {
    let mut device = device("signatures = \"warn\"\n");
    device.drop_in("filter.so", &Image::of("filter"));
    device.start();
    device.wait_running("filter");
    wait_for("the warning", || {
        let status = device.status();
        let mut warnings = status["warnings"].as_array()?.iter().filter_map(|warning| warning.as_str());
        warnings.any(|warning| warning.contains("filter.so may run all the same: not signed")).then_some(())
    });
    assert_eq!(device.rejected("filter.so"), None);
}

#[test]
fn the_command_line_keeps_keys_close_and_says_what_is_signed() {
    let device = device("");
    let path = |name: &str| device.path(name).to_str().unwrap().to_owned();
    let (key, public, image) = (path("release.key"), path("release.key.pub"), path("filter.so"));
    assert_eq!(fs::metadata(&key).unwrap().mode() & 0o777, 0o600);
    let private = fs::read_to_string(&key).unwrap();
    let again = device.skerry(&["key", "new", &key]);
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("is there already; it was not touched"), "{again:?}");
    assert_eq!(fs::read_to_string(&key).unwrap(), private);

    fs::write(&image, Image::of("filter").bytes()).unwrap();
    let verify = |key: &str| device.skerry(&["verify", "--key", key, &image, "--json"]);
    let before = verify(&public);
    assert_eq!((before.code, &before.json()["good"]), (Some(1), &json!(false)), "{before:?}");
    assert_eq!(device.skerry(&["sign", "--key", &key, &image]).code, Some(0));
    for form in [&public, fs::read_to_string(&public).unwrap().trim()] {
        let after = verify(form);
        assert_eq!((after.code, &after.json()["good"]), (Some(0), &json!(true)), "{after:?}");
        assert!(!format!("{after:?}").contains(private.trim()));
    }
    assert_eq!(verify(&path("nothing")).code, Some(2));
    let no_image = device.skerry(&["sign", "--key", &key, &public]);
    assert!(no_image.code == Some(1) && no_image.err.contains("not an ELF file"), "{no_image:?}");
    let not_private = device.skerry(&["sign", "--key", &image, &image]);
    assert_eq!(not_private.code, Some(1), "{not_private:?}");

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let open = device.skerry(&["sign", "--key", &key, &image]);
    assert!(open.code == Some(1) && open.err.contains("has mode 0640, so others can read it"), "{open:?}");
}
