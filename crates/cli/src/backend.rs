//! The two ways in which a command works on an installation: on its database and broker, or over its HTTP API.
//!
//! A command calls the methods of [`Backend`] and prints what they return, which are the types of [`wire`]. So
//! its output does not depend on the way. There is a file of methods for each group of commands.
//!
//! A method returns an error that says what to do next, in terms of the command line.

mod endpoints;
mod ping;
mod recovery;
mod api_keys;
mod changes;
mod events;
mod deliveries;
mod resender;
mod records;

use anyhow::anyhow;
use client::Client;
use store::Store;
use webhook::OrganizationId;

use crate::{
    configuration::Configuration,
    database,
    remote::{Remote, told},
};

pub(crate) use records::Records;
pub(crate) use recovery::{Recovery, Sent};
pub(crate) use resender::{Batch, Resender};

/// The way to an installation.
pub(crate) enum Backend {
    Direct(Direct),
    Api(Api),
}

/// The database and the broker.
pub(crate) struct Direct {
    store: Store,
    configuration: Box<Configuration>,
}

/// The HTTP API.
pub(crate) struct Api {
    client: Client,
    remote: Remote,
}

impl Backend {
    /// Opens the database. Methods that need the broker connect to it themselves.
    pub(crate) async fn direct(configuration: Configuration) -> anyhow::Result<Self> {
        Ok(Self::Direct(Direct {
            store: database::open(&configuration.database).await?,
            configuration: Box::new(configuration),
        }))
    }

    /// Uses the API. Connects with the first request.
    pub(crate) fn over(remote: Remote) -> anyhow::Result<Self> {
        Ok(Self::Api(Api {
            client: remote.client()?,
            remote,
        }))
    }

    /// Closes the connections.
    pub(crate) async fn close(self) {
        if let Self::Direct(Direct { store, .. }) = self {
            store.close().await;
        }
    }

    /// Returns where the installation is, for notes such as "none in PLACE". It contains no password.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::Direct(direct) => direct.store.address().to_owned(),
            Self::Api(api) => format!("the installation at {}", api.remote.origin()),
        }
    }
}

impl Api {
    /// Returns a client for requests about this organization, or, if it is `None`, about the one that the
    /// settings name.
    fn client_for(&self, organization: Option<&OrganizationId>) -> Client {
        match organization {
            Some(organization) => self.client.for_organization(organization.clone()),
            None => self.client.clone(),
        }
    }
}

/// Returns whether the API answered that the organization has no object with this id. A path that an older API does
/// not have is answered with the same name, and without the id.
fn is_missing(error: &client::Error, id: &str) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| problem.name() == "not-found" && problem.detail.contains(id))
}

/// Returns the object with this id that the API answered with; `None` if it answered that there is none.
fn found<T>(answered: Result<T, client::Error>, id: &str) -> anyhow::Result<Option<T>> {
    match answered {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_missing(&error, id) => Ok(None),
        Err(error) => Err(told(error)),
    }
}

/// Converts an error of the API about the object with this id. If there is none, the error says with `hint` how to
/// find the right id.
fn not_found(error: client::Error, what: &str, id: &str, hint: &str) -> anyhow::Error {
    match error.problem() {
        Some(problem) if is_missing(&error, id) => anyhow!(
            "{what} {id} does not exist in this organization; {hint} (request {})",
            problem.instance
        ),
        _ => told(error),
    }
}
