//! HTTP/2 connections: streams that stand still, and connections without streams.
//!
//! The kernel sees nothing of a stream whose client takes nothing: the connection beside it is alive. hyper waits for
//! such a client and asks the body for nothing more meanwhile, so that not even a watch whose time is over ends. Hence
//! every stream runs under [`bounded`], which knows from the body whether it is the client that is waited for.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use super::{ENDING, Patient, Times};

/// The largest size of headers.
const HEADERS: u32 = 64 * 1024;
/// Requests at a time on one connection.
const STREAMS: u32 = 250;
/// Bytes that wait in a stream for the client to take them.
const STREAM_BUFFER: usize = 128 * 1024;
/// Answers go into a stream in pieces of this size, so that a large one is not out of sight before it is taken.
const PIECE: usize = 64 * 1024;

/// Serves a connection to its end.
pub(super) async fn serve<I, S>(io: I, service: S, times: Times, stopping: CancellationToken) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
    S: Service<http::Request<Incoming>, Response = http::Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    let streams = Streams { live: watch::Sender::new(0), stalled: times.stalled, stopping: stopping.clone() };
    let streams = Arc::new(streams);
    let mut builder = http2::Builder::new(Executor(Arc::clone(&streams)));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(STREAM_BUFFER);
    let service = TowerToHyperService::new(service.map_response(followed));
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
    tokio::select! {
        result = connection.as_mut() => return result,
        () = streams.none_for(times.idle) => {}
        () = stopping.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    // The client may have begun another stream before it heard of the end.
    tokio::select! {
        result = connection => result,
        () = streams.none_for(ENDING) => Ok(()),
    }
}

/// The streams of a connection.
struct Streams {
    live: watch::Sender<usize>,
    stalled: Duration,
    stopping: CancellationToken,
}

impl Streams {
    /// Returns when there has been no stream for `time`.
    async fn none_for(&self, time: Duration) {
        let mut live = self.live.subscribe();
        loop {
            // The sender is ours, so this can't fail.
            let _ = live.wait_for(|live| *live == 0).await;
            tokio::select! {
                () = tokio::time::sleep(time) => return,
                _ = live.changed() => {}
            }
        }
    }
}

/// Runs the streams of a connection as tasks.
#[derive(Clone)]
struct Executor(Arc<Streams>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Executor {
    fn execute(&self, stream: F) {
        let place = Place::take(Arc::clone(&self.0));
        tokio::spawn(FLOW.scope(Flow::default(), async move { bounded(stream, &place.0).await }));
    }
}

/// Counts a stream for as long as it lives.
struct Place(Arc<Streams>);

impl Place {
    fn take(streams: Arc<Streams>) -> Self {
        streams.live.send_modify(|live| *live += 1);
        Self(streams)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.live.send_modify(|live| *live -= 1);
    }
}

tokio::task_local! {
    /// Of the stream that the task runs.
    static FLOW: Flow;
}

/// How a stream's answer flows off.
#[derive(Default)]
struct Flow {
    /// Pieces that the body has given.
    given: Cell<u64>,
    /// Whether the body gave a piece when it was last asked. Who has it and asks for no other waits for the client.
    held: Cell<bool>,
    patient: Cell<bool>,
}

/// Runs a stream, but not for longer than its client may take for one piece. Who drops a stream resets it.
async fn bounded(stream: impl Future<Output = ()>, streams: &Streams) {
    let mut stream = pin!(stream);
    // The piece that the client is waited for with, and until when.
    let mut limit: Option<(u64, BoxFuture<'static, ()>)> = None;
    poll_fn(|cx| {
        if stream.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let (held, given, patient) = FLOW.with(|flow| (flow.held.get(), flow.given.get(), flow.patient.get()));
        if !held {
            limit = None;
            return Poll::Pending;
        }
        if limit.as_ref().is_none_or(|(piece, _)| *piece != given) {
            limit = Some((given, patience(streams, patient).boxed()));
        }
        limit.as_mut().map_or(Poll::Pending, |(_, limit)| limit.as_mut().poll(cx))
    })
    .await;
}

/// Lasts as long as a client may take for a piece.
fn patience(streams: &Streams, patient: bool) -> impl Future<Output = ()> + Send + use<> {
    let (stalled, stopping) = (streams.stalled, streams.stopping.clone());
    async move {
        let stalled = async {
            match patient {
                true => std::future::pending().await,
                false => tokio::time::sleep(stalled).await,
            }
        };
        let ending = async {
            stopping.cancelled().await;
            tokio::time::sleep(ENDING).await;
        };
        tokio::select! {
            () = stalled => {}
            () = ending => {}
        }
    }
}

/// The answer with its body under observation.
fn followed(response: http::Response<Body>) -> http::Response<Body> {
    FLOW.with(|flow| flow.patient.set(response.extensions().get::<Patient>().is_some()));
    response.map(|body| Body::new(Followed { body, rest: Bytes::new() }))
}

/// A body in pieces, which tells [`FLOW`] of them.
struct Followed {
    body: Body,
    /// What of the last frame is still to be given.
    rest: Bytes,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        FLOW.with(|flow| flow.held.set(false));
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        FLOW.with(|flow| {
            flow.held.set(true);
            flow.given.set(flow.given.get() + 1);
        });
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, hint) = (self.rest.len() as u64, self.body.size_hint());
        let mut whole = SizeHint::new();
        whole.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            whole.set_upper(upper + rest);
        }
        whole
    }
}
