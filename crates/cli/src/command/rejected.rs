//! `magnetite rejected`: lists, shows and requeues messages that could not be processed.

mod redrive;

use std::convert::identity;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use runtime::time;
use serde_json::{Map, Value, json};
use store::{RejectedCursor, RejectedRow, Store};

use crate::{configuration::Configuration, database, output, pages};

use super::{
    arguments,
    listing::{self, Listed},
};

/// The maximum length of a body that is shown, in bytes.
const BODY_BYTES_SHOWN: usize = 512;

pub(super) type Arguments = arguments::Actions<Action>;

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// List rejected messages that have not been redriven, newest first
    List(List),
    /// Show one message: why it was rejected, and the beginning of its body
    Show {
        /// The rejected message's id
        id: String,
        /// Print only the body as it was received
        #[arg(long, conflicts_with = "json")]
        body: bool,
    },
    /// Publish messages again, unchanged, to the queues that they came from; use it after a fault of this
    /// system has been corrected
    Redrive {
        /// The rejected messages' ids
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
        /// Also redrive messages that were redriven before
        #[arg(long)]
        again: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    window: arguments::Window,
    /// Also list messages that were redriven
    #[arg(long)]
    all: bool,
}

/// Reads the journal, or redrives messages.
pub(super) async fn run(arguments: Arguments, configuration: &Configuration) -> anyhow::Result<()> {
    let Arguments { json, action } = arguments;
    let store = database::open(&configuration.database).await?;
    let done = match action {
        Action::List(list) => self::list(list, &store, json).await,
        Action::Show { id, body } => show(&store, &id, body, json).await,
        Action::Redrive { ids, again } => redrive::run(&ids, again, &store, configuration, json).await,
    };
    store.close().await;
    done
}

async fn list(list: List, store: &Store, as_json: bool) -> anyhow::Result<()> {
    let (since_ms, until_ms) = list.window.at(runtime::now_ms());
    let redriven = if list.all { None } else { Some(false) };
    let messages = pages::of_rows(
        None,
        async |before: Option<&RejectedCursor>, rows| {
            store
                .rejected_messages(since_ms, until_ms, redriven, before, rows)
                .await
        },
        |row: &RejectedRow| RejectedCursor::from(row),
        identity,
    );
    listing::print(messages, store.address(), as_json, None).await
}

async fn show(store: &Store, id: &str, body: bool, as_json: bool) -> anyhow::Result<()> {
    let rejected = find(store, id).await?;
    if body {
        return Ok(output::bytes(&rejected.body)?);
    }
    output::said(as_json, &json(&rejected), &describe(&rejected))
}

async fn find(store: &Store, id: &str) -> anyhow::Result<RejectedRow> {
    let found = store.rejected_message(id).await?;
    found.ok_or_else(|| {
        anyhow!(
            "no rejected message has the id {id}; `magnetite rejected list --all` lists all rejected messages"
        )
    })
}

impl Listed<6> for RejectedRow {
    const HEADING: [&'static str; 6] = ["rejected", "id", "from", "reason", "redriven", "detail"];

    fn cells(&self) -> [String; 6] {
        [
            time::millisecond(self.rejected_ms),
            self.id.clone(),
            self.source.clone(),
            self.reason.clone(),
            redriven(self),
            self.detail.clone(),
        ]
    }

    fn json(&self) -> String {
        output::json(&json(self))
    }
}

/// Formats the counts of rejected messages by reason: `not_json 2, too_large 1`.
pub(super) fn by_reason(counts: &[(String, u64)]) -> String {
    let counts = counts
        .iter()
        .map(|(reason, count)| format!("{} {count}", output::printable(reason)));
    counts.collect::<Vec<_>>().join(", ")
}

fn redriven(rejected: &RejectedRow) -> String {
    rejected.redriven_ms.map_or_else(|| "-".to_owned(), time::second)
}

fn json(rejected: &RejectedRow) -> Value {
    // The headers are shown in any case: as an object if they are one, otherwise as text.
    let headers: Value = serde_json::from_str::<Map<_, _>>(&rejected.headers)
        .map_or_else(|_| rejected.headers.as_str().into(), Value::Object);
    json!({
        "id": rejected.id,
        "rejected_ms": rejected.rejected_ms,
        "source": rejected.source,
        "reason": rejected.reason,
        "detail": rejected.detail,
        "message_id": rejected.message_id,
        "type": rejected.event_type,
        "headers": headers,
        "body_bytes": rejected.body.len(),
        "redriven_ms": rejected.redriven_ms,
    })
}

fn describe(rejected: &RejectedRow) -> String {
    let given = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let about = output::fields(&[
        ("id", rejected.id.clone()),
        ("rejected", time::millisecond(rejected.rejected_ms)),
        ("from", rejected.source.clone()),
        ("reason", rejected.reason.clone()),
        ("detail", rejected.detail.clone()),
        ("message_id", given(&rejected.message_id)),
        ("type", given(&rejected.event_type)),
        ("headers", rejected.headers.clone()),
        ("redriven", redriven(rejected)),
        ("body", beginning(&rejected.body)),
    ]);
    let next = if rejected.redriven_ms.is_some() {
        "--again"
    } else {
        ""
    };
    let id = &rejected.id;
    format!(
        "{about}\n-> if the message is invalid, its sender must publish it again in a valid form; to print its body: magnetite \
         rejected show {id} --body\n-> if a fault of this system caused the rejection, once it is corrected: {}",
        format!("magnetite rejected redrive {id} {next}").trim_end()
    )
}

fn beginning(body: &[u8]) -> String {
    let shown = &body[..body.len().min(BODY_BYTES_SHOWN)];
    let text = String::from_utf8_lossy(shown);
    let rest = if shown.len() < body.len() { " ..." } else { "" };
    format!("{} bytes: {text}{rest}", body.len())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn rejected() -> RejectedRow {
        RejectedRow {
            id: "rej_1".to_owned(),
            rejected_ms: 1_703_123_456_789,
            source: "events".to_owned(),
            reason: "not_json".to_owned(),
            detail: "the body is not JSON: expected value at line 1 column 1".to_owned(),
            message_id: None,
            event_type: Some("lead.\u{1b}completed".to_owned()),
            headers: r#"{"traceparent":"00-1"}"#.to_owned(),
            body: Bytes::from_static(b"\xffnope\n"),
            redriven_ms: None,
        }
    }

    #[test]
    fn a_rejected_message_in_words() {
        insta::assert_snapshot!("rejected_in_words", describe(&rejected()));
    }

    #[test]
    fn a_rejected_message_as_an_object() {
        insta::assert_snapshot!("rejected_as_an_object", rejected().json());
    }
}
