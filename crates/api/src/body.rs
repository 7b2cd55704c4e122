//! Request bodies. A body is read after the caller is known and before the request takes a slot, and its
//! bytes are counted for as long as they are in memory.
//!
//! A request whose body arrives slowly occupies one of the places for arriving bodies and the bytes that have
//! arrived, but no slot. One organization and one key may hold only a share of either (see
//! [`Shares`](crate::shares::Shares)). The time is bounded as well: [`BODY_TIMEOUT`] for the whole body, and
//! [`PACE`] for each [`PACE_BYTES`].

use std::time::Duration;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    caller::Caller,
    config::BODY_TIMEOUT,
    context::Context,
    problem::{Kind, Problem},
    shares::Share,
};

/// The time within which [`PACE_BYTES`] have to arrive, unless the body ends.
const PACE: Duration = Duration::from_secs(4);
/// The number of bytes that have to arrive in each [`PACE`]. This is 4 KiB per second, which slow connections
/// achieve, while a client that stalls soon loses its place.
const PACE_BYTES: usize = 16 * 1024;
/// The minimum growth of a buffer, so that a body of many small chunks is not copied for each of them.
const GROWTH_BYTES: usize = 4 * 1024;

/// Reads the body, takes a slot, and passes the request on. For an operation that needs no key, it reads no
/// body and takes no slot, because such a request is answered from memory.
pub(crate) async fn receive(State(context): State<Context>, request: Request, next: Next) -> Response {
    let Some(caller) = request.extensions().get::<Caller>().cloned() else {
        return next.run(request.map(|_| Body::empty())).await;
    };
    let (parts, body) = request.into_parts();
    let body = match read(&context, &caller, body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let Some(_slot) = context.slots.take(&caller, 1) else {
        return overloaded("Send the request again, and send fewer requests at once.").into_response();
    };
    next.run(Request::from_parts(parts, body)).await
}

async fn read(context: &Context, caller: &Caller, body: Body) -> Result<Body, Problem> {
    if body.is_end_stream() {
        return Ok(Body::empty());
    }
    let bytes_max = context.config.body_bytes_max;
    let announced = body.size_hint();
    if announced.lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let capacity_max = announced.exact().map_or(bytes_max, |bytes| bytes as usize);
    let full = || {
        overloaded(
            "Too many request bodies are arriving. Send the request again, and send fewer requests at once.",
        )
    };
    let _place = context.arriving.take(caller, 1).ok_or_else(full)?;
    let mut kept = Kept {
        bytes: Vec::new(),
        share: context.body_bytes.take(caller, 0).ok_or_else(full)?,
    };
    let mut arriving = Arriving::new(body);
    while let Some(chunk) = arriving.next().await? {
        if kept.bytes.len() + chunk.len() > bytes_max {
            return Err(too_large());
        }
        if !kept.add(&chunk, capacity_max) {
            return Err(full());
        }
    }
    Ok(Body::from(Bytes::from_owner(kept)))
}

/// The bytes of a body that have arrived, with their share of the bytes of all bodies. An event that waits
/// for the broker is a slice of its request's body and may outlive the request. The share is given back when
/// the last slice is dropped.
struct Kept {
    bytes: Vec<u8>,
    share: Share,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Kept {
    /// Copies a chunk, because it may be a small part of a large buffer. Returns whether the caller's share
    /// had room for it.
    fn add(&mut self, chunk: &[u8], capacity_max: usize) -> bool {
        let needed = self.bytes.len() + chunk.len();
        if needed > self.bytes.capacity() {
            let doubled = (2 * self.bytes.capacity()).max(GROWTH_BYTES);
            let capacity = doubled.min(capacity_max).max(needed);
            if !self.share.grow(capacity - self.bytes.capacity()) {
                return false;
            }
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        true
    }
}

/// A body that is arriving, with its deadlines.
struct Arriving {
    body: Body,
    deadline: Instant,
    pace_until: Instant,
    pace_bytes: usize,
}

impl Arriving {
    fn new(body: Body) -> Self {
        let now = Instant::now();
        Self {
            body,
            deadline: now + BODY_TIMEOUT,
            pace_until: now + PACE,
            pace_bytes: 0,
        }
    }

    /// Returns the next chunk; `None` at the end of the body.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let Ok(frame) = timeout_at(self.pace_until.min(self.deadline), self.body.frame()).await else {
                self.keep_pace()?;
                continue;
            };
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame
                .map_err(|_| Problem::new(Kind::MalformedRequest, "The body ended early. Send all of it."))?;
            if let Ok(chunk) = frame.into_data() {
                self.pace_bytes += chunk.len();
                return Ok(Some(chunk));
            }
        }
    }

    fn keep_pace(&mut self) -> Result<(), Problem> {
        let now = Instant::now();
        if now >= self.deadline || self.pace_bytes < PACE_BYTES {
            return Err(Problem::new(
                Kind::BodyTimeout,
                format!(
                    "Send the whole body within {} s, and at least {} KiB each second.",
                    BODY_TIMEOUT.as_secs(),
                    PACE_BYTES / 1024 / PACE.as_secs() as usize
                ),
            ));
        }
        (self.pace_until, self.pace_bytes) = (now + PACE, 0);
        Ok(())
    }
}

