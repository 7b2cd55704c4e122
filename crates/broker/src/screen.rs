//! Screens the frames that the broker sends before lapin parses them.
//!
//! RabbitMQ accepts and forwards property bytes that lapin's parser cannot read: short strings that are not
//! UTF-8, headers nested so deeply that the parser overflows its stack, headers that exceed the frame size
//! since `x-death` was added. On such a message, lapin closes the connection or the process crashes, and the
//! broker then redelivers the message again and again. [`Screened`] sits between the socket and lapin,
//! inspects each frame, and replaces a content header that lapin cannot read by one that it can read. The
//! replacement has every property that is valid and two headers, with a description of the error
//! ([`UNREADABLE`]) and with the original bytes ([`RAW`]). The consumer receives the message and quarantines
//! it.
//!
//! A body that is larger than any of our messages is truncated to [`BODY_MAX`], and a header contains its
//! original size ([`CUT`]): RabbitMQ accepts bodies of up to 128 MiB, and a thousand of those would fill any
//! memory. The consumer quarantines the message because of its size.
//!
//! In method frames, invalid bytes of a short string that is not UTF-8 (such as a routing key) are replaced
//! by `?`. All other frames pass unchanged. A stream that is not AMQP also passes, and lapin reports the
//! error.
//!
//! Invariants:
//! - Whatever [`header::check`] accepts, lapin's parser reads without an error and with bounded recursion.
//! - At most [`HELD_MAX`] bytes of one frame are buffered; body frames are never buffered.
//! - No message has a body of more than [`BODY_MAX`] bytes.

mod header;
mod reactor;

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_util::io::{AsyncRead, AsyncWrite};

use crate::tls;

pub(crate) use reactor::{ScreenedRuntime, Unscreened, runtime};

/// A header in a replaced content header: a description of what lapin cannot read.
pub(crate) const UNREADABLE: &str = "magnetite-unreadable";
/// A header in a replaced content header: the original property flags and properties, truncated to
/// [`RAW_MAX`] bytes.
pub(crate) const RAW: &str = "magnetite-unreadable-properties";

/// A header of a message whose body was truncated: the original size of the body, in bytes.
pub(crate) const CUT: &str = "magnetite-body-bytes";

/// The maximum size of a body, in bytes: twice the largest batch of the journal, eight times the largest
/// event.
const BODY_MAX: u64 = 2 * 1024 * 1024;
/// The maximum number of bytes of a content header that are inspected. RabbitMQ's frames have 128 KiB by
/// default, and slightly more with `x-death`.
const HELD_MAX: usize = 1024 * 1024;
/// The maximum number of bytes of unreadable properties that are kept.
pub(crate) const RAW_MAX: usize = 16 * 1024;
/// The number of bytes to read from the socket at once.
const READ_BYTES: usize = 64 * 1024;
/// The frame size that every peer must accept, in bytes (AMQP 0-9-1, `frame-min-size`).
const FRAME_MIN: usize = 4096;
/// The size of type, channel and payload size, which precede the payload.
const BEFORE_PAYLOAD: usize = 7;
/// The size of everything around the payload: the above, and the end mark after it.
const AROUND_PAYLOAD: usize = BEFORE_PAYLOAD + 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;
/// Class and method of `connection.tune`.
const TUNE: [u8; 4] = [0, 10, 0, 30];
/// The methods that the server sends and that may contain text from other clients: class and method, and the
/// fields up to the last short string.
const TEXTS: [([u8; 4], &[Field]); 6] = [
    ([0, 10, 0, 50], &[Field::Bytes(2), Field::Text]),
    ([0, 10, 0, 60], &[Field::Text]),
    ([0, 20, 0, 40], &[Field::Bytes(2), Field::Text]),
    (
        [0, 60, 0, 50],
        &[Field::Bytes(2), Field::Text, Field::Text, Field::Text],
    ),
    (
        [0, 60, 0, 60],
        &[Field::Text, Field::Bytes(9), Field::Text, Field::Text],
    ),
    ([0, 60, 0, 71], &[Field::Bytes(9), Field::Text, Field::Text]),
];

/// A field in the arguments of a method.
#[derive(Clone, Copy)]
enum Field {
    /// A field of this many bytes.
    Bytes(usize),
    /// A short string.
    Text,
}

/// A connection to the broker whose incoming frames are screened.
pub(crate) struct Screened<S> {
    inner: S,
    screen: Screen,
    /// Whether the connection uses TLS.
    is_secured: bool,
    /// Whether anything has been read.
    begun: bool,
}

/// The screening, independent of the socket.
struct Screen {
    /// The bytes read from the socket. Bytes before `start` were passed on, bytes from `start` to `checked`
    /// may be passed on, bytes from `checked` to `filled` are the beginning of a frame, and the rest is free.
    buffer: Vec<u8>,
    start: usize,
    checked: usize,
    filled: usize,
    /// How many of the next bytes pass without being inspected.
    passing: usize,
    /// How many bytes after those are dropped because the frame is truncated.
    dropping: usize,
    /// How many bytes after those pass.
    trailing: usize,
    /// The bodies that are being truncated, by channel.
    cuts: HashMap<[u8; 2], Cut>,
    /// The maximum frame size that lapin accepts, in bytes.
    frame_max: usize,
}

