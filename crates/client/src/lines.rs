//! Answers that are streams of lines, each a JSON object.

use std::{collections::VecDeque, marker::PhantomData, mem, time::Duration};

use reqwest::Response;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::error::{Call, Error};

/// The maximum time without a line, which may be empty. The API sends one at least every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// The maximum size of a line, in bytes. The longest ones name thousands of endpoints.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The lines of an answer, which are read as they arrive.
pub(crate) struct Lines<T> {
    response: Response,
    call: Call,
    /// The scheme, host and port of the API.
    server: String,
    /// The lines that have arrived.
    ready: VecDeque<Vec<u8>>,
    /// The beginning of the next line.
    rest: Vec<u8>,
    item: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// Begins to read the body of an answer with a status of success.
    pub(crate) fn new(response: Response, call: Call, server: String) -> Self {
        Self {
            response,
            call,
            server,
            ready: VecDeque::new(),
            rest: Vec::new(),
            item: PhantomData,
        }
    }

    /// Returns the next line that is not empty; `None` at the end of the body.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                let item = serde_json::from_slice(&line);
                return item
                    .map(Some)
                    .map_err(|error| self.unreadable(format!("a line is not understood: {error}")));
            }
            let Some(part) = self.part().await? else {
                return Ok(None);
            };
            self.split(&part);
            if self.rest.len() > LINE_BYTES_MAX {
                return Err(self.unreadable(format!("a line has more than {LINE_BYTES_MAX} bytes")));
            }
        }
    }

    async fn part(&mut self) -> Result<Option<bytes::Bytes>, Error> {
        let (call, server) = (self.call, self.server.as_str());
        match timeout(SILENCE_MAX, self.response.chunk()).await {
            Ok(part) => part.map_err(|error| Error::lost(error, call, server, SILENCE_MAX)),
            Err(_) => Err(Error::Timeout {
                call: call.unsure(),
                server: server.to_owned(),
                after: SILENCE_MAX,
            }),
        }
    }

    /// Adds the lines that end in this part of the body, and keeps the beginning of the next one.
    fn split(&mut self, part: &[u8]) {
        let mut pieces = part.split(|byte| *byte == b'\n');
        let last = pieces.next_back().unwrap_or_default();
        for piece in pieces {
            self.rest.extend_from_slice(piece);
            let line = mem::take(&mut self.rest);
            if !line.is_empty() {
                self.ready.push_back(line);
            }
        }
        self.rest.extend_from_slice(last);
    }

    fn unreadable(&self, reason: String) -> Error {
        Error::Unreadable {
            call: self.call,
            status: self.response.status().as_u16(),
            reason,
        }
    }
}
