//! Times in requests.

use serde::Deserialize;

/// Unix milliseconds that a database's signed number can hold, as the format `int64` of the document says.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub(crate) struct UnixMs(pub(crate) u64);

impl TryFrom<u64> for UnixMs {
    type Error = String;

    fn try_from(ms: u64) -> Result<Self, String> {
        match i64::try_from(ms) {
            Ok(_) => Ok(Self(ms)),
            Err(_) => Err(format!("expected Unix milliseconds up to {}", i64::MAX)),
        }
    }
}
