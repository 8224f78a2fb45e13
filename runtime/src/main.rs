//! The binary: a table of contents.
//! Must never do anything itself but choose who does, and say how it ended.

use std::io::{self, Write};
use std::process::ExitCode;

use skerry_runtime::app::cli::{
    self, Command, DeadCommand, IdentityCommand, KeyCommand, RouteCommand, Run, Stop, TwinCommand,
};
use skerry_runtime::app::config::{self, Surroundings};
use skerry_runtime::app::verbs::{dead, deploy, finish, identity, images, live, modules, send, status};
use skerry_runtime::app::{check, cli_signing, inspect, route_eval, support};
use skerry_runtime::io::hosts::OWN_HOST;
use skerry_runtime::logic::routing;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1).peekable();
    // Hidden: a plain build starts itself like this, once for each instance.
    if OWN_HOST && args.peek().is_some_and(|word| word == "module-host") {
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
        Command::Check(args) => finish(check::check(args, check_route), args.json),
        Command::Status(args) => finish(status::status(&args.target()), args.json),
        Command::List(args) => finish(status::list(&args.target()), args.json),
        Command::Restart(args) => finish(modules::restart(args), args.json),
        Command::Deploy(args) => finish(deploy::deploy(args), args.json),
        Command::Pull(args) => finish(images::pull(args), args.json),
        Command::Images(args) => finish(images::list(&args.target()), args.json),
        Command::Twin(twin) => match &twin.command {
            TwinCommand::Get(args) => finish(modules::twin_get(args), args.json),
            TwinCommand::Set(args) => finish(modules::twin_set(args), args.json),
        },
        Command::Identity(identity) => match &identity.command {
            IdentityCommand::List(args) => finish(identity::list(args), args.json),
            IdentityCommand::Remove(args) => finish(identity::remove(args), args.json),
        },
        Command::Method(args) => finish(modules::method(args), args.json),
        Command::Send(args) => finish(send::send(args), args.json),
        Command::Tap(args) => finish(live::tap(args), args.json),
        Command::Trace(args) => finish(live::trace(args), args.json),
        Command::DeadLetters(dead_letters) => match &dead_letters.command {
            DeadCommand::List(args) => finish(dead::list(args), args.json),
            DeadCommand::Show(args) => finish(dead::show(args), args.json),
            DeadCommand::Replay(args) => finish(dead::replay(args), args.json),
            DeadCommand::Purge(args) => finish(dead::purge(args), args.json),
        },
        Command::Logs(args) => finish(live::logs(args), args.json),
        Command::SupportBundle(args) => finish(support::bundle(args, check_route), args.json),
        Command::Inspect(args) => inspect_file(args),
        Command::Key(key) => match &key.command {
            KeyCommand::New(args) => finish(cli_signing::key_new(args), false),
        },
        Command::Sign(args) => finish(cli_signing::sign(args), false),
        Command::Verify(args) => finish(cli_signing::verify(args), args.json),
        Command::Route(route) => match &route.command {
            RouteCommand::Eval(args) => evaluate(args),
        },
        Command::Version(args) => finish(status::version(args.json), args.json),
    }
}

fn run(args: &Run) -> ExitCode {
    let config = match config::load(&args.flags(), &Surroundings::look(), check_route) {
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
    match skerry_runtime::app::run::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "skerry: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The language is the hub's; the file and line are the configuration's.
fn check_route(text: &str) -> Result<(), config::RouteFault> {
    let fault = |e: routing::RouteError| config::RouteFault { column: e.column, message: e.message };
    routing::parse_route(text).map(drop).map_err(fault)
}

/// The file's own faults are an error; that it does not run on this device is shown, and an exit code of 1.
fn inspect_file(args: &cli::Inspect) -> ExitCode {
    match inspect::inspect(&args.file, args.json) {
        Ok((text, runs)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::from(u8::from(!runs))
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "skerry: {error}");
            ExitCode::FAILURE
        }
    }
}

fn evaluate(args: &cli::RouteEval) -> ExitCode {
    match (&args.cases, &args.route, &args.message) {
        (Some(file), None, None) => route_eval::eval_cases(file, args.json),
        (None, Some(route), Some(message)) => route_eval::eval_one(route, message, args.json),
        _ => {
            let _ = writeln!(io::stderr(), "skerry route eval takes --cases FILE, or --route TEXT with --message FILE");
            ExitCode::from(2)
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
