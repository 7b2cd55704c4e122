//! Reports a journal that lags behind.

use std::time::Duration;

use runtime::troubles::Trouble;

/// The age of attempts above which they are reported when recorded. A recorder that keeps up is seconds
/// behind.
const LAG_MAX: Duration = Duration::from_mins(1);

/// Reports a trouble if the newest of these attempts ended more than a minute before it was recorded.
pub(crate) fn note(now_ms: u64, ended_ms: &[u64]) {
    let newest = ended_ms
        .iter()
        .max()
        .map(|ended_ms| now_ms.saturating_sub(*ended_ms));
    if let Some(lag) = newest.map(Duration::from_millis).filter(|lag| *lag > LAG_MAX) {
        Trouble::JournalLag.note(
            "journal",
            format!("attempts were recorded {} s after they ended", lag.as_secs()),
        );
    }
}