/// A body that is being truncated and that has not been received completely.
struct Cut {
    /// How many more bytes of the body pass.
    passes: u64,
    /// How many more bytes of the body will be received.
    comes: u64,
}

impl<S> Screened<S> {
    /// Screens the bytes received from `inner`. `frame_max` is the frame size that lapin requests when it
    /// connects; 0 leaves it to the broker.
    pub(crate) fn new(inner: S, frame_max: u32) -> Self {
        Self {
            inner,
            screen: Screen::new(frame_max),
            is_secured: false,
            begun: false,
        }
    }

    /// Sets whether the connection uses TLS, for the texts of its errors.
    pub(crate) fn secured(mut self, is_secured: bool) -> Self {
        self.is_secured = is_secured;
        self
    }

    /// Adds advice to the error if a missing or refused client certificate may be the cause.
    fn explained(&self, error: io::Error) -> io::Error {
        tls::refused(error, self.is_secured && !self.begun)
    }
}

/// Returns an error if a connection without TLS begins with a TLS alert, which means that the server expected
/// TLS.
fn refuse_tls(beginning: &[u8]) -> io::Result<()> {
    const ALERT: [u8; 2] = [0x15, 0x03];
    if beginning.starts_with(&ALERT) {
        let advice = "this port expects TLS: use amqps:// in broker.url";
        return Err(io::Error::new(io::ErrorKind::InvalidData, advice));
    }
    Ok(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while self.screen.is_empty() {
            let this = &mut *self;
            let room = this.screen.room();
            let read = match ready!(Pin::new(&mut this.inner).poll_read(context, room)) {
                Ok(0) => return Poll::Ready(Ok(0)),
                Ok(read) => read,
                Err(error) => return Poll::Ready(Err(this.explained(error))),
            };
            if !std::mem::replace(&mut this.begun, true) {
                refuse_tls(&room[..read])?;
            }
            this.screen.filled(read);
        }
        Poll::Ready(Ok(self.screen.take(target)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(context, bytes);
        written.map_err(|error| self.explained(error))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(context, bytes);
        written.map_err(|error| self.explained(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(context);
        flushed.map_err(|error| self.explained(error))
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

impl Screen {
    fn new(frame_max: u32) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            checked: 0,
            filled: 0,
            passing: 0,
            dropping: 0,
            trailing: 0,
            cuts: HashMap::new(),
            frame_max: limit(frame_max),
        }
    }

    /// Returns whether no bytes can be passed on.
    fn is_empty(&self) -> bool {
        self.start == self.checked
    }

    /// Returns the buffer to read into. Must be called only if no bytes can be passed on.
    fn room(&mut self) -> &mut [u8] {
        if self.checked > 0 {
            self.buffer.copy_within(self.checked..self.filled, 0);
            self.filled -= self.checked;
        }
        (self.start, self.checked) = (0, 0);
        self.buffer
            .resize(self.buffer.len().max(self.filled + READ_BYTES), 0);
        &mut self.buffer[self.filled..]
    }

    /// Records that `read` bytes were read into the buffer, and inspects them.
    fn filled(&mut self, read: usize) {
        self.filled += read;
        while self.step() {}
    }

    /// Copies bytes that may be passed on to `target`, and returns how many.
    fn take(&mut self, target: &mut [u8]) -> usize {
        let taken = target.len().min(self.checked - self.start);
        target[..taken].copy_from_slice(&self.buffer[self.start..self.start + taken]);
        self.start += taken;
        taken
    }

    /// Advances by one frame or a part of one. Returns `false` if more bytes must be read first.
    fn step(&mut self) -> bool {
        let rest = self.filled - self.checked;
        if self.passing > 0 {
            let passed = self.passing.min(rest);
            self.passing -= passed;
            self.checked += passed;
            return self.passing == 0;
        }
        if self.dropping > 0 {
            let dropped = self.dropping.min(rest);
            self.dropping -= dropped;
            self.replace(dropped, &[]);
            return self.dropping == 0;
        }
        if self.trailing > 0 {
            self.passing = std::mem::take(&mut self.trailing);
            return true;
        }
        let Some(before) = self.buffer[self.checked..self.filled].first_chunk::<BEFORE_PAYLOAD>() else {
            return false;
        };
        let [kind, channel @ .., a, b, c, d] = *before;
        let size = [a, b, c, d];
        let whole = u32::from_be_bytes(size) as usize + AROUND_PAYLOAD;
        match kind {
            METHOD | HEADER if whole <= HELD_MAX => {
                if rest < whole {
                    return false;
                }
                self.inspect(kind, whole);
            }
            HEADER => {
                if rest < HELD_MAX {
                    return false;
                }
                self.dropping = whole - HELD_MAX;
                self.replace_header(HELD_MAX, Some(header::TOO_LARGE));
            }
            BODY if self.cuts.contains_key(&channel) => self.cut(channel, whole),
            METHOD | BODY | HEARTBEAT => self.passing = whole,
            // Not a frame, such as the protocol header of a broker that speaks another version.
            _ => self.passing = usize::MAX,
        }
        true
    }

    /// Inspects a method or a content header that has been received completely.
    fn inspect(&mut self, kind: u8, whole: usize) {
        let frame = &mut self.buffer[self.checked..self.checked + whole];
        let [_, payload @ .., end] = frame else { return };
        let payload = &mut payload[BEFORE_PAYLOAD - 1..];
        if *end != FRAME_END {
            self.checked += whole;
        } else if kind == METHOD {
            mend_texts(payload);
            if let Some(frame_max) = tuned(payload) {
                self.frame_max = self.frame_max.min(limit(frame_max));
            }
            self.checked += whole;
        } else {
            let fault = if whole > self.frame_max {
                Some(header::TOO_LARGE)
            } else {
                header::check(payload).err()
            };
            if fault.is_some() || header::body_bytes(payload) > BODY_MAX {
                self.replace_header(whole, fault);
            } else {
                self.checked += whole;
            }
        }
    }

    /// Passes the beginning of a body and drops the rest. `whole` is the length of the next frame.
    fn cut(&mut self, channel: [u8; 2], whole: usize) {
        let Some(cut) = self.cuts.get_mut(&channel) else {
            return;
        };
        let size = whole - AROUND_PAYLOAD;
        let passes = usize::try_from(cut.passes).map_or(size, |passes| passes.min(size));
        cut.passes -= passes as u64;
        cut.comes = cut.comes.saturating_sub(size as u64);
        if cut.comes == 0 {
            self.cuts.remove(&channel);
        }
        if passes == size {
            self.passing = whole;
        } else if passes == 0 {
            self.dropping = whole;
        } else {
            let at = self.checked + BEFORE_PAYLOAD - 4;
            self.buffer[at..at + 4].copy_from_slice(&(passes as u32).to_be_bytes());
            self.passing = BEFORE_PAYLOAD + passes;
            self.dropping = size - passes;
            self.trailing = 1;
        }
    }

    /// Replaces the next `length` bytes with a content header that lapin can read. They are the beginning of
    /// a content header that lapin cannot read, or whose body is truncated.
    fn replace_header(&mut self, length: usize, fault: Option<header::Fault>) {
        let frame = &self.buffer[self.checked..self.checked + length];
        let end = if self.dropping > 0 { length } else { length - 1 };
        let original = &frame[BEFORE_PAYLOAD..end];
        let Some(payload) = header::replacement(original, fault, self.frame_max) else {
            self.checked += length;
            return;
        };
        let comes = header::body_bytes(original);
        if comes > BODY_MAX {
            let passes = BODY_MAX;
            self.cuts.insert([frame[1], frame[2]], Cut { passes, comes });
        }
        let mut replaced = frame[..BEFORE_PAYLOAD - 4].to_vec();
        replaced.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        replaced.extend(payload);
        replaced.push(FRAME_END);
        self.replace(length, &replaced);
        self.checked += replaced.len();
    }

    /// Replaces the next `length` bytes with `bytes`.
    fn replace(&mut self, length: usize, bytes: &[u8]) {
        self.buffer
            .splice(self.checked..self.checked + length, bytes.iter().copied());
        self.filled = self.filled - length + bytes.len();
    }
}

/// Returns the maximum frame size that lapin accepts. lapin always accepts frames of the smallest size that
/// the protocol allows, and 0 means no limit.
fn limit(frame_max: u32) -> usize {
    match frame_max as usize {
        0 => usize::MAX,
        frame_max => frame_max.max(FRAME_MIN),
    }
}

/// Returns the frame-max that a `connection.tune` proposes; `None` for another method.
fn tuned(payload: &[u8]) -> Option<u32> {
    let arguments = payload.strip_prefix(&TUNE)?;
    Some(u32::from_be_bytes(*arguments.get(2..)?.first_chunk()?))
}

/// Makes every short string of a method valid UTF-8: in strings that are not, bytes beyond ASCII become `?`.
fn mend_texts(payload: &mut [u8]) {
    let Some((_, fields)) = TEXTS.iter().find(|(method, _)| payload.starts_with(method)) else {
        return;
    };
    let mut rest = &mut payload[4..];
    for field in *fields {
        let length = match field {
            Field::Bytes(length) => *length,
            Field::Text => rest.first().map_or(0, |length| 1 + usize::from(*length)),
        };
        let Some((bytes, after)) = rest.split_at_mut_checked(length) else {
            return;
        };
        if let (Field::Text, [_, text @ ..]) = (field, bytes)
            && std::str::from_utf8(text).is_err()
        {
            let foreign = text.iter_mut().filter(|byte| !byte.is_ascii());
            foreign.for_each(|byte| *byte = b'?');
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests;
