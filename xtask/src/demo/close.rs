//! The end of the story: everything comes to rest, and the ledger is closed. Must never close it while anything is still
//! under way, nor take anybody's word for what arrived but the cloud's.

use std::time::Duration;

use serde_json::json;

use super::books::{self, Account};
use super::{COME_BACK, Demo, watch::Number};

impl Demo {
    /// No new readings; what is under way arrives.
    pub fn come_to_rest(&mut self) -> Result<(), String> {
        self.view.heading("Everything comes to rest, and is counted");
        self.sky.desire("sysinfo", json!({"interval_ms": 3_600_000}))?;
        let mut safe = None;
        let rest = self.until("everything arrives", COME_BACK, |demo| {
            let queues = demo.status["queues"].as_array();
            let empty = queues.is_some_and(|queues| !queues.is_empty() && queues.iter().all(|q| q["pending"] == 0));
            // It asks every time: the interval may not have reached the source yet.
            safe = if empty { demo.sky.call("sysinfo", "count").ok().map(|(_, said)| said) } else { None };
            safe.as_ref().is_some_and(|said| said["sent"].is_u64() && said["sent"] == said["safe"])
        })?;
        self.claim(rest, "no message waits in any queue of the device");
        for source in ["sysinfo", "window"] {
            let said = self.count(source)?;
            self.claim(
                said.is_some(),
                &format!("{source} says what it was told is safe: {}", said.unwrap_or_default()),
            );
        }
        // What was acknowledged is in the cloud; this is only for the last lines of the tap.
        self.watch("everything arrives", Duration::from_millis(300))
    }

    pub fn ledger(&mut self) -> Result<(), String> {
        let promised = |source: &str| books::numbered(self.seen.promised.get(source));
        let readings = promised("sysinfo");
        let alerts = books::passed(&self.seen, &self.rules, &readings);
        let sent = [("sysinfo", readings), ("filter", alerts.clone()), ("window", promised("window"))];
        let account = |(source, sent)| (source, books::account(&sent, self.seen.cloud.get(source), &self.kills));
        let accounts: [(&str, Account); 3] = sent.map(account);
        let unsummed = books::not_summed_up(&alerts, &self.seen.covers);
        let text = table(&self.view.bold("Ledger, by sequence number, at the cloud"), &accounts);
        self.view.table(&text);
        for (source, account) in &accounts {
            self.first(source, "lost", &account.lost);
            self.first(source, "twice for no reason", &account.unexplained);
        }
        self.first("window", "alert in no sum", &unsummed);
        let all = |holds: fn(&Account) -> bool| accounts.iter().all(|(_, account)| holds(account));
        self.claim(all(|a| a.lost.is_empty() && a.delivered > 0), "nothing is lost that its source was told is safe");
        self.claim(unsummed.is_empty(), "every alert is in a sum that reached the cloud");
        self.claim(all(|a| a.unexplained.is_empty()), "what came twice is marked as such, or has a kill behind it");
        self.claim(self.seen.out_of_order() == 0, "each source's messages came in the order in which they were sent");
        Ok(())
    }

    fn first(&mut self, source: &str, what: &str, numbers: &[Number]) {
        if let Some((epoch, seq)) = numbers.first() {
            self.view.say(&format!("{source}: {what}, first of {}: number {seq} of life {epoch}", numbers.len()));
        }
    }
}

fn table(title: &str, accounts: &[(&str, Account)]) -> String {
    let mut text =
        format!("\n{title}\n\n  {:<10}{:>8}{:>11}{:>12}{:>6}\n", "source", "sent", "delivered", "duplicates", "lost");
    for (source, a) in accounts {
        text += &format!("  {source:<10}{:>8}{:>11}{:>12}{:>6}\n", a.sent, a.delivered, a.duplicates(), a.lost.len());
    }
    let sum = |part: fn(&Account) -> usize| accounts.iter().map(|(_, account)| part(account)).sum::<usize>();
    text += "\n  sent: what the source was told is safe; of the filter, what its threshold lets pass of that\n";
    let (marked, by_kill) = (sum(|a| a.marked), sum(|a| a.by_kill));
    text +=
        &format!("  duplicates: {marked} with the DUP mark, {by_kill} under way at a kill and sent again after it\n");
    let beyond = sum(|a| a.beyond);
    text += &format!("  not counted: {beyond} that came although a kill was faster than their acknowledgement\n\n");
    text
}
