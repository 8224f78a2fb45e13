//! A real module host process, driven over its link by hand: what it says, what it can reach, how it ends.
//! Images are C libraries whose constructor runs inside the confined host.

mod kit;
mod module;

use kit::{Run, State, abi_header, is_root, library};
use skerry_runtime::io::order::Limits;
use skerry_runtime::io::process::{Ended, HostBinary, Spec, tracer_of};
use skerry_runtime::model::instance::HostExit;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

const UID: u32 = 61_190;

fn code(exit: HostExit) -> Ended {
    Ended::Code(i32::from(exit.code()))
}

#[test]
fn an_image_without_a_module_is_refused_in_one_sentence() {
    let state = State::new();
    let mut run = Run::start(&state, &state.spec(), &library("void nothing(void) {}"));
    assert!(run.hello().contains("no-new-privs"));
    assert_eq!(run.failed(), (0, "the image exports no module; was it built with export_module!?".into()));
    assert_eq!(run.ended(), code(HostExit::Failed));
}

#[test]
fn another_abi_is_named_on_both_sides() {
    let state = State::new();
    let mut run = Run::start(&state, &state.spec(), &library(&abi_header(7, 9)));
    run.hello();
    let (_, text) = run.failed();
    assert_eq!(text, "the image was built with abi_stable 7.9, this host speaks 0.11; rebuild it with a matching SDK");
    assert_eq!(run.ended(), code(HostExit::Failed));
}

#[test]
fn what_is_no_library_says_why() {
    let state = State::new();
    let mut run = Run::start(&state, &state.spec(), b"\x7fELF and nothing more");
    run.hello();
    let (_, text) = run.failed();
    assert!(text.starts_with("the image does not load: "), "{text}");
    assert!(!text.contains("/proc/"), "{text}");
    let source = "void nowhere_to_be_found(void); void call(void) { nowhere_to_be_found(); }";
    let mut run = Run::start(&state, &state.spec(), &library(source));
    run.hello();
    let (_, text) = run.failed();
    assert!(text.ends_with("undefined symbol: nowhere_to_be_found"), "{text}");
}

#[test]
fn a_crash_leaves_its_signal_in_the_page() {
    for (body, signal) in [
        ("*(volatile int *)8 = 1;", 11),
        ("abort();", 6),
        ("kill(getpid(), SIGSEGV); for (;;) pause();", 11),
        // A stack overflow needs the alternate stack.
        ("volatile char deep[1 << 20]; deep[0] = (char)fall; ((void (*)(void))fall)(); deep[1] = 0;", 11),
    ] {
        let source = format!(
            "static void fall(void) {{ {body} }}\n__attribute__((constructor)) static void init(void) {{ fall(); }}"
        );
        let state = State::new();
        let mut run = Run::start(&state, &state.spec(), &library(&source));
        run.hello();
        assert_eq!(run.ended(), Ended::Signal(signal), "{body}");
        let page = run.host.status.read().unwrap();
        assert!(page.live && page.signal == signal as u64 && page.pc != 0, "{body}: {page:?}");
    }
}

/// Prints what it can reach; each line is `what: reason`, and `reason` is `Success` when it could.
const PROBE: &str = r#"
static void say(const char *what, int ok) { printf("%s: %s\n", what, ok ? "Success" : strerror(errno)); }
static void reads(const char *what, const char *path) { int fd = open(path, O_RDONLY); say(what, fd >= 0); }
static void makes(const char *what, const char *path) { int fd = open(path, O_RDWR | O_CREAT, 0600); say(what, fd >= 0); }
__attribute__((constructor)) static void init(void) {
    char path[512], folder[512];
    reads("secret", STATE "/secret");
    reads("sibling", STATE "/modules/other/file");
    makes("new in state", STATE "/new");
    say("list state", opendir(STATE) != NULL);
    say("hide and seek", chdir(STATE "/modules/probe") == 0 && open("../../secret", O_RDONLY) >= 0);
    makes("own file", STATE "/modules/probe/file");
    makes("working folder", "here");
    say("rename", rename("here", "there") == 0);
    reads("passwd", "/etc/passwd");
    makes("dev null", "/dev/null");
    makes("etc", "/etc/skerry-was-here");
    snprintf(path, sizeof path, "/proc/%d/mem", getppid());
    reads("parent memory", path);
    say("parent trace", ptrace(PTRACE_ATTACH, getppid(), 0, 0) == 0);
    say("parent signal", kill(getppid(), 0) == 0);
    say("ls", system("ls / /usr > /dev/null 2>&1; exec true") == 0);
    printf("uid %d %d groups %d\n", getuid(), getgid(), getgroups(0, NULL));
    printf("cwd %s\nstdin %d\n", getcwd(folder, sizeof folder), (int)read(0, path, 1));
    printf("core %d\n", (getrlimit(RLIMIT_CORE, (struct rlimit *)path), (int)((struct rlimit *)path)->rlim_max));
    extern char **environ;
    for (char **e = environ; *e; e++) printf("env %s\n", *e);
    DIR *fds = opendir("/proc/self/fd");
    for (struct dirent *e; (e = readdir(fds));)
        if (snprintf(folder, sizeof folder, "/proc/self/fd/%s", e->d_name), *e->d_name != '.') {
            ssize_t n = readlink(folder, path, sizeof path - 1);
            printf("fd %.*s\n", (int)(n < 0 ? 0 : n), path);
        }
    fflush(stdout);
}"#;

