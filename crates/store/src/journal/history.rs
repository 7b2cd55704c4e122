//! What an endpoint subscribed to at which time, to judge events that a worker fanned out without knowing of the endpoint's last change.

use webhook::{Endpoint, EndpointId, ProjectId, Subscription};

use crate::{
    Error, Operation, Store,
    columns::{Columns, undecodable},
    statement::Statement,
};

/// The most rows of an endpoint's history that are looked at, the latest ones.
const TIMES_MAX: u32 = 100;

/// Run last in a write that creates or changes an endpoint.
pub(crate) const REMEMBER: &str = "INSERT INTO endpoint_history (endpoint_id, version, at_ms, project_id, subscription) \
    SELECT id, version, updated_at_ms, project_id, subscription FROM endpoints WHERE id = $1";

/// Run last in a write that deletes an endpoint.
pub(crate) const FORGET: &str = "DELETE FROM endpoint_history WHERE endpoint_id = $1";

/// Deletes what was true only before a time.
pub(crate) const EXPIRE: &str = "DELETE FROM endpoint_history WHERE EXISTS (SELECT 1 FROM endpoint_history later \
    WHERE later.endpoint_id = endpoint_history.endpoint_id AND later.version > endpoint_history.version \
    AND later.at_ms < $1)";

const SELECT: &str = "SELECT at_ms, project_id, subscription FROM endpoint_history WHERE endpoint_id = $1 ORDER BY version DESC LIMIT $2";

/// What an endpoint subscribed to between two moments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In Unix milliseconds.
    pub(crate) from_ms: u64,
    /// The next change's time; `None` until now.
    pub(crate) until_ms: Option<u64>,
    /// `None`: events of every project.
    pub(crate) project_id: Option<ProjectId>,
    pub(crate) subscription: Subscription,
}

impl Taken {
    /// Whether it overlaps this period.
    pub(crate) fn is_within(&self, since_ms: u64, until_ms: u64) -> bool {
        self.from_ms < until_ms && self.until_ms.is_none_or(|ended_ms| ended_ms > since_ms)
    }
}

impl Store {
    /// Returns what the endpoint subscribed to, oldest first, from the latest [`TIMES_MAX`] rows.
    pub(crate) async fn taken_by(&self, endpoint: &Endpoint) -> Result<Vec<Taken>, Error> {
        let select = Statement::with(SELECT, [(&endpoint.id).into(), TIMES_MAX.into()]);
        let operation = Operation::FindRecoverable(EndpointId::new(endpoint.id.as_str()));
        let mut newest_first = self.fetch(&operation, select, read).await?;
        if newest_first.is_empty() {
            // An older version of this program wrote it.
            newest_first.push(Taken {
                from_ms: endpoint.updated_at_ms.try_into().unwrap_or_default(),
                until_ms: None,
                project_id: endpoint.project_id.clone(),
                subscription: endpoint.subscription.clone(),
            });
        }
        Ok(united(newest_first.into_iter().rev()))
    }
}

/// Ends each entry where the next begins, and unites neighbours that are equal.
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
