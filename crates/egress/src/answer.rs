//! Reading of a response.

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::{Response, Version};
use webhook::{Answer, RESPONSE_BODY_BYTES_MAX};

use crate::classify;
use crate::meter::Meter;

/// Reads a response whose headers have arrived.
pub(crate) async fn read(response: Response<Incoming>, meter: &Meter) -> Result<Answer, hyper::Error> {
    let retry_after = response.headers().get(RETRY_AFTER);
    let retry_after = retry_after
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    Ok(Answer {
        status: response.status().as_u16(),
        retry_after,
        body: read_body(response, meter).await?,
    })
}

/// Reads at most [`RESPONSE_BODY_BYTES_MAX`] bytes of the body, without waiting for the rest. Dropping the
/// response ends the stream, and with HTTP/1 the connection.
async fn read_body(response: Response<Incoming>, meter: &Meter) -> Result<Bytes, hyper::Error> {
    let until_close = ends_with_connection(&response);
    let (mut stream, mut body) = (response.into_body(), Vec::new());
    while body.len() < RESPONSE_BODY_BYTES_MAX {
        match stream.frame().await {
            Some(Ok(frame)) => {
                // A frame that is not data contains trailers.
                let chunk = frame.into_data().unwrap_or_default();
                meter.give_back(chunk.len());
                let room = RESPONSE_BODY_BYTES_MAX - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            }
            None => break,
            // Over TLS, small servers close without the close_notify alert that would make this a regular
            // end.
            Some(Err(error)) if until_close && classify::is_end_of_stream(&error) => break,
            Some(Err(error)) => return Err(error),
        }
    }
    meter.restart();
    Ok(body.into())
}

/// Returns whether an HTTP/1 body neither has a length nor is chunked, and so ends with the connection.
fn ends_with_connection(response: &Response<Incoming>) -> bool {
    response.version() < Version::HTTP_2
        && !response.headers().contains_key(CONTENT_LENGTH)
        && !response.headers().contains_key(TRANSFER_ENCODING)
}
