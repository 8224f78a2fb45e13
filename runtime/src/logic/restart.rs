//! When an instance that ended is started again: back-off, giving up, and forgetting after a healthy while.
//! One machine an instance name; a new image or a restart by hand resets it. Must never start anything itself.

use crate::model::instance::Exit;
pub use crate::model::manifest::RestartPolicy as Policy;
use crate::model::time::Mono;

/// The numbers of IoT Edge's agent, each configurable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The first wait; every further one is twice as long.
    pub backoff_first_ms: u64,
    /// The longest wait.
    pub backoff_max_ms: u64,
    /// Running for so long clears the count of restarts.
    pub healthy_after_ms: u64,
    /// So many restarts without a healthy while in between, and the instance is `failed`.
    pub restarts_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { backoff_first_ms: 10_000, backoff_max_ms: 300_000, healthy_after_ms: 600_000, restarts_max: 20 }
    }
}

/// What to do after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Start it again at `at`; `on_timeout` says so when it is time.
    Restart { at: Mono },
    /// The policy wants it to stay ended.
    Stay,
    /// Too many restarts: `failed`, until something changes.
    GiveUp,
}

/// What a timer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// The back-off is over: start it.
    Start,
    /// It ran long enough to be called healthy; the count is clear.
    Healthy,
}

/// One instance's history of restarts.
#[derive(Clone, Debug)]
pub struct Restart {
    limits: Limits,
    policy: Policy,
    state: State,
    restarts: u32,
    total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not started yet, or ended for good.
    Idle,
    /// Running since, and not yet healthy.
    Running(Mono),
    Healthy,
    /// Back-off until.
    Waiting(Mono),
    GivenUp,
}

impl Restart {
    pub fn new(limits: Limits, policy: Policy) -> Restart {
        assert!(limits.backoff_first_ms <= limits.backoff_max_ms, "first back-off beyond the longest");
        Restart { limits, policy, state: State::Idle, restarts: 0, total: 0 }
    }

    /// The process runs from `now`.
    pub fn handle_started(&mut self, now: Mono) {
        self.state = State::Running(now);
    }

    /// The process ended by itself. Not for an end that was asked for.
    pub fn handle_exit(&mut self, now: Mono, exit: &Exit) -> Next {
        if let State::Running(since) = self.state
            && now.since(since) >= self.limits.healthy_after_ms
        {
            self.restarts = 0; // The timer may not have been served before the exit was.
        }
        let stay = match self.policy {
            Policy::Always => false,
            Policy::OnFailure | Policy::OnUnhealthy => exit.is_success(),
            Policy::Never => true,
        };
        if stay {
            self.state = State::Idle;
            return Next::Stay;
        }
        if self.restarts >= self.limits.restarts_max {
            self.state = State::GivenUp;
            return Next::GiveUp;
        }
        let at = now.plus(self.backoff_ms());
        self.restarts += 1;
        self.total += 1;
        self.state = State::Waiting(at);
        Next::Restart { at }
    }

    /// Another policy, for the next exit.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// A new image, a new configuration or a restart by hand: what was, counts no more.
    pub fn handle_reset(&mut self, policy: Policy) {
        self.policy = policy;
        self.restarts = 0;
        self.state = State::Idle;
    }

    pub fn next_timeout(&self) -> Option<Mono> {
        match self.state {
            State::Running(since) => Some(since.plus(self.limits.healthy_after_ms)),
            State::Waiting(at) => Some(at),
            State::Idle | State::Healthy | State::GivenUp => None,
        }
    }

    pub fn on_timeout(&mut self, now: Mono) -> Option<Due> {
        if self.next_timeout()? > now {
            return None;
        }
        match self.state {
            State::Running(_) => {
                self.restarts = 0;
                self.state = State::Healthy;
                Some(Due::Healthy)
            }
            State::Waiting(_) => {
                self.state = State::Idle;
                Some(Due::Start)
            }
            State::Idle | State::Healthy | State::GivenUp => None,
        }
    }

