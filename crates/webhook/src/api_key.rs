//! API keys, which authenticate clients of the HTTP API, and the scopes that they grant.

use std::{collections::BTreeSet, fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use strum::{Display, EnumString, IntoStaticStr, VariantArray, VariantNames};

use crate::UnknownName;

const PREFIX: &str = "mgk_";
const KEY_BYTES: usize = 32;
/// The number of characters of the random part that listings show. They reveal 36 of 256 bits.
const SHOWN_CHARS: usize = 6;

/// The full text of an API key: `mgk_` and 32 random bytes in URL-safe base64 without padding.
///
/// The text grants access by itself. It is therefore shown only once and never stored; the database stores
/// its [`hash`](Self::hash). `Debug` does not show the text.
#[derive(Clone)]
pub struct ApiKey(String);

/// An error for a text that is not a valid [`ApiKey`]. The message does not quote the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a valid API key; expected `{PREFIX}` and the URL-safe base64 of {KEY_BYTES} bytes, without padding"
)]
pub struct BadApiKey;

impl ApiKey {
    /// Creates a key. `random` must come from a cryptographically secure generator.
    pub fn generate(random: [u8; KEY_BYTES]) -> Self {
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
    }

    /// Parses a key as a client sent it. Surrounding white space is not removed.
    ///
    /// # Errors
    ///
    /// Returns [`BadApiKey`] if the text does not have the format of a key.
    pub fn parse(text: &str) -> Result<Self, BadApiKey> {
        let encoded = text.strip_prefix(PREFIX).ok_or(BadApiKey)?;
        let decoded = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| BadApiKey)?;
        if decoded.len() == KEY_BYTES {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadApiKey)
        }
    }

    /// Returns the full text of the key, to show it to its owner once. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the SHA-256 of the full text, which is stored and used for the lookup.
    ///
    /// A plain hash is sufficient because the text has 256 random bits. Comparing hashes reveals nothing
    /// about the key.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(&self.0).into()
    }

    /// Returns the first characters of the text, which distinguish keys in listings: `mgk_` and 6 characters.
    pub fn prefix(&self) -> &str {
        &self.0[..PREFIX.len() + SHOWN_CHARS]
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(redacted)")
    }
}

/// A permission that a key grants, within the key's organization or, for a platform key, in every
/// organization.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    Display,
    EnumString,
    IntoStaticStr,
    VariantArray,
    VariantNames,
)]
#[strum(parse_err_ty = UnknownName, parse_err_fn = unknown)]
pub enum Scope {
    /// Publish events.
    #[serde(rename = "events:write")]
    #[strum(serialize = "events:write")]
    EventsWrite,
    /// Read endpoints and their health.
    #[serde(rename = "endpoints:read")]
    #[strum(serialize = "endpoints:read")]
    EndpointsRead,
    /// Create, change and delete endpoints, and rotate their secrets.
    #[serde(rename = "endpoints:write")]
    #[strum(serialize = "endpoints:write")]
    EndpointsWrite,
    /// Read events, deliveries and attempts.
    #[serde(rename = "deliveries:read")]
    #[strum(serialize = "deliveries:read")]
    DeliveriesRead,
    /// Send deliveries again.
    #[serde(rename = "deliveries:write")]
    #[strum(serialize = "deliveries:write")]
    DeliveriesWrite,
    /// All of the above, manage API keys, and read the log of changes.
    #[serde(rename = "admin")]
    #[strum(serialize = "admin")]
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: &'static [Self] = <Self as VariantArray>::VARIANTS;

    /// Returns the name in requests, listings and the database.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

fn unknown(name: &str) -> UnknownName {
    UnknownName::of::<Scope>("scope", name)
}

/// The scopes of one key, at least one. As text, they are separated by commas: `events:write,endpoints:read`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scopes(BTreeSet<Scope>);

impl Scopes {
    /// Returns whether these scopes include `wanted` or [`Scope::Admin`].
    pub fn allow(&self, wanted: Scope) -> bool {
        self.0.contains(&wanted) || self.0.contains(&Scope::Admin)
    }

