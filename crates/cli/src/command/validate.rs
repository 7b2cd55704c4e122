//! `magnetite validate`: checks events before they are published.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::Args;
use jsonschema::Validator;
use serde::Serialize;
use serde_json::Value;
use webhook::{Event, EventId, EventType, Rejection, schema};

use crate::output;

use super::lines::{self, BATCH_BYTES_MAX, BATCH_LINES, Content, Input};

#[derive(Debug, Args)]
#[command(
    after_help = "Checks what a worker checks (docs/protocol.md), and the data against the JSON Schema of the event's type \
                        (docs/schemas). Needs no broker, no database and no configuration. Exits 1 if a line is not valid."
)]
pub(super) struct Arguments {
    /// Events, one JSON object per line; - or nothing for standard input
    file: Option<PathBuf>,
    /// Print one JSON object for each line that is not valid: its number and all errors
    #[arg(long)]
    json: bool,
}

/// A line that is not valid.
#[derive(Serialize)]
struct Invalid {
    line: u64,
    errors: Vec<String>,
}

/// Checks every line and prints the errors.
pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut lines = Input::open(arguments.file.as_deref()).await?.lines;
    let schemas = Schemas::new();
    let (mut all, mut invalid) = (0_u64, 0_u64);
    loop {
        let batch = lines.batch(BATCH_LINES, BATCH_BYTES_MAX).await;
        let batch = batch.context("cannot read the events")?;
        if batch.is_empty() {
            break;
        }
        for line in batch {
            all += 1;
            let errors = match line.content {
                Content::Whole(bytes) => schemas.errors(&bytes),
                Content::TooLong => vec![lines::too_long()],
            };
            if errors.is_empty() {
                continue;
            }
            invalid += 1;
            let found = Invalid {
                line: line.number,
                errors,
            };
            // Unlike a listing, this fails if standard output is closed, because not everything has been
            // reported.
            output::lines(found.printed(arguments.json)).map_err(|output::Closed(error)| {
                anyhow!(
                    "stopped at line {}: its errors cannot be printed ({error})",
                    found.line
                )
            })?;
        }
    }
    if invalid > 0 {
        bail!("not valid: {invalid} of {all}; see above");
    }
    if !arguments.json {
        output::line(&format!("valid: {all}"))?;
    }
    Ok(())
}

impl Invalid {
    fn printed(&self, json: bool) -> Vec<String> {
        if json {
            return vec![output::json(self)];
        }
        let error = |error: &String| format!("line {}: {}", self.line, output::printable(error));
        self.errors.iter().map(error).collect()
    }
}

/// Returns the id that an event would have if it were published now. If `message_id` is `None`, the id is
/// derived from the body.
pub(super) fn id(message_id: Option<&str>, body: Bytes) -> Result<EventId, Rejection> {
    Ok(Event::entering(message_id, None, body, runtime::now_ms())?.id)
}

/// The compiled schemas of all event types.
struct Schemas(Vec<(EventType, Validator)>);

impl Schemas {
    fn new() -> Self {
        let options = jsonschema::draft202012::options().should_validate_formats(true);
        let compiled = |event_type| {
            let validator = options.build(&schema(event_type));
            (event_type, validator.expect("our schemas are valid"))
        };
        Self(EventType::ALL.map(compiled).into())
    }

    /// Returns all errors of an event; empty if it is valid.
    fn errors(&self, body: &Bytes) -> Vec<String> {
        let fields = match id(None, body.clone()) {
            Ok(_) => Vec::new(),
            Err(Rejection::Fields(fields)) => fields,
            Err(rejection) => return vec![rejection.to_string()],
        };
        let mut errors: Vec<_> = fields.iter().map(ToString::to_string).collect();
        match serde_json::from_slice::<Value>(body) {
            Ok(event) if fields.iter().all(|wrong| wrong.field() != "data") => {
                errors.extend(self.errors_of_data(&event));
            }
            Ok(_) => {}
            // The body is valid JSON, but not all JSON can be represented as a `Value`, for example 1e400.
            Err(error) => errors.push(format!("the data cannot be compared with its schema: {error}")),
        }
        errors
    }

    /// Returns the errors in the data of an event of a known type. The other fields are checked separately.
    fn errors_of_data(&self, event: &Value) -> Vec<String> {
        let is_its = |(known, _): &&(EventType, Validator)| event["event"] == known.as_str();
        let Some((_, validator)) = self.0.iter().find(is_its) else {
            return Vec::new();
        };
        let errors = validator.iter_errors(event);
        let placed = errors.map(|error| (error.instance_path().to_string(), error));
        placed
            .filter(|(place, _)| place.starts_with("/data"))
            // Values are masked, because they may be long and are the customer's data.
            .map(|(place, error)| format!("{place} does not match the schema: {}", error.masked()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use webhook::example;

    use super::*;

    #[test]
    fn examples_are_valid_and_what_is_wrong_is_told_all_at_once() {
        let schemas = Schemas::new();
        for event_type in EventType::ALL {
            let body = example(event_type).to_string();
            assert_eq!(schemas.errors(&body.into()), Vec::<String>::new(), "{event_type}");
        }
        let mut event = example(EventType::LeadCompleted);
        event["data"] = serde_json::json!({ "lead_id": 7, "status": "done" });
        let errors = schemas.errors(&event.to_string().into());
        assert!(errors.len() >= 3, "{errors:?}");
        for word in ["/data/lead_id", "/data/status", "completed_at"] {
            assert!(
                errors.iter().any(|error| error.contains(word)),
                "{word}: {errors:?}"
            );
        }
        // Errors in fields are reported together with those in the data.
        event["timestamp"] = 1_703_123_456.into();
        let event = event.to_string();
        let all = schemas.errors(&event.clone().into());
        assert_eq!(all.len(), errors.len() + 1, "{all:?}");
        let twice = schemas.errors(&event.replacen('{', "{\"x\":1,\"x\":2,", 1).into());
        assert_eq!(twice.len(), all.len() + 1, "{twice:?}");
        assert_eq!(twice[0], "field \"x\" occurs more than once");
    }

    #[test]
    fn an_event_whose_json_has_no_value_here_is_told_and_ends_nothing() {
        let schemas = Schemas::new();
        let good = example(EventType::LeadCompleted).to_string();
        let deep = format!("{}1{}", "[".repeat(126), "]".repeat(126));
        for odd in ["1e400", "\"\\ud800\"", &deep] {
            let body = good.replacen("\"data\":{", &format!("\"data\":{{\"odd\":{odd},"), 1);
            let errors = schemas.errors(&body.into());
            assert_eq!(errors.len(), 1, "{odd}: {errors:?}");
            assert!(errors[0].contains("cannot be compared"), "{odd}: {errors:?}");
        }
    }
}
