//! Checks of the database: reachable, with the tables of this version, and with secrets that can be
//! decrypted.

use broker::Mark;
use egress::Refusal;
use futures_util::{StreamExt as _, stream};
use runtime::display_chain;
use runtime::time;
use store::{SchemaState, Snapshot, Store};
use webhook::Endpoint;

use crate::{configuration::Configuration, database, output};

use super::{
    super::{checks::Check, claim, rejected},
    Report, role_checks,
};

const WHAT: &str = "database";
const MIGRATE: &str = "run `magnetite migrate`, or `magnetite up`";

pub(super) async fn run(
    configuration: &Configuration,
    has_broker: bool,
    report: &mut Report,
) -> Result<(), output::Closed> {
    let database = &configuration.database;
    // Opening the database would create an empty file.
    if let Some(missing) = database.missing_file() {
        return report.add(&Check::fail(WHAT, missing, MIGRATE));
    }
    let store = match database::connect(database).await {
        Ok(store) => store,
        Err(error) => {
            let fix = database::advice(&error);
            let told = format!("{error:#}");
            // The error of a failed TLS handshake ends with what to do.
            let detail = told.strip_suffix(&format!(": {fix}")).unwrap_or(&told);
            return report.add(&Check::fail(WHAT, detail, fix));
        }
    };
    match store.check().await {
        Ok(schema) => {
            report.add(&Check::ok(
                WHAT,
                format!("{}: {}", store.address(), schema.server),
            ))?;
            if store::is_unverified(&database.url) {
                report.add(&Check::warn(WHAT, database::UNVERIFIED, database::VERIFY))?;
            }
            report.add(&schema_check(&schema.state))?;
            if schema.state == SchemaState::UpToDate {
                let registry = store.load_registry().await;
                report.add(&secrets_check(&registry))?;
                if let Ok(Snapshot { endpoints, .. }) = &registry {
                    report.add(&plain_http_check(configuration, endpoints).await)?;
                }
                report.add(&rejected_check(&store).await)?;
                report.add(&retention_check(&store).await)?;
                if has_broker {
                    report.add(&installation_check(configuration, &store).await)?;
                }
                role_checks::run(configuration, has_broker, &store, report).await?;
            }
        }
        Err(error @ store::Error::NotUtf8 { .. }) => {
            let fix = "createdb --encoding=UTF8 --template=template0 NAME, name it in database.url, and run `magnetite migrate`";
            report.add(&Check::fail(WHAT, error.to_string(), fix))?;
        }
        Err(error) => {
            let detail = display_chain(&error);
            report.add(&Check::fail(
                WHAT,
                detail,
                "see the error, and the database's log",
            ))?;
        }
    }
    store.close().await;
    Ok(())
}

