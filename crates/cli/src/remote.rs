//! The HTTP API as the way to an installation: which API, with which key, and for which organization.
//!
//! What chooses the API, first to last:
//! 1. `--api`, or `--profile`;
//! 2. `MAGNETITE_API_URL`;
//! 3. `MAGNETITE_PROFILE`;
//! 4. the profile `default`, if the caller has no configuration.
//!
//! Not all of them may choose it for every command: see [`Chooser`].
//!
//! The key of a profile is sent only to the profile's URL. For any other URL, the key is read only from
//! `MAGNETITE_API_KEY`, because other users of a machine can read the arguments of its processes. No message
//! contains the key.

mod failure;

use std::{ffi::OsString, iter};

use clap::builder::NonEmptyStringValueParser;
use client::{ApiKey, BuildError, Client, ClientBuilder};
use url::Url;
use webhook::{OrganizationId, valid_id};

use crate::{
    Usage,
    configuration::Place,
    profiles::{self, Profiles},
};

pub(crate) use failure::told;

const API_URL: &str = "MAGNETITE_API_URL";
const API_KEY: &str = "MAGNETITE_API_KEY";
const ORGANIZATION: &str = "MAGNETITE_ORGANIZATION";
const PROFILE: &str = "MAGNETITE_PROFILE";
/// The section of the help texts with the options for the HTTP API.
const HEADING: &str = "Over the HTTP API";

/// The options that every command has.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use the HTTP API at this URL, with the key in MAGNETITE_API_KEY, instead of the database and the broker;
    /// without this option, the URL in MAGNETITE_API_URL
    #[arg(long, global = true, value_name = "URL", help_heading = HEADING)]
    api: Option<String>,
    /// Use the HTTP API and the key that `magnetite login` has stored in this profile; without this option, the
    /// profile in MAGNETITE_PROFILE
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        value_parser = NonEmptyStringValueParser::new(),
        help_heading = HEADING
    )]
    profile: Option<String>,
    /// The organization that a platform key acts for, unless --org names one; without this option, the one in
    /// MAGNETITE_ORGANIZATION
    #[arg(long, global = true, value_name = "ORGANIZATION", help_heading = HEADING)]
    organization: Option<String>,
}

/// What may choose the HTTP API for a command. Each variant includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chooser {
    /// `--api` and `--profile`.
    Options,
    /// The variables.
    Variables,
    /// The default profile.
    DefaultProfile,
}

/// The profile that `login` or `logout` changes.
pub(crate) struct Target {
    /// The name of the profile.
    pub(crate) profile: String,
    /// The organization of `--organization`; `None` if it is not given.
    pub(crate) organization: Option<OrganizationId>,
}

/// An HTTP API that was chosen.
pub(crate) struct Remote {
    url: Set<String>,
    /// `None` if no key is set.
    key: Option<Set<String>>,
    /// `None` if commands name it.
    organization: Option<Set<OrganizationId>>,
    /// The option or the variable that chose the API; `None` for the default profile.
    chosen_by: Option<&'static str>,
}

/// A value, and the option, the variable or the profile that sets it.
struct Set<T> {
    value: T,
    place: String,
}

impl Options {
    /// Returns whether an option chooses the API, whatever the variables and the profiles say.
    pub(crate) const fn choose_api(&self) -> bool {
        self.api.is_some() || self.profile.is_some()
    }

