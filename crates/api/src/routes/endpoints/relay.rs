//! Relays: endpoints whose requests are passed to a program over the API, instead of being sent to a URL.

use std::sync::Arc;

use axum::{
    Extension,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use broker::RelayError;
use runtime::{now_ms, serve::Answering};
use service::{
    relay::{self, LEASE},
    view,
};
use store::Renewal;
use webhook::EndpointId;

use crate::{
    auth,
    caller::{Caller, Organization},
    config::RELAY_MESSAGE_BYTES_MAX,
    context::Context,
    extract::JsonBody,
    problem::{Kind, Problem},
    relays::Program,
};

use super::{body::OpenRelay, change::Changed, owned::Owned};

/// The size of the buffers of a connection, in bytes. Most requests and answers are smaller.
const BUFFER_BYTES: usize = 8 * 1024;
/// The maximum size of what a connection has not yet written, in bytes. The largest request, of which each byte is
/// escaped, and a few pongs fit.
const UNWRITTEN_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Open a relay.
///
/// Registers an endpoint without a URL. Every event of the organization that is published after the response, and that
/// the endpoint subscribes to, becomes a request that a program receives with `connectRelay` and answers. The key's
/// former relay in the organization is deleted. So is this one when no program was connected for a minute. The response
/// contains the secret that signs the requests; it is not shown again.
#[utoipa::path(
    post,
    path = "/v1/relays",
    operation_id = "openRelay",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    request_body(content = OpenRelay, example = json!({ "events": ["lead.completed", "research.*"] })),
    responses(
        (
            status = 201,
            description = "The endpoint, with its secret.",
            body = wire::Endpoint,
            headers(
                ("ETag" = String, description = "The endpoint's version."),
                ("Magnetite-Workers-Behind" = String, description = "The names of workers that are not known to act on the change after 2 s, separated by commas; absent if every running worker does."),
            ),
        ),
        (status = 409, description = "The organization or the installation has its maximum number of endpoints."),
    ),
)]
pub(in crate::routes) async fn open(
    State(context): State<Context>,
    caller: Caller,
    Organization(organization): Organization,
    JsonBody(new): JsonBody<OpenRelay>,
) -> Result<impl IntoResponse, Problem> {
    let new = new.relay(organization)?;
    let max = context.config.endpoints_per_organization_max;
    let store = context.store_for(&caller).per_organization_max(max);
    let opened = relay::open(&store, new, &caller.key.id, now_ms() as i64).await?;
    let changed = Changed::to(view::endpoint_with_secret(&opened), &context).await;
    Ok((StatusCode::CREATED, changed))
}

/// Receive and answer the requests of a relay.
///
/// Upgrades the connection to a WebSocket (RFC 6455), without a subprotocol and without extensions. Each text message
/// from the server is a request: a JSON object with `request`, which identifies it, `headers` and `body`. The program
/// answers it with a JSON object with the same `request`, `status` (200 to 599, or null if the connection was closed
/// without a response), and optionally `retry_after` and `body`. Only the key that opened the relay can receive its
/// requests, over one connection at a time. Answer pings, and connect again when the connection was lost. While no
/// program is connected, attempts fail and are made again later. The documentation of relays lists the close codes.
#[utoipa::path(
    get,
    path = "/v1/relays/{id}/connection",
    operation_id = "connectRelay",
    tag = "Endpoints",
    security(("api_key" = ["endpoints:write"])),
    params(Owned),
    responses(
        (status = 101, description = "The connection is a WebSocket now."),
        Owned,
        (status = 409, description = "The endpoint is not a relay that this key has opened, or the relay has ended."),
        (
            status = 426,
            description = "The request does not ask for an upgrade to a WebSocket.",
            headers(("Upgrade" = String, description = "The protocol to upgrade to: `websocket`.")),
        ),
        (status = 503, description = "The requests cannot be received now, another connection still receives them, or too many programs are connected. Send the request again."),
    ),
)]
pub(in crate::routes) async fn connect(
    State(context): State<Context>,
    caller: Caller,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    connection: Option<Extension<Arc<Answering>>>,
    Owned(endpoint): Owned,
) -> Result<Response, Problem> {
    let upgrade = upgrade.map_err(|rejection| not_upgraded(&rejection))?;
    let id = endpoint.id;
    match context.store.renew_relay(&id, &caller.key.id, LEASE).await? {
        Renewal::Renewed => {}
        Renewal::Ended => return Err(not_open(&id)),
        Renewal::KeyInvalid => {
            let detail = "The key was revoked or has expired; use another one.";
            return Err(auth::unauthorized(detail, true));
        }
    }
    let program = Program {
        _place: context.relays.place(&caller).ok_or_else(overloaded)?,
        endpoint_id: id.clone(),
        key_id: caller.key.id.clone(),
        answering: connection.map(|Extension(answering)| answering),
    };
    let connected = context.relays.connect(program).await;
    let upgraded = connected.map_err(|error| not_received(&id, &error))?;
    let upgrade = upgrade
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_write_buffer_size(UNWRITTEN_BYTES_MAX)
        .max_message_size(RELAY_MESSAGE_BYTES_MAX)
        .max_frame_size(RELAY_MESSAGE_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| async move {
        // An error means that the upgrade took too long.
        let _ = upgraded.send(socket);
    }))
}

/// Returns the problem for a request that asks for no WebSocket, or for one that cannot be opened.
fn not_upgraded(rejection: &WebSocketUpgradeRejection) -> Problem {
    match rejection {
        WebSocketUpgradeRejection::WebSocketKeyHeaderMissing(_) => {
            Problem::parameter("Sec-WebSocket-Key", "expected the base64 of 16 random bytes")
        }
        WebSocketUpgradeRejection::InvalidWebSocketVersionHeader(_) => {
            upgrade_required().with_header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
        }
        _ => upgrade_required(),
    }
}

fn upgrade_required() -> Problem {
    let detail = "Send a GET request over HTTP/1.1 with the headers of a WebSocket of version 13 (RFC 6455), with a client that \
        supports them.";
    Problem::new(Kind::UpgradeRequired, detail)
        .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
        .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
}

fn not_open(id: &EndpointId) -> Problem {
    Problem::new(
        Kind::Conflict,
        format!(
            "The endpoint {id} is not a relay that this key has opened, or it has ended. Open a new relay."
        ),
    )
}

fn overloaded() -> Problem {
    let detail = "Too many programs are connected to relays. End those that are not needed, and send the request again.";
    Problem::new(Kind::Overloaded, detail).retry_after(5)
}

fn not_received(id: &EndpointId, error: &RelayError) -> Problem {
    match error {
        RelayError::Taken => {
            let detail = format!(
                "Another connection still receives the requests of the relay {id}. End it, or send the request again."
            );
            Problem::new(Kind::Overloaded, detail).retry_after(1)
        }
        error => {
            let detail = "The requests of the relay cannot be received now. Send the request again.";
            Problem::new(Kind::BrokerUnavailable, detail)
                .retry_after(5)
                .because(error)
        }
    }
}
