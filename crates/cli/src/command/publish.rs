//! `magnetite publish`: publishes events from a file, from standard input, or given as arguments.
//!
//! ```text
//! lines -> batch (256 lines, 2000 over the HTTP API, or 8 MiB) -> publisher: checked, published, confirmed
//!       -> ids, in order
//! ```
//!
//! A batch is settled before the next one is read, so that memory is bounded whatever the size of the input.
//! A line that is not a valid event, or that the API refuses, is reported and left out; the other lines are
//! still published. If the broker or the API is unavailable, a batch is retried for two minutes; then the
//! command stops and says from which line to continue. Publishing the same line again publishes the same
//! event, because the event's id is derived from its bytes. With `--wait`, the journal is read before a batch is
//! published, because it does not tell the results of two publishes of an event apart, and the next batch also
//! waits until the deliveries of this one's events have ended.

mod failure;
mod go_on;
mod group_size;
mod groups;
mod patience;
mod publisher;
mod follow;
mod unreached;
mod progress;
mod batch;

use std::{path::PathBuf, slice, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use producer::{EventId, EventType, Producer, Serialized};
use serde::Serialize;
use serde_json::value::RawValue;
use webhook::{About, LeadId, OrganizationId, ProjectId};

use crate::{NoConnection, Usage, broker_link, configuration::Configuration, output};

use super::{
    Way,
    lines::{BATCH_BYTES_MAX, BATCH_LINES, Input, Line},
    validate,
};
use batch::Batch;
use failure::Failure;
use follow::{Before, Fate, Follower, Limit};
use groups::ApiPublisher;
use progress::Progress;
use publisher::Publisher;
use unreached::Unreached;

/// The maximum time for the first connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(
    after_help = "Each line is the JSON of one event, and these bytes are what is signed and sent. Empty lines \
                        are skipped."
)]
pub(super) struct Arguments {
    /// Events, one JSON object per line; - or nothing for standard input
    #[arg(conflicts_with = "event")]
    file: Option<PathBuf>,
    /// Skip the lines before this one
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u64).range(1..),
        conflicts_with = "event"
    )]
    from_line: u64,
    /// Check the events without publishing them; `magnetite validate` also checks their data
    #[arg(long)]
    dry_run: bool,
    /// Wait until each event is delivered or given up, and print the result after its id; waits at most for
    /// this time, such as --wait=5m, by default as long as all attempts may take
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "",
        value_parser = Limit::parse,
        conflicts_with = "dry_run"
    )]
    wait: Option<Limit>,
    /// Print one JSON object per line: the id and the line's number
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    by_hand: ByHand,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "One event by hand")]
struct ByHand {
    /// The event's type, such as lead.completed
    #[arg(long, value_name = "TYPE", requires_all = ["org", "project", "lead"])]
    event: Option<EventType>,
    /// The organization
    #[arg(long, value_name = "ORGANIZATION", requires = "event")]
    org: Option<String>,
    /// The project
    #[arg(long, requires = "event")]
    project: Option<String>,
    /// The lead
    #[arg(long, requires = "event")]
    lead: Option<String>,
    /// The event's data, a JSON object [default: that of the type's example]
    #[arg(long, value_name = "JSON", requires = "event")]
    data: Option<String>,
    /// When the event occurred, in Unix milliseconds [default: now]
    #[arg(long, value_name = "MS", requires = "event")]
    timestamp: Option<u64>,
    /// The event's id, 1 to 128 characters of A-Z a-z 0-9 _ - [default: derived from the event]
    #[arg(long, requires = "event")]
    id: Option<String>,
}

#[derive(Serialize)]
struct Published<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    /// The state of the event's deliveries; present only with `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    deliveries: Option<Fate>,
}

/// Publishes events, and prints the ids of those that the broker confirmed.
pub(super) async fn run(arguments: Arguments, way: Way<'_>) -> anyhow::Result<()> {
    let by_hand = arguments.by_hand.serialized()?;
    if arguments.dry_run {
        return match &by_hand {
            Some(event) => {
                let id = validate::id(event.message_id.as_deref(), event.body.clone())?;
                print_one(&id, arguments.json)
            }
            None => publish_input(None, None, &arguments).await,
        };
    }
    let (publisher, follower) = match way {
        Way::Direct(configuration) => connect(configuration, arguments.wait).await?,
        Way::Api(remote) => {
            let client = remote.client_for(arguments.by_hand.organization())?;
            let follower = arguments.wait.map(|limit| Follower::over(client.clone(), limit));
            (Publisher::Api(ApiPublisher::new(client)), follower)
        }
    };
    let published = match &by_hand {
        Some(event) => publish_one(&publisher, event, follower.as_ref(), &arguments).await,
        None => publish_input(Some(&publisher), follower.as_ref(), &arguments).await,
    };
    publisher.close().await;
    if let Some(follower) = follower {
        follower.close().await;
    }
    published
}

