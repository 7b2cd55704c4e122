//! Lines that are published together.

use std::{sync::Arc, time::Duration};

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use producer::{EventId, Serialized};
use tokio::time::{Instant, sleep};

use crate::output;

use super::{
    super::{
        lines::{self, Content, Line},
        validate,
    },
    Arguments, Progress, Published,
    failure::Failure,
    follow::{self, Before, FOLLOWED_MAX, Fate, Follower},
    go_on::go_on,
    patience::{Patience, RETRY_FOR},
    publisher::Publisher,
    unreached::Unreached,
};

/// Lines that are published together, with the state of each.
pub(super) struct Batch {
    lines: Vec<(u64, State)>,
    /// What the journal contained before the events were published; `None` if it was not read.
    before: Option<Before>,
    pub(super) stopped: Option<Stopped>,
}

enum State {
    Waiting(Serialized),
    Confirmed {
        id: EventId,
        /// The event's JSON.
        body: Bytes,
    },
    Bad(String),
}

/// The reason why publishing stopped.
pub(super) struct Stopped {
    /// The first line that is not confirmed.
    line: u64,
    error: Arc<anyhow::Error>,
    /// The least time to wait before the line is published again; `None` if that is useless.
    again_after: Option<Duration>,
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
            before: None,
            stopped: None,
        }
    }

    /// Checks the lines without publishing them. Valid events get the state of confirmed ones.
    pub(super) fn check(lines: Vec<Line>) -> Self {
        Self::new(lines, |body| match validate::id(None, body.clone()) {
            Ok(id) => State::Confirmed { id, body },
            Err(rejection) => State::Bad(rejection.to_string()),
        })
    }

    /// Publishes until every line is confirmed or refused, or no event could be published for too long. A
    /// follower reads the journal first.
    pub(super) async fn publish(
        publisher: &Publisher,
        follower: Option<&Follower>,
        lines: Vec<Line>,
    ) -> Self {
        let mut batch = Self::new(lines, |bytes| State::Waiting(Serialized::new(bytes)));
        let mut patience = Patience::new(RETRY_FOR, Instant::now());
        while let Some(stopped) = batch.attempt(publisher, follower).await {
            let confirmed = batch.confirmed().count();
            let wait = stopped
                .again_after
                .and_then(|after| patience.wait(confirmed, after, Instant::now()));
            let Some(wait) = wait else {
                batch.stopped = Some(stopped);
                break;
            };
            tracing::warn!(line = stopped.line, error = %stopped.error, "an event was not confirmed; trying again");
            sleep(wait).await;
        }
        batch
    }

    /// Publishes the lines that are still waiting. Returns the first failure.
    async fn attempt(&mut self, publisher: &Publisher, follower: Option<&Follower>) -> Option<Stopped> {
        let mut lines = self.lines.iter();
        let (first, _) = lines.find(|(_, state)| state.event().is_some())?;
        let first = *first;
        let events = self.lines.iter().filter_map(|(_, state)| state.event());
        let events: Vec<Serialized> = events.cloned().collect();
        if let (Some(follower), None) = (follower, &self.before) {
            match follower.before(&events).await {
                Ok(before) => self.before = Some(before),
                Err(failure) => return Some(Stopped::at(first, failure)),
            }
        }
        let results = publisher.publish(&events).await;
        let waiting = self.lines.iter_mut();
        let waiting = waiting.filter(|(_, state)| matches!(state, State::Waiting(_)));
        let mut stopped = None;
        for (((number, state), event), result) in waiting.zip(events).zip(results) {
            match result {
                Ok(id) => {
                    let body = event.body;
                    *state = State::Confirmed { id, body };
                }
                Err(Failure::Refused(why)) => *state = State::Bad(why),
                Err(failure) => {
                    stopped.get_or_insert_with(|| Stopped::at(*number, failure));
                }
            }
        }
        stopped
    }

    /// Reports the lines that are not valid events or are refused, and returns their number.
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
        let confirmed = self.confirmed();
        let ids: Vec<_> = confirmed
            .map(|(line, id, _)| Published::at(line, id.as_str()).shown(arguments.json))
            .collect();
        let count = ids.len() as u64;
        output::lines(ids).map_err(|closed| self.unprinted(closed, arguments))?;
        Ok(count)
    }

    /// Like [`print`](Self::print), but waits until the deliveries of each event have ended, and also prints
    /// their states. An event whose state cannot be read is noted, and the others are still printed.
    pub(super) async fn follow(
        &self,
        follower: &Follower,
        arguments: &Arguments,
        progress: &Progress,
        unreached: &mut Unreached,
    ) -> anyhow::Result<u64> {
        let following = self.confirmed().map(async |(line, id, body)| {
            let before = self.before.as_ref().and_then(|before| before.get(id));
            let fate = follower.fate(id, body, before).await;
            (line, id, fate)
        });
        let mut fates = stream::iter(following).buffered(FOLLOWED_MAX);
        let mut count = 0;
        while let Some((line, id, fate)) = fates.next().await {
            let fate = fate.unwrap_or_else(|failure| {
                progress.note(&format!("line {line}: {}", follow::unread(failure)));
                Fate::UNKNOWN
            });
            unreached.add(id.as_str(), &fate);
            let published = Published {
                deliveries: Some(fate),
                ..Published::at(line, id.as_str())
            };
            output::line(&published.shown(arguments.json))
                .map_err(|closed| self.unprinted(closed, arguments))?;
            count += 1;
        }
        Ok(count)
    }

    /// Returns the lines that are confirmed, with the ids and the JSON of their events.
    fn confirmed(&self) -> impl Iterator<Item = (u64, &EventId, &Bytes)> {
        self.lines.iter().filter_map(|(number, state)| match state {
            State::Confirmed { id, body } => Some((*number, id, body)),
            _ => None,
        })
    }

    fn unprinted(&self, output::Closed(error): output::Closed, arguments: &Arguments) -> anyhow::Error {
        let undone = self.stopped.as_ref().map(|stopped| stopped.line);
        let next = undone.or_else(|| Some(self.lines.last()?.0 + 1)).unwrap_or(1);
        let rest = if arguments.dry_run {
            "Nothing was published".to_owned()
        } else {
            go_on(next)
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
    fn at(line: u64, failure: Failure) -> Self {
        let (error, again_after) = match failure {
            Failure::Away { error, after } => (error, Some(after)),
            Failure::Lasting(error) => (error, None),
            Failure::Refused(why) => (Arc::new(anyhow!(why)), None),
        };
        Self {
            line,
            error,
            again_after,
        }
    }

    pub(super) fn explain(self, published: u64, bad: u64) -> anyhow::Error {
        let Self { line, error, .. } = self;
        let left_out = if bad == 0 {
            String::new()
        } else {
            format!("; lines left out: {bad}")
        };
        let go_on = go_on(line);
        anyhow!("stopped at line {line}: {error:#}\nEvents published: {published}{left_out}. {go_on}")
    }
}
