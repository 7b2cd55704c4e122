//! Reading of lines from any input, in bounded memory.

use std::{
    io::{self, IsTerminal as _},
    path::Path,
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use webhook::EVENT_BYTES_MAX;

use crate::output;

/// The maximum length of a line that is kept, in bytes. It is a little more than the maximum size of an
/// event, so that the size of an event that is slightly too large can be reported.
pub(super) const LINE_BYTES_MAX: usize = EVENT_BYTES_MAX + 1024;

/// Returns the error for a line that is too long.
pub(super) fn too_long() -> String {
    format!("the line has more than {LINE_BYTES_MAX} bytes")
}

/// The maximum number of lines in a batch.
pub(super) const BATCH_LINES: usize = 256;
/// The maximum size of a batch, in bytes. Batches of large lines have fewer lines.
pub(super) const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

const BUFFER_BYTES: usize = 1024 * 1024;

/// A line that is not empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// The number of the line, from 1. Empty lines are counted.
    pub(super) number: u64,
    pub(super) content: Content,
    /// The length including the line ending, for progress.
    bytes: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The line without its line ending.
    Whole(Bytes),
    /// A line longer than [`LINE_BYTES_MAX`]; it was read and dropped.
    TooLong,
}

pub(super) struct Lines<R> {
    input: BufReader<R>,
    number: u64,
}

/// A file, or standard input.
pub(super) struct Input {
    pub(super) lines: Lines<Box<dyn AsyncRead + Send + Unpin>>,
    /// The size in bytes of a regular file; `None` for other inputs.
    pub(super) bytes: Option<u64>,
}

impl Input {
    /// Opens a file, or standard input for `-` or `None`.
    pub(super) async fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            if io::stdin().is_terminal() {
                output::note("reading standard input, one event per line; press Ctrl-D to end");
            }
            return Ok(Self {
                lines: Lines::new(Box::new(tokio::io::stdin())),
                bytes: None,
            });
        };
        let named = || format!("cannot read {}", path.display());
        let file = tokio::fs::File::open(path).await.with_context(named)?;
        let metadata = file.metadata().await.with_context(named)?;
        Ok(Self {
            lines: Lines::new(Box::new(file)),
            bytes: metadata.is_file().then_some(metadata.len()),
        })
    }
}

impl Line {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER_BYTES, input),
            number: 0,
        }
    }

    /// Returns the next lines: as many as are available without waiting for input, but at least one, at most
    /// `lines_max` lines and about `bytes_max` bytes. Returns an empty batch at the end of the input.
    pub(super) async fn batch(&mut self, lines_max: usize, bytes_max: usize) -> io::Result<Vec<Line>> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while batch.len() < lines_max && bytes < bytes_max as u64 {
            let Some(line) = self.next().await? else { break };
            bytes += line.bytes;
            batch.push(line);
            // Does not wait for more: if a user types the lines, or a program writes one now and then, each
            // must be published without delay.
            if !self.input.buffer().contains(&b'\n') {
                break;
            }
        }
        Ok(batch)
    }

    async fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            let mut kept = Vec::new();
            let mut bytes = 0_u64;
            loop {
                let available = self.input.fill_buf().await?;
                if available.is_empty() {
                    break;
                }
                let end = available.iter().position(|byte| *byte == b'\n');
                let taken = end.map_or(available.len(), |end| end + 1);
                if kept.len() <= LINE_BYTES_MAX {
                    let room = LINE_BYTES_MAX + 1 - kept.len();
                    kept.extend_from_slice(&available[..end.unwrap_or(taken).min(room)]);
                }
                bytes += taken as u64;
                self.input.consume(taken);
                if end.is_some() {
                    break;
                }
            }
            if bytes == 0 {
                return Ok(None);
            }
            self.number += 1;
            if kept.len() > LINE_BYTES_MAX {
                return Ok(Some(Line {
                    number: self.number,
                    content: Content::TooLong,
                    bytes,
                }));
            }
            if kept.last() == Some(&b'\r') {
                kept.pop();
            }
            if !kept.trim_ascii().is_empty() {
                let content = Content::Whole(kept.into());
                return Ok(Some(Line {
                    number: self.number,
                    content,
                    bytes,
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn all(input: &[u8]) -> Vec<(u64, Content)> {
        let mut lines = Lines::new(input);
        let mut all = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            all.push((line.number, line.content));
        }
        all
    }

    fn whole(text: &'static [u8]) -> Content {
        Content::Whole(Bytes::from_static(text))
    }

    #[tokio::test]
    async fn line_ends_are_not_part_of_a_line_and_empty_lines_only_count() {
        let lines = all(b"{\"a\": 1}\n\n \t\r\n{ }\r\nlast").await;
        assert_eq!(
            lines,
            [(1, whole(b"{\"a\": 1}")), (4, whole(b"{ }")), (5, whole(b"last"))]
        );
        assert_eq!(all(b"").await, []);
        assert_eq!(all(b"\n\n").await, []);
    }

    #[tokio::test]
    async fn spaces_around_an_event_are_kept() {
        assert_eq!(all(b"  {}  \n").await, [(1, whole(b"  {}  "))]);
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_dropped_and_the_next_is_read() {
        let mut input = vec![b'x'; 3 * BUFFER_BYTES];
        input.extend_from_slice(b"\nnext\n");
        input.extend_from_slice(&vec![b'y'; LINE_BYTES_MAX]);
        let lines = all(&input).await;
        assert_eq!(lines[0], (1, Content::TooLong));
        assert_eq!(lines[1], (2, whole(b"next")));
        assert_eq!(lines[2], (3, Content::Whole(vec![b'y'; LINE_BYTES_MAX].into())));
    }

    #[tokio::test]
    async fn a_batch_has_its_bounds() {
        let input = b"1\n2\n3\n4\n5\n".repeat(2);
        let mut lines = Lines::new(&input[..]);
        let sizes = async |lines: &mut Lines<_>| lines.batch(4, 100).await.unwrap().len();
        assert_eq!(sizes(&mut lines).await, 4);
        assert_eq!(sizes(&mut lines).await, 4);
        assert_eq!(sizes(&mut lines).await, 2);
        assert_eq!(sizes(&mut lines).await, 0);

        let mut lines = Lines::new(&input[..]);
        assert_eq!(lines.batch(100, 5).await.unwrap().len(), 3, "2 bytes each");
    }

    #[tokio::test]
    async fn a_batch_does_not_wait_for_more_input() {
        let (mut writer, reader) = tokio::io::duplex(64);
        let mut lines = Lines::new(reader);
        writer.write_all(b"one\ntwo\nthr").await.unwrap();
        let batch = lines.batch(100, 100).await.unwrap();
        assert_eq!(batch.iter().map(|line| line.number).collect::<Vec<_>>(), [1, 2]);
        writer.write_all(b"ee\n").await.unwrap();
        let batch = lines.batch(100, 100).await.unwrap();
        assert_eq!(batch[0].content, whole(b"three"));
    }
}
