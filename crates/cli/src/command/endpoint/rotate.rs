//! `rotate-secret`: gives an endpoint a new secret, beside which the old one stays valid for a while.

use std::time::Duration;

use clap::Args;
use runtime::time;
use service::manage::Rotation;
use webhook::EndpointId;

use crate::{backend::Backend, command::arguments, output};

use super::acting;

#[derive(Debug, Args)]
pub(in crate::command) struct Rotate {
    /// The endpoint's id
    id: String,
    /// The new secret, instead of a random one: `whsec_` and the base64 of 24 to 64 bytes
    #[arg(long)]
    secret: Option<String>,
    /// How long the old secret stays valid; meanwhile, webhook-signature carries the signatures of both
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = arguments::overlap)]
    overlap: Duration,
    /// Revoke the old secret at once, for example because it was disclosed
    #[arg(long, conflicts_with = "overlap")]
    revoke_now: bool,
}

/// Rotates the secret. Prints the new one once, after the workers have it: a receiver that switched to it
/// earlier would get requests that are signed only with the old one.
pub(super) async fn run(rotate: Rotate, backend: &Backend, json: bool) -> anyhow::Result<()> {
    let rotation = Rotation {
        secret: rotate.secret.as_deref().map(arguments::secret).transpose()?,
        overlap: (!rotate.revoke_now).then_some(rotate.overlap),
    };
    let rotated = backend
        .rotate_secret(&EndpointId::new(rotate.id), rotation)
        .await?;
    let secret = arguments::shown_once(rotated.secret.as_ref())?;
    let old = rotated.old_secret_until_ms.map_or_else(
        || "revoked".to_owned(),
        |until_ms| {
            format!(
                "valid until {}",
                time::second(until_ms.try_into().unwrap_or_default())
            )
        },
    );
    let text = format!(
        "id          {}\nsecret      {secret}\nold secret  {old}",
        rotated.id
    );
    output::said_once(
        json,
        &rotated,
        &text,
        &format!(
            "endpoint {0} has a new secret, but it could not be printed; `magnetite endpoint rotate-secret {0} --revoke-now` creates another, and revokes the one that the receiver has",
            rotated.id
        ),
    )?;
    output::note(if rotated.old_secret_until_ms.is_some() {
        "Save the secret now: it is not shown again. Give it to the receiver before the old one expires."
    } else {
        "Save the secret now: it is not shown again. Give it to the receiver at once: until then, requests fail and are retried."
    });
    acting::note(&rotated.workers_behind);
    Ok(())
}
