//! Reads what a handler left of a request's body before the answer goes out.
//!
//! hyper closes an HTTP/1 connection whose request was not read to its end. The kernel then resets it, and a client that
//! is still sending sees a broken connection instead of its refusal. Go's server reads on for the same reason.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use http::StatusCode;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::request::BODY_LIMIT;

/// How long a client may take to send what nobody wants.
const MOST_TIME: Duration = Duration::from_secs(5);

/// Answers once the request's body is read, as far as it goes on for no more than [`BODY_LIMIT`] and [`MOST_TIME`].
pub(super) async fn read(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (giver, mut leftover) = oneshot::channel();
    let returning = |body| Body::new(Returning { body, giver: Some(giver) });
    let response = next.run(request.map(returning)).await;
    // Who has not sent it within the request's time gets no more of it.
    if response.status() != StatusCode::GATEWAY_TIMEOUT
        && let Ok(body) = leftover.try_recv()
    {
        // Where it is too long or too slow, the connection ends, which is all that is left to do.
        let _ = timeout(MOST_TIME, read_out(body)).await;
    }
    response
}

async fn read_out(body: Body) {
    let mut body = Limited::new(body, BODY_LIMIT);
    while let Some(Ok(_)) = body.frame().await {}
}

/// A body that is given back when it is dropped before its end.
struct Returning {
    body: Body,
    giver: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Returning {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(giver) = self.giver.take().filter(|_| !self.body.is_end_stream()) {
            // Nobody waits for it any more when the whole request was dropped.
            let _ = giver.send(std::mem::take(&mut self.body));
        }
    }
}
