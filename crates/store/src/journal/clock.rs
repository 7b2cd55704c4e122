//! Clock checks: retention deletes nothing while a clock is in doubt.

use std::fmt;

use crate::{
    Error, Operation, Store,
    columns::Columns,
    error::Failure,
    statement::{Argument, Statement, UNPREPARED},
};

/// The maximum difference between two clocks without doubt, in milliseconds: one hour.
pub const CLOCK_DIFFERENCE_MAX_MS: u64 = 60 * 60 * 1000;

/// The maximum time between two checks, in milliseconds: one day. After a longer time only an operator can
/// decide whether the time has passed or the clock has jumped.
pub const UNWATCHED_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// How long after its last announcement a role still counts as running, in milliseconds. It covers two checks
/// of a recorder, one of which may fail because the database is briefly unavailable.
const ROLE_HEARD_MS: u64 = 2 * 60 * 1000;

/// The available evidence about the time besides a host's own clock, in Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_field_names, reason = "the common suffix is the unit")]
struct Clocks {
    /// The database's clock. With SQLite it is the host's own clock.
    database_ms: u64,
    /// The clock of the recorder that last checked without doubt; `None` before the first check.
    looked_ms: Option<u64>,
    /// The time of the newest record in the journal; `None` if it is empty.
    newest_ms: Option<u64>,
    /// The time of the newest record when an operator last confirmed the time; 0 if never.
    confirmed_newest_ms: u64,
}

/// The reason why a host's clock may be wrong. The `Display` text gives the difference in a suitable unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClockDoubt {
    /// The host's clock differs from the database's clock.
    Database {
        /// The difference in milliseconds.
        by_ms: u64,
    },
    /// The clock of a running role's host differs from the database's clock, so the role's records may have
    /// times that are too early or too late.
    Role {
        /// The role, such as `worker`.
        role: String,
        /// The host on which the role runs.
        host: String,
        /// The difference in milliseconds.
        by_ms: u64,
    },
    /// The host's clock is behind the clock of an earlier check.
    Backwards {
        /// The difference in milliseconds.
        by_ms: u64,
    },
    /// The journal has a record from the future.
    RecordAhead {
        /// How far the record is ahead, in milliseconds.
        by_ms: u64,
    },
    /// There was no check and no record for some time, or the clock has jumped. A record with the current
    /// time resolves the doubt.
    NoNews {
        /// The time without a check or record, in milliseconds.
        for_ms: u64,
    },
    /// There was no check for more than a day, or the clock has jumped. An operator has to confirm the time.
    Unwatched {
        /// The time without a check, in milliseconds.
        for_ms: u64,
    },
}

impl fmt::Display for ClockDoubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database { by_ms } => {
                write!(
                    f,
                    "this host's clock and the database's differ by {}",
                    Rough(*by_ms)
                )
            }
            Self::Role { role, host, by_ms } => write!(
                f,
                "the clock of host {host}, where a {role} runs, and the database's differ by {}",
                Rough(*by_ms)
            ),
            Self::Backwards { by_ms } => {
                write!(
                    f,
                    "this host's clock is {} behind the last clock check",
                    Rough(*by_ms)
                )
            }
            Self::RecordAhead { by_ms } => {
                write!(
                    f,
                    "the journal has a record that is {} ahead of this host's clock",
                    Rough(*by_ms)
                )
            }
            Self::NoNews { for_ms } => write!(
                f,
                "by this host's clock, nothing was recorded and no recorder checked the clocks for {}",
                Rough(*for_ms)
            ),
            Self::Unwatched { for_ms } => {
                write!(
                    f,
                    "by this host's clock, no recorder checked the clocks for {}",
                    Rough(*for_ms)
                )
            }
        }
    }
}

/// A duration in milliseconds, printed as minutes below two hours, as hours below two days, and as days
/// otherwise.
struct Rough(u64);

impl fmt::Display for Rough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.0 / 60_000;
        match minutes {
            0..120 => write!(f, "{minutes} minutes"),
            120..2_880 => write!(f, "{} hours", minutes / 60),
            _ => write!(f, "{} days", minutes / (24 * 60)),
        }
    }
}

