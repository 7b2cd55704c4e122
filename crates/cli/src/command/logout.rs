//! `magnetite logout`.

use std::env;

use crate::{
    output,
    profiles::Profiles,
    remote::{self, masked},
};

/// Removes a profile. The key stays valid.
pub(super) fn run(options: remote::Options) -> anyhow::Result<()> {
    let target = options.target(|name| env::var_os(name))?;
    let mut profiles = Profiles::load(|name| env::var_os(name))?;
    let removed = profiles.remove(&target.profile)?;
    output::line(&format!(
        "removed profile {} for {} ({})",
        target.profile,
        removed.url,
        profiles.path().display()
    ))?;
    output::note(&format!(
        "the key {} is still valid: `magnetite api-key list` shows its id, and `magnetite api-key revoke ID` revokes it",
        masked(&removed.key)
    ));
    Ok(())
}
