//! Credentials.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The text of an API key, or of an endpoint's secret. `Debug` does not print it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Credential(pub String);

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_not_printed() {
        assert!(!format!("{:?}", Credential("hunter2".to_owned())).contains("hunter2"));
    }
}