    /// Returns whether these scopes allow everything that `others` allow.
    pub fn include(&self, others: &Self) -> bool {
        others.0.iter().all(|scope| self.allow(*scope))
    }

    /// Returns the names of the scopes.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|scope| scope.as_str())
    }
}

impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.names().collect();
        f.write_str(&names.join(","))
    }
}

impl From<Scopes> for Vec<Scope> {
    fn from(scopes: Scopes) -> Self {
        scopes.0.into_iter().collect()
    }
}

/// Parses one or more scopes. An empty text is an error, because a key without scopes would be useless.
impl FromStr for Scopes {
    type Err = UnknownName;

    fn from_str(names: &str) -> Result<Self, UnknownName> {
        let scopes = names.split(',').map(|name| name.trim().parse());
        Ok(Self(scopes.collect::<Result<_, _>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_known_by_its_hash() {
        let key = ApiKey::generate([7; 32]);
        assert_eq!(key.expose(), "mgk_BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc");
        assert_eq!(key.prefix(), "mgk_BwcHBw");
        let read = ApiKey::parse(key.expose()).unwrap();
        assert_eq!(read.hash(), key.hash());
        assert_ne!(read.hash(), ApiKey::generate([8; 32]).hash());
        // The hash is stored in databases, so it must never change.
        assert_eq!(
            hex::encode(key.hash()),
            "76666af024e5bb82f46b5aa51b4507a8c8a256e57fcb2483dbb59ca7c2ecedc7"
        );
    }

    #[test]
    fn what_cannot_be_a_key_is_told_and_not_quoted() {
        let good = ApiKey::generate([7; 32]);
        for bad in [
            "",
            "mgk_",
            "hunter2",
            &good.expose()[..46],
            &good.expose().replace("mgk_", "mgsk_"),
            &format!("{}=", good.expose()),
            &format!(" {}", good.expose()),
        ] {
            let error = ApiKey::parse(bad).unwrap_err();
            assert!(bad.len() < 5 || !error.to_string().contains(bad), "{error}");
        }
        assert!(!format!("{good:?}").contains("Bwc"), "{good:?}");
    }

    #[test]
    fn scopes_are_their_names() {
        for scope in Scope::ALL.iter().copied() {
            assert_eq!(scope.as_str().parse(), Ok(scope));
            let json = serde_json::to_string(&scope).unwrap();
            assert_eq!(json, format!("\"{scope}\""));
            assert_eq!(serde_json::from_str::<Scope>(&json).unwrap(), scope);
        }
        let scopes: Scopes = "endpoints:read, events:write,endpoints:read".parse().unwrap();
        assert_eq!(scopes.to_string(), "events:write,endpoints:read");
        assert_eq!(scopes.to_string().parse(), Ok(scopes));
        for bad in ["", ",", "admin,", "Admin", "events", "events:read"] {
            assert!(bad.parse::<Scopes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn admin_allows_everything_and_the_others_themselves() {
        for given in Scope::ALL.iter().copied() {
            let only: Scopes = given.as_str().parse().unwrap();
            for wanted in Scope::ALL.iter().copied() {
                assert_eq!(only.allow(wanted), given == wanted || given == Scope::Admin);
            }
        }
    }

    #[test]
    fn scopes_include_what_each_of_them_allows() {
        for (all, others, includes) in [
            ("events:write", "events:write", true),
            ("events:write,endpoints:read", "endpoints:read", true),
            ("events:write", "events:write,endpoints:read", false),
            ("endpoints:write", "endpoints:read", false),
            ("admin", "events:write,deliveries:read", true),
            ("admin", "admin", true),
            (
                "events:write,endpoints:read,endpoints:write,deliveries:read,deliveries:write",
                "admin",
                false,
            ),
        ] {
            let [all, others] = [all, others].map(|scopes| scopes.parse::<Scopes>().unwrap());
            assert_eq!(all.include(&others), includes, "{all}: {others}");
        }
    }
}
