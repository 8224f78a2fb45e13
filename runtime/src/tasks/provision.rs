//! Asks the provisioning service for the device's hub until it is told, and remembers the answer. Must never be needed by a device that
//! was told before, and never say the same failure twice.

use std::rc::Rc;
use std::time::Duration;

use super::board::Provisioned;
use super::world::World;
use crate::io::assignment::{self, Assigned};
use crate::io::rest::{self, Question};
use crate::logic::provisioning::{Assignment, Provisioning, Step};
use crate::logic::sas;
use crate::model::config::DpsConfig;
use crate::model::identity::Credentials;
use crate::model::time::Mono;

/// Life of the token of one registration: enough for a slow network, and for a clock that is some minutes off.
const TOKEN_LIFE_S: i64 = 600;

/// Who the device is in this hub. The key that proved the registration is the device's key there.
pub fn device(dps: &DpsConfig, assigned: &Assigned) -> Credentials {
    Credentials {
        host_name: assigned.hub.clone(),
        device_id: assigned.device.clone(),
        module_id: None,
        key: dps.key.clone(),
    }
}

/// Until the service has assigned a hub.
pub async fn run(world: &Rc<World>, dps: &DpsConfig) -> Credentials {
    let mut provisioning = Provisioning::new(&dps.id_scope, &dps.registration_id);
    let mut said = None;
    loop {
        let (now, step) = ask(world, dps, &mut provisioning).await;
        match step {
            Step::Ask { at } => sleep(at.since(now)).await,
            Step::Assigned(Assignment { hub, device: id }) => {
                let assigned = Assigned { hub, device: id };
                keep(world, dps, &assigned);
                return device(dps, &assigned);
            }
            Step::Failed { why, at } => {
                // One line for one reason, however often it is met.
                let level = if said.as_ref() == Some(&why) { log::Level::Debug } else { log::Level::Warn };
                let registration = &dps.registration_id;
                log::log!(
                    level,
                    "provisioning registration={registration} status=failed retry_in_ms={} reason={why:?}",
                    at.since(now)
                );
                world.board.provisioned.borrow_mut().failed(&why, world.port.now().wall);
                said = Some(why);
                sleep(at.since(now)).await;
            }
        }
    }
}

async fn sleep(ms: u64) {
    smol::Timer::after(Duration::from_millis(ms)).await;
}

async fn ask(world: &World, dps: &DpsConfig, provisioning: &mut Provisioning) -> (Mono, Step) {
    loop {
        let request = provisioning.request();
        let expires = world.floor.now().0.div_euclid(1_000).saturating_add(TOKEN_LIFE_S);
        let authorization = sas::token(&dps.key, &provisioning.resource_uri(), expires) + "&skn=registration";
        let question = Question {
            method: request.method,
            target: &request.target,
            authorization: &authorization,
            if_match: None,
            body: request.body.map(|body| body.to_string().into_bytes()),
        };
        let answer = match &world.dialler {
            Some(dialler) => rest::ask_at(dialler, &dps.endpoint, question).await,
            None => Err("there is no way to the cloud".to_owned()),
        };
        let now = world.port.now().mono;
        let step = match answer {
            Ok(answer) => {
                // A token that was made too early for the cloud: once more with the time that it says.
                let news = answer.date.is_some_and(|date| world.learn_time(date));
                if news && answer.status == 401 {
                    continue;
                }
                provisioning.handle_answer(now, answer.status, answer.retry_after, &answer.body)
            }
            Err(why) => provisioning.handle_unreachable(now, why),
        };
        return (now, step);
    }
}

fn keep(world: &World, dps: &DpsConfig, assigned: &Assigned) {
    let (registration, hub, device) = (&dps.registration_id, &assigned.hub, &assigned.device);
    log::info!("provisioning registration={registration} status=assigned host={hub} device={device}");
    *world.board.provisioned.borrow_mut() = Provisioned::assigned(assigned, world.port.now().wall);
    if *device != world.config.device_id {
        world.board.warn(format!(
            "the provisioning service calls this device {device:?} and the configuration {:?}: messages carry the former from the next start \
             on, unless [device] id or --device says another",
            world.config.device_id
        ));
    }
    if let Err(error) = assignment::store(&world.config.state_folder, dps, assigned) {
        world.board.warn(format!(
            "the assigned hub could not be written down ({error}): the next start needs the provisioning service"
        ));
    }
}
