//! The verbs that help to find a fault, as typed: `logs` and `support-bundle`.
//! Must never gather anything: that is `verbs` and `support`.

use std::path::PathBuf;

use argh::FromArgs;

use super::cli::{Check, verb};
use super::verbs::Target;

verb!(
    /// show what a module logged, or with edgeAgent the runtime itself
    Logs, "logs", {
        /// module
        #[argh(positional)]
        pub module: String,
        /// stay, and show what comes
        #[argh(switch, short = 'f')]
        pub follow: bool,
        /// not before: "10min" ago, or "2026-11-23T18:00:00Z"
        #[argh(option, arg_name = "time")]
        pub since: Option<String>,
        /// not after, said in the same ways
        #[argh(option, arg_name = "time")]
        pub until: Option<String>,
        /// only so many of the last lines of those
        #[argh(option, arg_name = "lines")]
        pub tail: Option<u32>,
    }
);

/// put all that explains a fault into one archive: configuration without its secrets, status, check, twins, ledger, logs and crash reports.
/// Also of a skerry that does not run, with what can be read then
#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand, name = "support-bundle")]
pub struct SupportBundle {
    /// file to write, a .tar.gz that must not exist yet; - for standard output (default: skerry-DEVICE-TIME.tar.gz)
    #[argh(option, short = 'o', arg_name = "file")]
    pub output: Option<PathBuf>,
    /// logs not before: "10min" ago, or "2026-11-23T18:00:00Z"
    #[argh(option, arg_name = "time")]
    pub since: Option<String>,
    /// configuration file, as for run
    #[argh(option, arg_name = "file")]
    pub config: Option<PathBuf>,
    /// folder of modules; may be given several times
    #[argh(option, arg_name = "folder")]
    pub modules: Vec<PathBuf>,
    /// folder of store, keys and images
    #[argh(option, arg_name = "folder")]
    pub state: Option<PathBuf>,
    /// control socket
    #[argh(option, arg_name = "path")]
    pub control: Option<PathBuf>,
    /// device id
    #[argh(option, arg_name = "id")]
    pub device: Option<String>,
    /// print JSON
    #[argh(switch)]
    pub json: bool,
}

impl SupportBundle {
    /// What is looked over is what is put in.
    pub fn check(&self) -> Check {
        Check {
            config: self.config.clone(),
            modules: self.modules.clone(),
            state: self.state.clone(),
            control: self.control.clone(),
            device: self.device.clone(),
            json: true,
        }
    }
}
