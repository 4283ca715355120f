//! A container's own standard streams, shared by its log and by those who attach to it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::PIECES;
use super::terminal::Terminal;

/// One of a container's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// As the log names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// An attached client that takes nothing for this long is let go, so that the container can go on.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where a container's output comes from.
#[derive(Debug)]
pub enum Output {
    Pipe(pipe::Receiver),
    Terminal(Arc<Terminal>),
}

impl Output {
    /// Waits for output and adds it to what is in `buffer`; 0 at its end. Nothing is allocated while waiting, so that a
    /// silent container costs nothing.
    pub async fn read(&mut self, buffer: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        match self {
            Self::Pipe(pipe) => {
                pipe.readable().await?;
                buffer.reserve(room);
                pipe.read_buf(buffer).await
            }
            Self::Terminal(terminal) => {
                terminal.readable().await?;
                buffer.reserve(room);
                terminal.read(buffer).await
            }
        }
    }
}

/// Where a process's input goes.
#[derive(Debug)]
pub enum Input {
    Pipe(pipe::Sender),
    Terminal(Arc<Terminal>),
}

impl Input {
    /// Writes what comes, until the last sender is gone or the process has closed its end.
    pub async fn pump(mut self, mut pieces: mpsc::Receiver<Bytes>) {
        while let Some(bytes) = pieces.recv().await {
            let written = match &mut self {
                Self::Pipe(pipe) => pipe.write_all(&bytes).await,
                Self::Terminal(terminal) => terminal.write_all(&bytes).await,
            };
            if written.is_err() {
                return;
            }
        }
    }
}

/// What those who attach to a container share.
#[derive(Debug, Default)]
pub struct Console {
    /// Until it is closed for good; none without `stdin: true`.
    stdin: Mutex<Option<mpsc::Sender<Bytes>>>,
    /// The first client's end of input is the container's.
    pub stdin_once: bool,
    pub terminal: Option<Arc<Terminal>>,
    audience: Mutex<Audience>,
}

#[derive(Debug, Default)]
struct Audience {
    listeners: Vec<(Stream, mpsc::Sender<Bytes>)>,
    /// The container's outputs are closed.
    over: bool,
}

impl Console {
    /// The console of a container that has just been started. Its input is served until the container ends.
    pub fn new(stdin: Option<Input>, stdin_once: bool, terminal: Option<Arc<Terminal>>) -> Arc<Self> {
        let stdin = stdin.map(|input| {
            let (sender, pieces) = mpsc::channel(PIECES);
            tokio::spawn(input.pump(pieces));
            sender
        });
        Arc::new(Self { stdin: Mutex::new(stdin), stdin_once, terminal, audience: Mutex::default() })
    }

    pub fn stdin(&self) -> Option<mpsc::Sender<Bytes>> {
        self.stdin.lock().clone()
    }

    pub fn close_stdin(&self) {
        self.stdin.lock().take();
    }

    /// Everything that the container writes from now on, until it has ended.
    pub fn listen(&self, stream: Stream) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(PIECES);
        let mut audience = self.audience.lock();
        if !audience.over {
            audience.listeners.push((stream, sender));
        }
        receiver
    }

    /// Passes output on to who listens. The container waits for them, as it would for a terminal.
    pub async fn tell(&self, stream: Stream, bytes: &[u8]) {
        let listeners: Vec<mpsc::Sender<Bytes>> = {
            let mut audience = self.audience.lock();
            audience.listeners.retain(|(_, listener)| !listener.is_closed());
            let wanted = audience.listeners.iter().filter(|(wanted, _)| *wanted == stream);
            wanted.map(|(_, listener)| listener.clone()).collect()
        };
        if listeners.is_empty() {
            return;
        }
        let bytes = Bytes::copy_from_slice(bytes);
        for listener in listeners {
            if timeout(PATIENCE, listener.send(bytes.clone())).await.is_err() {
                self.audience.lock().listeners.retain(|(_, known)| !known.same_channel(&listener));
            }
        }
    }

    /// The container's outputs are closed.
    pub fn end(&self) {
        let mut audience = self.audience.lock();
        audience.over = true;
        audience.listeners.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn listener_that_takes_nothing_is_let_go_and_the_others_miss_nothing() {
        let console = Console::default();
        let mut stalled = console.listen(Stream::Stdout);
        let mut reader = console.listen(Stream::Stdout);
        let mut errors = console.listen(Stream::Stderr);
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(bytes) = reader.recv().await {
                all.extend_from_slice(&bytes);
            }
            all
        });
        for _ in 0..PIECES + 3 {
            console.tell(Stream::Stdout, b"x").await;
        }
        console.end();
        assert_eq!(read.await.unwrap(), vec![b'x'; PIECES + 3]);
        for _ in 0..PIECES {
            assert_eq!(stalled.recv().await.unwrap(), "x");
        }
        assert_eq!(stalled.recv().await, None);
        assert_eq!(errors.recv().await, None);
        assert_eq!(console.listen(Stream::Stdout).recv().await, None, "who comes late hears the end");
    }
}