    /// Returns the profile that `login` or `logout` changes.
    pub(crate) fn target(self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Target, Usage> {
        if self.api.is_some() {
            return Err(Usage(
                "--api is not for `login` and `logout`: `magnetite login URL` names the API".to_owned(),
            ));
        }
        let profile = self.profile.or_else(|| text(&variable, PROFILE));
        let profile = profile.unwrap_or_else(|| profiles::DEFAULT.to_owned());
        let organization = self.organization.as_deref();
        let organization = organization
            .map(|id| organization_of("--organization", id))
            .transpose()?;
        Ok(Target {
            profile,
            organization: organization.map(|organization| organization.value),
        })
    }
}

impl Target {
    /// Returns why commands without an option do not use this profile, and what to do; `None` if they use it.
    /// `given_by` is the reason why there is a configuration.
    pub(crate) fn unused(
        &self,
        given_by: Option<&Place>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Option<String> {
        let name = &self.profile;
        let (has_url, named) = (text(&variable, API_URL).is_some(), text(&variable, PROFILE));
        let why = match (named, given_by) {
            _ if has_url => format!("{API_URL} is set"),
            (Some(named), _) if named == *name => return None,
            (Some(named), _) => format!("{PROFILE} names the profile {named}"),
            (None, _) if name != profiles::DEFAULT => {
                format!("only the profile {} is used by default", profiles::DEFAULT)
            }
            (None, Some(place)) => precedence(place),
            (None, None) => return None,
        };
        let unset = if has_url {
            format!("unset {API_URL} and ")
        } else {
            String::new()
        };
        Some(format!(
            "commands do not use this profile by default, because {why}: add `--profile {name}` to a command, or \
             {unset}set {PROFILE}={name}"
        ))
    }
}

impl Remote {
    /// Returns the API that the options, the variables or the profiles choose; `None` if those that may choose it
    /// choose none.
    pub(crate) fn chosen(
        options: &Options,
        chooser: Chooser,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Option<Self>> {
        let Some(mut remote) = Self::found(options, chooser, &variable)? else {
            return match options.organization {
                None => Ok(None),
                Some(_) => Err(Usage(format!(
                    "--organization is for the HTTP API: name the API with --api, {API_URL} or --profile"
                ))
                .into()),
            };
        };
        if let Some(id) = &options.organization {
            remote.organization = Some(organization_of("--organization", id)?);
        } else if let Some(id) = text(&variable, ORGANIZATION) {
            remote.organization = Some(organization_of(ORGANIZATION, &id)?);
        }
        Ok(Some(remote))
    }

    fn found(
        options: &Options,
        chooser: Chooser,
        variable: &impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Option<Self>> {
        let named = |name: &str, chosen_by| {
            let profiles = Profiles::load(variable)?;
            Self::of_profile(&profiles, name, Some(chosen_by)).map(Some)
        };
        match (&options.api, &options.profile) {
            (Some(_), Some(_)) => {
                let reason = "--api and --profile exclude each other, because each names an API";
                Err(Usage(reason.to_owned()).into())
            }
            (Some(url), None) => Ok(Some(Self::at(url.clone(), "--api", variable))),
            (None, Some(name)) => named(name, "--profile"),
            (None, None) if chooser == Chooser::Options => Ok(None),
            (None, None) => {
                if let Some(url) = text(variable, API_URL) {
                    Ok(Some(Self::at(url, API_URL, variable)))
                } else if let Some(name) = text(variable, PROFILE) {
                    named(&name, PROFILE)
                } else if chooser == Chooser::DefaultProfile {
                    Self::of_own_default_profile(variable)
                } else {
                    Ok(None)
                }
            }
        }
    }

    /// Returns the API at this URL, with the key in the variable.
    fn at(url: String, chosen_by: &'static str, variable: &impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |value, place: &str| Set {
            value,
            place: place.to_owned(),
        };
        Self {
            url: set(url, chosen_by),
            key: text(variable, API_KEY).map(|key| set(key, API_KEY)),
            organization: None,
            chosen_by: Some(chosen_by),
        }
    }

    fn of_profile(profiles: &Profiles, name: &str, chosen_by: Option<&'static str>) -> anyhow::Result<Self> {
        let profile = profiles.get(name)?;
        let place = format!("profile {name} ({})", profiles.path().display());
        let organization = profile.organization.as_deref();
        let organization = organization.map(|id| organization_of(&place, id)).transpose()?;
        let set = |value: &str| Set {
            value: value.to_owned(),
            place: place.clone(),
        };
        Ok(Self {
            url: set(&profile.url),
            key: Some(set(&profile.key)),
            organization,
            chosen_by,
        })
    }

    /// Returns the API of the default profile, whatever precedes it; `None` if there is no such profile, or it
    /// cannot be read.
    pub(crate) fn of_default_profile(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let profiles = Profiles::load(variable).ok()?;
        Self::of_profile(&profiles, profiles::DEFAULT, None).ok()
    }

    /// Returns the API of the default profile; `None` if there is no such profile, or it belongs to another user,
    /// with a note.
    fn of_own_default_profile(variable: &impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Option<Self>> {
        let Some(path) = profiles::path(variable) else {
            return Ok(None);
        };
        match Profiles::read_own(path)? {
            Some(profiles) if profiles.find(profiles::DEFAULT).is_some() => {
                Self::of_profile(&profiles, profiles::DEFAULT, None).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Returns the client for `publish`, whose arguments name this organization. It precedes the organization
    /// that is set. If nothing listens at the URL, requests are sent again like others, because a job that publishes
    /// must outlast a restart of the API.
    pub(crate) fn client_for(&self, named: Option<OrganizationId>) -> anyhow::Result<Client> {
        let client = built(self.builder()?, &self.url.place)?;
        // If none is set, the key may be that of an organization, whose refusals are clearer without the header.
        Ok(match named.filter(|_| self.organization.is_some()) {
            Some(organization) => client.for_organization(organization),
            None => client,
        })
    }

    /// Returns the client for all other commands.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        built(self.builder()?.fail_fast(), &self.url.place)
    }

    fn builder(&self) -> anyhow::Result<ClientBuilder> {
        let Some(Set { value: key, place }) = &self.key else {
            return Err(Usage(format!(
                "{API_KEY} is not set: set it to an API key, which the operator creates with `magnetite api-key create`"
            ))
            .into());
        };
        let key = ApiKey::parse(key).map_err(|error| Usage(format!("the key in {place} is {error}")))?;
        let organization = self.organization.as_ref();
        let organization = organization.map(|organization| organization.value.clone());
        Ok(builder(&self.url.value, key, organization))
    }

    /// Returns the error for a command, or a use of one, that the API cannot serve, because it needs something
    /// else, such as "the database".
    pub(crate) fn refusal(&self, command: &str, needed: &str) -> Usage {
        let remedy = match self.chosen_by {
            Some(option) if option.starts_with('-') => format!(", without {option}"),
            Some(variable) => format!(", and unset {variable} there"),
            None => ", with its configuration".to_owned(),
        };
        Usage(format!(
            "`magnetite {command}` needs {needed}, which the HTTP API does not give access to: run it on a host of the \
             installation{remedy}"
        ))
    }

    /// Returns the message that the default profile, which this is, is not used, and how to use it. `place` is the
    /// reason why there is a configuration.
    pub(crate) fn unused(&self, place: &Place) -> String {
        let unset = match place {
            Place::Variable(name) => format!(", or unset {name}"),
            _ => String::new(),
        };
        format!(
            "the profile {name} for {} is not used, because {}: to use its API, add `--profile {name}`{unset}",
            self.origin(),
            precedence(place),
            name = profiles::DEFAULT
        )
    }

    /// Returns the scheme, host and port of the API.
    pub(crate) fn origin(&self) -> String {
        let url = Url::parse(&self.url.value);
        url.map_or_else(
            |_| self.url.place.clone(),
            |url| url.origin().ascii_serialization(),
        )
    }

    /// Returns the option, the variable or the profile that names the API.
    pub(crate) fn place(&self) -> &str {
        &self.url.place
    }

    /// Returns the name, the value and the place of everything that is set, for `magnetite config`. The key is
    /// masked.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String, &str)> {
        let key = self
            .key
            .iter()
            .map(|key| ("key", masked(&key.value), key.place.as_str()));
        let organization = self.organization.iter().map(|organization| {
            let id = organization.value.as_str().to_owned();
            ("organization", id, organization.place.as_str())
        });
        iter::once(("url", shown(&self.url.value), self.url.place.as_str()))
            .chain(key)
            .chain(organization)
            .collect()
    }
}

/// Returns why the default profile is not used, if there is a configuration because of `place`.
fn precedence(place: &Place) -> String {
    match place {
        Place::Variable(name) => format!("{name} is set, and every configuration precedes the profile"),
        place => format!("there is the file {place}, and every configuration precedes the profile"),
    }
}

/// Returns the name of the variable that chooses an API, unless an option does; `None` if none is set.
pub(crate) fn choosing_variable(variable: impl Fn(&str) -> Option<OsString>) -> Option<&'static str> {
    [API_URL, PROFILE]
        .into_iter()
        .find(|name| text(&variable, name).is_some())
}

/// Returns a client of the API at this URL, for `login`.
pub(crate) fn connect(
    url: &str,
    key: ApiKey,
    organization: Option<OrganizationId>,
) -> anyhow::Result<Client> {
    built(builder(url, key, organization).fail_fast(), "login")
}

fn builder(url: &str, key: ApiKey, organization: Option<OrganizationId>) -> ClientBuilder {
    let builder = Client::builder(url, key);
    match organization {
        Some(organization) => builder.organization(organization),
        None => builder,
    }
}

/// Returns the client with these settings. An error in the URL names `place`, which sets it.
fn built(builder: ClientBuilder, place: &str) -> anyhow::Result<Client> {
    builder.build().map_err(|error| match error {
        BuildError::Url { .. } => Usage(format!("{place}: {error}")).into(),
        error => error.into(),
    })
}

/// Returns the beginning of a key, by which the listing of API keys shows it.
pub(crate) fn masked(key: &str) -> String {
    ApiKey::parse(key).map_or_else(|_| "***".to_owned(), |key| format!("{}…", key.prefix()))
}

/// Returns a URL without a password, which a valid URL of an API does not contain.
fn shown(url: &str) -> String {
    let parsed = Url::parse(url).ok();
    let is_plain = |url: &Url| url.username().is_empty() && url.password().is_none() && url.query().is_none();
    parsed
        .filter(is_plain)
        .map_or_else(|| "***".to_owned(), |_| url.to_owned())
}

/// Returns the organization with this id, which is set in `place`.
fn organization_of(place: &str, id: &str) -> Result<Set<OrganizationId>, Usage> {
    let id = valid_id(id).map_err(|error| Usage(format!("{place}: {error}")))?;
    Ok(Set {
        value: OrganizationId::new(id),
        place: place.to_owned(),
    })
}

/// Returns the value of a variable without the white space around it; `None` if it is empty or not set.
fn text(variable: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<String> {
    let value = variable(name)?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests;
