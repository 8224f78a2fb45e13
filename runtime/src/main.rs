//! The binary: a table of contents.

use std::io::{self, Write};
use std::process::ExitCode;

use skerry_runtime::app::cli::{self, Command, RouteCommand, Run, Stop, TwinCommand};
use skerry_runtime::app::config::{self, Surroundings};
use skerry_runtime::app::pending;
use skerry_runtime::app::verbs::{finish, live, modules, send, status};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    // Hidden: the runtime starts itself like this, once for each instance.
    if args.peek().is_some_and(|word| word == "module-host") {
        return skerry_runtime::host::main::main();
    }
    match cli::parse(args) {
        Ok(command) => dispatch(&command),
        Err(stop) => stopped(&stop),
    }
}

fn dispatch(command: &Command) -> ExitCode {
    match command {
        Command::Run(args) => run(args),
        Command::Status(args) => finish(status::status(&args.target()), args.json),
        Command::List(args) => finish(status::list(&args.target()), args.json),
        Command::Restart(args) => finish(modules::restart(args), args.json),
        Command::Twin(twin) => match &twin.command {
            TwinCommand::Get(args) => finish(modules::twin_get(args), args.json),
            TwinCommand::Set(args) => finish(modules::twin_set(args), args.json),
        },
        Command::Method(args) => finish(modules::method(args), args.json),
        Command::Send(args) => finish(send::send(args), args.json),
        Command::Tap(args) => finish(live::tap(args), args.json),
        Command::Logs(args) => finish(live::logs(args), args.json),
        Command::Inspect(args) => pending::inspect(args),
        Command::Route(route) => match &route.command {
            RouteCommand::Eval(args) => pending::route_eval(args),
        },
        Command::Version(args) => finish(status::version(args.json), args.json),
    }
}

fn run(args: &Run) -> ExitCode {
    let config = match config::load(&args.flags(), &Surroundings::look(), pending::check_route) {
        Ok(config) => config,
        Err(lines) => {
            let _ = writeln!(io::stderr(), "{}", lines.join("\n"));
            return ExitCode::from(2);
        }
    };
    if args.check {
        let file = config.file.as_deref().map_or("no configuration file: defaults".into(), |f| f.to_string_lossy());
        let _ = writeln!(io::stdout(), "{file}: good");
        return ExitCode::SUCCESS;
    }
    match pending::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "skerry: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Not `print!`: a reader that closed its end must not make this panic.
fn stopped(stop: &Stop) -> ExitCode {
    if stop.asked_for {
        let _ = writeln!(io::stdout(), "{}", stop.text);
        ExitCode::SUCCESS
    } else {
        let _ = writeln!(io::stderr(), "{}", stop.text);
        ExitCode::from(2)
    }
}
