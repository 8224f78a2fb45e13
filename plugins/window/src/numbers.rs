//! The numbers that aggregates bear, so that anybody downstream can count them, and up to which they are safe.
//! Must never count an aggregate that was not taken, nor call one safe before its receipt does.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::SystemTime;

use skerry_abi::Receipt;

pub struct Numbers {
    /// When this instance started, ms since 1970: numbers begin again with it.
    epoch: u64,
    sent: u64,
    safe: u64,
    /// Of what came after `safe`; bounded by the credit.
    receipts: VecDeque<Receipt>,
    /// An aggregate was not taken: nothing behind it counts as safe "up to" any more.
    gap: bool,
}

impl Numbers {
    pub fn new() -> Numbers {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Numbers { epoch, sent: 0, safe: 0, receipts: VecDeque::new(), gap: false }
    }

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn sent(&self) -> u64 {
        self.sent
    }

    pub fn safe(&self) -> u64 {
        self.safe
    }

    pub fn took(&mut self, receipt: Receipt) {
        self.sent += 1;
        self.receipts.push_back(receipt);
    }

    /// Receipts come in order, so the first open one ends the look.
    pub fn take_receipts(&mut self) {
        let mut task = TaskContext::from_waker(Waker::noop());
        while let Some(receipt) = self.receipts.front_mut() {
            match Pin::new(receipt).poll(&mut task) {
                Poll::Pending => return,
                Poll::Ready(Ok(_)) if self.gap => {}
                Poll::Ready(Ok(_)) => self.safe = self.sent + 1 - self.receipts.len() as u64,
                Poll::Ready(Err(error)) => {
                    log::warn!("an aggregate was not taken: {error}");
                    self.gap = true;
                }
            }
            self.receipts.pop_front();
        }
    }
}
