//! The HTTP API as the way to an installation: which API, with which key, and for which organization.
//!
//! `--api` or `MAGNETITE_API_URL` chooses the API. The key is read only from `MAGNETITE_API_KEY`, because other
//! users of a machine can read the arguments of its processes. No message contains the key.

use std::ffi::OsString;

use anyhow::anyhow;
use client::{ApiKey, BuildError, Client, Error, Problem};
use url::Url;
use webhook::{OrganizationId, valid_id};

use crate::Usage;

const API_URL: &str = "MAGNETITE_API_URL";
const API_KEY: &str = "MAGNETITE_API_KEY";
const ORGANIZATION: &str = "MAGNETITE_ORGANIZATION";
/// The section of the help texts with the options for the HTTP API.
const HEADING: &str = "Over the HTTP API";

/// The options that every command has.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Use the HTTP API at this URL, with the key in MAGNETITE_API_KEY, instead of the database and the broker;
    /// without this option, the URL in MAGNETITE_API_URL
    #[arg(long, global = true, value_name = "URL", help_heading = HEADING)]
    api: Option<String>,
    /// The organization that a platform key acts for, unless --org names one; without this option, the one in
    /// MAGNETITE_ORGANIZATION
    #[arg(long, global = true, value_name = "ORGANIZATION", help_heading = HEADING)]
    organization: Option<String>,
}

/// An HTTP API that was chosen.
pub(crate) struct Remote {
    url: String,
    /// Whether the URL is that of the variable.
    is_from_variable: bool,
    key: Option<String>,
    organization: Option<OrganizationId>,
}

