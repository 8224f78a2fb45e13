//! Endpoints of the route table as queues of the hub.
//! Must never move a message that is queued already: new routes are for new messages.

use super::queue::Queue;
use super::{Hub, QueueIx, SourceIx};
use crate::logic::routing::{RouteTable, Sink};
use crate::model::endpoint::{Endpoint, Priority};

impl Hub {
    /// New routes, for new messages only: what lies in a queue stays there.
    pub fn set_routes(&mut self, routes: RouteTable) {
        self.routes = routes;
        self.trace.new_routes();
        for source in &mut self.sources {
            source.candidates = self.routes.candidates(&source.source.path());
            source.queues.clear();
        }
    }

    /// Time to live of new messages whose route has none; `None` keeps them for ever.
    pub fn set_ttl(&mut self, ttl: Option<std::time::Duration>) {
        self.config.ttl = ttl;
    }

    pub fn routes(&self) -> &RouteTable {
        &self.routes
    }

    pub(super) fn endpoint_of(&self, source: SourceIx, endpoint: u32) -> Endpoint {
        match &self.routes.endpoints()[endpoint as usize] {
            Sink::Module { module, input } => Endpoint::Input { module: module.clone(), input: input.clone() },
            Sink::Upstream => Endpoint::Upstream { identity: self.sources[source as usize].source.module.clone() },
        }
    }

    pub(super) fn queue_of(&mut self, endpoint: Endpoint, priority: Priority) -> QueueIx {
        if let Some(ix) = self.by_endpoint.get(&(endpoint.clone(), priority)) {
            return *ix;
        }
        let id = self.queues.iter().map(|q| q.id + 1).max().unwrap_or(1);
        let ix = self.add_queue(Queue::new(id, endpoint, priority));
        self.connect_queue(ix);
        ix
    }

    pub(super) fn add_queue(&mut self, queue: Queue) -> QueueIx {
        let ix = self.queues.len() as QueueIx;
        self.by_endpoint.insert((queue.endpoint.clone(), queue.priority), ix);
        self.queues.push(queue);
        ix
    }

    /// Gives a queue to the instance that takes from it, if one is ready.
    pub(super) fn connect_queue(&mut self, ix: QueueIx) {
        let Some((link_at, input)) = self.consumer_of(&self.queues[ix as usize].endpoint) else { return };
        let link_ix = super::LinkIx(link_at as u32);
        self.queues[ix as usize].consumer = Some((link_ix, input));
        let mut order: Vec<(Priority, QueueIx)> = self.links[link_at]
            .iter()
            .flat_map(|l| &l.queues)
            .map(|q| (self.queues[*q as usize].priority, *q))
            .collect();
        order.push((self.queues[ix as usize].priority, ix));
        order.sort_unstable();
        let link = self.links[link_at].as_mut().expect("found above");
        link.queues = order.into_iter().map(|(_, q)| q).collect();
        link.next_stream += 1;
        self.queues[ix as usize].stream = link.next_stream;
        self.mark_dirty(link_ix);
    }

    /// Place of the link that takes for this endpoint now, and the number of the input there.
    fn consumer_of(&self, endpoint: &Endpoint) -> Option<(usize, u16)> {
        let mut open = self.links.iter().enumerate().filter_map(|(at, l)| Some((at, l.as_deref()?)));
        open.find_map(|(at, link)| {
            if !link.ready || link.closed {
                return None;
            }
            match endpoint {
                Endpoint::Input { module, input } => {
                    let own = self.by_module.get(module) == Some(&link.identity);
                    let number = link.inputs.iter().position(|i| i == input).filter(|_| own)?;
                    Some((at, number as u16))
                }
                Endpoint::Upstream { identity } => (link.upstream.as_ref() == Some(identity)).then_some((at, 0)),
            }
        })
    }
}
