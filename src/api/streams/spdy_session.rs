//! A SPDY connection: the client opens streams, the work takes them.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::codec::{FramedRead, FramedWrite};
use tokio_util::sync::CancellationToken;

use super::conversation::{self, Connection, Inlet, Outgoing, Outlet, PIECES, What};
use super::spdy::{Codec, Frame, Headers, REFUSED_STREAM};

/// Streams of one connection; a forwarded connection has two.
const STREAMS: usize = 512;

/// A stream that the client has opened.
pub(super) struct Opened {
    pub headers: Headers,
    pub inlet: Inlet,
    pub outlet: Outlet,
    /// The client has given up on it.
    pub reset: CancellationToken,
    _place: Arc<OwnedSemaphorePermit>,
}

/// Runs a connection: `work` gets the streams that the client opens, until it is gone.
pub(super) async fn serve<C, F>(connection: C, gone: CancellationToken, work: impl FnOnce(mpsc::Receiver<Opened>) -> F)
where
    C: Connection,
    F: Future<Output = ()>,
{
    let (read, write) = tokio::io::split(connection);
    let (queue, queued) = mpsc::channel(PIECES);
    let (open, opened) = mpsc::channel(PIECES);
    // Not a strong sender: the writer closes the connection when the work has let go of its.
    let reader = reader(read, queue.downgrade(), open, gone.clone());
    let work = async {
        let _queue = queue;
        work(opened).await;
    };
    conversation::run(reader, writer(write, queued), work, gone).await;
}

/// The reader's side of a stream.
struct Known {
    /// Until the client has sent everything.
    inlet: Option<mpsc::Sender<Bytes>>,
    reset: CancellationToken,
    /// Gone when the work is done with the stream.
    place: Weak<OwnedSemaphorePermit>,
}

async fn reader(
    read: impl AsyncRead + Unpin,
    queue: mpsc::WeakSender<Outgoing>,
    open: mpsc::Sender<Opened>,
    gone: CancellationToken,
) -> io::Result<()> {
    let mut frames = FramedRead::new(read, Codec::default());
    let mut streams: HashMap<u32, Known> = HashMap::new();
    let room = Arc::new(Semaphore::new(STREAMS));
    let answer = async |stream, what| {
        if let Some(queue) = queue.upgrade() {
            let _ = Outlet { stream, queue, gone: gone.clone() }.put(what).await;
        }
    };
    while let Some(frame) = frames.next().await {
        match frame? {
            Frame::SynStream { stream, headers, fin } => {
                let place = Arc::clone(&room).try_acquire_owned();
                let (Ok(place), Some(queue), false) = (place, queue.upgrade(), streams.contains_key(&stream)) else {
                    answer(stream, What::Reset(REFUSED_STREAM)).await;
                    continue;
                };
                let (inlet, receiver) = mpsc::channel(PIECES);
                let reset = gone.child_token();
                let outlet = Outlet { stream, queue, gone: gone.clone() };
                let _ = outlet.put(What::Accept).await;
                let place = Arc::new(place);
                streams.retain(|_, known| known.place.strong_count() > 0);
                let inlet = (!fin).then_some(inlet);
                streams.insert(stream, Known { inlet, reset: reset.clone(), place: Arc::downgrade(&place) });
                let opened = Opened { headers, inlet: receiver, outlet, reset, _place: place };
                let _ = open.send(opened).await;
            }
            Frame::Data { stream, bytes, fin } => {
                let Some(known) = streams.get_mut(&stream) else { continue };
                if let Some(inlet) = known.inlet.as_ref().filter(|_| !bytes.is_empty()) {
                    tokio::select! {
                        _ = inlet.send(bytes) => {}
                        () = known.reset.cancelled() => {}
                    }
                }
                if fin {
                    known.inlet = None;
                }
            }
            Frame::Reset { stream, .. } => {
                if let Some(known) = streams.remove(&stream) {
                    known.reset.cancel();
                }
            }
            // The server's own would be even.
            Frame::Ping(id) if id % 2 == 1 => answer(0, What::Pong(id)).await,
            Frame::GoAway { .. } | Frame::Ping(_) | Frame::SynReply { .. } | Frame::Other(_) => {}
        }
    }
    Ok(())
}

async fn writer(write: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>) -> io::Result<()> {
    let mut frames = FramedWrite::new(write, Codec::default());
    let mut last_stream = 0;
    while let Some(Outgoing { stream, what }) = queue.recv().await {
        last_stream = last_stream.max(stream);
        frames
            .send(match what {
                What::Data(bytes) => Frame::Data { stream, bytes, fin: false },
                What::Finish => Frame::Data { stream, bytes: Bytes::new(), fin: true },
                What::Reset(status) => Frame::Reset { stream, status },
                What::Accept => Frame::SynReply { stream, headers: Headers::default(), fin: false },
                What::Pong(id) => Frame::Ping(id),
            })
            .await?;
    }
    frames.send(Frame::GoAway { last_stream, status: 0 }).await?;
    frames.close().await
}