fn probe(state: &State, spec: &Spec) -> (String, String) {
    let source = format!("#define STATE \"{}\"\n{PROBE}", state.folder().display());
    state.write("secret", "key");
    state.write("modules/other/file", "theirs");
    let mut run = Run::start(state, spec, &library(&source));
    let isolation = run.hello();
    run.failed();
    run.ended();
    (isolation, run.output())
}

fn expect(output: &str, lines: &[&str]) {
    for line in lines {
        assert!(output.lines().any(|l| l == *line), "no line {line:?} in:\n{output}");
    }
}

const REACHED: [&str; 8] = [
    "own file: Success",
    "working folder: Success",
    "rename: Success",
    "passwd: Success",
    "dev null: Success",
    "core 0",
    "stdin 0",
    "env COLOUR=red",
];

#[test]
fn landlock_hides_the_state_folder() {
    let state = State::new();
    // A leak that the host must close: dup clears the close-on-exec flag.
    let leaked = kit::leak();
    let (isolation, output) = probe(&state, &state.spec());
    drop(leaked);
    if !isolation.starts_with("landlock abi ") {
        assert!(isolation.starts_with("not isolated: no landlock ("), "{isolation}");
        println!("NOT RUN: this kernel has no Landlock");
        return;
    }
    expect(&output, &REACHED);
    let denied = ["secret", "sibling", "new in state", "list state", "hide and seek", "etc"];
    expect(&output, &denied.map(|what| format!("{what}: Permission denied")).each_ref().map(String::as_str));
    expect(&output, &["parent trace: Operation not permitted", &format!("cwd {}", state.own().display())]);
    assert!(!output.contains("parent memory: Success") && !output.contains("CARGO"), "{output}");
    let abi: u32 = isolation["landlock abi ".len()..].split(',').next().unwrap().parse().unwrap();
    expect(&output, if abi >= 6 { &["parent signal: Operation not permitted"] } else { &[] });
    assert!(!output.contains("/etc/hostname"), "{output}");
}

#[test]
fn an_own_uid_hides_it_without_landlock() {
    if !is_root() {
        println!("NOT RUN: changing the uid needs root");
        return;
    }
    let state = State::new();
    let spec = Spec { uid: Some(UID), landlock: false, ..state.spec() };
    let (isolation, output) = probe(&state, &spec);
    assert_eq!(isolation, format!("uid {UID}, no landlock (turned off), no-new-privs"));
    expect(&output, &REACHED);
    let denied = ["secret", "new in state", "list state", "hide and seek", "etc", "parent memory"];
    expect(&output, &denied.map(|what| format!("{what}: Permission denied")).each_ref().map(String::as_str));
    expect(&output, &["parent signal: Operation not permitted", "ls: Success", &format!("uid {UID} {UID} groups 0")]);
    let mode = |path: &str| fs::metadata(state.folder().join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("modules"), mode("modules/probe")), (0o711, 0o711, 0o700));
}

#[test]
fn groups_are_granted_and_no_other() {
    if !is_root() {
        println!("NOT RUN: changing the uid needs root");
        return;
    }
    let state = State::new();
    let spec = Spec { uid: Some(UID), groups: vec![20, 44], ..state.spec() };
    let mut run = Run::start(&state, &spec, &library("void nothing(void) {}"));
    run.hello();
    let status = fs::read_to_string(format!("/proc/{}/status", run.host.pid)).unwrap();
    assert!(status.contains("\nGroups:\t20 44 \n"), "{status}");
    run.failed();
}

