//! The database: there, and with the tables of this version.

use store::SchemaState;

use crate::{configuration::Configuration, database, output};

use super::{Report, check::Check};

const WHAT: &str = "database";
const MIGRATE: &str = "run `magnetite migrate`, or `magnetite up`";

pub(super) async fn run(configuration: &Configuration, report: &mut Report) -> Result<(), output::Closed> {
    let database = &configuration.database;
    // Opening would make an empty one.
    if database.would_be_created() {
        return report.add(&Check::fail(WHAT, "there is no database file yet", MIGRATE));
    }
    let store = match database::connect(database).await {
        Ok(store) => store,
        Err(error) => {
            let fix = "start the database, or correct database.url (MAGNETITE_DATABASE__URL)";
            return report.add(&Check::fail(WHAT, format!("{error:#}"), fix));
        }
    };
    match store.check().await {
        Ok(schema) => {
            report.add(&Check::ok(WHAT, schema.server))?;
            report.add(&schema_check(&schema.state))?;
        }
        Err(error) => {
            let detail = format!("{:#}", anyhow::Error::from(error));
            report.add(&Check::fail(
                WHAT,
                detail,
                "see what the database says, and its log",
            ))?;
        }
    }
    store.close().await;
    Ok(())
}

fn schema_check(state: &SchemaState) -> Check {
    let list = |names: &[String]| names.join(", ");
    match state {
        SchemaState::UpToDate => Check::ok("schema", "up to date"),
        SchemaState::NeedsMigration { pending } => {
            Check::fail("schema", format!("not applied: {}", list(pending)), MIGRATE)
        }
        SchemaState::Newer { unknown } => {
            let detail = format!("from a newer magnetite: {}", list(unknown));
            Check::fail("schema", detail, "use the newer magnetite here as well")
        }
        SchemaState::Altered { altered } => {
            let detail = format!("applied with another text: {}", list(altered));
            Check::fail(
                "schema",
                detail,
                "restore a backup, or name an empty database in database.url",
            )
        }
    }
}
