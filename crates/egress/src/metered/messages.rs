//! Counters of messages in a stream of bytes. They parse only as much as is needed to find the next message.

/// A counter of the interim responses before a response over HTTP/1.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// The number of interim responses that have ended since the last request.
    count: u32,
    at: Http1,
}

/// The position of the last byte in a response.
#[derive(Clone, Copy, Debug)]
enum Http1 {
    /// In the status line, after this many bytes.
    Status(usize),
    /// In the headers of an interim response.
    Headers { line_is_empty: bool },
    /// In the final response, or in bytes that are not HTTP.
    Answer,
}

/// The part of the status line before the first digit of the status, which identifies interim responses.
const VERSION: &[u8] = b"HTTP/1.x ";

impl Default for Http1 {
    fn default() -> Self {
        Self::Status(0)
    }
}

impl Interim {
    /// Records that a request was written, so that bytes received after a response belong to the next
    /// response.
    pub(super) fn sent(&mut self) {
        if matches!(self.at, Http1::Answer) {
            *self = Self::default();
        }
    }

    /// Returns the number of interim responses before the response, including those in `bytes`.
    pub(super) fn received(&mut self, bytes: &[u8]) -> u32 {
        for byte in bytes {
            if matches!(self.at, Http1::Answer) {
                break;
            }
            self.at = self.after(*byte);
        }
        self.count
    }

    fn after(&mut self, byte: u8) -> Http1 {
        match (self.at, byte) {
            // The client also skips empty lines before a status line.
            (Http1::Status(0), b'\r' | b'\n') => Http1::Status(0),
            (Http1::Status(length), byte) if length == VERSION.len() => {
                if byte == b'1' {
                    Http1::Headers { line_is_empty: false }
                } else {
                    Http1::Answer
                }
            }
            (Http1::Status(length), _) => Http1::Status(length + 1),
            (Http1::Headers { line_is_empty: true }, b'\n') => {
                self.count = self.count.saturating_add(1);
                Http1::Status(0)
            }
            (Http1::Headers { line_is_empty }, byte) => Http1::Headers {
                line_is_empty: byte == b'\n' || (line_is_empty && byte == b'\r'),
            },
            (Http1::Answer, _) => Http1::Answer,
        }
    }
}

/// A counter of the frames of an HTTP/2 connection (RFC 9113 section 4.1).
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The first bytes of a frame's header, which contain the length of its payload.
    length: u32,
    /// The number of bytes of the current frame's header that were received.
    header_bytes: usize,
    /// The number of bytes of the current frame's payload that were not received yet.
    payload_bytes: usize,
}

/// The size of a frame's header, and of the length in it.
const HEADER_BYTES: usize = 9;
const LENGTH_BYTES: usize = 3;

impl Frames {
    /// Returns the number of frames that begin in `bytes`.
    pub(super) fn begun_in(&mut self, mut bytes: &[u8]) -> u32 {
        let mut begun = 0;
        while let Some((byte, rest)) = bytes.split_first() {
            if self.payload_bytes > 0 {
                let skipped = self.payload_bytes.min(bytes.len());
                self.payload_bytes -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.header_bytes < LENGTH_BYTES {
                self.length = (self.length << 8) | u32::from(*byte);
            }
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes == HEADER_BYTES {
                begun += 1;
                *self = Self {
                    payload_bytes: self.length as usize,
                    ..Self::default()
                };
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX: 1\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\n";

    /// Passes the bytes in pieces of this length and returns the last count.
    fn in_pieces(interim: &mut Interim, bytes: &[u8], length: usize) -> u32 {
        let mut count = 0;
        for piece in bytes.chunks(length) {
            count = interim.received(piece);
        }
        count
    }

    #[test]
    fn interim_responses_are_counted_up_to_the_answer_and_no_further() {
        let body = [CONTINUE, HINTS].concat();
        let bytes = [CONTINUE, HINTS, b"\r\n", CONTINUE, OK, &body].concat();
        for length in 1..bytes.len() {
            let mut interim = Interim::default();
            assert_eq!(in_pieces(&mut interim, &bytes, length), 3, "pieces of {length}");
        }
    }

    #[test]
    fn every_request_begins_a_new_count() {
        let mut interim = Interim::default();
        interim.sent();
        assert_eq!(interim.received(&[CONTINUE, CONTINUE].concat()), 2);
        // The rest of the same request.
        interim.sent();
        assert_eq!(interim.received(&[CONTINUE, OK].concat()), 3);
        interim.sent();
        assert_eq!(interim.received(CONTINUE), 1);
    }

    #[test]
    fn lines_may_end_without_a_carriage_return() {
        let mut interim = Interim::default();
        assert_eq!(
            interim.received(b"HTTP/1.1 100 Continue\n\nHTTP/1.1 103 \nA: b\n\n"),
            2
        );
    }

    #[test]
    fn what_is_no_http_counts_nothing() {
        assert_eq!(
            Interim::default().received(&b"220 mail.example.com\r\n\r\n".repeat(9)),
            0
        );
    }

    proptest! {
        #[test]
        fn frames_are_counted_however_they_are_cut(lengths in prop::collection::vec(0_usize..300, 0..50), cut in 1_usize..700) {
            let mut bytes = Vec::new();
            for length in &lengths {
                bytes.extend_from_slice(&u32::try_from(*length).unwrap().to_be_bytes()[1..]);
                bytes.extend_from_slice(&[6, 0, 0, 0, 0, 0]);
                bytes.resize(bytes.len() + length, 7);
            }
            let mut frames = Frames::default();
            let begun: u32 = bytes.chunks(cut).map(|piece| frames.begun_in(piece)).sum();
            prop_assert_eq!(begun as usize, lengths.len());
        }
    }
}