/// Connects to the broker and, to wait for deliveries, opens the database.
async fn connect(
    configuration: &Configuration,
    wait: Option<Limit>,
) -> anyhow::Result<(Publisher, Option<Follower>)> {
    let follower = match wait {
        Some(limit) => Some(Follower::open(configuration, limit).await?),
        None => None,
    };
    let config = configuration.broker.config();
    let producer = Producer::connect(config.clone());
    let ready = tokio::select! {
        ready = producer.ready(CONNECT_MAX) => ready.map_err(|error| {
            let failure = producer.link().failure();
            let fix = failure.as_deref().and_then(broker_link::fix);
            let failure = failure.map(|failure| format!("; the last attempt failed: {failure}"));
            let fix = fix.map(|fix| format!("; {fix}"));
            let (failure, fix) = (failure.unwrap_or_default(), fix.unwrap_or_default());
            anyhow!(NoConnection(format!("{error}{failure}{fix}")))
        }),
        refused = broker_link::refusal(producer.link(), &config) => Err(refused.told()),
    };
    ready.context("nothing was published")?;
    Ok((Publisher::Broker(producer), follower))
}

impl ByHand {
    /// Returns the organization of the event that is given as arguments.
    fn organization(&self) -> Option<OrganizationId> {
        self.org.as_deref().map(OrganizationId::new)
    }

    /// Returns the event that is given as arguments, if there is one.
    fn serialized(&self) -> anyhow::Result<Option<Serialized>> {
        let Some(event) = self.event else { return Ok(None) };
        let usage = |error: String| anyhow!(Usage(error));
        let given = |text: &Option<String>| text.clone().unwrap_or_default();
        let about = About {
            organization_id: OrganizationId::new(given(&self.org)),
            project_id: ProjectId::new(given(&self.project)),
            lead_id: LeadId::new(given(&self.lead)),
            timestamp_ms: self.timestamp.unwrap_or_else(runtime::now_ms),
        };
        let body = match &self.data {
            None => webhook::sample(event, &about),
            Some(data) => {
                let data: &RawValue = serde_json::from_str(data)
                    .map_err(|error| usage(format!("--data: expected a JSON object: {error}")))?;
                about.event(event, data)
            }
        };
        // Checked before the broker is contacted, because an invalid event is an error in the arguments.
        validate::id(self.id.as_deref(), body.clone())
            .map_err(|error| usage(format!("this is not a valid event: {error}")))?;
        Ok(Some(Serialized {
            message_id: self.id.clone(),
            ..Serialized::new(body)
        }))
    }
}

async fn publish_one(
    publisher: &Publisher,
    event: &Serialized,
    follower: Option<&Follower>,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let before = match follower {
        Some(follower) => follower
            .before(slice::from_ref(event))
            .await
            .map_err(Failure::into_error)
            .context("nothing was published")?,
        None => Before::default(),
    };
    let id = publisher.publish_one(event).await?;
    let Some(follower) = follower else {
        return print_one(&id, arguments.json);
    };
    let fate = follower.fate(&id, &event.body, before.get(&id)).await;
    let fate = fate.unwrap_or_else(|failure| {
        output::note(&follow::unread(failure));
        Fate::UNKNOWN
    });
    let mut unreached = Unreached::default();
    unreached.add(id.as_str(), &fate);
    let published = Published {
        deliveries: Some(fate),
        ..Published::of(id.as_str())
    };
    output::line(&published.shown(arguments.json))?;
    unreached.result()
}

fn print_one(id: &EventId, json: bool) -> anyhow::Result<()> {
    Ok(output::line(&Published::of(id.as_str()).shown(json))?)
}

impl<'a> Published<'a> {
    const fn of(id: &'a str) -> Self {
        Self {
            id,
            line: None,
            deliveries: None,
        }
    }

    const fn at(line: u64, id: &'a str) -> Self {
        Self {
            id,
            line: Some(line),
            deliveries: None,
        }
    }

