//! The chores of this repository: `cargo xtask <what>`. A table of contents: each command is a file or folder of its own.
//! Must never be needed to build or run the product.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;

mod bench;
mod cargo;
mod cloud;
mod control;
mod crash;
mod debian;
mod demo;
mod device;
mod interrupt;
mod new;
mod package;
mod push;
mod sdk;
mod sim;
mod size;
mod test;
mod tidy;
mod trial;

/// the chores of this repository
#[derive(FromArgs)]
struct Arguments {
    #[argh(subcommand)]
    task: Task,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Task {
    Bench(Bench),
    Cloud(Cloud),
    Crash(Crash),
    Demo(Demo),
    New(New),
    Push(Push),
    Package(Package),
    Size(Size),
    Sim(Sim),
    Test(Test),
    Tidy(Tidy),
}

/// measures, beside a peer on the same machine; one line a figure
#[derive(FromArgs)]
#[argh(subcommand, name = "bench")]
struct Bench {
    /// only figures whose name begins like this
    #[argh(option, arg_name = "name")]
    only: Option<String>,
    /// print JSON lines
    #[argh(switch)]
    json: bool,
    /// cargo profile of the binary (default: fast, that is release without link-time optimisation)
    #[argh(option, default = "String::from(\"fast\")")]
    profile: String,
    /// runs of each figure (default: 5); their median is the value
    #[argh(option, default = "5")]
    runs: usize,
}

/// stands in for IoT Hub on this machine: JSON lines of commands on stdin, events on stdout
#[derive(FromArgs)]
#[argh(subcommand, name = "cloud")]
struct Cloud {
    /// id of a device; once for each (default: Hannover01)
    #[argh(option)]
    device: Vec<String>,
    /// id of a module of the first device, or DEVICE/MODULE; once for each
    #[argh(option)]
    module: Vec<String>,
    /// address and port to listen on (default: a free port of 127.0.0.1)
    #[argh(option)]
    listen: Option<SocketAddr>,
    /// primary key of every identity, in base64 (default: random ones)
    #[argh(option)]
    key: Option<String>,
    /// seconds for which a token is taken beyond its expiry (default: 0)
    #[argh(option, default = "0")]
    grace: u64,
    /// print JSON lines
    #[argh(switch)]
    json: bool,
    /// go on when stdin has ended
    #[argh(switch)]
    stay: bool,
}

/// cuts the power under the store, and kills the runtime under load, and looks for what was lost
#[derive(FromArgs)]
#[argh(subcommand, name = "crash")]
struct Crash {
    /// power cuts of a simulated disk under the real store (default: 10000)
    #[argh(option, default = "10_000")]
    cuts: u64,
    /// kills of the real runtime, with -9 and under load (default: 0)
    #[argh(option, default = "0")]
    kills: u64,
    /// first of the seeds (default: the clock's)
    #[argh(option)]
    seed: Option<u64>,
}

/// shows a device and its cloud for half a minute: what arrives there, what is cut and killed, and that nothing is lost
#[derive(FromArgs)]
#[argh(subcommand, name = "demo")]
struct Demo {
    /// let device and cloud go on at the end, until Ctrl-C
    #[argh(switch)]
    keep: bool,
}

/// makes a module crate that builds with plain cargo
#[derive(FromArgs)]
#[argh(subcommand, name = "new")]
struct New {
    /// folder in which the crate's folder is made (default: the current one)
    #[argh(option, default = "PathBuf::from(\".\")")]
    path: PathBuf,
    /// name of the module: lower-case letters, digits and dashes
    #[argh(positional)]
    name: String,
}

/// builds the static program and packages of it and its modules, into target/packages
#[derive(FromArgs)]
#[argh(subcommand, name = "package")]
struct Package {
    /// x86_64, aarch64 or armv7; once for each (default: all)
    #[argh(option)]
    target: Vec<String>,
    /// deb, ipk or tar; once for each (default: all)
    #[argh(option)]
    format: Vec<String>,
    /// folder of a module's crate: packages of that module alone
    #[argh(option, arg_name = "folder")]
    module: Option<PathBuf>,
}

/// says how large the built programs and packages are, and where the bytes go
#[derive(FromArgs)]
#[argh(subcommand, name = "size")]
struct Size {
    /// x86_64, aarch64 or armv7 (default: x86_64)
    #[argh(option, default = "String::from(\"x86_64\")")]
    target: String,
}

/// plays a device and its cloud in simulated worlds, with all that can go wrong; one number decides everything
#[derive(FromArgs)]
#[argh(subcommand, name = "sim")]
struct Sim {
    /// how many (default: 1000)
    #[argh(option, default = "1_000")]
    seeds: u64,
    /// the first (default: one that follows from the commit)
    #[argh(option)]
    seed: Option<u64>,
}

/// pushes a module to a registry: its files for each machine and C library as one index, with their .sig files
#[derive(FromArgs)]
#[argh(subcommand, name = "push")]
struct Push {
    /// a .so, or a folder of them
    #[argh(positional)]
    from: PathBuf,
    /// HOST/NAME:TAG
    #[argh(positional)]
    to: Option<String>,
    /// leave the OCI layout in this folder; without a reference that is all
    #[argh(option, arg_name = "folder")]
    layout: Option<PathBuf>,
    /// an argument for skopeo copy, such as --dest-creds=USER:PASSWORD; may be given several times
    #[argh(option, arg_name = "argument")]
    skopeo: Vec<String>,
}

/// runs every check and test there is
#[derive(FromArgs)]
#[argh(subcommand, name = "test")]
struct Test {
    /// within three minutes: fewer rounds, and no demo
    #[argh(switch)]
    quick: bool,
    /// build and try the packages too
    #[argh(switch)]
    packages: bool,
    /// only the stages whose name begins like this
    #[argh(option, arg_name = "name")]
    only: Option<String>,
    /// stages that may be NOT RUN, with commas between
    #[argh(option, arg_name = "names", default = "String::new()")]
    allow_missing: String,
}

/// checks the rules of the house: who knows whom, headers, lengths, words
#[derive(FromArgs)]
#[argh(subcommand, name = "tidy")]
struct Tidy {
    /// take out of the ratchet what has become better
    #[argh(switch)]
    tighten: bool,
}

fn main() -> ExitCode {
    let good = match argh::from_env::<Arguments>().task {
        Task::Bench(Bench { only, json, profile, runs }) => {
            bench::run(&bench::Wanted { only: only.as_deref(), json, profile: &profile, runs })
        }
        Task::Cloud(Cloud { device, module, listen, key, grace, json, stay }) => {
            cloud::run(cloud::Wanted { devices: device, modules: module, listen, key, grace_s: grace, json, stay })
        }
        Task::Crash(Crash { cuts, kills, seed }) => crash::run(&crash::Wanted { cuts, kills, seed, profile: "fast" }),
        Task::Demo(Demo { keep }) => demo::run(keep),
        Task::Sim(Sim { seeds, seed }) => sim::run(&sim::Wanted { seeds, seed }),
        Task::Package(Package { target, format, module }) => {
            package::run(&package::Wanted { targets: target, formats: format, module })
        }
        Task::Size(Size { target }) => size::run(&target),
        Task::Test(Test { quick, packages, only, allow_missing }) => {
            let allow_missing = allow_missing.split(',').map(|name| name.trim().to_owned()).collect();
            test::run(&test::Wanted { quick, packages, only, allow_missing })
        }
        Task::Tidy(Tidy { tighten }) => tidy::run(tighten),
        Task::Push(Push { from, to, layout, skopeo }) => {
            let (to, layout) = (to.as_deref(), layout.as_deref());
            push::run(&push::Wanted { from: &from, to, layout, more: &skopeo }).map(|()| true)
        }
        Task::New(New { path, name }) => new::run(&path, &name).map(|()| true),
    };
    match good {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) if error == interrupt::INTERRUPTED => {
            eprintln!("interrupted; everything that was started has ended");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
