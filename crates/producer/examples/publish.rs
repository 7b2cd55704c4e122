//! Publishes the events of one lead's life, as the lead pipeline does.
//!
//! `MAGNETITE_BROKER__URL=amqp://... cargo run -p magnetite-producer --example publish`, once a worker has
//! run or `magnetite topology declare` was called: an event that no queue takes is an error.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program for a terminal, which reads the system clock"
)]

use std::{
    env,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use producer::{Config, Data, Event, Lead, Object, Producer, Timestamps};
use serde_json::json;

/// One for the process: two events of one lead must never share a millisecond.
static TIMESTAMPS: Timestamps = Timestamps::new();

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("MAGNETITE_BROKER__URL")
        .unwrap_or_else(|_| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let prefix = env::var("MAGNETITE_BROKER__PREFIX").unwrap_or_else(|_| "magnetite".to_owned());
    let producer = Producer::connect(Config::new(&url, prefix).context("MAGNETITE_BROKER__URL")?);
    producer.ready(Duration::from_secs(10)).await?;

    let lead = Lead::new("org_123abc", "proj_456def", "lead_789ghi");
    let happened = |data| Event::new(lead.clone(), TIMESTAMPS.next(&lead.id, SystemTime::now()), data);

    let created = happened(Data::LeadCreated {
        input_data: object(
            json!({"fullName": "John Smith", "company": "Acme Corp", "email": "john@acme.com"}),
        ),
    });
    publish(&producer, &created).await?;

    // Many at once: far faster than one after the other.
    let research = object(json!({"company_info": "...", "industry_insights": "..."}));
    let content = object(json!({"contentLength": 4521}));
    let rest = [
        happened(Data::ResearchStarted),
        happened(Data::ResearchCompleted {
            research_results: research.clone(),
        }),
        happened(Data::MagnetGenerated {
            generated_content: content.clone(),
        }),
        happened(Data::LeadCompleted {
            research_results: research,
            generated_content: content,
        }),
    ];
    for (event, result) in rest.iter().zip(producer.publish_batch(&rest).await) {
        match result {
            Ok(id) => println!("{id} {}", event.data.event_type()),
            Err(error) if error.is_transient() => publish(&producer, event).await?,
            Err(error) => return Err(error.into()),
        }
    }

    producer.shutdown().await;
    Ok(())
}

/// Publishes until it is confirmed, for a minute at most. A repetition has the event's id: receivers see one
/// event.
async fn publish(producer: &Producer, event: &Event) -> anyhow::Result<()> {
    let give_up = tokio::time::Instant::now() + Duration::from_mins(1);
    loop {
        match producer.publish(event).await {
            Ok(id) => {
                println!("{id} {}", event.data.event_type());
                return Ok(());
            }
            Err(error) if error.is_transient() && tokio::time::Instant::now() < give_up => {
                eprintln!("{error}; trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn object(value: serde_json::Value) -> Object {
    match value {
        serde_json::Value::Object(object) => object,
        _ => Object::new(),
    }
}
