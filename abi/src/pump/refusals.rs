//! Which deliveries have to be given back: all later ones of a stream on which one was refused, whenever they arrive.
//! The runtime delivers them again under another stream number. Must never forget a stream that it may still send on.

use std::collections::{HashSet, VecDeque};

/// Refused streams that are remembered. What still arrives on one was sent before the runtime heard of the refusal,
/// so the oldest of so many has long run dry.
const STREAMS_MAX: usize = 1_024;

#[derive(Default)]
pub(super) struct Refusals {
    refused: HashSet<u32>,
    oldest_first: VecDeque<u32>,
}

impl Refusals {
    pub(super) fn refuse(&mut self, stream: u32) {
        if !self.refused.insert(stream) {
            return;
        }
        self.oldest_first.push_back(stream);
        if self.oldest_first.len() > STREAMS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.refused.remove(&oldest);
        }
    }

    #[inline]
    pub(super) fn contains(&self, stream: u32) -> bool {
        !self.refused.is_empty() && self.refused.contains(&stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_refused_for_good_and_alone() {
        let mut refusals = Refusals::default();
        refusals.refuse(7);
        refusals.refuse(7);
        assert!(refusals.contains(7) && !refusals.contains(8));
        (100..100 + STREAMS_MAX as u32 - 1).for_each(|stream| refusals.refuse(stream));
        assert!(refusals.contains(7));
        refusals.refuse(8);
        assert!(!refusals.contains(7) && refusals.contains(8));
        assert_eq!(refusals.refused.len(), STREAMS_MAX);
    }
}
