//! `rotate-secret`: a new secret, and a while in which the old one is valid, too.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use signature::Secret;
use store::Store;
use tokio::time::sleep;
use webhook::EndpointId;

use crate::{clock, command::given, moment, output};

use super::{hint, view::shown};

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The endpoint's id
    id: String,
    /// The new secret, instead of a random one: `whsec_` and the base64 of 24 to 64 bytes
    #[arg(long)]
    secret: Option<String>,
    /// How long the old secret stays valid: requests carry the signatures of both
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = given::overlap)]
    overlap: Duration,
    /// The old secret is known to others: it is void at once
    #[arg(long, conflicts_with = "overlap")]
    revoke_now: bool,
}

/// A worker looks for changes every `registry.refresh`, and needs a moment to read them.
const REFRESHES: u32 = 4;

/// Prints the new secret, this once, when workers have it: a receiver that switched before would be asked with the old one alone.
pub(super) async fn run(
    rotate: Rotate,
    store: &Store,
    registry_refresh: Duration,
    json: bool,
) -> anyhow::Result<()> {
    let now_ms = clock::now_ms() as i64;
    let until_ms = (!rotate.revoke_now).then(|| now_ms + rotate.overlap.as_millis() as i64);
    let secret = match &rotate.secret {
        Some(text) => given::secret(text)?,
        None => Secret::generate(rand::random()),
    };
    let rotated = store
        .rotate_secret(&EndpointId::new(rotate.id), &secret, until_ms, now_ms)
        .await
        .map_err(explained)?;
    if until_ms.is_some() {
        sleep(registry_refresh * REFRESHES).await;
    }
    let secret = rotated.secret.expose();
    let old = until_ms.map_or_else(
        || "void".to_owned(),
        |until_ms| format!("valid until {}", moment::second(until_ms as u64)),
    );
    let text = format!(
        "id          {}\nsecret      {secret}\nold secret  {old}",
        rotated.id
    );
    output::said(json, &shown(&rotated, Some(secret)), &text)?;
    output::note(
        "Keep the secret now: it is not shown again. Give it to the receiver before the old one ends.",
    );
    Ok(())
}

fn explained(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::RotationOpen { id, until_ms } => anyhow!(
            "endpoint {id} has two valid secrets already, the old one until {}: wait until then, or give --revoke-now, after which only \
             the new one is valid",
            moment::second(until_ms.try_into().unwrap_or_default())
        ),
        error => hint(error),
    }
}
