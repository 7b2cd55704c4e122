//! The history of endpoints: the state of each endpoint by version and time.

/// Adds a row to the history. Runs last in a write that creates, changes, disables or enables an endpoint.
pub(crate) const REMEMBER: &str = "INSERT INTO endpoint_history \
    (endpoint_id, version, at_ms, project_id, subscription, disabled_at_ms, disabled_reason) \
    SELECT id, version, updated_at_ms, project_id, subscription, disabled_at_ms, disabled_reason FROM endpoints WHERE id = $1";

/// Deletes the history of endpoints whose rows have been removed.
pub(crate) const FORGET_REMOVED: &str = "DELETE FROM endpoint_history WHERE NOT EXISTS \
    (SELECT 1 FROM endpoints WHERE endpoints.id = endpoint_history.endpoint_id)";

/// Deletes the rows that were superseded before a given time. It works in a single pass, because a customer's
/// program may change an endpoint every second.
pub(crate) const EXPIRE: &str = "DELETE FROM endpoint_history WHERE (endpoint_id, version) IN \
    (SELECT earlier.endpoint_id, earlier.version FROM \
    (SELECT endpoint_id, MAX(version) AS version FROM endpoint_history WHERE at_ms < $1 GROUP BY endpoint_id) latest \
    JOIN endpoint_history earlier ON earlier.endpoint_id = latest.endpoint_id AND earlier.version < latest.version)";
