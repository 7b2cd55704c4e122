//! The operations of the API, and which of them may be repeated.

use std::fmt;

/// An operation of the API, as its OpenAPI document describes it. Formatted, it is the id with the method and
/// the path: `createEndpoint (POST /v1/endpoints)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    id: &'static str,
    method: &'static str,
    path: &'static str,
    repeats: Repeats,
}

/// When the client may send a request again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Repeats {
    /// Whenever a repeat can succeed, because carrying out the operation twice does no harm.
    Always,
    /// Only if the operation was certainly not carried out.
    Undone,
}

macro_rules! operations {
    ($($name:ident: $id:literal, $method:ident $path:literal, $repeats:ident;)*) => {
        impl Operation {
            $(
                pub(crate) const $name: Self = Self {
                    id: $id,
                    method: stringify!($method),
                    path: $path,
                    repeats: Repeats::$repeats,
                };
            )*
        }

        /// Every operation that the client has a method for, which is every operation of the API.
        pub const OPERATIONS: &[Operation] = &[$(Operation::$name),*];
    };
}

// A change of an endpoint is not repeated if it may have been carried out, because a late repeat would
// overwrite what another caller has changed in between. A deletion is repeated, because no id is used twice.
// The revocation of a key is repeated, because it changes nothing the second time. Opening a relay is repeated,
// because the second relay of a key replaces the first.
operations! {
    CREATE_ENDPOINT: "createEndpoint", POST "/v1/endpoints", Undone;
    LIST_ENDPOINTS: "listEndpoints", GET "/v1/endpoints", Always;
    GET_ENDPOINT: "getEndpoint", GET "/v1/endpoints/{id}", Always;
    UPDATE_ENDPOINT: "updateEndpoint", PATCH "/v1/endpoints/{id}", Undone;
    DELETE_ENDPOINT: "deleteEndpoint", DELETE "/v1/endpoints/{id}", Always;
    ENABLE_ENDPOINT: "enableEndpoint", POST "/v1/endpoints/{id}/enable", Undone;
    DISABLE_ENDPOINT: "disableEndpoint", POST "/v1/endpoints/{id}/disable", Undone;
    ROTATE_ENDPOINT_SECRET: "rotateEndpointSecret", POST "/v1/endpoints/{id}/rotate-secret", Undone;
    PING_ENDPOINT: "pingEndpoint", POST "/v1/endpoints/{id}/ping", Undone;
    OPEN_RELAY: "openRelay", POST "/v1/relays", Always;
    CONNECT_RELAY: "connectRelay", GET "/v1/relays/{id}/connection", Always;
    GET_ENDPOINT_HEALTH: "getEndpointHealth", GET "/v1/endpoints/{id}/health", Always;
    RECOVER_ENDPOINT: "recoverEndpoint", POST "/v1/endpoints/{id}/recover", Undone;
    LIST_EVENT_TYPES: "listEventTypes", GET "/v1/event-types", Always;
    GET_EVENT_TYPE: "getEventType", GET "/v1/event-types/{type}", Always;
    PUBLISH_EVENT: "publishEvent", POST "/v1/events", Always;
    PUBLISH_EVENTS: "publishEvents", POST "/v1/events/batch", Always;
    LIST_EVENTS: "listEvents", GET "/v1/events", Always;
    GET_EVENT: "getEvent", GET "/v1/events/{id}", Always;
    TAIL_EVENTS: "tailEvents", GET "/v1/tail", Always;
    LIST_DELIVERIES: "listDeliveries", GET "/v1/deliveries", Always;
    GET_DELIVERY: "getDelivery", GET "/v1/deliveries/{id}", Always;
    LIST_ATTEMPTS: "listAttempts", GET "/v1/deliveries/{id}/attempts", Always;
    RESEND_DELIVERY: "resendDelivery", POST "/v1/deliveries/{id}/resend", Undone;
    RESEND_DELIVERIES: "resendDeliveries", POST "/v1/deliveries/resend", Undone;
    CREATE_API_KEY: "createApiKey", POST "/v1/api-keys", Undone;
    LIST_API_KEYS: "listApiKeys", GET "/v1/api-keys", Always;
    REVOKE_API_KEY: "revokeApiKey", DELETE "/v1/api-keys/{id}", Always;
    LIST_CHANGES: "listChanges", GET "/v1/changes", Always;
    GET_STATUS: "getStatus", GET "/v1/status", Always;
    GET_OPEN_API: "getOpenApi", GET "/openapi.json", Always;
}

impl Operation {
    /// Returns the `operationId`, such as `createEndpoint`.
    pub const fn id(self) -> &'static str {
        self.id
    }

    /// Returns the HTTP method, such as `POST`.
    pub const fn method(self) -> &'static str {
        self.method
    }

    /// Returns the template of the path, such as `/v1/endpoints/{id}`.
    pub const fn path(self) -> &'static str {
        self.path
    }

    pub(crate) const fn repeats(self) -> Repeats {
        self.repeats
    }

    /// Returns whether the operation changes nothing and sends nothing.
    pub(crate) fn is_read(self) -> bool {
        self.method == "GET"
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.id, self.method, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_creates_or_sends_something_new_is_repeated_only_if_it_was_not_done() {
        let undone: Vec<_> = OPERATIONS
            .iter()
            .filter(|operation| operation.repeats() == Repeats::Undone)
            .map(|operation| operation.id())
            .collect();
        assert_eq!(
            undone,
            [
                "createEndpoint",
                "updateEndpoint",
                "enableEndpoint",
                "disableEndpoint",
                "rotateEndpointSecret",
                "pingEndpoint",
                "recoverEndpoint",
                "resendDelivery",
                "resendDeliveries",
                "createApiKey",
            ]
        );
        let reads = OPERATIONS.iter().filter(|operation| operation.is_read());
        assert!(reads.clone().all(|read| read.repeats() == Repeats::Always));
        assert_eq!(reads.count(), 16);
    }

    #[test]
    fn an_operation_is_named_by_its_id_and_route() {
        assert_eq!(Operation::GET_EVENT.to_string(), "getEvent (GET /v1/events/{id})");
    }
}