/// A host whose recorder deletes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetentionStop {
    /// The host's name.
    pub host: String,
    /// The [`ClockDoubt`] in words.
    pub reason: String,
    /// When the doubt began, in Unix milliseconds by that host's clock.
    pub since_ms: u64,
}

impl Clocks {
    fn doubt(&self, now_ms: u64) -> Option<ClockDoubt> {
        let ahead =
            |other_ms: u64| Some(other_ms.saturating_sub(now_ms)).filter(|by| *by > CLOCK_DIFFERENCE_MAX_MS);
        let by_ms = self.database_ms.abs_diff(now_ms);
        if by_ms > CLOCK_DIFFERENCE_MAX_MS {
            return Some(ClockDoubt::Database { by_ms });
        }
        if let Some(by_ms) = self.looked_ms.and_then(ahead) {
            return Some(ClockDoubt::Backwards { by_ms });
        }
        let unconfirmed_ms = self
            .newest_ms
            .filter(|newest_ms| *newest_ms > self.confirmed_newest_ms);
        if let Some(by_ms) = unconfirmed_ms.and_then(ahead) {
            return Some(ClockDoubt::RecordAhead { by_ms });
        }
        let unwatched_ms = now_ms.saturating_sub(self.looked_ms.unwrap_or(now_ms));
        if unwatched_ms > UNWATCHED_MAX_MS {
            return Some(ClockDoubt::Unwatched { for_ms: unwatched_ms });
        }
        // A new database has nothing to compare with.
        let for_ms = now_ms.saturating_sub(self.known_ms().unwrap_or(now_ms));
        (for_ms > CLOCK_DIFFERENCE_MAX_MS).then_some(ClockDoubt::NoNews { for_ms })
    }

    /// Returns the latest time that is known to have passed.
    fn known_ms(&self) -> Option<u64> {
        self.looked_ms.max(self.newest_ms)
    }
}

/// Selects the columns of [`Clocks`]; `{now}` is the database's clock.
const SELECT: &str = "SELECT {now} AS database_ms, r.looked_ms, r.confirmed_newest_ms, \
    (SELECT MAX(received_ms) FROM events) AS events_ms, (SELECT MAX(created_ms) FROM deliveries) AS deliveries_ms, \
    (SELECT began_ms FROM attempts ORDER BY id DESC LIMIT 1) AS attempts_ms FROM retention r WHERE r.id = 1";

/// Selects a running role whose host's clock differs by more than `$2`; `{now}` is the database's clock.
const SELECT_ROLE: &str = "SELECT role, host, ahead_ms FROM roles WHERE closed_ms IS NULL AND seen_ms >= {now} - $1 \
    AND (ahead_ms > $2 OR ahead_ms < -$2) ORDER BY host, role LIMIT 1";

const NOTE_LOOK: &str = "UPDATE retention SET looked_ms = $1 WHERE id = 1 AND COALESCE(looked_ms, 0) < $1";
const END_STOP: &str = "DELETE FROM retention_stops WHERE host = $1";
const NOTE_STOP: &str = "INSERT INTO retention_stops (host, reason, since_ms) VALUES ($1, $2, $3) \
    ON CONFLICT (host) DO UPDATE SET reason = excluded.reason";
const CONFIRM: &str = "UPDATE retention SET looked_ms = $1, confirmed_newest_ms = $2 WHERE id = 1";
const END_STOPS: &str = "DELETE FROM retention_stops";
const SELECT_STOPS: &str = "SELECT host, reason, since_ms FROM retention_stops ORDER BY host";

fn read(row: &dyn Columns) -> Result<Clocks, sqlx::Error> {
    let mut newest_ms = None;
    for column in ["events_ms", "deliveries_ms", "attempts_ms"] {
        newest_ms = newest_ms.max(row.maybe_number(column)?);
    }
    Ok(Clocks {
        database_ms: row.number("database_ms")?,
        looked_ms: row.maybe_number("looked_ms")?,
        newest_ms,
        confirmed_newest_ms: row.number("confirmed_newest_ms")?,
    })
}

fn read_role(row: &dyn Columns) -> Result<ClockDoubt, sqlx::Error> {
    Ok(ClockDoubt::Role {
        role: row.text("role")?,
        host: row.text("host")?,
        by_ms: row.integer("ahead_ms")?.unsigned_abs(),
    })
}

