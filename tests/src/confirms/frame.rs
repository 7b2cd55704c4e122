//! The AMQP 0-9-1 wire format, as far as it concerns publishes, deliveries and their acknowledgements.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

pub(super) const GREETING_BYTES: usize = b"AMQP\0\0\x09\x01".len();
/// The size of a frame's type, channel and size fields. The payload and an end octet follow.
const FRAME_HEAD_BYTES: usize = 7;
const FRAME_END: u8 = 0xCE;
const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
pub(super) const BODY: u8 = 3;

pub(super) type Method = (u16, u16);
pub(super) const CHANNEL_OPEN: Method = (20, 10);
pub(super) const BASIC_PUBLISH: Method = (60, 40);
pub(super) const BASIC_DELIVER: Method = (60, 60);
pub(super) const BASIC_ACK: Method = (60, 80);
pub(super) const BASIC_NACK: Method = (60, 120);

/// A complete frame (AMQP 0-9-1, section 4.2.3).
pub(super) struct Frame {
    pub(super) bytes: Bytes,
}

impl Frame {
    /// Removes the first frame from the buffer and returns it, or returns `None` if the frame is incomplete.
    pub(super) fn take(buffer: &mut BytesMut) -> Option<Self> {
        let head = buffer.get(..FRAME_HEAD_BYTES)?;
        let size = (&head[3..]).get_u32() as usize;
        let whole = FRAME_HEAD_BYTES + size + 1;
        (buffer.len() >= whole).then(|| Self {
            bytes: buffer.split_to(whole).freeze(),
        })
    }

    /// Returns a confirm for a single delivery tag, which is an ack or a nack like `like`.
    pub(super) fn confirm(like: &Self, tag: u64) -> Self {
        Self::answer(like.channel(), like.method().unwrap_or(BASIC_ACK), tag)
    }

    pub(super) fn nack(like: &Self, tag: u64) -> Self {
        Self::answer(like.channel(), BASIC_NACK, tag)
    }

    fn answer(channel: u16, (class, method): Method, tag: u64) -> Self {
        const PAYLOAD_BYTES: u32 = 13;
        let mut bytes = BytesMut::new();
        bytes.put_u8(METHOD);
        bytes.put_u16(channel);
        bytes.put_u32(PAYLOAD_BYTES);
        bytes.put_u16(class);
        bytes.put_u16(method);
        bytes.put_u64(tag);
        // The flags `multiple` and `requeue` are both unset.
        bytes.put_u8(0);
        bytes.put_u8(FRAME_END);
        Self {
            bytes: bytes.freeze(),
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.bytes[0]
    }

    pub(super) fn channel(&self) -> u16 {
        (&self.bytes[1..]).get_u16()
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.bytes[FRAME_HEAD_BYTES..self.bytes.len() - 1]
    }

    pub(super) fn method(&self) -> Option<Method> {
        let mut payload = self.payload();
        (self.kind() == METHOD).then(|| (payload.get_u16(), payload.get_u16()))
    }

    pub(super) fn is_confirm(&self) -> bool {
        matches!(self.method(), Some(BASIC_ACK | BASIC_NACK))
    }

    /// Returns the delivery tag of an ack or nack, and whether it also covers all earlier tags (`multiple`).
    pub(super) fn tag(&self) -> (u64, bool) {
        let mut arguments = &self.payload()[4..];
        (arguments.get_u64(), arguments.get_u8() & 1 == 1)
    }

    /// Returns the delivery tag of a `basic.deliver`, which follows the consumer tag.
    pub(super) fn delivered(&self) -> u64 {
        let mut arguments = &self.payload()[4..];
        let name_bytes = usize::from(arguments.get_u8());
        (&arguments[name_bytes..]).get_u64()
    }

    /// Returns the body length that a content header announces, which follows the class id and the weight.
    pub(super) fn body_bytes(&self) -> usize {
        (&self.payload()[4..]).get_u64() as usize
    }
}