fn too_large() -> Problem {
    Problem::new(
        Kind::TooLarge,
        "Send a smaller body, or fewer events per request. docs/api.md lists the limits.",
    )
}

fn overloaded(detail: &str) -> Problem {
    Problem::new(Kind::Overloaded, detail).retry_after(1)
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use proptest::prelude::*;
    use tokio::time::sleep;

    use super::*;
    use crate::shares::Shares;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns a body of chunks, one per second, which ends after the last chunk or stalls.
    fn body(chunks: usize, chunk_bytes: usize, ends: bool) -> Body {
        let chunks = stream::iter(0..chunks).then(move |_| async move {
            sleep(SECOND).await;
            Ok::<_, std::io::Error>(Bytes::from(vec![b' '; chunk_bytes]))
        });
        if ends {
            Body::from_stream(chunks)
        } else {
            Body::from_stream(chunks.chain(stream::pending()))
        }
    }

    /// Returns how many bytes arrived, the error that ended the body, and the duration in seconds.
    async fn arrive(body: Body) -> (usize, Option<Kind>, u64) {
        let (began, mut arriving, mut bytes) = (Instant::now(), Arriving::new(body), 0);
        let end = loop {
            match arriving.next().await {
                Ok(Some(chunk)) => bytes += chunk.len(),
                Ok(None) => break None,
                Err(problem) => break Some(problem.kind()),
            }
        };
        (bytes, end, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_has_four_seconds_for_each_16_kib_and_ten_in_all() {
        let timeout = Some(Kind::BodyTimeout);
        assert_eq!(arrive(body(1, 1, false)).await, (1, timeout, 4), "it stalls");
        assert_eq!(arrive(body(1000, 1, true)).await, (4, timeout, 4), "it dribbles");
        assert_eq!(arrive(body(5, 8192, true)).await, (5 * 8192, None, 5));
        let (_, end, after_s) = arrive(body(1000, 8192, true)).await;
        assert_eq!((end, after_s), (timeout, 10), "it never ends");
    }

    fn kept(shares: &Shares) -> Kept {
        let caller = Caller::with("key_1", Some("org_1"));
        Kept {
            bytes: Vec::new(),
            share: shares.take(&caller, 0).unwrap(),
        }
    }

    #[test]
    fn bytes_are_counted_until_the_last_part_of_the_body_is_gone() {
        let shares = Shares::new(1024 * 1024);
        let mut kept = kept(&shares);
        assert!(kept.add(&[b'a'; 10_000], 10_000));
        let body = Bytes::from_owner(kept);
        let part = body.slice(..10);
        drop(body);
        assert_eq!(shares.free(), 1024 * 1024 - 10_000);
        drop(part);
        assert_eq!(shares.free(), 1024 * 1024);
    }

    #[test]
    fn a_body_that_exceeds_its_share_is_refused() {
        let shares = Shares::new(64 * 1024);
        let mut kept = kept(&shares);
        let added = (0..64)
            .take_while(|_| kept.add(&[b'a'; 1024], 1024 * 1024))
            .count();
        assert_eq!(added, 16, "a quarter");
        drop(kept);
        assert_eq!(shares.free(), 64 * 1024);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_came_and_all_of_its_memory_is_counted(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..3000), 0..50),
            announced in any::<bool>(),
        ) {
            let shares = Shares::new(16 * 1024 * 1024);
            let (mut kept, all) = (kept(&shares), chunks.concat());
            let capacity_max = if announced { all.len() } else { 1024 * 1024 };
            for chunk in &chunks {
                prop_assert!(kept.add(chunk, capacity_max));
                prop_assert_eq!(kept.bytes.capacity(), 16 * 1024 * 1024 - shares.free());
            }
            prop_assert_eq!(&kept.bytes, &all);
            prop_assert!(kept.bytes.capacity() <= (2 * all.len()).max(GROWTH_BYTES));
        }
    }
}