/// Warns about endpoints whose http URL could not be registered under the present configuration.
async fn plain_http_check(configuration: &Configuration, endpoints: &[Endpoint]) -> Check {
    const WHAT: &str = "https";
    const FIX: &str = "ask the customers for https URLs, or set egress.allow_http if http is intended";
    const AT_ONCE: usize = 20;
    const NAMED_MAX: usize = 20;
    if configuration.egress.allow_http {
        return Check::ok(WHAT, "not checked: egress.allow_http is set");
    }
    let egress = match configuration.egress.client() {
        Ok(egress) => egress,
        Err(error) => return Check::fail(WHAT, format!("{error:#}"), "correct the setting that is named"),
    };
    let plain = endpoints
        .iter()
        .filter(|endpoint| endpoint.url.starts_with("http:"));
    let judged =
        plain.map(async |endpoint| (endpoint.id.as_str(), egress.check_endpoint(&endpoint.url).await));
    let refused =
        stream::iter(judged)
            .buffer_unordered(AT_ONCE)
            .filter_map(async |(id, judged)| match judged {
                Err(Refusal::PlainHttp) => Some(id),
                _ => None,
            });
    let mut named: Vec<_> = refused.collect().await;
    if named.is_empty() {
        return Check::ok(WHAT, "no endpoint uses http, except at addresses in egress.allow");
    }
    named.sort_unstable();
    let more = named.len().saturating_sub(NAMED_MAX);
    named.truncate(NAMED_MAX);
    let more = match more {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    let detail = format!("endpoints with http: {}{more}", named.join(", "));
    Check::warn(WHAT, detail, FIX)
}

/// Checks whether the endpoints' secrets can be decrypted, in the way a worker loads them when it starts.
fn secrets_check(registry: &Result<Snapshot, store::Error>) -> Check {
    const WHAT: &str = "secrets";
    match registry {
        Ok(loaded) if loaded.unreadable.is_empty() => Check::ok(
            WHAT,
            format!("those of {} endpoints can be decrypted", loaded.endpoints.len()),
        ),
        Ok(loaded) => {
            let ids: Vec<_> = loaded
                .unreadable
                .iter()
                .map(webhook::EndpointId::as_str)
                .collect();
            let fix = "the log above gives the cause of each: run `magnetite migrate` if it says so, or upgrade if a newer version wrote the row; delete and create the endpoint again only if its secret is damaged";
            Check::fail(WHAT, format!("cannot be read: {}", ids.join(", ")), fix)
        }
        Err(error) => {
            let detail = display_chain(error);
            Check::fail(WHAT, detail, "add the key to secrets.keys, in every process")
        }
    }
}

/// Warns about messages in quarantine, of any age, that were not redriven. A publisher sent them, and they
/// were delivered to no endpoint.
async fn rejected_check(store: &Store) -> Check {
    const WHAT: &str = "rejected";
    const FIX: &str =
        "`magnetite rejected list` says why; correct the publisher, or redrive them once the cause is gone";
    match store.count_rejected(0, i64::MAX as u64).await {
        Ok(counts) if counts.is_empty() => Check::ok(WHAT, "no rejected messages"),
        Ok(counts) => Check::warn(
            WHAT,
            format!("rejected messages: {}", rejected::by_reason(&counts)),
            FIX,
        ),
        Err(error) => Check::fail(WHAT, display_chain(&error), "see the database's log"),
    }
}

/// Checks whether recorders delete old records.
async fn retention_check(store: &Store) -> Check {
    const WHAT: &str = "retention";
    const FIX: &str = "set the clock that is wrong; if all are right, run `magnetite retention confirm`";
    match store.retention_stops().await {
        Ok(stops) if stops.is_empty() => Check::ok(WHAT, "no recorder has stopped deleting old records"),
        Ok(stops) => {
            let stops: Vec<_> = stops
                .iter()
                .map(|stop| {
                    let since = time::second(stop.since_ms);
                    format!("stopped on {} since {since}: {}", stop.host, stop.reason)
                })
                .collect();
            Check::fail(WHAT, stops.join("; "), FIX)
        }
        Err(error) => {
            let detail = display_chain(&error);
            Check::fail(WHAT, detail, "see the error, and the database's log")
        }
    }
}

/// Checks whether the queues belong to this database's installation. An unavailable broker has been reported
/// before.
async fn installation_check(configuration: &Configuration, store: &Store) -> Check {
    const WHAT: &str = "installation";
    match claim::find(configuration, store).await {
        Ok((Mark::Ours, id)) => Check::ok(WHAT, format!("the queues belong to this database: {id}")),
        Ok((Mark::Missing, id)) => Check::ok(
            WHAT,
            format!("{id}; the first role that starts assigns the queues to this database"),
        ),
        Ok((Mark::Theirs(theirs), id)) => {
            let detail = format!("the queues belong to {theirs}, and this database to {id}");
            Check::fail(WHAT, detail, claim::FIX)
        }
        Err(error) => Check::warn(
            WHAT,
            format!("cannot be checked: {error:#}"),
            "correct what the error names, and run `magnetite doctor` again",
        ),
    }
}

fn schema_check(state: &SchemaState) -> Check {
    let list = |names: &[String]| names.join(", ");
    match state {
        SchemaState::UpToDate => Check::ok("schema", "up to date"),
        SchemaState::NeedsMigration { pending } => Check::fail(
            "schema",
            format!("lacks the migrations {}", list(pending)),
            MIGRATE,
        ),
        SchemaState::Newer { unknown } => {
            let detail = format!("migrated by a newer version of magnetite: {}", list(unknown));
            Check::fail("schema", detail, "use the newer version here as well")
        }
        SchemaState::Altered { altered } => {
            let detail = format!("migrations that differ from this version's: {}", list(altered));
            Check::fail(
                "schema",
                detail,
                "restore a backup, or set database.url to an empty database",
            )
        }
    }
}
