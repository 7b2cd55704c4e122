//! `--forward`: passes verified requests on to an application and returns the application's answer.

use anyhow::Context as _;
use bytes::Bytes;
use egress::{Egress, Target};
use hyper::{HeaderMap, StatusCode};
use signature::{SIGNATURE_HEADER, WEBHOOK_ID_HEADER, WEBHOOK_SIGNATURE_HEADER, WEBHOOK_TIMESTAMP_HEADER};
use webhook::{ATTEMPT_HEADER, AttemptResult, DELIVERY_HEADER, EVENT_HEADER, TIMESTAMP_HEADER};

use super::arguments::{self, Trust};

/// The headers of a webhook other than `Content-Type` and `User-Agent`, which are the same in all requests.
const HEADERS: [&str; 8] = [
    SIGNATURE_HEADER,
    EVENT_HEADER,
    TIMESTAMP_HEADER,
    DELIVERY_HEADER,
    ATTEMPT_HEADER,
    WEBHOOK_ID_HEADER,
    WEBHOOK_TIMESTAMP_HEADER,
    WEBHOOK_SIGNATURE_HEADER,
];

/// The connection to the application.
pub(super) struct Forward {
    egress: Egress,
    target: Target,
}

/// The result of a request that was passed on.
pub(super) struct Passed {
    pub(super) status: StatusCode,
    /// The header `Retry-After`; `None` if the application sent none.
    pub(super) retry_after: Option<String>,
    /// The body of the answer, at most 16 KiB.
    pub(super) body: Bytes,
    /// Why the application gave no answer; `None` if it did.
    pub(super) error: Option<String>,
}

impl Forward {
    /// Creates a forwarder to `url`.
    ///
    /// # Errors
    /// Returns an error if the URL is invalid or the file of certificate authorities cannot be used.
    pub(super) fn to(url: &str, trust: &Trust) -> anyhow::Result<Self> {
        let egress = arguments::unrestricted_egress(trust)?;
        egress
            .policy()
            .check_url(url)
            .context("--forward: the URL cannot be used")?;
        Ok(Self {
            target: egress.target(url),
            egress,
        })
    }

    /// Posts the same bytes with the same headers to the application.
    pub(super) async fn pass(&self, headers: &HeaderMap, body: Bytes) -> Passed {
        let copied = HEADERS.into_iter().filter_map(|name| {
            let value = headers.get(name)?.to_str().ok()?;
            Some((name, value.to_owned()))
        });
        match self.egress.post(&self.target, copied.collect(), body).await {
            Ok(AttemptResult::Answered(answer)) => Passed {
                status: StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY),
                retry_after: answer.retry_after,
                body: answer.body,
                error: None,
            },
            Ok(failed @ AttemptResult::Failed(_)) => Passed::failed(&failed.to_string()),
            Err(fault) => Passed::failed(&format!("{:#}", anyhow::Error::from(fault))),
        }
    }
}

impl Passed {
    fn failed(error: &str) -> Self {
        Self {
            status: StatusCode::BAD_GATEWAY,
            retry_after: None,
            body: Bytes::new(),
            error: Some(format!("the application gave no answer: {error}")),
        }
    }
}
