//! The REST interfaces of the hub: identities for devices and back ends, twins, methods, deployments and queries for back
//! ends. Must never do I/O: a request comes in as a value, and what is to be done about it goes out as one.

mod call;
mod entry;
mod identities;
mod path;
mod query;
mod record;
mod reply;
mod twins;

pub use call::Call;
pub use entry::POLICY;
pub use path::{Resource, parameter};
pub use record::{Proof, Record, check_id};
pub use reply::{Outcome, Refusal, Reply, provisioning_error};

use crate::upgrade::Request;
use crate::world::World;
use entry::Right;
use identities::Match;

/// Of a request's body: a deployment with 50 modules at their limits.
pub const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// What comes of a request.
pub enum Step {
    Reply(Reply),
    /// The answer is a client's.
    Call(Call),
}

impl World {
    /// Faults by command come before everything else.
    pub fn ask(&mut self, request: &Request, resource: &Resource, body: &[u8]) -> Step {
        if let Resource::Register { .. } | Resource::Operation { .. } = resource {
            return Step::Reply(self.ask_provisioning(request, resource, body));
        }
        if let Some((status, retry_after_s)) = self.faults.takes_rest() {
            let reply = Refusal::by_command(status).into_reply();
            let retry = retry_after_s.map(|seconds| ("Retry-After", seconds.to_string()));
            return Step::Reply(retry.into_iter().fold(reply, |reply, (name, value)| reply.with(name, value)));
        }
        let right = match self.admit_request(request, resource) {
            Ok(right) => right,
            Err(refusal) => return Step::Reply(refusal.into_reply()),
        };
        if let (Resource::Methods { identity }, "POST") = (resource, request.method.as_str()) {
            let found = self.registered(identity).map(drop).and_then(|()| Call::parse(identity, body));
            return found.map_or_else(|refusal| Step::Reply(refusal.into_reply()), Step::Call);
        }
        Step::Reply(self.act(request, resource, body, right).unwrap_or_else(Refusal::into_reply))
    }

    fn act(&mut self, request: &Request, resource: &Resource, body: &[u8], right: Right) -> Outcome {
        let wanted = Match::parse(request.header("if-match"));
        if right == Right::Device && matches!(resource, Resource::Device { .. }) && request.method != "GET" {
            return Err(Refusal::unauthorized("a device does not change itself"));
        }
        match (request.method.as_str(), resource) {
            ("GET", Resource::Devices) => {
                self.list_devices(parameter(&request.target, "top").and_then(|top| top.parse().ok()))
            }
            ("POST", Resource::Query) => self.query(request, body),
            ("GET", Resource::DeviceCount) => self.count_devices(),
            ("GET", Resource::ConnectionCount) => self.count_connections(),
            ("GET", Resource::Device { device }) => self.read_identity(device),
            ("PUT", Resource::Device { device }) => self.write_identity(device, body, wanted, right),
            ("DELETE", Resource::Device { device }) => self.delete_identity(device, wanted, right),
            ("GET", Resource::Modules { device }) => self.list_modules(device),
            ("GET", Resource::Module { device, module }) => self.read_identity(&format!("{device}/{module}")),
            ("PUT", Resource::Module { device, module }) => {
                self.write_identity(&format!("{device}/{module}"), body, wanted, right)
            }
            ("DELETE", Resource::Module { device, module }) => {
                self.delete_identity(&format!("{device}/{module}"), wanted, right)
            }
            ("POST", Resource::Configure { device }) => self.configure(device, body),
            ("GET", Resource::Twin { identity }) => self.read_twin(identity),
            ("PATCH", Resource::Twin { identity }) => self.write_twin(identity, body, wanted, false),
            ("PUT", Resource::Twin { identity }) => self.write_twin(identity, body, wanted, true),
            (method, _) => Err(Refusal::new(405, "InvalidOperation", format!("{method} does not go here"))),
        }
    }
}

#[cfg(test)]
#[path = "nonsense_tests.rs"]
mod tests;
