//! The MQTT side of a connection to the provisioning side: a client registers, asks what came of it, and goes. Must never
//! take anything else from it.

use bytes::Bytes;
use mqtt_proto::v3::{Connack, Connect, ConnectReturnCode, Packet, Publish, Suback, SubscribeReturnCode};
use mqtt_proto::{QosPid, TopicName};

use super::{Session, Stop, stop};
use crate::dps::{self, Asked};
use crate::world::World;

const ANSWERS: &str = "$dps/registrations/res/#";

pub struct Registrant {
    registration: String,
    /// With this QoS, once it listens.
    granted: Option<u8>,
}

impl Session {
    /// `None` when this CONNECT is for the hub.
    pub(super) fn connect_registrant(&mut self, world: &mut World, connect: &Connect) -> Option<Result<(), Stop>> {
        let user_name = connect.username.as_ref()?.to_string();
        let (scope, registration) = dps::user(&user_name)?;
        let password = connect.password.as_deref().unwrap_or_default();
        let known = std::str::from_utf8(password)
            .map_err(|_| "the password is no text".to_owned())
            .and_then(|token| world.check_registrant(scope, registration, token));
        let fault = world.faults.acting(None).connack;
        let refused = match (fault, known) {
            (Some(code), _) => Some((code, "by command".to_owned())),
            (None, Err(reason)) => Some((5, reason)),
            (None, Ok(())) if *connect.client_id != *registration => {
                Some((5, format!("the client id `{}` is not the registration's", connect.client_id)))
            }
            (None, Ok(())) => None,
        };
        if let Some((code, reason)) = refused {
            self.output.extend_from_slice(&[0x20, 2, 0, code]);
            return Some(Err(Stop { code: Some(code), reason }));
        }
        // Two slashes: no identity of the hub has such a name.
        world.name_link(self.link, format!("{scope}/registrations/{registration}"), &user_name, self.web_socket);
        self.registrant = Some(Registrant { registration: registration.to_owned(), granted: None });
        self.set_keep_alive(connect.keep_alive);
        self.put(&Connack::new(false, ConnectReturnCode::Accepted).into());
        Some(Ok(()))
    }

    pub(super) fn handle_registrant(&mut self, world: &mut World, packet: Packet) -> Result<(), Stop> {
        let Some(registrant) = &mut self.registrant else { return stop("nobody registers here") };
        match packet {
            Packet::Subscribe(subscribe) => {
                let mut codes = Vec::new();
                for (filter, qos) in &subscribe.topics {
                    let granted = (**filter == *ANSWERS).then_some((*qos as u8).min(1));
                    registrant.granted = granted.or(registrant.granted);
                    codes.push(granted.unwrap_or(0x80));
                }
                let places = vec![SubscribeReturnCode::MaxLevel0; codes.len()];
                self.put(&Suback::new(subscribe.pid, places).into());
                // The codec writes a refusal as 3 and not as 0x80.
                let codes_at = self.output.len() - codes.len();
                self.output[codes_at..].copy_from_slice(&codes);
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                registrant.granted = None;
                self.put(&Packet::Unsuback(unsubscribe.pid));
                Ok(())
            }
            Packet::Publish(publish) => self.register(world, &publish),
            Packet::Puback(_) => Ok(()),
            Packet::Pingreq => {
                self.put(&Packet::Pingresp);
                Ok(())
            }
            Packet::Disconnect => stop("the client said DISCONNECT"),
            other => stop(format!("a client that registers sends no {:?}", other.get_type())),
        }
    }

    fn register(&mut self, world: &mut World, publish: &Publish) -> Result<(), Stop> {
        let Some(Registrant { registration, granted }) = &self.registrant else { return stop("nobody registers") };
        let (registration, granted) = (registration.clone(), *granted);
        let Some(asked) = Asked::parse(&publish.topic_name) else {
            return stop(format!("nothing can be published to `{}`", &*publish.topic_name));
        };
        match publish.qos_pid {
            QosPid::Level0 => {}
            QosPid::Level1(pid) => self.put(&Packet::Puback(pid)),
            QosPid::Level2(_) => return stop("a publish with QoS 2"),
        }
        let (told, rid) = match asked {
            Asked::Register { rid } => (world.register(&registration, &publish.payload), rid),
            Asked::Operation { rid, operation } => (world.registration_status(&registration, &operation), rid),
        };
        // An answer that nobody listens for is lost, as in the cloud.
        if let (Some(granted), Ok(topic)) = (granted, TopicName::try_from(told.topic(&rid).as_str())) {
            let qos_pid = if granted == 0 { QosPid::Level0 } else { QosPid::Level1(self.next_pid) };
            self.next_pid += 1;
            self.put(&Publish::new(qos_pid, topic, Bytes::from(told.body.to_string())).into());
        }
        Ok(())
    }
}
