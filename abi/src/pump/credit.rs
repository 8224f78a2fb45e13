//! How much an instance may have under way: messages and bytes that are sent and not yet settled.
//! Arithmetic only. Must never lose a message: what is taken comes back exactly once.

/// How far a callback may overdraw a small window: messages, and bytes. A larger window may be overdrawn by itself once.
const OVERDRAFT_MESSAGES_MIN: u64 = 64;
const OVERDRAFT_BYTES_MIN: u64 = 512 * 1024;

/// A window, and what is taken of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    messages: u64,
    bytes: u64,
    taken_messages: u64,
    taken_bytes: u64,
}

impl Credit {
    pub(super) fn new(messages: u32, bytes: u64) -> Credit {
        Credit { messages: u64::from(messages), bytes, taken_messages: 0, taken_bytes: 0 }
    }

    /// A smaller window than what is taken is not an error: nothing more is taken until enough has come back.
    pub(super) fn set_window(&mut self, messages: u32, bytes: u64) {
        (self.messages, self.bytes) = (u64::from(messages), bytes);
    }

    /// A message of this size fits the window. A message larger than the whole window may go alone, or it never could.
    #[inline]
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.fits(bytes, self.messages, self.bytes)
    }

    /// A message of this size fits the window and its overdraft: for callbacks, which must not wait.
    #[inline]
    pub(super) fn has_overdraft(&self, bytes: usize) -> bool {
        let messages = self.messages.saturating_add(self.messages.max(OVERDRAFT_MESSAGES_MIN));
        let limit = self.bytes.saturating_add(self.bytes.max(OVERDRAFT_BYTES_MIN));
        self.fits(bytes, messages, limit)
    }

    /// More is taken than the window holds: the next input has to wait.
    #[inline]
    pub(super) fn is_overdrawn(&self) -> bool {
        self.taken_messages > self.messages || (self.taken_messages > 1 && self.taken_bytes > self.bytes)
    }

    #[inline]
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken_messages += 1;
        self.taken_bytes += bytes as u64;
    }

    #[inline]
    pub(super) fn give_back(&mut self, bytes: u32) {
        self.taken_messages -= 1;
        self.taken_bytes -= u64::from(bytes);
    }

    fn fits(&self, bytes: usize, messages_max: u64, bytes_max: u64) -> bool {
        let fits = self.taken_messages < messages_max && self.taken_bytes + bytes as u64 <= bytes_max;
        fits || (self.taken_messages == 0 && messages_max > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(window: (u32, u64), sizes: &[u32]) -> Credit {
        let mut credit = Credit::new(window.0, window.1);
        sizes.iter().for_each(|bytes| credit.take(*bytes as usize));
        credit
    }

    #[test]
    fn the_window_counts_messages_and_bytes() {
        assert!(taken((2, 100), &[10]).has_room(90));
        assert!(!taken((2, 100), &[10]).has_room(91));
        assert!(!taken((2, 100), &[10, 10]).has_room(1));
        let mut credit = taken((2, 100), &[10, 10]);
        credit.give_back(10);
        assert!(credit.has_room(90));
    }

    #[test]
    fn a_message_larger_than_the_window_goes_alone() {
        assert!(taken((2, 100), &[]).has_room(1_000));
        assert!(!taken((2, 100), &[1]).has_room(1_000));
        assert!(!taken((2, 100), &[1_000]).is_overdrawn());
        assert!(!taken((0, 100), &[]).has_room(1));
    }

    #[test]
    fn a_callback_overdraws_up_to_a_limit() {
        let credit = taken((1, 1_000_000), &[10; 64]);
        assert!(credit.has_overdraft(10) && credit.is_overdrawn() && !credit.has_room(1));
        assert!(!taken((1, 1_000_000), &[10; 65]).has_overdraft(10));
        assert!(taken((100, 1_000_000), &[10; 199]).has_overdraft(10));
        assert!(!taken((100, 1_000_000), &[10; 200]).has_overdraft(10));
        assert!(!taken((100, 10), &[300_000]).has_overdraft(300_000));
    }

    #[test]
    fn a_shrunk_window_waits_until_enough_has_come_back() {
        let mut credit = taken((4, 100), &[10, 10, 10]);
        assert!(!credit.is_overdrawn());
        credit.set_window(2, 100);
        assert!(credit.is_overdrawn());
        credit.give_back(10);
        assert!(!credit.is_overdrawn() && !credit.has_room(1));
        credit.give_back(10);
        assert!(credit.has_room(1));
    }
}
