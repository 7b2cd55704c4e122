//! Sends again what an endpoint has missed in the last day, 100 deliveries at a time.
//!
//! `MAGNETITE_API_URL=http://127.0.0.1:8420 MAGNETITE_API_KEY=mgk_... cargo run -p magnetite-client --example recover -- ep_...`,
//! with a key that has the scope `deliveries:write`.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, for a terminal"
)]

use std::{
    env,
    time::{Duration, UNIX_EPOCH},
};

use anyhow::Context as _;
use client::{ApiKey, Client, RecoverEndpoint};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("MAGNETITE_API_URL").context("MAGNETITE_API_URL")?;
    let key = env::var("MAGNETITE_API_KEY").context("MAGNETITE_API_KEY")?;
    let endpoint = env::args().nth(1).context("name the endpoint")?;
    let client = Client::builder(url, ApiKey::parse(&key)?).build()?;

    let since = UNIX_EPOCH.elapsed()?.saturating_sub(Duration::from_hours(24));
    let mut what = RecoverEndpoint {
        since_ms: since.as_millis().try_into()?,
        ..RecoverEndpoint::default()
    };
    loop {
        let recovered = client.recover_endpoint(&endpoint, &what).await?;
        println!("{} deliveries sent again", recovered.sent);
        for id in &recovered.event_missing {
            println!("{id} cannot be sent, because its event is no longer stored: publish the event again");
        }
        // If nothing was sent although there is more, an immediate repeat would not send it either.
        if recovered.sent == 0 || !recovered.more {
            return Ok(());
        }
        // A delivery that is given up again in the meantime is before the cursor, and is not sent once more.
        what.cursor = recovered.next_cursor;
    }
}
