//! What the metrics say of one identity's way to the cloud: how long twins took, how long it was away, how often it was tried.
//! Must never decide anything.

use std::collections::BTreeMap;

use super::board::Uplink;
use super::tally::{Of, Tally};
use crate::logic::manifest::AGENT;
use crate::logic::twin_sync::Request;
use crate::model::time::Mono;

/// The cloud in the labels of metrics.
pub const UPSTREAM: &str = "upstream";

#[derive(Default)]
pub struct Tallied {
    /// Requests of the twin without an answer, and when they were sent.
    asked: BTreeMap<u64, (Of, Mono)>,
    lost_at: Option<Mono>,
}

impl Tallied {
    pub fn asked(&mut self, request: &Request, now: Mono) {
        let (rid, of) = match request {
            Request::Get { rid } => (*rid, Of::TwinRead),
            Request::Report { rid, .. } => (*rid, Of::Reported),
        };
        self.asked.insert(rid, (of, now));
    }

    pub fn answered(&mut self, tally: &Tally, uplink: &Uplink, rid: u64, status: u16, now: Mono) {
        let Some((of, asked)) = self.asked.remove(&rid) else { return };
        tally.took(of, &[UPSTREAM, &uplink.identity], now.since(asked));
        if of == Of::TwinRead && uplink.module == AGENT {
            tally.count(if status < 300 { Of::Sync } else { Of::FailedSync }, &[]);
        }
    }

    pub fn up(&mut self, tally: &Tally, client: &str, now: Mono) {
        if let Some(lost) = self.lost_at.take() {
            tally.time(Of::Offline, &[client], now.since(lost));
        }
    }

    /// Not of its own accord. `lost`: it was there.
    pub fn down(&mut self, tally: &Tally, client: &str, lost: bool, now: Mono) {
        if lost {
            self.lost_at = Some(now);
            tally.count(Of::Offline, &[client]);
        } else {
            tally.count(Of::Retry, &[client, "connect"]);
        }
    }

    /// What was asked for will not be answered any more.
    pub fn given_up(&mut self, tally: &Tally, uplink: &Uplink) {
        let open = std::mem::take(&mut self.asked);
        if uplink.module == AGENT {
            open.iter().for_each(|_| tally.count(Of::FailedSync, &[]));
        }
    }
}
