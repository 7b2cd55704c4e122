//! Texts about failed attempts.

use egress::NOT_PUBLIC;
use webhook::FailureKind;

/// Returns what customers may read about a failed attempt. It reveals neither where a name resolves to in
/// this network, nor the settings that would allow it.
pub(super) fn for_customers(error: String) -> String {
    let refused = FailureKind::AddressRefused.as_str();
    match error.split_once(": ") {
        Some((what, _)) if what.starts_with(refused) => format!("{what}: {NOT_PUBLIC}"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn customers_are_told_what_is_refused_and_not_which_address() {
        let told = for_customers(
            "address_refused in resolve: hooks.example.com resolves to 10.0.0.5, a private address (10.0.0.0/8). To allow it, set x".to_owned(),
        );
        assert_eq!(told, format!("address_refused in resolve: {NOT_PUBLIC}"));
        for other in [
            "status 500",
            "",
            "connection_refused in connect: address_refused: no",
        ] {
            assert_eq!(for_customers(other.to_owned()), other);
        }
    }
}
