//! `magnetite check`: shows how a worker sees an endpoint, and checks that the endpoint behaves as a receiver
//! must.
//!
//! ```text
//! way       address -> connection -> TLS, certificates              (a separate connection; nothing is sent)
//! questions good -> repeated, wrong signature, other body, stale    (by the HTTP client of the worker)
//! remarks  observations -> lines with a fix                        (pure: `way` and `answer`)
//! ```
//!
//! It needs neither broker nor database and stores nothing. The endpoint receives sample events and processes
//! them as it does any event. If the endpoint does not accept the good request, no other requests are made,
//! because refusing them would say nothing about signatures.

mod test_request;
mod remark;
mod network_path;
mod answer;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use egress::{Egress, Refusal};
use ipnet::IpNet;
use runtime::now_ms;
use signature::Secret;
use url::Url;

use crate::{Usage, configuration::Configuration, output};

use super::arguments;

use remark::Remark;
use test_request::TestRequest;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The endpoint's URL; it receives up to five requests with sample events
    url: String,
    #[command(flatten)]
    secret: arguments::SecretArgument,
    /// A non-public network that may be reached, such as 127.0.0.0/8, in addition to those in egress.allow
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    allow: Vec<IpNet>,
    /// Print one JSON object per line, for each check
    #[arg(long)]
    json: bool,
}

/// Prints each remark as soon as it is made. Returns an error if anything is wrong with the endpoint; advice
/// alone is not an error.
pub(super) async fn run(arguments: Arguments, mut configuration: Configuration) -> anyhow::Result<()> {
    let secret = arguments.secret.read()?;
    configuration.egress.allow(arguments.allow);
    let egress = configuration.egress.client()?;
    let url = url(&egress, &arguments.url)?;
    let mut report = Report {
        json: arguments.json,
        failed: 0,
    };
    let way = egress.probe(&url).await;
    report.add(network_path::remarks(&way, &url, (now_ms() / 1000) as i64))?;
    if network_path::is_closed(&way) {
        return report.end();
    }
    ask_all(&egress, &url, &secret, &mut report).await?;
    report.end()
}

/// Parses the URL. An address that may not be reached becomes a remark later; a URL that is never permitted
/// is a usage error.
fn url(egress: &Egress, given: &str) -> anyhow::Result<Url> {
    match egress.policy().check_url(given) {
        Ok(url) => Ok(url),
        Err(Refusal::Address { .. }) => Ok(Url::parse(given)?),
        Err(refusal) => Err(anyhow!(Usage(refusal.to_string()))),
    }
}

async fn ask_all(egress: &Egress, url: &Url, secret: &Secret, report: &mut Report) -> anyhow::Result<()> {
    let first = test_request::event(rand::random(), now_ms());
    if !ask(TestRequest::Good, &first, egress, url, secret, report).await? {
        output::note("the other requests were not made, because the good one was not answered with a 2xx");
        return Ok(());
    }
    ask(TestRequest::Repeated, &first, egress, url, secret, report).await?;
    for question in [
        TestRequest::WrongSignature,
        TestRequest::OtherBody,
        TestRequest::Stale,
    ] {
        let event = test_request::event(rand::random(), now_ms());
        ask(question, &event, egress, url, secret, report).await?;
    }
    Ok(())
}

/// Makes one request and reports the remark. Returns whether the endpoint accepted the request.
async fn ask(
    question: TestRequest,
    event: &webhook::Event,
    egress: &Egress,
    url: &Url,
    secret: &Secret,
    report: &mut Report,
) -> anyhow::Result<bool> {
    let stranger = Secret::generate(rand::random());
    let request = question.request(event, secret, &stranger, now_ms());
    let target = egress.target(url.as_str());
    let asking = egress.ask(&target, request.headers, request.body);
    let reply = asking
        .await
        .context("the endpoint cannot be checked: the fault is on this side")?;
    report.add([answer::remark(question, &reply, url)])?;
    Ok(reply.result.is_success())
}

/// Prints the remarks and counts the failures.
struct Report {
    json: bool,
    failed: u32,
}

impl Report {
    fn add(&mut self, remarks: impl IntoIterator<Item = Remark>) -> Result<(), output::Closed> {
        for remark in remarks {
            self.failed += u32::from(remark.is_failure());
            output::unless_left(output::said_line(self.json, &remark, &remark.to_string()))?;
        }
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        if self.failed > 0 {
            bail!(
                "checks that failed: {}; each has a line that says how to fix it, and docs/failures.md explains what it means",
                self.failed
            );
        }
        Ok(())
    }
}
