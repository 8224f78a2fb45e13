//! The configuration file: what is refused, with which words, and what nothing at all means.
//! Must never depend on the machine: the surroundings are made up here.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use skerry_runtime::app::cloud_settings::Source;
use skerry_runtime::app::config::{
    AtQuota, Config, Flags, ImageRef, Quota, RouteFault, Surroundings, TimeToLive, load, resolve,
};
use skerry_runtime::app::settings::{self, Settings};

/// Stands for the language of routes: a text must begin with FROM, and must not say "bad".
fn check_route(text: &str) -> Result<(), RouteFault> {
    let column = |at: usize| text[..at].chars().count() + 1;
    if !text.starts_with("FROM") {
        return Err(RouteFault { column: 1, message: "expected FROM".to_owned() });
    }
    text.find("bad").map_or(Ok(()), |at| Err(RouteFault { column: column(at), message: "unexpected `bad`".to_owned() }))
}

fn read(source: &str) -> Settings {
    settings::read("config.toml", source, check_route).unwrap_or_else(|lines| panic!("{}", lines.join("\n")))
}

fn root() -> Surroundings {
    Surroundings { uid: 0, host_name: "router".into(), folder: "/root".into(), ..Surroundings::default() }
}

fn user() -> Surroundings {
    Surroundings { uid: 1000, folder: "/srv".into(), home: Some("/users/u".into()), ..root() }
}

/// Compares with a file, or rewrites it when UPDATE_EXPECT is set.
#[track_caller]
fn expect(file: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(file);
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, actual).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), actual, "UPDATE_EXPECT=1 rewrites {file}");
}

/// A case is a TOML text, a line `---` and the lines that are printed for it; `===` ends it.
#[test]
fn every_error_says_where_and_what() {
    let cases = include_str!("data/config-errors.txt");
    let mut actual = String::new();
    for case in cases.split_inclusive("===\n") {
        let (source, _) = case.split_once("---\n").expect("a case has an answer");
        let lines = settings::read("config.toml", source, check_route).expect_err(source).join("\n");
        actual.push_str(&format!("{source}---\n{lines}\n===\n"));
    }
    expect("config-errors.txt", &actual);
}

#[test]
fn nothing_means_the_defaults() {
    let config = resolve(Settings::default(), &Flags::default(), &root()).unwrap();
    expect("config-default.txt", &format!("{config:#?}\n"));
}

#[test]
fn the_sample_says_nothing_but_defaults() {
    let sample = include_str!("../../packaging/config.toml");
    assert_eq!(read(sample), Settings::default());
}