#[test]
fn both_together_and_a_folder_changes_hands() {
    if !is_root() {
        println!("NOT RUN: changing the uid needs root");
        return;
    }
    let state = State::new();
    for uid in [UID, UID + 1] {
        let (isolation, output) = probe(&state, &Spec { uid: Some(uid), ..state.spec() });
        assert!(isolation.starts_with(&format!("uid {uid}, ")), "{isolation}");
        assert_eq!(fs::metadata(state.own().join("file")).unwrap().uid(), uid);
        // What the module's former user may have prepared for the next.
        let own = state.own();
        let _ = std::os::unix::fs::symlink(state.folder().join("secret"), own.join("link"));
        let _ = fs::hard_link(state.folder().join("secret"), own.join("hard"));
        let _ = std::os::unix::fs::symlink(state.folder().join("modules/other"), own.join("folder"));
        expect(&output, &["own file: Success", "secret: Permission denied"]);
    }
    for name in ["secret", "modules/other", "modules/other/file"] {
        assert_eq!(fs::metadata(state.folder().join(name)).unwrap().uid(), 0, "{name}");
    }
}

#[test]
fn neither_is_said_aloud() {
    let state = State::new();
    let spec = Spec { landlock: false, ..state.spec() };
    let mut run = Run::start(&state, &spec, &library("void nothing(void) {}"));
    assert_eq!(run.hello(), "not isolated: no landlock (turned off), no-new-privs, the runtime's own uid");
}

#[test]
fn a_folder_out_of_reach_ends_the_host_with_a_sentence() {
    if !is_root() {
        println!("NOT RUN: changing the uid needs root");
        return;
    }
    let state = State::new();
    fs::set_permissions(state.folder().parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut run = Run::start(&state, &Spec { uid: Some(UID), ..state.spec() }, &library("void nothing(void) {}"));
    assert!(run.hello().starts_with("not isolated"));
    let (kind, text) = run.failed();
    assert!(kind == 4 && text.starts_with("can't enter its folder "), "{text}");
    assert_eq!(run.ended(), code(HostExit::Failed));
}

#[test]
fn limits_hold() {
    let state = State::new();
    let limits = Limits { memory_bytes: Some(64 << 20), files: Some(32), processes: None };
    let source = r#"__attribute__((constructor)) static void init(void) {
        printf("memory %s\n", malloc(256 << 20) ? "there" : "refused");
        int files = 0; while (open("/dev/null", O_RDONLY) >= 0) files++;
        printf("files %s\n", files > 8 && files < 32 ? "few" : "many"); fflush(stdout); }"#;
    let mut run = Run::start(&state, &Spec { limits, ..state.spec() }, &library(source));
    run.hello();
    run.ended();
    expect(&run.output(), &["memory refused", "files few"]);
}

/// The kernel counts processes by user, so this limit is one for instances with a uid of their own.
#[test]
fn so_many_processes_and_no_more() {
    if !is_root() {
        println!("NOT RUN: changing the uid needs root");
        return;
    }
    let forked = |uid: u32, processes: Option<u64>| {
        let state = State::new();
        let limits = Limits { processes, ..Limits::default() };
        let source = r#"__attribute__((constructor)) static void init(void) {
            int children = 0;
            for (; children < 40; children++) {
                pid_t child = fork();
                if (child == 0) { pause(); _exit(0); }
                if (child < 0) { printf("refused: %s\n", strerror(errno)); break; }
            }
            printf("children %d\n", children); fflush(stdout);
            kill(0, SIGKILL); }"#;
        let mut run = Run::start(&state, &Spec { uid: Some(uid), limits, ..state.spec() }, &library(source));
        run.hello();
        assert_eq!(run.ended(), Ended::Signal(9));
        run.output()
    };
    let output = forked(UID + 1, Some(12));
    let children = output.lines().find_map(|line| line.strip_prefix("children ")?.parse::<u32>().ok());
    assert!(output.contains("refused: Resource temporarily unavailable"), "{output}");
    assert!(matches!(children, Some(1..12)), "{output}");
    // As many as it likes, where nobody says otherwise.
    let output = forked(UID + 2, None);
    assert!(output.contains("children 40"), "{output}");
}

