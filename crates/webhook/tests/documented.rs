//! Checks that docs/failures.md has a section for every identifier that users can encounter.
#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use serde::de::DeserializeOwned;
use webhook::{CancelReason, DeadReason, DeferReason, DisabledReason, FailureKind, Phase};

/// Returns the names of all variants, taken from serde's error message, so that new variants are included
/// automatically.
fn names<T: DeserializeOwned>() -> Vec<String> {
    let error = serde_json::from_str::<T>("\"?\"").err().unwrap().to_string();
    let names: Vec<String> = error.split('`').skip(3).step_by(2).map(str::to_owned).collect();
    assert!(!names.is_empty(), "{error}");
    names
}

/// Returns the text below a heading of the page, up to the next heading of the same level.
fn part(heading: &str) -> String {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failures.md");
    let page = fs::read_to_string(page).unwrap();
    let (_, rest) = page.split_once(&format!("\n## {heading}\n")).unwrap();
    rest.split("\n## ").next().unwrap().to_owned()
}

/// Asserts that the page has a section for every variant. `printed` returns the identifier that the program
/// prints.
fn assert_sections<T: DeserializeOwned>(heading: &str, printed: fn(&T) -> String) {
    let part = part(heading);
    for name in names::<T>() {
        let value: T = serde_json::from_str(&format!("\"{name}\"")).unwrap();
        assert_eq!(printed(&value), name);
        let section = format!("\n### `{name}`\n");
        assert!(
            part.contains(&section),
            "docs/failures.md, {heading}: no section {name}"
        );
    }
}

#[test]
fn every_kind_and_reason_has_its_section() {
    assert_sections("No answer", FailureKind::to_string);
    assert_sections("No more attempts: dead", DeadReason::to_string);
    assert_sections("Cancelled", |reason: &CancelReason| reason.as_str().to_owned());
    assert_sections("Deferred", |reason: &DeferReason| reason.as_str().to_owned());
}

/// `magnetite check` and `endpoint ping` refer to this section for every status.
#[test]
fn there_is_a_part_about_statuses() {
    assert!(part("Status").contains("\n### `status 410`\n"));
}

#[test]
fn every_phase_and_every_reason_to_disable_has_its_row() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/failures.md");
    let page = fs::read_to_string(page).unwrap();
    let disabled = [
        DisabledReason::Manual,
        DisabledReason::Gone,
        DisabledReason::Failing,
    ];
    let words = names::<Phase>()
        .into_iter()
        .chain(disabled.map(|reason| reason.to_string()));
    for word in words {
        assert!(
            page.contains(&format!("\n| `{word}` |")),
            "docs/failures.md: no row {word}"
        );
    }
}
