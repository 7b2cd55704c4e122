//! Lines that are published together.

use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use producer::{Error, EventId, Producer, Serialized};
use tokio::time::{Instant, sleep};

use crate::output;

use super::{
    super::{
        lines::{self, Content, Line},
        validate,
    },
    Arguments, Follower, Progress, Published, Unreached,
};

/// How long one batch is retried. A broker restarts in less time. A cluster replaces a node that hangs within
/// this time, although RabbitMQ waits a minute and more before it does so.
pub(super) const RETRY_FOR: Duration = Duration::from_mins(2);

/// Lines that are published together, with the state of each.
pub(super) struct Batch {
    lines: Vec<(u64, State)>,
    pub(super) stopped: Option<Stopped>,
}

enum State {
    Waiting(Serialized),
    Confirmed(String),
    Bad(String),
}

/// The reason why publishing stopped.
pub(super) struct Stopped {
    /// The first line that is not confirmed.
    line: u64,
    error: Error,
}

impl Batch {
    fn new(lines: Vec<Line>, state: impl Fn(Bytes) -> State) -> Self {
        let state = |content| match content {
            Content::Whole(bytes) => state(bytes),
            Content::TooLong => State::Bad(lines::too_long()),
        };
        let lines = lines.into_iter();
        Self {
            lines: lines.map(|line| (line.number, state(line.content))).collect(),
            stopped: None,
        }
    }

    /// Checks the lines without publishing them. Valid events get the state of confirmed ones.
    pub(super) fn check(lines: Vec<Line>) -> Self {
        Self::new(lines, |bytes| match validate::id(None, bytes) {
            Ok(id) => State::Confirmed(id.to_string()),
            Err(rejection) => State::Bad(rejection.to_string()),
        })
    }

    /// Publishes until every line is confirmed or invalid, or the broker has been unavailable for too long.
    pub(super) async fn publish(producer: &Producer, lines: Vec<Line>) -> Self {
        let mut batch = Self::new(lines, |bytes| State::Waiting(Serialized::new(bytes)));
        let deadline = Instant::now() + RETRY_FOR;
        let mut failures = 0;
        while let Some(stopped) = batch.attempt(producer).await {
            failures += 1;
            if is_lasting(&stopped.error) || Instant::now() >= deadline {
                batch.stopped = Some(stopped);
                break;
            }
            tracing::warn!(line = stopped.line, error = %stopped.error, failures, "an event was not confirmed; trying again");
            sleep(broker::backoff(failures)).await;
        }
        batch
    }

    /// Publishes the lines that are still waiting. Returns the first failure.
    async fn attempt(&mut self, producer: &Producer) -> Option<Stopped> {
        let waiting: Vec<&mut (u64, State)> = self
            .lines
            .iter_mut()
            .filter(|(_, state)| matches!(state, State::Waiting(_)))
            .collect();
        let events: Vec<Serialized> = waiting
            .iter()
            .filter_map(|(_, state)| state.event().cloned())
            .collect();
        let results = producer.publish_json_batch(&events).await;
        let mut stopped = None;
        for ((number, state), result) in waiting.into_iter().zip(results) {
            match result {
                Ok(id) => *state = State::Confirmed(id.to_string()),
                Err(Error::Invalid { source, .. }) => *state = State::Bad(source.to_string()),
                Err(error) => {
                    stopped.get_or_insert(Stopped { line: *number, error });
                }
            }
        }
        stopped
    }

    /// Reports the lines that are not valid events, and returns their number.
    pub(super) fn report_bad(&self, progress: &Progress) -> u64 {
        let mut count = 0;
        for (number, state) in &self.lines {
            if let State::Bad(why) = state {
                progress.note(&format!("line {number}: {why}"));
                count += 1;
            }
        }
        count
    }

    /// Prints the ids of the confirmed events, and returns their number.
    ///
    /// # Errors
    /// Returns an error if standard output is closed. Unlike a listing, this is a failure, because not
    /// everything has been published.
    pub(super) fn print(&self, arguments: &Arguments) -> anyhow::Result<u64> {
        let ids = self.confirmed().map(|published| published.shown(arguments.json));
        let ids: Vec<String> = ids.collect();
        let count = ids.len() as u64;
        output::lines(ids).map_err(|closed| self.unprinted(closed, arguments))?;
        Ok(count)
    }

    /// Like [`print`](Self::print), but waits until the deliveries of each event have ended, and also prints
    /// their states.
    pub(super) async fn follow(
        &self,
        follower: &Follower,
        arguments: &Arguments,
        unreached: &mut Unreached,
    ) -> anyhow::Result<u64> {
        let mut count = 0;
        for mut published in self.confirmed() {
            let fate = follower.fate(&EventId::new(published.id), None).await?;
            unreached.add(published.id, &fate);
            published.deliveries = Some(fate);
            output::line(&published.shown(arguments.json))
                .map_err(|closed| self.unprinted(closed, arguments))?;
            count += 1;
        }
        Ok(count)
    }

    fn confirmed(&self) -> impl Iterator<Item = Published<'_>> {
        self.lines.iter().filter_map(|(number, state)| match state {
            State::Confirmed(id) => Some(Published {
                line: Some(*number),
                ..Published::of(id)
            }),
            _ => None,
        })
    }

    fn unprinted(&self, output::Closed(error): output::Closed, arguments: &Arguments) -> anyhow::Error {
        let undone = self.stopped.as_ref().map(|stopped| stopped.line);
        let next = undone.or_else(|| Some(self.lines.last()?.0 + 1)).unwrap_or(1);
        let rest = if arguments.dry_run {
            "Nothing was published".to_owned()
        } else {
            arguments.go_on(next)
        };
        anyhow!("stopped before line {next}: the ids cannot be printed ({error}). {rest}")
    }
}

impl State {
    fn event(&self) -> Option<&Serialized> {
        match self {
            Self::Waiting(event) => Some(event),
            _ => None,
        }
    }
}

impl Stopped {
    pub(super) fn explain(self, arguments: &Arguments, published: u64, bad: u64) -> anyhow::Error {
        let Self { line, error } = self;
        let error = anyhow!(error);
        let left_out = if bad == 0 {
            String::new()
        } else {
            format!("; lines left out: {bad}")
        };
        let go_on = arguments.go_on(line);
        anyhow!("stopped at line {line}: {error:#}\nEvents published: {published}{left_out}. {go_on}")
    }
}

/// Returns whether retrying is useless, because something is not bound, not declared or not permitted.
fn is_lasting(error: &Error) -> bool {
    let refused = ["NOT_FOUND", "ACCESS_REFUSED"];
    let chain = || std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    matches!(error, Error::Unroutable { .. } | Error::Closed { .. })
        || chain().any(|error| refused.iter().any(|word| error.to_string().contains(word)))
}
