//! The subscriptions of an endpoint by version and time, and whether it was enabled. This history explains
//! why an endpoint did not get an event, and finds events that a worker fanned out before it knew of the
//! endpoint's last change.

use webhook::{
    Disabled, Endpoint, EndpointId, ProjectId, Subscription,
    journal::{EventEntry, Verdict},
};

use crate::{
    Error, Operation, Store,
    columns::{Columns, undecodable},
    statement::{Argument, Statement},
};

/// The maximum number of rows of an endpoint's history that are read, the latest ones.
const ROWS_MAX: u32 = 2_000;
/// The maximum number of periods with different subscriptions that are considered, the latest ones.
const TIMES_MAX: usize = 100;

const SELECT: &str = "SELECT at_ms, project_id, subscription FROM endpoint_history WHERE endpoint_id = $1 ORDER BY version DESC LIMIT $2";

/// The subscription of an endpoint during a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The beginning of the period, in Unix milliseconds.
    pub(crate) from_ms: u64,
    /// The end of the period, which is the time of the next change, in Unix milliseconds; `None` if it lasts
    /// until now.
    pub(crate) until_ms: Option<u64>,
    /// The project; `None` means events of every project.
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) subscription: Subscription,
}

impl Taken {
    /// Returns whether the period overlaps the given one.
    pub(crate) fn is_within(&self, since_ms: u64, until_ms: u64) -> bool {
        self.from_ms < until_ms && self.until_ms.is_none_or(|ended_ms| ended_ms > since_ms)
    }
}

impl Store {
    /// Returns the endpoint's subscriptions, oldest first: at most the latest [`TIMES_MAX`] periods.
    pub(crate) async fn taken_by(&self, endpoint: &Endpoint) -> Result<Vec<Taken>, Error> {
        let select = Statement::with(SELECT, [(&endpoint.id).into(), ROWS_MAX.into()]);
        let operation = Operation::on("find the events missed by endpoint", &endpoint.id);
        let mut newest_first = self.fetch_from_journal(&operation, select, read).await?;
        if newest_first.is_empty() {
            // An older version has written the endpoint, without a history.
            newest_first.push(Taken {
                from_ms: endpoint.updated_at_ms.try_into().unwrap_or_default(),
                until_ms: None,
                project_id: endpoint.project_id.clone(),
                subscription: endpoint.subscription.clone(),
            });
        }
        let mut taken = united(newest_first.into_iter().rev());
        taken.drain(..taken.len().saturating_sub(TIMES_MAX));
        Ok(taken)
    }

    /// Returns why the organization's endpoints that the event's record does not name did not get the event,
    /// according to what the worker knew. Returns nothing for an event that an older version recorded, and if
    /// the database was restored to a history of endpoints that the worker did not follow.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn verdicts(&self, stored: &EventEntry) -> Result<Vec<(EndpointId, Verdict)>, Error> {
        let Some(seen) = stored.seen else {
            return Ok(Vec::new());
        };
        let event = &stored.event;
        let arguments = [
            Argument::id(event.organization_id.as_str()),
            seen.version.into(),
            seen.change.into(),
            seen.stamp.into(),
        ];
        let operation = Operation::on("read event", &event.id);
        let known = self
            .fetch_from_journal(&operation, Statement::with(SELECT_KNOWN, arguments), read_known)
            .await?;
        let verdict = |(id, taken, disabled): (EndpointId, Taken, Option<Disabled>)| {
            let project_id = taken.project_id.as_ref();
            let verdict = Verdict::at(project_id, &taken.subscription, disabled.as_ref(), event);
            // The record names every endpoint that matched.
            (stored.considered.get(&id).is_none() && verdict != Verdict::Matched).then_some((id, verdict))
        };
        Ok(known.into_iter().filter_map(verdict).collect())
    }
}

/// Selects the endpoints of an organization as of a version, if the log has the change that led to that
/// version.
const SELECT_KNOWN: &str = "SELECT h.endpoint_id, h.at_ms, h.project_id, h.subscription, h.disabled_at_ms, h.disabled_reason \
    FROM endpoints e JOIN endpoint_history h ON h.endpoint_id = e.id \
    WHERE e.organization_id = $1 AND (e.deleted_at_ms IS NULL OR e.version > $2) \
    AND h.version = (SELECT MAX(known.version) FROM endpoint_history known WHERE known.endpoint_id = e.id AND known.version <= $2) \
    AND ($3 = 0 OR EXISTS (SELECT 1 FROM changes c WHERE c.number = $3 AND COALESCE(c.nonce, c.at_ms) = $4))";

/// Ends each period where the next one begins, and merges neighbours with the same subscription.
fn united(oldest_first: impl Iterator<Item = Taken>) -> Vec<Taken> {
    let mut all: Vec<Taken> = Vec::new();
    for taken in oldest_first {
        match all.last_mut() {
            Some(last)
                if (&last.project_id, &last.subscription) == (&taken.project_id, &taken.subscription) => {}
            last => {
                if let Some(last) = last {
                    last.until_ms = Some(taken.from_ms);
                }
                all.push(taken);
            }
        }
    }
    all
}

fn read_known(row: &dyn Columns) -> Result<(EndpointId, Taken, Option<Disabled>), sqlx::Error> {
    let reason = row.maybe_text("disabled_reason")?.map(|reason| reason.parse());
    let reason = reason
        .transpose()
        .map_err(|error| undecodable("disabled_reason", error))?;
    let disabled = row.maybe_integer("disabled_at_ms")?.zip(reason);
    let disabled = disabled.map(|(at_ms, reason)| Disabled { reason, at_ms });
    Ok((EndpointId::new(row.text("endpoint_id")?), read(row)?, disabled))
}

fn read(row: &dyn Columns) -> Result<Taken, sqlx::Error> {
    let subscription = row.text("subscription")?;
    Ok(Taken {
        from_ms: row.number("at_ms")?,
        until_ms: None,
        project_id: row.maybe_text("project_id")?.map(ProjectId::new),
        subscription: subscription
            .parse()
            .map_err(|error| undecodable("subscription", error))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_lasts_until_it_is_changed() {
        let taken = |from_ms, until_ms, subscription: &str| Taken {
            from_ms,
            until_ms,
            project_id: None,
            subscription: subscription.parse().unwrap(),
        };
        let rows = [
            taken(1, None, "*"),
            taken(5, None, "*"),
            taken(7, None, "lead.failed"),
            taken(9, None, "*"),
        ];
        assert_eq!(
            united(rows.into_iter()),
            [
                taken(1, Some(7), "*"),
                taken(7, Some(9), "lead.failed"),
                taken(9, None, "*")
            ]
        );
    }
}
