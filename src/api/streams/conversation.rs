//! What WebSocket and SPDY connections have in common: streams of bytes in both directions over one connection.
//!
//! Every queue is short, and a full one stops who fills it: the process whose output the client does not take, or the
//! client whose input the process does not. So a stalled peer costs the queues and no more, for as long as it likes.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Pieces that wait in each stream.
pub(super) const PIECES: usize = 4;
/// How long a client may take to close a connection that is over, or to take its last bytes.
pub(super) const LINGER: Duration = Duration::from_secs(5);

/// Bytes in both directions.
pub(in crate::api) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// What a client sends on one stream, until it closes it.
pub(super) type Inlet = mpsc::Receiver<Bytes>;

/// For the client, on one of the connection's streams.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub stream: u32,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Data(Bytes),
    /// No more comes on this stream.
    Finish,
    /// Nothing is wanted from this stream, and nothing comes any more.
    Reset(u32),
    /// The stream is taken.
    Accept,
    Pong(u32),
}

/// The way to the client on one stream.
#[derive(Clone, Debug)]
pub(super) struct Outlet {
    pub stream: u32,
    pub queue: mpsc::Sender<Outgoing>,
    pub gone: CancellationToken,
}

/// The client is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl Outlet {
    pub async fn send(&self, bytes: impl Into<Bytes>) -> Result<(), Gone> {
        self.put(What::Data(bytes.into())).await
    }

    pub async fn finish(&self) -> Result<(), Gone> {
        self.put(What::Finish).await
    }

    pub async fn put(&self, what: What) -> Result<(), Gone> {
        tokio::select! {
            sent = self.queue.send(Outgoing { stream: self.stream, what }) => sent.map_err(|_| Gone),
            () = self.gone.cancelled() => Err(Gone),
        }
    }
}

/// Runs a connection to its end. `work` has all senders of the queue that `writer` empties, and ends soon after `gone`,
/// which is cancelled when the client has gone. After the work the writer closes its side, and the client has a moment
/// to do the same: what it was sent last would be lost if we left while it still sends.
pub(super) async fn run(
    reader: impl Future<Output = io::Result<()>>,
    writer: impl Future<Output = io::Result<()>>,
    work: impl Future<Output = ()>,
    gone: CancellationToken,
) {
    let written = CancellationToken::new();
    let lingering = async {
        written.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let read = async {
        tokio::select! {
            result = reader => if let Err(error) = result {
                tracing::debug!(%error, "stream connection broken");
            },
            () = gone.cancelled() => {}
            () = lingering => {}
        }
        gone.cancel();
    };
    let given_up = async {
        gone.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let write = async {
        tokio::select! {
            result = writer => if result.is_err() {
                gone.cancel();
            },
            () = given_up => {}
        }
        written.cancel();
    };
    tokio::join!(read, write, work);
}
