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
    let (ids, mut results) = (distinct(ids), Results::new());
    let ended = send(&ids, &mut resender, &mut results).await;
    resender.close().await;
    // What was sent is printed even if the rest was not.
    for (id, asked) in shared(&ids, &results) {
        output::note(&format!(
            "{}: deliveries of the same event to the same endpoint, which are sent again once, as {id}",
            asked.join(", ")
        ));
    }
    let printed = output::lines(lines(&ids, &results, as_json));
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
    let mut left = wanted;
    while !left.is_empty() {
        let (batch, following) = left.split_at(left.len().min(Resender::BATCH_MAX));
        if resender.is_stopped() {
            bail!("interrupted: {}", to_continue(results, wanted, &[], left));
        }
        let Batch {
            results: latest,
            unsent,
            unknown,
            failed,
        } = match resender.send(batch).await {
            Ok(sent) => sent,
            Err(error) if results.is_empty() => return Err(error),
            Err(error) => return Err(error.context(to_continue(results, wanted, &[], left))),
        };
        for result in latest {
            if let Some(refused) = &result.refused {
                output::note(&format!("{}: {}", result.resend_of, why(refused)));
            }
            results.insert(result.resend_of.clone(), result);
        }
        let told = || with_unknown(to_continue(results, wanted, &unsent, following), &unknown);
        match failed {
            Some(error) => return Err(error.context(told())),
            None if !unsent.is_empty() => bail!("interrupted: {}", told()),
            None => left = following,
        }
    }
    Ok(())
}

/// Returns how many deliveries were sent, and how to send the rest: those in `unsent`, and all from the first one
/// in `left` on. Those between them were sent, although not in the given order.
fn to_continue(results: &Results, wanted: &[String], unsent: &[String], left: &[String]) -> String {
    let unsent = (!unsent.is_empty()).then(|| unsent.join(" "));
    let left = left.first().map(|first| format!("the ids from {first} on"));
    let rest: Vec<_> = unsent.into_iter().chain(left).collect();
    let sent = format!(
        "{} of {} deliveries were sent",
        sent(results.values()),
        wanted.len()
    );
    if rest.is_empty() {
        return sent;
    }
    format!(
        "{sent}; to continue, run the command again with {}",
        rest.join(" and ")
    )
}

/// Adds the deliveries of which it is not known whether they were sent.
fn with_unknown(told: String, unknown: &[String]) -> String {
    if unknown.is_empty() {
        return told;
    }
    format!(
        "{told}; it is not known whether these were sent, so look for their attempts (`magnetite event show`) before you send \
         them again: {}",
        unknown.join(" ")
    )
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

/// Returns the new deliveries, in the order of the distinct ids that were given, each with the ids that it is sent for:
/// several, if these are deliveries of the same event to the same endpoint.
fn grouped<'a>(ids: &'a [String], results: &'a Results) -> Vec<(&'a str, Vec<&'a str>)> {
    let (mut groups, mut places) = (Vec::<(&str, Vec<&str>)>::new(), HashMap::new());
    for asked in ids {
        let Some(id) = results.get(asked).and_then(|result| result.id.as_deref()) else {
            continue;
        };
        let place = *places.entry(id).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, all)) => all.push(asked),
            None => groups.push((id, vec![asked.as_str()])),
        }
    }
    groups
}

/// Returns the new deliveries that are sent for several ids.
fn shared<'a>(ids: &'a [String], results: &'a Results) -> Vec<(&'a str, Vec<&'a str>)> {
    let mut groups = grouped(ids, results);
    groups.retain(|(_, asked)| asked.len() > 1);
    groups
}

/// Returns a line for each new delivery; as JSON, for each id that it is sent for. The order is that of the distinct
/// ids that were given.
fn lines(ids: &[String], results: &Results, as_json: bool) -> Vec<String> {
    if !as_json {
        let groups = grouped(ids, results).into_iter();
        return groups.map(|(id, _)| id.to_owned()).collect();
    }
    let line = |asked: &String| {
        let id = results.get(asked)?.id.as_ref()?;
        Some(output::json(&json!({ "id": id, "resend_of": asked })))
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
    fn a_new_delivery_is_printed_once_however_many_ids_it_is_sent_for() {
        let ids = ["dlv_2", "dlv_1", "dlv_2", "dlv_3", "dlv_4", "dlv_5"].map(str::to_owned);
        let ids = distinct(&ids);
        assert_eq!(ids, ["dlv_2", "dlv_1", "dlv_3", "dlv_4", "dlv_5"]);
        // There is no result for the last one, because a signal arrived.
        let results = Results::from([
            result("dlv_1", Some("dlv_a")),
            result("dlv_2", Some("dlv_b")),
            result("dlv_3", None),
            // An earlier delivery of the same event to the same endpoint as the second one.
            result("dlv_4", Some("dlv_b")),
        ]);
        assert_eq!(lines(&ids, &results, false), ["dlv_b", "dlv_a"]);
        assert_eq!(shared(&ids, &results), [("dlv_b", vec!["dlv_2", "dlv_4"])]);
        assert_eq!(
            lines(&ids, &results, true),
            [
                r#"{"id":"dlv_b","resend_of":"dlv_2"}"#,
                r#"{"id":"dlv_a","resend_of":"dlv_1"}"#,
                r#"{"id":"dlv_b","resend_of":"dlv_4"}"#,
            ]
        );
        assert_eq!(sent(results.values()), 3);
    }

    #[test]
    fn only_what_was_not_sent_is_to_be_sent_when_the_command_continues() {
        let ids = ["dlv_1", "dlv_2", "dlv_3", "dlv_4", "dlv_5"].map(str::to_owned);
        let results = Results::from([result("dlv_2", Some("dlv_a"))]);
        let (of_batch, following) = ([ids[0].clone(), ids[2].clone()], &ids[3..]);
        for (unsent, left, expected) in [
            (&of_batch[..], following, "dlv_1 dlv_3 and the ids from dlv_4 on"),
            (&of_batch, &[], "dlv_1 dlv_3"),
            (&[], following, "the ids from dlv_4 on"),
        ] {
            let told = to_continue(&results, &ids, unsent, left);
            assert_eq!(
                told,
                format!("1 of 5 deliveries were sent; to continue, run the command again with {expected}")
            );
        }
    }

    #[test]
    fn what_may_have_been_sent_is_named_without_advice_to_send_it_again() {
        let ids = ["dlv_1", "dlv_2"].map(str::to_owned);
        let told = to_continue(&Results::new(), &ids, &[], &[]);
        assert_eq!(told, "0 of 2 deliveries were sent");
        assert_eq!(with_unknown(told.clone(), &[]), told);
        let told = with_unknown(told, &ids);
        assert!(!told.contains("run the command again"), "{told}");
        assert!(
            told.ends_with("before you send them again: dlv_1 dlv_2"),
            "{told}"
        );
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
