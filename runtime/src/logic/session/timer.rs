//! What a session waits for, and what happens when that time has come. Must never let two things be due in one step: after the first
//! the second may belong to a connection that is gone.

use super::{Action, DRAIN_MS, Failure, Phase, Session};
use crate::logic::mqtt;
use crate::model::time::Mono;

/// All that can be due, each with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// Try again.
    Retry,
    /// The answer to CONNECT or SUBSCRIBE is late.
    Answer,
    /// Say that we are there.
    Ping,
    /// The answer to a ping is late.
    Pong,
    /// Nothing was acknowledged for too long.
    Ack,
    /// The token ends soon.
    Renew,
    /// A renewal has waited long enough.
    Drained,
    /// Nobody uses the connection.
    Idle,
}

impl Session {
    fn timers(&self) -> [(Mono, Timer); 8] {
        let timeout = self.config.operation_timeout;
        let if_up = |at: Option<Mono>| at.filter(|_| self.is_up()).unwrap_or(Mono::NEVER);
        let waiting = self.window.is_waiting(self.connection).then(|| self.window.progress.after(timeout));
        [
            (
                if let Phase::Waiting { until } | Phase::Resting { until } = self.phase { until } else { Mono::NEVER },
                Timer::Retry,
            ),
            (self.asked.map_or(Mono::NEVER, |since| since.after(timeout)), Timer::Answer),
            (if_up(self.pinged.is_none().then(|| self.sent_at.after(self.config.keep_alive * 3 / 4))), Timer::Ping),
            (if_up(self.pinged.map(|since| since.after(timeout))), Timer::Pong),
            (if_up(waiting), Timer::Ack),
            (if let Phase::Up { .. } = self.phase { self.renew_at } else { Mono::NEVER }, Timer::Renew),
            (if let Phase::Renewing { until, .. } = self.phase { until } else { Mono::NEVER }, Timer::Drained),
            (self.idle_at(), Timer::Idle),
        ]
    }

    fn idle_at(&self) -> Mono {
        let is_idle = matches!(self.phase, Phase::Up { .. }) && self.asked.is_none() && self.window.len() == 0;
        self.idle.filter(|_| is_idle).map_or(Mono::NEVER, |idle| self.used_at.after(idle.after))
    }

    pub fn next_timeout(&self) -> Mono {
        self.timers().into_iter().map(|(at, _)| at).min().unwrap_or(Mono::NEVER)
    }

    pub fn on_timeout(&mut self, now: Mono) {
        // One at a time: what else was due may belong to a connection that is gone after this.
        let Some((_, timer)) = self.timers().into_iter().find(|(at, _)| *at <= now) else { return };
        let silent =
            |what: &str| format!("the cloud is silent: no answer to {what} within the time; check the network");
        match timer {
            Timer::Retry => {
                self.phase = Phase::Dialling;
                self.actions.push_back(Action::Dial);
            }
            Timer::Answer => self.give_up(now, silent("CONNECT or SUBSCRIBE"), Failure::Broken),
            Timer::Ping => {
                mqtt::ping(&mut self.out);
                self.pinged = Some(now);
                self.sent_at = now;
            }
            Timer::Pong => self.give_up(now, silent("a ping"), Failure::Broken),
            Timer::Ack => self.give_up(now, silent("a message"), Failure::Broken),
            Timer::Renew => {
                if let Phase::Up { since } = self.phase {
                    self.phase = Phase::Renewing { since, until: now.plus(DRAIN_MS) };
                    self.check_drained(now);
                }
            }
            Timer::Drained => self.check_drained(now),
            Timer::Idle => {
                mqtt::disconnect(&mut self.out);
                self.actions.push_back(Action::HangUp);
                (self.phase, self.is_tired) = (Phase::HangingUp, true);
            }
        }
    }
}
