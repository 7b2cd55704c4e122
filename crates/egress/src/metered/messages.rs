//! Messages counted in a stream of bytes, without reading more of them than where they begin.

/// The interim responses before an answer over HTTP/1.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// How many have ended since the last request.
    count: u32,
    at: Http1,
}

/// Where in a response the last byte was.
#[derive(Clone, Copy, Debug)]
enum Http1 {
    /// In the status line: so many bytes of it.
    Status(usize),
    /// In the headers of an interim response.
    Headers { line_is_empty: bool },
    /// In the answer itself, or in what is no HTTP.
    Answer,
}

/// The status line up to the status' first digit, which tells interim responses apart.
const VERSION: &[u8] = b"HTTP/1.x ";

impl Default for Http1 {
    fn default() -> Self {
        Self::Status(0)
    }
}

impl Interim {
    /// A request was written: what is received after an answer is the next one's.
    pub(super) fn sent(&mut self) {
        if matches!(self.at, Http1::Answer) {
            *self = Self::default();
        }
    }

    /// How many interim responses precede the answer, these bytes included.
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
            // Empty lines before a status line are skipped by the client as well.
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

/// The frames of an HTTP/2 connection (RFC 9113 section 4.1).
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The first bytes of a frame's header, which give the length of its payload.
    length: u32,
    /// How many bytes of the current frame's header have come.
    header_bytes: usize,
    /// How many bytes of its payload have not come yet.
    payload_bytes: usize,
}

/// The length of a frame's header, and of the length in it.
const HEADER_BYTES: usize = 9;
const LENGTH_BYTES: usize = 3;

impl Frames {
    /// How many frames begin in these bytes.
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

    /// In pieces of this length.
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