impl Remote {
    /// Returns the API that the options or the variables choose; `None` if they choose none.
    pub(crate) fn chosen(
        options: Options,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, Usage> {
        let variable = |name| {
            let value = variable(name)?.to_string_lossy().trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let is_from_variable = options.api.is_none();
        let Some(url) = options.api.or_else(|| variable(API_URL)) else {
            return match options.organization {
                None => Ok(None),
                Some(_) => Err(Usage(format!(
                    "--organization is for the HTTP API: name the API with --api or {API_URL}"
                ))),
            };
        };
        let organization = match options.organization {
            Some(id) => Some(organization("--organization", &id)?),
            None => variable(ORGANIZATION)
                .map(|id| organization(ORGANIZATION, &id))
                .transpose()?,
        };
        Ok(Some(Self {
            url,
            is_from_variable,
            key: variable(API_KEY),
            organization,
        }))
    }

    /// Returns the client.
    pub(crate) fn client(&self) -> anyhow::Result<Client> {
        let key = self.key.as_deref().ok_or_else(|| {
            Usage(format!(
                "{API_KEY} is not set: set it to an API key, which the operator creates with `magnetite api-key create`"
            ))
        })?;
        let key = ApiKey::parse(key).map_err(|error| Usage(format!("{API_KEY} is {error}")))?;
        let mut builder = Client::builder(self.url.as_str(), key);
        if let Some(organization) = &self.organization {
            builder = builder.organization(organization.clone());
        }
        builder.build().map_err(|error| match error {
            BuildError::Url { .. } => Usage(format!("{}: {error}", self.setting())).into(),
            error => error.into(),
        })
    }

    /// Returns the error for a command, or a use of one, that the API cannot serve, because it needs something
    /// else, such as "the database".
    pub(crate) fn refusal(&self, command: &str, needed: &str) -> Usage {
        let remedy = if self.is_from_variable {
            "unset MAGNETITE_API_URL there"
        } else {
            "without --api"
        };
        Usage(format!(
            "`magnetite {command}` needs {needed}, which the HTTP API does not give access to: run it on a host of the \
             installation, {remedy}"
        ))
    }

    /// Returns the URL if it was given with `--api`, so that the next command needs it, too.
    pub(crate) fn option(&self) -> Option<&str> {
        (!self.is_from_variable).then_some(self.url.as_str())
    }

    /// Returns the scheme, host and port of the API.
    pub(crate) fn origin(&self) -> String {
        let url = Url::parse(&self.url);
        url.map_or_else(
            |_| self.setting().to_owned(),
            |url| url.origin().ascii_serialization(),
        )
    }

    /// Returns the name of what sets the URL.
    fn setting(&self) -> &'static str {
        if self.is_from_variable { API_URL } else { "--api" }
    }
}

/// Converts an error of the API or the client. If an option or a variable of this program corrects it, the error
/// names that.
pub(crate) fn told(error: client::Error) -> anyhow::Error {
    let lacks_organization = |problem: &Problem| {
        let mut parameters = problem.errors.iter().map(|error| error.parameter.as_deref());
        parameters.any(|parameter| parameter == Some("Magnetite-Organization"))
    };
    let advice = match &error {
        Error::Api { problem, .. } if lacks_organization(problem) => {
            "name the organization with --organization or MAGNETITE_ORGANIZATION"
        }
        Error::Connect { .. } if !error.is_transient() => {
            "for a private authority, set SSL_CERT_FILE to a PEM file with its certificate"
        }
        _ => return error.into(),
    };
    let error = anyhow!(error);
    anyhow!("{error:#}; {advice}")
}

fn organization(setting: &str, id: &str) -> Result<OrganizationId, Usage> {
    let id = valid_id(id).map_err(|error| Usage(format!("{setting}: {error}")))?;
    Ok(OrganizationId::new(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "mgk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc";

    fn chosen(
        api: Option<&str>,
        organization: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<Remote>, Usage> {
        let options = Options {
            api: api.map(str::to_owned),
            organization: organization.map(str::to_owned),
        };
        Remote::chosen(options, |name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    fn error(api: &str, variables: &[(&str, &str)]) -> String {
        let remote = chosen(Some(api), None, variables).unwrap().unwrap();
        let error = remote.client().unwrap_err();
        assert!(error.is::<Usage>(), "{error}");
        error.to_string()
    }

    #[test]
    fn the_option_precedes_the_variable_and_an_empty_variable_is_none() {
        let of_variable = [(API_URL, "http://b.example"), (API_KEY, KEY)];
        for (option, variables, origin) in [
            (None, &[][..], None),
            (None, &[(API_URL, "")], None),
            (None, &[(API_KEY, KEY), (ORGANIZATION, "org_1")], None),
            (None, &of_variable, Some("http://b.example")),
            (
                Some("https://a.example/x"),
                &of_variable,
                Some("https://a.example"),
            ),
        ] {
            let remote = chosen(option, None, variables).unwrap();
            let found = remote.map(|remote| remote.origin());
            assert_eq!(found.as_deref(), origin);
        }
    }

    #[test]
    fn the_organization_is_that_of_the_option_or_the_variable() {
        let variables = [(ORGANIZATION, "org_2")];
        for (option, expected) in [(None, "org_2"), (Some("org_1"), "org_1")] {
            let remote = chosen(Some("http://a.example"), option, &variables)
                .unwrap()
                .unwrap();
            assert_eq!(remote.organization, Some(OrganizationId::new(expected)));
        }
        assert!(chosen(None, Some("org_1"), &[]).is_err());
        assert!(chosen(Some("http://a.example"), Some("a\nb"), &[]).is_err());
        assert!(chosen(Some("http://a.example"), None, &[(ORGANIZATION, "a\tb")]).is_err());
    }

    #[test]
    fn a_missing_or_malformed_setting_is_named_and_a_key_is_not_quoted() {
        let missing = error("http://a.example", &[]);
        assert!(
            missing.contains(API_KEY) && missing.contains("api-key create"),
            "{missing}"
        );
        let malformed = error("http://a.example", &[(API_KEY, "hunter2")]);
        assert!(
            malformed.contains(API_KEY) && !malformed.contains("hunter2"),
            "{malformed}"
        );
        let url = error("https://me:hunter2@a.example", &[(API_KEY, KEY)]);
        assert!(url.starts_with("--api: ") && !url.contains("hunter2"), "{url}");
    }

    #[test]
    fn a_refusal_says_how_to_leave_the_api() {
        let refusal = |api, variables: &[_]| {
            let remote = chosen(api, None, variables).unwrap().unwrap();
            remote.refusal("migrate", "the database").to_string()
        };
        let by_option = refusal(Some("http://a.example"), &[]);
        assert!(
            by_option.contains("`magnetite migrate` needs the database"),
            "{by_option}"
        );
        assert!(by_option.ends_with("without --api"), "{by_option}");
        let by_variable = refusal(None, &[(API_URL, "http://a.example")]);
        assert!(
            by_variable.ends_with("unset MAGNETITE_API_URL there"),
            "{by_variable}"
        );
    }
}
