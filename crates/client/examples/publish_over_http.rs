//! Publishes one event of the organization `org_123abc`.
//!
//! `MAGNETITE_API_URL=http://127.0.0.1:8420 MAGNETITE_API_KEY=mgk_... cargo run -p magnetite-client --example publish_over_http`,
//! with a key of that organization that has the scope `events:write`.
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program of its own, for a terminal"
)]

use std::{env, time::UNIX_EPOCH};

use anyhow::Context as _;
use client::{About, ApiKey, Client, Event, EventType, LeadId, Object, OrganizationId, ProjectId};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("MAGNETITE_API_URL").context("MAGNETITE_API_URL")?;
    let key = env::var("MAGNETITE_API_KEY").context("MAGNETITE_API_KEY")?;
    let client = Client::builder(url, ApiKey::parse(&key)?).build()?;

    let about = About {
        organization_id: OrganizationId::new("org_123abc"),
        project_id: ProjectId::new("proj_456def"),
        lead_id: LeadId::new("lead_789ghi"),
        timestamp_ms: UNIX_EPOCH.elapsed()?.as_millis().try_into()?,
    };
    let event = Event::new(EventType::ResearchStarted, &about, &Object::new());

    // If this fails without an answer, publish the same event again: its id stays the same.
    let published = client.publish_event(&event).await?;
    println!("{} is stored by the broker", published.id);
    Ok(())
}
