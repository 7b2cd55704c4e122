//! `delivery resend`.

use std::collections::{HashMap, HashSet};

use anyhow::bail;
use serde_json::json;
use store::Refusal;
use wire::ResendResult;

use crate::{
    backend::{Backend, Batch, Resender},
    command::arguments,
    output,
};

/// The results by the id of the delivery that was to be sent again.
type Results = HashMap<String, ResendResult>;

pub(super) async fn run(ids: &[String], backend: &Backend, as_json: bool) -> anyhow::Result<()> {
    let mut resender = backend.resender(arguments::DEFAULT_RATE).await?;
    let mut results = Results::new();
    let ended = send(&distinct(ids), &mut resender, &mut results).await;
    resender.close().await;
    // What was sent is printed even if the rest was not.
    let printed = output::lines(lines(ids, &results, as_json));
    ended?;
    printed?;
    let sent = sent(results.values());
    let refused = results.len() - sent;
    if refused > 0 {
        bail!("deliveries refused: {refused}, see above; sent: {sent}");
    }
    Ok(())
}

/// Sends the deliveries again, a batch at a time until a signal arrives, and notes which are refused. Adds the
/// results of the batches that were sent.
async fn send(wanted: &[String], resender: &mut Resender<'_>, results: &mut Results) -> anyhow::Result<()> {
    for batch in wanted.chunks(Resender::BATCH_MAX) {
        let before = sent(results.values());
        let rest = |sent: usize| {
            format!(
                "{sent} of {} deliveries were sent; to continue, run the command again with the ids from {} on",
                wanted.len(),
                batch[0]
            )
        };
        if resender.is_stopped() {
            bail!("interrupted: {}", rest(before));
        }
        let Batch {
            results: latest,
            unsent,
        } = match resender.send(batch).await {
            Ok(sent) => sent,
            Err(error) if results.is_empty() => return Err(error),
            Err(error) => return Err(error.context(rest(before))),
        };
        if unsent > 0 {
            bail!("interrupted: {}", rest(before + sent(&latest) - unsent));
        }
        for result in latest {
            if let Some(refused) = &result.refused {
                output::note(&format!("{}: {}", result.resend_of, why(refused)));
            }
            results.insert(result.resend_of.clone(), result);
        }
    }
    Ok(())
}

/// Returns each id once, in the given order.
fn distinct(ids: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    let first = ids.iter().filter(|id| seen.insert(id.as_str()));
    first.cloned().collect()
}

/// Returns how many of the deliveries were sent.
fn sent<'a>(results: impl IntoIterator<Item = &'a ResendResult>) -> usize {
    let sent = results.into_iter().filter(|result| result.id.is_some());
    sent.count()
}

/// Returns a line for each new delivery, in the order of the ids that were given.
fn lines(ids: &[String], results: &Results, as_json: bool) -> Vec<String> {
    let line = |asked: &String| {
        let id = results.get(asked)?.id.as_ref()?;
        Some(if as_json {
            output::json(&json!({ "id": id, "resend_of": asked }))
        } else {
            id.clone()
        })
    };
    ids.iter().filter_map(line).collect()
}

/// Returns why a delivery was not sent again, and what to do.
fn why(refused: &str) -> String {
    let Ok(refusal) = refused.parse::<Refusal>() else {
        return output::printable(refused).into_owned();
    };
    let next = match refusal {
        Refusal::Unknown => "`magnetite delivery list` lists the recorded deliveries",
        Refusal::StillPending => "`magnetite delivery show` shows what comes next",
        Refusal::EventMissing => "publish it again (`magnetite publish`)",
        Refusal::Ping => "`magnetite endpoint ping` sends a new one",
    };
    format!("{refusal}; {next}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(resend_of: &str, id: Option<&str>) -> (String, ResendResult) {
        let result = ResendResult {
            resend_of: resend_of.to_owned(),
            id: id.map(str::to_owned),
            refused: id.is_none().then(|| "ping".to_owned()),
        };
        (resend_of.to_owned(), result)
    }

    #[test]
    fn an_id_that_is_given_twice_is_sent_once_and_printed_twice() {
        let ids = ["dlv_2", "dlv_1", "dlv_2", "dlv_3", "dlv_4"].map(str::to_owned);
        assert_eq!(distinct(&ids), ["dlv_2", "dlv_1", "dlv_3", "dlv_4"]);
        // There is no result for the last one, because a signal arrived.
        let results = Results::from([
            result("dlv_1", Some("dlv_a")),
            result("dlv_2", Some("dlv_b")),
            result("dlv_3", None),
        ]);
        assert_eq!(lines(&ids, &results, false), ["dlv_b", "dlv_a", "dlv_b"]);
        assert_eq!(
            lines(&ids[1..2], &results, true),
            [r#"{"id":"dlv_a","resend_of":"dlv_1"}"#]
        );
        assert_eq!(sent(results.values()), 2);
    }

    #[test]
    fn a_refusal_is_told_with_advice_and_an_unknown_one_as_it_is() {
        for (word, expected) in [
            (
                "not_found",
                "there is no such delivery; `magnetite delivery list` lists",
            ),
            ("still_pending", "it is still pending; "),
            ("event_missing", "its event is no longer stored; publish it again"),
            ("ping", "it is a ping, which is not sent again; "),
            ("muted", "muted"),
        ] {
            assert!(why(word).starts_with(expected), "{word}: {}", why(word));
        }
    }
}
