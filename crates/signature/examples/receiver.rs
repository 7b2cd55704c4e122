//! Receives Magnetite's webhooks:
//!
//! `WEBHOOK_SECRET=whsec_... PORT=3000 cargo run -p magnetite-signature --example receiver`
#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a program for a terminal, which reads the system clock"
)]

use std::{
    collections::{HashSet, VecDeque},
    env,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use signature::{Secret, TOLERANCE_S, Verifier};
use tokio::{net::TcpListener, sync::mpsc};

const BODY_BYTES_MAX: usize = 256 * 1024; // no event is larger
const REMEMBERED_MAX: usize = 10_000;

struct Receiver {
    verifier: Verifier,
    is_simple: bool,
    queue: mpsc::Sender<(String, Value)>,
    remembered: Mutex<(HashSet<String>, VecDeque<String>)>, // and in order of arrival
}

impl Receiver {
    fn is_genuine(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let header = |name| text(headers, name);
        if self.is_simple {
            // The simple alternative: the body alone is signed.
            return self
                .verifier
                .verify(body, header("x-magnetite-signature"))
                .is_ok();
        }
        // Standard Webhooks: id, time and body are signed, and what is older than five minutes is refused.
        let [id, at, signatures] = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(header);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now_s = now.as_secs() as i64;
        self.verifier
            .verify_standard(id, at, signatures, body, now_s, TOLERANCE_S)
            .is_ok()
    }

    /// Remember, then answer. In production insert id and body into a table with a unique key on the id,
    /// commit, answer, and let a job work on the table: this memory ends with the process.
    fn take(&self, id: String, event: Value) -> StatusCode {
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let (ids, order) = &mut *remembered;
        if ids.contains(&id) {
            return StatusCode::OK;
        }
        if self.queue.try_send((id.clone(), event)).is_err() {
            return StatusCode::SERVICE_UNAVAILABLE; // it comes again
        }
        ids.insert(id.clone());
        order.push_back(id);
        if order.len() > REMEMBERED_MAX
            && let Some(oldest) = order.pop_front()
        {
            ids.remove(&oldest);
        }
        StatusCode::OK
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default()
}

/// `Bytes` is the body as it came; axum answers 413 to what is longer than the limit.
async fn receive(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if !receiver.is_genuine(&headers, &body) {
        return StatusCode::UNAUTHORIZED;
    }
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (Some(lead), Some(at)) = (event["lead_id"].as_str(), event["timestamp"].as_u64()) else {
        return StatusCode::BAD_REQUEST;
    };
    // Only what is signed can tell duplicates apart.
    if receiver.is_simple {
        return receiver.take(format!("{lead}/{at}"), event);
    }
    receiver.take(text(&headers, "webhook-id").to_owned(), event)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // May hold the old and the new one, separated by a comma. With one alone nothing is lost either while it
    // is being changed.
    let secrets = env::var("WEBHOOK_SECRET")?.replace(',', " ");
    let secrets: Vec<Secret> = secrets
        .split_whitespace()
        .map(Secret::parse)
        .collect::<Result<_, _>>()?;
    let (queue, mut work) = mpsc::channel::<(String, Value)>(1_000);
    tokio::spawn(async move {
        while let Some((id, event)) = work.recv().await {
            println!("processed {id} {}", event["event"]); // what takes time goes here
        }
    });
    let receiver = Arc::new(Receiver {
        verifier: Verifier::new(&secrets),
        is_simple: env::var("WEBHOOK_SCHEME").is_ok_and(|scheme| scheme == "x-magnetite-signature"),
        queue,
        remembered: Mutex::default(),
    });
    let app = Router::new()
        .route("/webhook", post(receive))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(receiver);
    let listener = TcpListener::bind(("127.0.0.1", env::var("PORT")?.parse()?)).await?;
    axum::serve(listener, app).await?;
    Ok(())
}
