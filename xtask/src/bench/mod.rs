//! `cargo xtask bench`: figures, each beside a peer that was measured in the same run on the same machine.
//! Must never print a figure that was not measured here, nor give the peer worse conditions than skerry has.

mod cloud;
mod figures;
mod hop;
mod instances;
mod mosquitto;
mod mqtt;
mod ours;
mod redis;
mod store;
mod stored;
mod upstream;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::{cargo, interrupt};

/// One figure: the median of its runs.
pub struct Figure {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub runs: Vec<f64>,
    pub peer: Option<Peer>,
    /// What else was seen, by name.
    pub more: Vec<(&'static str, Value)>,
}

pub struct Peer {
    pub name: &'static str,
    pub runs: Vec<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// A measurement: its name for `--only`, and what makes one or more figures of it.
type Measurement = (&'static str, fn(&Setting) -> Result<Vec<Figure>, String>);

const MEASUREMENTS: [Measurement; 23] = [
    ("hop_256", hop::hop_256),
    ("hop_1k", hop::hop_1k),
    ("hop_16k", hop::hop_16k),
    ("fanout_8", hop::fanout_8),
    ("echo_256", figures::echo_256),
    ("idle_pss", figures::idle_pss),
    ("instances_100", instances::instances_100),
    ("start_ms", figures::start_ms),
    ("idle_writes", figures::idle_writes),
    ("store_256", store::store_256),
    ("stored_256", stored::stored_256),
    ("write_amplification_1hz", stored::amplification_slow),
    ("write_amplification_telemetry", stored::amplification_telemetry),
    ("drain_256", stored::drain_256),
    ("rss_backlog", stored::rss_backlog),
    ("route_eval", store::route_eval),
    ("reopen_1gib", store::reopen_1gib),
    ("upstream_256", upstream::upstream_256),
    ("uplink_pss", upstream::uplink_pss),
    ("uplink_idle", cloud::uplink_idle),
    ("link_up_ms", cloud::link_up_ms),
    ("twin_round_ms", cloud::twin_round_ms),
    ("offline_start_ms", cloud::offline_start_ms),
];

/// Name, unit, and one run of what depends on how the runtime was built, of the programs in a folder.
type OfBuild = (&'static str, &'static str, fn(&Path) -> Result<f64, String>);
pub const OF_THE_RUNTIME: [OfBuild; 4] = [
    ("hop_256", "msgs/s", figures::hop_rate),
    ("store_256, one module", "msgs/s", stored::store_rate),
    ("idle_pss_runtime", "MB", figures::runtime_pss),
    ("idle_pss_instance", "MB", figures::instance_pss),
];

/// What all measurements need.
pub struct Setting {
    pub built: PathBuf,
    pub profile: String,
    pub runs: usize,
}

pub struct Wanted<'a> {
    pub only: Option<&'a str>,
    pub json: bool,
    pub profile: &'a str,
    pub runs: usize,
}

/// `true` when all that were asked for were measured.
pub fn run(wanted: &Wanted<'_>) -> Result<bool, String> {
    interrupt::catch()?;
    let chosen: Vec<&Measurement> = MEASUREMENTS
        .iter()
        .filter(|(name, _)| wanted.only.is_none_or(|only| only.starts_with(name) || name.starts_with(only)))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = MEASUREMENTS.iter().map(|(name, _)| *name).collect();
        return Err(format!("no figure begins with that name; there are {}", names.join(", ")));
    }
    let built = cargo::build(wanted.profile, &["skerry-runtime", "skerry-bench", "skerry-filter", "skerry-sysinfo"])?;
    let setting = Setting { built, profile: wanted.profile.to_owned(), runs: wanted.runs.max(1) };
    let mut all = true;
    for (name, measure) in chosen {
        interrupt::check()?;
        match measure(&setting) {
            Ok(figures) => {
                let asked = figures.iter().filter(|f| wanted.only.is_none_or(|only| f.name.starts_with(only)));
                asked.for_each(|figure| println!("{}", figure.show(wanted.json)));
            }
            Err(error) if error == interrupt::INTERRUPTED => return Err(error),
            Err(error) => {
                all = false;
                eprintln!("{name}: NOT MEASURED: {error}");
            }
        }
    }
    Ok(all)
}

impl Figure {
    /// Messages a second, beside those of a peer.
    pub fn rate(name: &'static str, runs: Vec<f64>, peer: &'static str, theirs: Vec<f64>) -> Figure {
        let peer = Some(Peer { name: peer, runs: theirs });
        Figure { name, unit: "msgs/s", better: Better::Higher, runs, peer, more: Vec::new() }
    }

    fn show(&self, as_json: bool) -> String {
        if as_json { Value::Object(self.json()).to_string() } else { self.line() }
    }

    /// `ratio` is ours over theirs, also where lower is better: `better` says how to read it.
    fn json(&self) -> Map<String, Value> {
        let value = median(&self.runs);
        let better = if self.better == Better::Higher { "higher" } else { "lower" };
        let (min, max) = bounds(&self.runs);
        let mut line = json!({
            "name": self.name, "value": round(value), "unit": self.unit, "better": better,
            "runs": self.runs.len(), "min": round(min), "max": round(max),
        });
        if let Some(peer) = &self.peer {
            let theirs = median(&peer.runs);
            line["peer"] = peer.name.into();
            line["peer_value"] = round(theirs).into();
            line["ratio"] = ((value / theirs * 100.0).round() / 100.0).into();
        }
        let mut line = line.as_object().cloned().unwrap_or_default();
        line.extend(self.more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        line
    }

    fn line(&self) -> String {
        let (min, max) = bounds(&self.runs);
        let own = format!(
            "{:<20} {:>12} {:<8} ({} .. {}, {} runs)",
            self.name,
            round(median(&self.runs)),
            self.unit,
            round(min),
            round(max),
            self.runs.len()
        );
        match &self.peer {
            Some(peer) => {
                let theirs = median(&peer.runs);
                format!("{own}  {} {}, ratio {:.2}", peer.name, round(theirs), median(&self.runs) / theirs)
            }
            None => own,
        }
    }
}

pub fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn bounds(runs: &[f64]) -> (f64, f64) {
    runs.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)))
}

/// Whole from 100 on, with two places below: more than that no run repeats.
fn round(value: f64) -> f64 {
    if value.abs() >= 100.0 { value.round() } else { (value * 100.0).round() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_says_what_it_was_compared_with() {
        let peer = Some(Peer { name: "mosquitto", runs: vec![50.0, 40.0, 60.0] });
        let more = vec![("p99", json!(9))];
        let figure = Figure { name: "x", unit: "us", better: Better::Lower, runs: vec![30.0, 25.0, 20.0], peer, more };
        let line = Value::Object(figure.json());
        let expected = json!({
            "name": "x", "value": 25.0, "unit": "us", "better": "lower", "runs": 3, "min": 20.0, "max": 30.0,
            "peer": "mosquitto", "peer_value": 50.0, "ratio": 0.5, "p99": 9,
        });
        assert_eq!(line, expected);
        assert!(figure.line().contains("ratio 0.50"));
    }
}