    /// Restarts since the count was last cleared; what the deployment report shows as `restartCount`.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Restarts since this machine was made.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub fn has_given_up(&self) -> bool {
        self.state == State::GivenUp
    }

    pub fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting(_))
    }

    fn backoff_ms(&self) -> u64 {
        let doubled = 1u64.checked_shl(self.restarts).unwrap_or(u64::MAX);
        self.limits.backoff_first_ms.saturating_mul(doubled).min(self.limits.backoff_max_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One step a line, times in seconds: `start`, `exit CODE|signal -> restart AT|stay|give-up`,
    /// `timer -> start|healthy|none`, `reset`. Every line begins with the time.
    fn check(policy: Policy, limits: Limits, script: &str) {
        let mut machine = Restart::new(limits, policy);
        for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
            let (at, step) = line.split_once(' ').expect("time and step");
            let now = Mono(at.parse::<u64>().expect("seconds") * 1000);
            let (step, expected) = step.split_once(" -> ").unwrap_or((step, ""));
            let got = match step.split_once(' ').unwrap_or((step, "")) {
                ("start", _) => {
                    machine.handle_started(now);
                    String::new()
                }
                ("reset", _) => {
                    machine.handle_reset(policy);
                    String::new()
                }
                ("exit", how) => {
                    let exit = match how {
                        "signal" => Exit::Signal { signal: 11, image_offset: None },
                        code => Exit::Code(code.parse().expect("code")),
                    };
                    match machine.handle_exit(now, &exit) {
                        Next::Restart { at } => format!("restart {}", at.0 / 1000),
                        Next::Stay => "stay".into(),
                        Next::GiveUp => "give-up".into(),
                    }
                }
                ("timer", _) => match machine.on_timeout(now) {
                    Some(Due::Start) => "start".into(),
                    Some(Due::Healthy) => "healthy".into(),
                    None => "none".into(),
                },
                other => panic!("unknown step {other:?}"),
            };
            assert_eq!(got, expected, "in the line: {line}");
        }
    }

    #[test]
    fn back_off_doubles_up_to_its_limit() {
        let script = "
            0 start
            1 exit signal -> restart 11
            10 timer -> none
            11 timer -> start
            11 start
            12 exit 0 -> restart 32
            32 start
            32 exit 1 -> restart 72
            72 start
            72 exit 1 -> restart 152
            152 start
            152 exit 1 -> restart 312
            312 start
            312 exit 1 -> restart 612
            612 start
            612 exit 1 -> restart 912";
        check(Policy::Always, Limits::default(), script);
    }

    #[test]
    fn a_healthy_while_clears_the_count() {
        let script = "
            0 start
            0 exit 1 -> restart 10
            10 start
            10 exit 1 -> restart 30
            30 start
            629 timer -> none
            630 timer -> healthy
            630 timer -> none
            700 exit 1 -> restart 710
            710 start
            1310 exit 1 -> restart 1320";
        check(Policy::Always, Limits::default(), script);
    }

    #[test]
    fn it_gives_up_and_a_reset_begins_anew() {
        let limits = Limits { restarts_max: 2, ..Limits::default() };
        let script = "
            0 start
            0 exit 1 -> restart 10
            10 start
            10 exit 1 -> restart 30
            30 start
            30 exit 1 -> give-up
            9999 timer -> none
            9999 reset
            9999 start
            9999 exit 1 -> restart 10009";
        check(Policy::Always, limits, script);
    }

    #[test]
    fn policies_differ_in_what_they_let_lie() {
        check(Policy::OnFailure, Limits::default(), "0 start\n1 exit 0 -> stay\n2 start\n3 exit 1 -> restart 13");
        check(
            Policy::OnUnhealthy,
            Limits::default(),
            "0 start\n1 exit 0 -> stay\n2 start\n3 exit signal -> restart 13",
        );
        check(Policy::Never, Limits::default(), "0 start\n1 exit signal -> stay\n99 timer -> none");
    }

    #[test]
    fn no_number_overflows() {
        let limits =
            Limits { backoff_first_ms: u64::MAX / 2, backoff_max_ms: u64::MAX, restarts_max: 200, ..Limits::default() };
        let mut machine = Restart::new(limits, Policy::Always);
        for _ in 0..200 {
            assert!(matches!(machine.handle_exit(Mono(u64::MAX - 1), &Exit::NeverHello), Next::Restart { .. }));
        }
        assert_eq!((machine.restarts(), machine.total()), (200, 200));
        assert_eq!(machine.handle_exit(Mono(0), &Exit::NeverHello), Next::GiveUp);
        assert!(machine.has_given_up());
    }
}
