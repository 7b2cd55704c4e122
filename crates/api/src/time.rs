//! Times in requests.

use serde::Deserialize;

/// A time in Unix milliseconds; 0 is allowed as the earliest time. Other times before 2001 are refused,
/// because such a number is most likely in seconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(try_from = "u64")]
pub(crate) struct UnixMs(pub(crate) u64);

impl UnixMs {
    /// 2001-01-01 in milliseconds. Read as seconds, this number is in the year 32971.
    pub(crate) const EARLIEST: u64 = 978_307_200_000;
    /// The largest number that a signed column of the database can hold.
    const LATEST: u64 = i64::MAX as u64;
}

impl TryFrom<u64> for UnixMs {
    type Error = String;

    fn try_from(ms: u64) -> Result<Self, String> {
        match ms {
            0 | Self::EARLIEST..=Self::LATEST => Ok(Self(ms)),
            1..Self::EARLIEST => Err(format!(
                "expected Unix milliseconds from 2001 on, or 0, but {ms} is earlier; multiply seconds by 1000"
            )),
            _ => Err(format!("expected Unix milliseconds up to {}", Self::LATEST)),
        }
    }
}
