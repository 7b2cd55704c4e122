//! `delivery resend`.

use anyhow::bail;
use serde_json::json;
use store::Store;
use webhook::DeliveryId;

use crate::{
    clock,
    command::{
        given,
        resend::{Sender, Which},
    },
    configuration::Configuration,
    output,
};

pub(super) async fn run(
    ids: Vec<String>,
    store: &Store,
    configuration: &Configuration,
    as_json: bool,
) -> anyhow::Result<()> {
    let ids: Vec<DeliveryId> = ids.into_iter().map(DeliveryId::new).collect();
    // Without a broker nothing is requested either.
    let mut sender = Sender::start(store, configuration, given::DEFAULT_RATE).await?;
    let (mut runs, mut refused) = (Vec::new(), 0);
    for requested in store.request_resends(&ids, clock::now_ms()).await? {
        match requested.run {
            Ok(run) => runs.push((requested.asked, run)),
            Err(refusal) => {
                output::note(&format!("{}: {refusal}", requested.asked));
                refused += 1;
            }
        }
    }
    let wanted: Vec<DeliveryId> = runs.iter().map(|(_, run)| run.clone()).collect();
    sender.expect(wanted.len() as u64);
    if !wanted.is_empty() {
        sender.send(Which::These(&wanted)).await?;
    }
    let (sent, is_stopped) = (sender.sent(), sender.is_stopped());
    sender.finish().await?;
    if is_stopped && sent < wanted.len() as u64 {
        bail!(
            "interrupted: {sent} of {} were sent; run the same command again to go on",
            wanted.len()
        );
    }
    output::lines(runs.iter().map(|(asked, run)| {
        if as_json {
            output::json(&json!({ "id": run, "resend_of": asked }))
        } else {
            run.to_string()
        }
    }))?;
    if refused > 0 {
        bail!("deliveries refused: {refused}, see above; sent: {sent}");
    }
    Ok(())
}
