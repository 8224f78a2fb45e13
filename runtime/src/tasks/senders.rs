//! Links of those who send in a module's name through the control socket: one an output, kept for the next message.
//! Must never hold more of them than its limit.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use smol::channel::Receiver;

use super::mailbox::Refusal;
use super::port::{Port, Wire};
use crate::logic::hub::{Ending, LinkIx, Sent};
use skerry_abi::wire::frame::{Outcome, Parents};

/// Outputs that are sent from by hand; beyond it the links of all that wait for nothing are closed.
const SENDERS_MAX: usize = 64;

#[derive(Default)]
pub struct Senders {
    open: BTreeMap<(String, String), Sender>,
}

struct Sender {
    link: LinkIx,
    wire: Rc<Wire>,
    next_ticket: u64,
}

impl Senders {
    /// The hub's answer comes over the channel.
    pub fn send(
        &mut self,
        port: &Port,
        module: &str,
        output: &str,
        record: &[u8],
    ) -> Result<Receiver<(Outcome, String)>, Refusal> {
        if self.open.len() >= SENDERS_MAX {
            self.close_idle(port);
        }
        let sender = self.open.entry((module.to_owned(), output.to_owned())).or_insert_with(|| {
            let link = port.turn(|hub, _| hub.open_sender(module, output));
            let wire = Rc::new(Wire::Local(RefCell::default()));
            port.connect(link, Rc::clone(&wire));
            Sender { link, wire, next_ticket: 1 }
        });
        let (answer, answered) = smol::channel::bounded(1);
        let (link, ticket) = (sender.link, sender.next_ticket);
        sender.next_ticket += 1;
        if let Wire::Local(waiting) = &*sender.wire {
            waiting.borrow_mut().insert(ticket, answer);
        }
        let sent = Sent { ticket, output: 0, at_once: false, parents: Parents::NONE, record };
        let taken = port.turn(|hub, now| hub.publish(now, link, sent));
        taken.map_err(|fault| Refusal::new(500, fault.to_string()))?;
        Ok(answered)
    }

    fn close_idle(&mut self, port: &Port) {
        self.open.retain(|_, sender| {
            let busy = matches!(&*sender.wire, Wire::Local(waiting) if !waiting.borrow().is_empty());
            if !busy {
                port.disconnect(sender.link);
                port.turn(|hub, now| hub.close_link(now, sender.link, Ending::Quietly));
            }
            busy
        });
    }
}
