//! `rotate-secret`: gives an endpoint a new secret, beside which the old one stays valid for a while.

use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use runtime::time;
use service::{
    manage::{self, Rotation},
    view,
};
use store::Store;
use webhook::EndpointId;

use crate::{command::arguments, configuration::Configuration, output};

use super::{acting, hint};

#[derive(Debug, Args)]
pub(super) struct Rotate {
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
pub(super) async fn run(
    rotate: Rotate,
    store: &Store,
    configuration: &Configuration,
    json: bool,
) -> anyhow::Result<()> {
    let now_ms = runtime::now_ms() as i64;
    let rotation = Rotation {
        secret: rotate.secret.as_deref().map(arguments::secret).transpose()?,
        overlap: (!rotate.revoke_now).then_some(rotate.overlap),
    };
    let id = EndpointId::new(rotate.id);
    let rotated = manage::rotate(store, &id, &rotation, now_ms)
        .await
        .map_err(explained)?;
    let behind = acting::wait(store, configuration).await;
    let until_ms = rotated.previous.as_ref().map(|previous| previous.until_ms);
    let secret = rotated.secret.expose();
    let old = until_ms.map_or_else(
        || "revoked".to_owned(),
        |until_ms| format!("valid until {}", time::second(until_ms as u64)),
    );
    let text = format!(
        "id          {}\nsecret      {secret}\nold secret  {old}",
        rotated.id
    );
    output::said_once(
        json,
        &view::behind(view::endpoint_with_secret(&rotated), &behind),
        &text,
        &format!(
            "endpoint {0} has a new secret, but it could not be printed; `magnetite endpoint rotate-secret {0} --revoke-now` creates another, and revokes the one that the receiver has",
            rotated.id
        ),
    )?;
    output::note(if until_ms.is_some() {
        "Save the secret now: it is not shown again. Give it to the receiver before the old one expires."
    } else {
        "Save the secret now: it is not shown again. Give it to the receiver at once: until then, requests fail and are retried."
    });
    acting::note(&behind);
    Ok(())
}

fn explained(error: store::Error) -> anyhow::Error {
    match error {
        store::Error::RotationOpen { id, until_ms } => anyhow!(
            "endpoint {id} already has two valid secrets, the old one until {}: wait until then, or use --revoke-now, after which only \
             the new one is valid",
            time::second(until_ms.try_into().unwrap_or_default())
        ),
        error => hint(error),
    }
}
