//! `magnetite login`.

use std::{
    env,
    io::{self, IsTerminal as _, Read as _},
    path::Path,
};

use anyhow::Context as _;
use client::{ApiKey, ApiKeyInfo, Client, EventType, ListApiKeys};
use console::Term;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::{
    Usage, configuration, output,
    profiles::{Profile, Profiles},
    remote::{self, connect, masked, told},
};

/// The maximum number of bytes that are read from standard input, which is many times the length of a key.
const INPUT_BYTES_MAX: u64 = 4096;
/// The maximum number of API keys among which the entered one is looked up. A platform key sees those of all
/// organizations.
const KEYS_MAX: usize = 1000;
/// The maximum number of keys on a page, which is that of the API.
const PAGE: u32 = 100;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// URL of the HTTP API; by default that of the profile, or it is asked for. The key is asked for, or read from
    /// standard input if that is not a terminal
    url: Option<String>,
}

/// Asks for the URL and the key, checks them, and stores them in a profile.
pub(super) async fn run(
    arguments: Arguments,
    options: remote::Options,
    config: Option<&Path>,
) -> anyhow::Result<()> {
    let target = options.target(|name| env::var_os(name))?;
    let mut profiles = Profiles::load(|name| env::var_os(name))?;
    profiles.check_owner()?;
    let stored = profiles.find(&target.profile);
    let url = match arguments.url {
        Some(url) => url,
        None => ask_url(stored.map(|profile| profile.url.as_str()))?,
    };
    let key = ApiKey::parse(&read_key()?)
        .map_err(|error| Usage(format!("what was entered is {error}; nothing was stored")))?;
    let client = connect(&url, key.clone(), target.organization.clone())?;
    check(&client).await.context("nothing was stored")?;

    let prefix = masked(key.expose());
    let about = entry(&client, &key).await;
    let about = about
        .map(|key| format!(" ({})", described(&key)))
        .unwrap_or_default();
    let organization = target.organization.as_ref();
    let organization = organization.map(|organization| organization.as_str().to_owned());
    let profile = Profile {
        url: url.clone(),
        key: key.expose().to_owned(),
        organization,
    };
    profiles.insert(&target.profile, profile)?;
    output::line(&format!(
        "logged in to {url} with the key {prefix}{about}, which is stored in profile {} ({})",
        target.profile,
        profiles.path().display()
    ))?;
    let given_by = configuration::given_by(config);
    if let Some(unused) = target.unused(given_by.as_ref(), |name| env::var_os(name)) {
        output::note(&unused);
    }
    Ok(())
}

/// Asks for the URL on the terminal. An empty answer, or no terminal, stands for the URL of the profile.
fn ask_url(of_profile: Option<&str>) -> anyhow::Result<String> {
    let mut answer = String::new();
    if io::stdin().is_terminal() {
        let default = of_profile.map(|url| format!(" [{url}]")).unwrap_or_default();
        output::ask(&format!("URL of the HTTP API{}: ", output::printable(&default)));
        io::stdin()
            .read_line(&mut answer)
            .context("cannot read the URL")?;
    }
    match (answer.trim(), of_profile) {
        ("", None) => {
            Err(Usage("the URL of the HTTP API is missing: `magnetite login https://HOST`".to_owned()).into())
        }
        ("", Some(url)) | (url, _) => Ok(url.to_owned()),
    }
}

/// Reads the key: from the terminal, which does not show it, or from standard input if that is not a terminal.
fn read_key() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        let input = io::read_to_string(io::stdin().lock().take(INPUT_BYTES_MAX));
        let key = input.context("cannot read the key from standard input")?;
        return Ok(key.trim().to_owned());
    }
    let terminal = Term::stderr();
    if !terminal.is_term() {
        let reason = "the question for the key needs a terminal: do not redirect standard error, or pass the key on \
                      standard input";
        return Err(Usage(reason.to_owned()).into());
    }
    output::ask("API key (it is not shown): ");
    let key = terminal.read_secure_line();
    let key = key.context("cannot read the key from the terminal")?;
    Ok(key.trim().to_owned())
}

/// Checks that the API accepts the key, whatever its scopes are.
async fn check(client: &Client) -> anyhow::Result<()> {
    match client.get_event_type(EventType::LeadCompleted).await {
        Ok(_) => Ok(()),
        // The API knows the key, and refuses no more than this operation.
        Err(error)
            if error
                .problem()
                .is_some_and(|problem| problem.name() == "insufficient-scope") =>
        {
            Ok(())
        }
        Err(error) => Err(told(error)),
    }
}

/// Returns the entry of a key in the listing of API keys; `None` if the key may not read it, or is not found.
async fn entry(client: &Client, key: &ApiKey) -> Option<ApiKeyInfo> {
    let which = ListApiKeys {
        limit: Some(PAGE),
        cursor: None,
    };
    let mut keys = client.all_api_keys(which).take(KEYS_MAX);
    while let Ok(Some(found)) = keys.try_next().await {
        if found.prefix == key.prefix() && found.revoked_at_ms.is_none() {
            return Some(found);
        }
    }
    None
}

/// Returns the name, the organization and the scopes of a key.
fn described(key: &ApiKeyInfo) -> String {
    let name = output::printable(&key.name);
    let owner = match &key.organization_id {
        Some(organization) => format!("a key of {}", output::printable(organization)),
        None => "a platform key".to_owned(),
    };
    format!("\"{name}\", {owner} with the scopes {}", key.scopes.join(","))
}