fn read_stop(row: &dyn Columns) -> Result<RetentionStop, sqlx::Error> {
    Ok(RetentionStop {
        host: row.text("host")?,
        reason: row.text("reason")?,
        since_ms: row.number("since_ms")?,
    })
}

impl Store {
    /// Checks this host's clock and stores the result. Returns the time from which retention counts, or the
    /// reason why nothing may be deleted. The time is the earlier of `now_ms` and the latest time of any
    /// record or check.
    ///
    /// Deleting is not allowed while one of these conditions holds:
    ///
    /// - This host's clock, or that of a running role's host, differs by more than an hour from the
    ///   database's clock.
    /// - This host's clock is more than an hour behind the last check, or behind the newest record, unless an
    ///   operator has confirmed the time since that record.
    /// - This host's clock is more than a day ahead of the last check. This lasts until
    ///   [`Store::confirm_time`] is called.
    /// - This host's clock is more than an hour ahead of both the last check and the newest record. This
    ///   lasts until something is recorded with the current time.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn look_at_clocks(&self, host: &str, now_ms: u64) -> Result<Result<u64, ClockDoubt>, Error> {
        let clocks = self.clocks().await?;
        let operation = &Operation::COMPARE_CLOCKS;
        let (own, role) = (clocks.doubt(now_ms), self.role_in_doubt().await?);
        if own.is_none() {
            // The check of this host's clock is stored even if another host's clock is in doubt.
            let look = Statement::with(NOTE_LOOK, [now_ms.into()]);
            self.execute(operation, UNPREPARED, look).await?;
        }
        let doubt = match own {
            // This host's clock differs from the database's. This is reported whether or not a role's clock
            // differs as well.
            Some(ClockDoubt::Database { .. }) => own,
            // A role with a wrong clock also causes the other doubts, through its records. So it is reported
            // first.
            _ => role.or(own),
        };
        if let Some(doubt) = doubt {
            let reason = doubt.to_string();
            let arguments = [Argument::id(host), Argument::outside(&reason), now_ms.into()];
            self.execute(operation, UNPREPARED, Statement::with(NOTE_STOP, arguments))
                .await?;
            return Ok(Err(doubt));
        }
        let ended = Statement::with(END_STOP, [Argument::id(host)]);
        self.execute(operation, UNPREPARED, ended).await?;
        Ok(Ok(clocks.known_ms().unwrap_or(now_ms).min(now_ms)))
    }

    /// Stores an operator's confirmation that the time is `now_ms`, which ends the doubts about all times
    /// that are stored by now. Returns the doubt instead if `now_ms` contradicts the database's clock or the
    /// clock of a running role's host does.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn confirm_time(&self, now_ms: u64) -> Result<Result<(), ClockDoubt>, Error> {
        let clocks = self.clocks().await?;
        let by_ms = clocks.database_ms.abs_diff(now_ms);
        if by_ms > CLOCK_DIFFERENCE_MAX_MS {
            return Ok(Err(ClockDoubt::Database { by_ms }));
        }
        if let Some(doubt) = self.role_in_doubt().await? {
            return Ok(Err(doubt));
        }
        let arguments = [now_ms.into(), clocks.newest_ms.unwrap_or_default().into()];
        for statement in [Statement::with(CONFIRM, arguments), Statement::new(END_STOPS)] {
            self.execute(&Operation::new("confirm the time"), UNPREPARED, statement)
                .await?;
        }
        Ok(Ok(()))
    }

    /// Returns the hosts whose recorders delete nothing, ordered by name.
    ///
    /// # Errors
    ///
    /// Returns an error if the database operation fails.
    pub async fn retention_stops(&self) -> Result<Vec<RetentionStop>, Error> {
        self.fetch(
            &Operation::COMPARE_CLOCKS,
            Statement::new(SELECT_STOPS),
            read_stop,
        )
        .await
    }

    /// Returns a running role whose host's clock differs from the database's.
    async fn role_in_doubt(&self) -> Result<Option<ClockDoubt>, Error> {
        let arguments = [ROLE_HEARD_MS.into(), CLOCK_DIFFERENCE_MAX_MS.into()];
        let select = Statement::with(SELECT_ROLE, arguments);
        let mut found = self.fetch(&Operation::COMPARE_CLOCKS, select, read_role).await?;
        Ok(found.pop())
    }

    async fn clocks(&self) -> Result<Clocks, Error> {
        let operation = &Operation::COMPARE_CLOCKS;
        let mut found = self.fetch(operation, Statement::new(SELECT), read).await?;
        // The migration that creates the table inserts the row.
        found
            .pop()
            .ok_or_else(|| Failure::Database(sqlx::Error::RowNotFound).during(operation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = CLOCK_DIFFERENCE_MAX_MS;
    const DAY: u64 = UNWATCHED_MAX_MS;
    const T: u64 = 1_000 * DAY;

    /// Returns the doubt of a host whose clock agrees with the database's.
    fn doubt(now_ms: u64, looked_ms: Option<u64>, newest_ms: Option<u64>) -> Option<ClockDoubt> {
        let clocks = Clocks {
            database_ms: now_ms,
            looked_ms,
            newest_ms,
            confirmed_newest_ms: 0,
        };
        clocks.doubt(now_ms)
    }

    #[test]
    fn clocks_that_agree_raise_no_doubt() {
        for (looked_ms, newest_ms) in [
            (None, None),
            (None, Some(T - HOUR)),
            (Some(T), None),
            // No records for a long time, but recent checks.
            (Some(T - HOUR), Some(T - 90 * DAY)),
            // No recent check, but recent records.
            (Some(T - DAY), Some(T)),
            (Some(T + HOUR), Some(T + HOUR)),
        ] {
            assert_eq!(
                doubt(T, looked_ms, newest_ms),
                None,
                "{looked_ms:?} {newest_ms:?}"
            );
        }
    }

    #[test]
    fn a_clock_that_jumps_is_in_doubt_whichever_way() {
        use ClockDoubt as D;
        let month = 31 * DAY;
        for (looked_ms, newest_ms, expected) in [
            (None, Some(T - month), D::NoNews { for_ms: month }),
            (
                Some(T - 2 * HOUR),
                Some(T - 3 * HOUR),
                D::NoNews { for_ms: 2 * HOUR },
            ),
            (Some(T - month), Some(T - month), D::Unwatched { for_ms: month }),
            // Recent records prove nothing if they come from the same host, whose clock is wrong in the same
            // way.
            (Some(T - month), Some(T), D::Unwatched { for_ms: month }),
            (Some(T + month), Some(T), D::Backwards { by_ms: month }),
            (Some(T), Some(T + month), D::RecordAhead { by_ms: month }),
            (None, Some(u64::MAX), D::RecordAhead { by_ms: u64::MAX - T }),
        ] {
            assert_eq!(doubt(T, looked_ms, newest_ms), Some(expected));
        }
        for database_ms in [T - month, T + month, 0] {
            let clocks = Clocks {
                database_ms,
                looked_ms: Some(T),
                newest_ms: Some(T),
                confirmed_newest_ms: 0,
            };
            assert!(
                matches!(clocks.doubt(T), Some(D::Database { .. })),
                "{database_ms}"
            );
        }
    }

    #[test]
    fn a_confirmed_record_raises_no_doubt_and_a_later_one_does() {
        let clocks = |newest_ms| Clocks {
            database_ms: T,
            looked_ms: Some(T),
            newest_ms: Some(newest_ms),
            confirmed_newest_ms: T + DAY,
        };
        assert_eq!(clocks(T + DAY).doubt(T), None);
        assert_eq!(
            clocks(T + DAY + 1).doubt(T),
            Some(ClockDoubt::RecordAhead { by_ms: DAY + 1 })
        );
    }

    #[test]
    fn a_doubt_says_by_how_much_roughly() {
        for (by_ms, text) in [
            (HOUR + 1, "60 minutes"),
            (2 * HOUR, "2 hours"),
            (2 * DAY - 1, "47 hours"),
            (31 * DAY, "31 days"),
        ] {
            let doubt = ClockDoubt::Database { by_ms }.to_string();
            assert!(doubt.ends_with(text), "{doubt}");
        }
    }
}
