//! Registers an endpoint, and pings it.
//!
//! `MAGNETITE_API_URL=http://127.0.0.1:8420 MAGNETITE_API_KEY=mgk_... cargo run -p magnetite-client --example create_endpoint -- URL`,
//! with a key that has the scope `endpoints:write`.
#![allow(clippy::print_stdout, reason = "a program for a terminal")]

use std::env;

use anyhow::Context as _;
use client::{ApiKey, Client, CreateEndpoint};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("MAGNETITE_API_URL").context("MAGNETITE_API_URL")?;
    let key = env::var("MAGNETITE_API_KEY").context("MAGNETITE_API_KEY")?;
    let client = Client::builder(url, ApiKey::parse(&key)?).build()?;

    let new = CreateEndpoint {
        events: Some(vec!["lead.completed".to_owned(), "research.*".to_owned()]),
        ..CreateEndpoint::new(env::args().nth(1).context("name the URL of the endpoint")?)
    };
    let endpoint = client.create_endpoint(&new).await?;
    // The secret is not shown again: give it to the receiver.
    let secret = endpoint.secret.context("the response has no secret")?;
    println!("{} has the secret {}", endpoint.id, secret.0);

    let ping = client.ping_endpoint(&endpoint.id).await?;
    match (ping.ok, ping.status, ping.error) {
        (Some(true), ..) => println!("the endpoint answers"),
        (Some(false), _, Some(error)) => println!("the endpoint does not answer as it should: {error}"),
        (_, status, _) => println!("the result is not known yet, or the status is {status:?}"),
    }
    Ok(())
}
