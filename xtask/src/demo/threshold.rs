//! Which threshold makes something to see: derived from the values that this machine showed a moment ago.
//! Must never fall back to a number that was not seen.

use super::watch::{FIELDS, Number, Seen};

/// How far from half of the readings a threshold may be, as a share.
const OFF_MAX: f64 = 0.3;

/// Field and value, so that of what was taken since then about half would pass.
pub fn choose(seen: &Seen, since_ms: i64) -> (usize, f64) {
    for field in 0..FIELDS.len() {
        let values = seen.since(since_ms, field);
        let off = |t: f64| (share(&values, t) - 0.5).abs();
        let best = values.iter().map(|(_, v)| *v).min_by(|a, b| off(*a).total_cmp(&off(*b)));
        if let Some(best) = best.filter(|t| off(*t) <= OFF_MAX) {
            return (field, best);
        }
    }
    // A machine on which nothing moves: nothing is beyond the highest value.
    (0, seen.since(since_ms, 0).iter().map(|(_, v)| *v).fold(0.0, f64::max))
}

fn share(values: &[(Number, f64)], threshold: f64) -> f64 {
    values.iter().filter(|(_, v)| *v > threshold).count() as f64 / values.len().max(1) as f64
}