#[test]
fn a_host_ends_with_its_link() {
    let state = State::new();
    // While a constructor hangs.
    let forever = "__attribute__((constructor)) static void init(void) { for (;;) pause(); }";
    let mut run = Run::start(&state, &state.spec(), &library(forever));
    run.hello();
    run.shutdown();
    assert_eq!(run.ended(), code(HostExit::Link));
    // Before a hello.
    let run = Run::start(&state, &state.spec(), &library(forever));
    run.shutdown();
    assert_eq!(run.ended(), code(HostExit::Link));
    // Instead of one.
    let mut run = Run::start(&state, &state.spec(), &library(forever));
    run.link.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(run.ended(), code(HostExit::Link));
    // Killed.
    let run = Run::start(&state, &state.spec(), &library(forever));
    run.host.kill();
    assert_eq!(run.ended(), Ended::Signal(9));
}

#[test]
fn a_link_of_another_version_is_told_ours() {
    let state = State::new();
    let mut run = Run::start(&state, &state.spec(), &library("void nothing(void) {}"));
    run.say_hello(99);
    run.hear_hello();
    assert_eq!(run.ended(), code(HostExit::Link));
}

#[test]
fn without_a_link_it_says_what_it_is_for() {
    let output = Command::new(env!("CARGO_BIN_EXE_skerry")).arg("module-host").output().unwrap();
    assert_eq!(output.status.code(), Some(i32::from(HostExit::NoLink.code())));
    assert!(String::from_utf8_lossy(&output.stderr).contains("for the runtime's own use"));
}

#[test]
fn a_variable_of_the_loader_is_refused() {
    let state = State::new();
    let spec = Spec { env: vec![("LD_PRELOAD".into(), "/x.so".into())], ..state.spec() };
    let error = kit::spawn(&state, &spec, b"").unwrap_err();
    assert_eq!(error.to_string(), "the environment variable LD_PRELOAD may not be set for a module");
}

#[test]
fn a_host_runs_from_memory() {
    let state = State::new();
    let program = fs::read(env!("CARGO_BIN_EXE_skerry")).unwrap();
    let binary = HostBinary::Open(kit::memory_file(&program));
    let mut run = Run::start_with(&binary, &state, &state.spec(), &library("void nothing(void) {}"));
    run.hello();
    assert_eq!(fs::read_to_string(format!("/proc/{}/comm", run.host.pid)).unwrap(), "probe\n");
    let line = fs::read(format!("/proc/{}/cmdline", run.host.pid)).unwrap();
    assert!(line.is_empty() || line == b"skerry: probe/3\0module-host\0", "{line:?}");
    run.failed();
}

#[test]
fn an_image_on_a_noexec_mount_is_loaded_from_memory() {
    let state = State::new();
    let mount = state.folder().join("noexec");
    fs::create_dir_all(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "noexec", "none"]).arg(&mount).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("NOT RUN: mounting needs root");
        return;
    }
    let source = "__attribute__((constructor)) static void init(void) { puts(\"loaded\"); fflush(stdout); }";
    let path = mount.join("image.so");
    fs::write(&path, library(source)).unwrap();
    let file = fs::File::open(&path).unwrap();
    let mut run = Run::start_file(&state, &state.spec(), &file);
    drop(file);
    run.hello();
    let (_, text) = run.failed();
    run.ended();
    let output = run.output();
    assert!(Command::new("umount").arg(&mount).status().unwrap().success());
    assert_eq!((output.as_str(), &text[..29]), ("loaded\n", "the image exports no module; "));
}

#[test]
fn a_host_waits_for_its_debugger() {
    let state = State::new();
    let spec = Spec { wait_debugger: true, ..state.spec() };
    let mut run = Run::start(&state, &spec, &library("void nothing(void) {}"));
    run.hello();
    assert_eq!(tracer_of(run.host.pid), None);
    let Ok(mut tracer) =
        Command::new("strace").args(["-qq", "-o", "/dev/null", "-p", &run.host.pid.to_string()]).spawn()
    else {
        println!("NOT RUN: strace is missing");
        run.host.kill();
        return;
    };
    assert_eq!(run.failed().0, 0);
    tracer.wait().unwrap();
    assert_eq!(run.host.wait().unwrap(), code(HostExit::Failed));
}