/// Every line of the sample that is a commented key is a key, and what it says is the default.
#[test]
fn the_sample_with_its_keys_switched_on_is_understood() {
    let sample = include_str!("../../packaging/config.toml");
    let is_key = |line: &str| {
        let key = line.split(" = ").next().unwrap_or("");
        line.starts_with("[modules.")
            || line.starts_with("[upstream.modules.")
            || line.starts_with("[images.registries.")
            || (line.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let on: Vec<&str> =
        sample.lines().map(|line| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line)).collect();
    // One way to say it is enough for each, and the default is no cloud at all.
    let dps = ["id_scope", "registration_id", "symmetric_key_file", "group_key_file", "serial_file", "global_endpoint"];
    let is_dps = |line: &&str| dps.iter().any(|key| line.starts_with(key));
    let provisioning: Vec<&str> = on.iter().copied().filter(is_dps).filter(|l| !l.starts_with("group_key")).collect();
    let typed = read(&format!("[provisioning]\nsource = \"dps\"\n{}", provisioning.join("\n")));
    assert_eq!(typed.cloud.dps.registration_id.as_deref(), Some("Hannover01"));
    let on: Vec<&str> = on
        .into_iter()
        .filter(|l| {
            !l.starts_with("connection_string_file")
                && !l.starts_with("password_file")
                && *l != "source = \"none\""
                && !is_dps(l)
        })
        .collect();
    let mut typed = read(&on.join("\n"));
    assert!(matches!(&typed.cloud.modules["NAME"], Source::Here(found) if found.client_id() == "Hannover01/NAME"));
    assert!(matches!(&typed.cloud.device, Some(Source::Here(found)) if found.client_id() == "Hannover01"));
    let proxy = typed.cloud.proxy.take().unwrap();
    assert_eq!((proxy.host.to_string().as_str(), proxy.user.unwrap().0.as_str()), ("HOST:3128", "USER"));
    assert_eq!(typed.cloud.address.take().unwrap().to_string(), "127.0.0.1:8443");
    (typed.cloud.device, typed.cloud.ca) = (None, None);
    typed.cloud.modules.clear();
    assert_eq!((typed.pulls.registries.len(), typed.pulls.ca.take()), (1, Some("registry-ca.pem".into())));
    typed.pulls.registries.clear();
    assert_eq!(typed.routes.len(), 2);
    assert_eq!(typed.routes[1].priority, Some(0));
    let instance = &typed.instances["NAME"];
    assert_eq!(instance.image, Some(ImageRef { name: "filter".into(), version: Some("1.2.0".into()) }));
    assert_eq!(instance.desired.as_ref().unwrap()["threshold"], 25.0);
    (typed.routes, typed.device_id) = (Vec::new(), None);
    typed.instances.clear();
    let expected = resolve(Settings::default(), &Flags::default(), &root());
    assert_eq!(resolve(typed, &Flags::default(), &root()), expected);
}

/// Half a file, as an editor or a full disk leaves it, is refused or read; it is no reason to panic.
#[test]
fn no_prefix_panics() {
    let text = "[routes]\nü = '''\nFORM ü'''\nb = { route = \"\"\"\\\n  \\u00fcbad\"\"\", ttl = 'never' }\n\
                [modules.\"ü\"]\nsettings = { a = [1, 2.5, 1979-05-27] }\nenv = { x = 'y' }\nfiles_max = 0x20\n";
    for (end, _) in text.char_indices() {
        let _ = settings::read("f", &text[..end], check_route);
    }
    let lines = settings::read("f", text, check_route).unwrap_err();
    assert!(lines.iter().any(|line| line == "f:3:1: route `ü`: expected FROM"), "{lines:#?}");
    assert!(
        lines.iter().any(|line| line.starts_with("f:4:") && line.ends_with("route `b`: expected FROM")),
        "{lines:#?}"
    );
}

#[test]
fn what_is_typed_is_meant() {
    let typed = read(
        "[device]\nid = 'Hannover01'\n[limits]\nfiles_max = 32\n[modules]\nfolders = ['mine', '/opt/m']\n\
         [modules.f]\nmemory_max = '1MiB'\nenabled = false\n[store]\nttl = 'never'\nquota = 4194304\nat_quota = 'evict'\n\
         flush_interval = 60\n[routes]\nz = 'FROM /messages/* INTO $upstream'\n\
         a = { route = 'FROM /x INTO $upstream', ttl = '5s' }\n[state]\nfolder = 's'",
    );
    let flags = Flags { config: Some("conf/c.toml".into()), ..Flags::default() };
    let config = resolve(typed, &flags, &user()).unwrap();
    assert_eq!(config.device_id, "Hannover01");
    assert_eq!(config.modules.folders, [PathBuf::from("/srv/conf/mine"), PathBuf::from("/opt/m")]);
    let instance = &config.modules.instances["f"];
    assert_eq!((instance.image.name.as_str(), instance.enabled), ("f", false));
    assert_eq!((instance.limits.memory_bytes_max, instance.limits.files_max), (1 << 20, 32));
    assert_eq!((config.store.ttl, config.store.quota), (TimeToLive::Never, Quota::Bytes(4 << 20)));
    assert_eq!((config.store.at_quota, config.store.flush_interval), (AtQuota::Evict, Duration::from_secs(60)));
    assert_eq!(config.store.path, Path::new("/srv/conf/s/store"));
    let routes: Vec<_> = config.routes.iter().map(|r| (r.name.as_str(), r.line, r.ttl)).collect();
    assert_eq!(routes, [("z", 16, TimeToLive::Never), ("a", 17, TimeToLive::After(Duration::from_secs(5)))]);
}

#[test]
fn flags_beat_the_file_and_users_have_their_own_folders() {
    let flags = Flags {
        modules: vec!["m".into()],
        state: Some("s".into()),
        control: Some("/c.sock".into()),
        device: Some("D".into()),
        ..Flags::default()
    };
    let config = resolve(read("[device]\nid = 'x'\n[state]\nfolder = '/y'"), &flags, &user()).unwrap();
    assert_eq!(config.device_id, "D");
    assert_eq!(
        (config.state_folder.as_path(), config.control_socket.as_path()),
        (Path::new("/srv/s"), Path::new("/c.sock"))
    );
    assert_eq!(config.modules.folders, [Path::new("/srv/m")]);
    let bad = Flags { device: Some("a b".into()), ..Flags::default() };
    assert!(resolve(Settings::default(), &bad, &user()).unwrap_err().starts_with("--device: expected 1 to 128"));
    let own = resolve(Settings::default(), &Flags::default(), &user()).unwrap();
    assert_eq!(own.state_folder, Path::new("/users/u/.local/state/skerry"));
    assert_eq!(own.control_socket, Path::new("/tmp/skerry-1000/control.sock"));
    let xdg = Surroundings { xdg_state: Some("/st".into()), xdg_runtime: Some("/run/user/1000".into()), ..user() };
    let own = resolve(Settings::default(), &Flags::default(), &xdg).unwrap();
    assert_eq!(own.state_folder, Path::new("/st/skerry"));
    assert_eq!(own.control_socket, Path::new("/run/user/1000/skerry/control.sock"));
}

#[test]
fn files_that_are_missing_or_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let place = Surroundings { xdg_config: Some(folder.path().to_owned()), ..user() };
    let load = |path: Option<&Path>| -> Result<Config, Vec<String>> {
        load(&Flags { config: path.map(Path::to_owned), ..Flags::default() }, &place, check_route)
    };
    assert_eq!(load(None).unwrap().file, None);
    let path = folder.path().join("c.toml");
    let shown = path.display().to_string();
    let missing = load(Some(&path)).unwrap_err();
    assert_eq!(missing, [format!("{shown}: cannot be read: No such file or directory (os error 2)")]);
    fs::write(&path, b"[log]\nlevel = '\xff'").unwrap();
    assert_eq!(load(Some(&path)).unwrap_err(), [format!("{shown}:2: not UTF-8")]);
    fs::write(&path, "[log]\nlevel = 'warn'").unwrap();
    assert_eq!(load(Some(&path)).unwrap().log_level, log::LevelFilter::Warn);
    assert!(load(Some(folder.path())).unwrap_err()[0].ends_with("cannot be read: Is a directory (os error 21)"));
    fs::create_dir(folder.path().join("skerry")).unwrap();
    fs::write(folder.path().join("skerry/config.toml"), "[device]\nid = 'd'").unwrap();
    assert_eq!(load(None).unwrap().device_id, "d");
}