    fn shown(&self, json: bool) -> String {
        match &self.deliveries {
            _ if json => output::json(self),
            Some(fate) => format!("{}  {fate}", self.id),
            None => self.id.to_owned(),
        }
    }
}

/// Publishes the lines of the input. Without a publisher, only checks them.
async fn publish_input(
    publisher: Option<&Publisher>,
    follower: Option<&Follower>,
    arguments: &Arguments,
) -> anyhow::Result<()> {
    let Input { mut lines, bytes } = Input::open(arguments.file.as_deref()).await?;
    let mut progress = Progress::start(bytes);
    let (mut published, mut bad, mut unreached) = (0, 0, Unreached::default());
    let lines_max = publisher.map_or(BATCH_LINES, Publisher::lines_max);
    loop {
        let batch = lines
            .batch(lines_max, BATCH_BYTES_MAX)
            .await
            .context("cannot read the events")?;
        if batch.is_empty() {
            break;
        }
        let read = batch.iter().map(Line::bytes).sum();
        let wanted = batch
            .into_iter()
            .filter(|line| line.number >= arguments.from_line)
            .collect();
        let settled = match publisher {
            Some(publisher) => Batch::publish(publisher, follower, wanted).await,
            None => Batch::check(wanted),
        };
        bad += settled.report_bad(&progress);
        published += match follower {
            Some(follower) => {
                let following = settled.follow(follower, arguments, &progress, &mut unreached);
                following.await?
            }
            None => settled.print(arguments)?,
        };
        progress.advance(read, published);
        if let Some(stopped) = settled.stopped {
            progress.finish();
            return Err(stopped.explain(published, bad));
        }
    }
    progress.finish();
    if bad > 0 {
        let rest = if arguments.dry_run {
            "are valid, and none was published"
        } else {
            "were published"
        };
        bail!(
            "{}, see above; {published} events {rest}",
            left_out(bad, publisher)
        );
    }
    unreached.result()
}

/// Returns how many lines were left out, and why.
fn left_out(bad: u64, publisher: Option<&Publisher>) -> String {
    let (lines, invalid, refused) = match bad {
        1 => ("1 line was".to_owned(), "it is not a valid event", "refuses it"),
        _ => (
            format!("{bad} lines were"),
            "they are not valid events",
            "refuses them",
        ),
    };
    match publisher {
        Some(Publisher::Api(_)) => format!("{lines} left out because {invalid}, or the API {refused}"),
        _ => format!("{lines} left out because {invalid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_hand(data: Option<&str>) -> ByHand {
        ByHand {
            event: Some(EventType::LeadCompleted),
            org: Some("org_1".to_owned()),
            project: Some("proj_1".to_owned()),
            lead: Some("lead_1".to_owned()),
            data: data.map(str::to_owned),
            timestamp: Some(1_703_123_756_789),
            id: None,
        }
    }

    #[test]
    fn an_event_by_hand_has_the_contracts_order_and_its_data_untouched() {
        let event = by_hand(Some(r#"{"score": 1.50, "a":[]}"#))
            .serialized()
            .unwrap()
            .unwrap();
        insta::assert_snapshot!("by_hand", std::str::from_utf8(&event.body).unwrap());
        assert_eq!(event.message_id, None);
    }

    #[test]
    fn an_event_by_hand_without_data_is_a_valid_sample() {
        let event = by_hand(None).serialized().unwrap().unwrap();
        let event: serde_json::Value = serde_json::from_slice(&event.body).unwrap();
        assert_eq!(
            (&event["lead_id"], &event["data"]["lead_id"]),
            (&"lead_1".into(), &"lead_1".into())
        );
        assert_eq!(event["data"]["status"], "completed");
    }

    #[test]
    fn an_event_by_hand_that_is_none_is_a_usage_error() {
        let mut too_late = by_hand(None);
        too_late.timestamp = Some(u64::MAX);
        let mut bad_id = by_hand(None);
        bad_id.id = Some("a.b".to_owned());
        let mut no_lead = by_hand(None);
        no_lead.lead = Some(String::new());
        let cases = [
            (by_hand(Some("[]")), "\"data\""),
            (by_hand(Some("{")), "--data"),
            (too_late, "\"timestamp\""),
            (bad_id, "message_id"),
            (no_lead, "\"lead_id\""),
        ];
        for (event, names) in cases {
            let error = event.serialized().unwrap_err();
            assert!(
                error.is::<Usage>() && error.to_string().contains(names),
                "{names}: {error}"
            );
        }
    }
}
