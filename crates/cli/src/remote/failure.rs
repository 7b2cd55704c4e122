//! Errors of the API and of its client, in terms of the command line.
//!
//! The API's own advice is for programs: it names headers, fields and requests. What is said here depends only on the
//! kind of the problem. The advice of a kind that is unknown here is that of the API.

use std::borrow::Cow;

use anyhow::anyhow;
use client::{Error, FieldError, Problem};

use crate::output;

/// The header that the API names if a request lacks an organization.
const ORGANIZATION: &str = "Magnetite-Organization";
/// The operation that can be repeated whatever became of the previous request, because it finds out what was sent.
const RECOVER: &str = "recoverEndpoint";

/// Converts an error of the API or the client. The result says what to do on the command line.
pub(crate) fn told(error: Error) -> anyhow::Error {
    let advice = match &error {
        Error::Api { problem, .. } => return anyhow!(answered(&error, problem)),
        Error::Connect { .. } if error.is_certificate_invalid() => {
            "for a private authority, set SSL_CERT_FILE to a PEM file with its certificate"
        }
        Error::Broken { server, .. } if server.starts_with("http://") => {
            "if the API is behind TLS, its URL begins with https://"
        }
        _ => return error.into(),
    };
    let error = anyhow!(error);
    anyhow!("{error:#}; {advice}")
}

/// Returns the message for an error with which the API answered.
fn answered(error: &Error, problem: &Problem) -> String {
    let call = error.call();
    let is_of_organization = |part: &&FieldError| part.parameter.as_deref() == Some(ORGANIZATION);
    let parts = problem.errors.iter();
    let parts = parts.filter(|part| !is_of_organization(part)).map(part);
    let lacks_organization = problem.errors.iter().any(|part| is_of_organization(&part));
    let mut told: Vec<Cow<'_, str>> = parts.map(Cow::Owned).collect();
    told.extend(advice(problem, lacks_organization));
    if !error.is_safe_to_repeat() && call.operation.id() != RECOVER {
        told.push("it may have been carried out: check that before you run the command again".into());
    } else if problem.status == 429 || (problem.status >= 500 && problem.name() != "internal-error") {
        told.push("run the command again later".into());
    }
    format!(
        "{call}: {} ({}): {} (request {})",
        output::printable(&problem.title),
        problem.status,
        told.join("; "),
        output::printable(&problem.instance)
    )
}

/// Returns what is wrong with a part of the request. The parts have the names of the options.
fn part(error: &FieldError) -> String {
    let place = error.pointer.as_deref().or(error.parameter.as_deref());
    let place = place.unwrap_or_default().trim_start_matches('/');
    let detail = output::printable(&error.detail);
    match place {
        "" => detail.into_owned(),
        place => format!("{}: {detail}", output::printable(place)),
    }
}

/// Returns what to do about a problem, unless [`answered`] says it for many kinds.
fn advice(problem: &Problem, lacks_organization: bool) -> Option<Cow<'_, str>> {
    const VERSIONS: &str = "check that the versions of this program and of the API fit together";
    let advice = match problem.name() {
        "invalid-fields" if lacks_organization => {
            "the key is a platform key: name the organization with --organization or MAGNETITE_ORGANIZATION"
        }
        "invalid-fields" | "malformed-request" if !problem.errors.is_empty() => return None,
        "malformed-request" | "method-not-allowed" | "unsupported-media-type" => VERSIONS,
        "other-organization" => {
            "the key belongs to another organization than the one that is named: use a key of that one, or name none (--org, \
             --organization, MAGNETITE_ORGANIZATION)"
        }
        "not-found" => {
            "there is nothing with this id, or the API is older than this program: check the id, which a `list` command shows"
        }
        "version-mismatch" => "run the command again if the change still applies",
        "body-timeout" => "the connection is slow: run the command again",
        "too-large" => "the API accepts no request of this size: send less",
        "upgrade-required" => {
            "a proxy before the API does not pass WebSockets on: its operator has to let it upgrade connections of /v1/relays/"
        }
        "rate-limited" => "the key makes too many requests",
        "internal-error" => "tell the operator the id of the request",
        "broker-unavailable" | "database-unavailable" | "overloaded" | "timed-out" => return None,
        // Among them `insufficient-scope`, `unauthorized`, `conflict` and `too-many-endpoints`, whose details name
        // what is needed and what there is.
        _ => {
            let detail = output::printable(&problem.detail);
            return (!detail.is_empty()).then(|| detail.trim_end_matches('.').to_owned().into());
        }
    };
    Some(advice.into())
}

#[cfg(test)]
mod tests;
