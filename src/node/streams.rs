//! exec, attach and port-forward, on the node's side: processes and connections inside of Pods.
//!
//! A client that goes away takes its streams with it, and nothing else: the process reads the end of its input, is
//! killed by SIGPIPE when it writes, and one with a terminal gets SIGHUP when that is hung up. A command that does none
//! of it runs on until the container ends, as under containerd, where the terminal isn't even hung up.

pub mod console;
pub mod terminal;

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use self::console::{Console, Input, Output, Stream};
use self::terminal::{Terminal, handover};
use super::agents::Agents;
use super::container::{self, StartError, input_pipe, output_pipe};
use super::registry::Inside;
use crate::cluster::ObjectKey;
use crate::sys::errors::plain;
use crate::sys::netns;
use crate::sys::process::Spawner;

/// Pieces that wait in each stream.
const PIECES: usize = 4;
const READ: usize = 32 * 1024;

/// Which of a process's streams somebody wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// A terminal instead of pipes.
    pub tty: bool,
}

/// A process's streams. Dropping it closes them; a process that was not waited for is reaped all the same.
pub struct Session {
    /// Dropped, it closes the process's input.
    pub stdin: Option<mpsc::Sender<Bytes>>,
    pub stdout: Option<BoxStream<'static, Bytes>>,
    pub stderr: Option<BoxStream<'static, Bytes>>,
    pub terminal: Option<Arc<Terminal>>,
    /// The exit code; 0 where somebody was attached to a container.
    pub ended: BoxFuture<'static, i32>,
    /// What serves the streams ends with it.
    pub alive: DropGuard,
}

/// Why there is no session. The messages are the kubelet's and containerd's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("container not found ({0:?})")]
    NotRunning(String),
    #[error(
        "failed to exec in container: failed to start exec {id:?}: OCI runtime exec failed: exec failed: {why}: unknown"
    )]
    Start { id: String, why: String },
    #[error("failed to exec in container: {0}")]
    Streams(String),
}

impl From<io::Error> for SessionError {
    fn from(error: io::Error) -> Self {
        Self::Streams(error.to_string())
    }
}

impl Agents {
    pub fn is_running(&self, namespace: &str, pod: &str, container: &str) -> bool {
        self.inside(namespace, pod, container).is_ok()
    }

    fn inside(&self, namespace: &str, pod: &str, container: &str) -> Result<Inside, SessionError> {
        let entry = self.registry().get(&ObjectKey::new(namespace, pod), container);
        entry.and_then(|entry| entry.inside).ok_or_else(|| SessionError::NotRunning(container.to_owned()))
    }

    /// Runs a command in a container that runs.
    ///
    /// # Errors
    /// A [`SessionError`].
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        argv: Vec<String>,
        wanted: Wanted,
    ) -> Result<Session, SessionError> {
        let inside = self.inside(namespace, pod, container)?;
        exec(self.spawner(), inside, argv, wanted).await
    }

    /// Joins those who listen to a container that runs. The session ends with the container's outputs; where it has
    /// input, also with that, unless the container reads once from whoever comes first and lives on.
    ///
    /// # Errors
    /// A [`SessionError`].
    pub fn attach(&self, namespace: &str, pod: &str, container: &str, wanted: Wanted) -> Result<Session, SessionError> {
        let console = self.inside(namespace, pod, container)?.console;
        Ok(attach(&console, wanted))
    }

    /// Connects to a port on a Pod's loopback, of whichever family answers.
    ///
    /// # Errors
    /// In containerd's words.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<TcpStream, String> {
        let inside = self.registry().any_inside(&ObjectKey::new(namespace, pod));
        let inside = inside.ok_or_else(|| format!("sandbox of pod {namespace}/{pod} is not running"))?;
        let dial = async |address: SocketAddr| -> io::Result<TcpStream> {
            let pidfd = Arc::clone(&inside.pidfd);
            let make = move || netns::run_beside(&*pidfd, || socket_for(address));
            let socket = tokio::task::spawn_blocking(make).await.map_err(io::Error::other)???;
            socket.connect(address).await
        };
        let describe = |e: io::Error| match e.raw_os_error() {
            Some(_) => format!("connect: {}", plain(&e)),
            None => e.to_string(),
        };
        let v4 = match dial((Ipv4Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(e) => describe(e),
        };
        let v6 = match dial((Ipv6Addr::LOCALHOST, port).into()).await {
            Ok(stream) => return Ok(stream),
            Err(e) => describe(e),
        };
        Err(format!(
            "failed to execute portforward in network namespace of {namespace}/{pod}: failed to connect to \
             localhost:{port} inside namespace, IPv4: dial tcp4 127.0.0.1:{port}: {v4} IPv6 dial tcp6 [::1]:{port}: {v6}"
        ))
    }
}

fn socket_for(address: SocketAddr) -> io::Result<TcpSocket> {
    if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn exec(spawner: &Spawner, inside: Inside, argv: Vec<String>, wanted: Wanted) -> Result<Session, SessionError> {
    let (streams, theirs) = Streams::open(wanted)?;
    let child = container::exec(spawner, &inside, argv, theirs, wanted.tty).await.map_err(|e| match e {
        StartError::Start(why) => SessionError::Start { id: Uuid::new_v4().simple().to_string(), why },
        other => SessionError::Streams(other.to_string()),
    })?;
    let Ours { stdin, stdout, stderr, terminal } = streams.ours()?;
    // It has a task of its own, so that it is reaped also when nobody waits any more.
    let exit = tokio::spawn(async move { child.wait().await });
    let closed = CancellationToken::new();
    let stdin = stdin.map(|input| {
        let (sender, pieces) = mpsc::channel(PIECES);
        let closed = closed.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = input.pump(pieces) => {}
                () = closed.cancelled() => {}
            }
        });
        sender
    });
    let ended = async move {
        match exit.await {
            Ok(Ok(exit)) => exit.code(),
            // Gone without a trace of its end: as bad as killed.
            _ => 137,
        }
    };
    Ok(Session {
        stdin,
        stdout: stdout.map(pieces),
        stderr: stderr.map(pieces),
        terminal,
        ended: Box::pin(ended),
        alive: closed.drop_guard(),
    })
}

/// The output as it comes.
fn pieces(output: Output) -> BoxStream<'static, Bytes> {
    let next = |mut output: Output| async move {
        let mut piece = Vec::new();
        match output.read(&mut piece, READ).await {
            Ok(0) | Err(_) => None,
            Ok(_) => Some((Bytes::from(piece), output)),
        }
    };
    futures::stream::unfold(output, next).boxed()
}

fn attach(console: &Arc<Console>, wanted: Wanted) -> Session {
    let closed = CancellationToken::new();
    // Outputs end early when the input ends.
    let detached = CancellationToken::new();
    let listen = |stream| {
        let heard = ReceiverStream::new(console.listen(stream));
        heard.take_until(detached.clone().cancelled_owned()).boxed()
    };
    let stdout = wanted.stdout.then(|| listen(Stream::Stdout));
    let stderr = (wanted.stderr && console.terminal.is_none()).then(|| listen(Stream::Stderr));
    let stdin = console.stdin().filter(|_| wanted.stdin).map(|stdin| {
        let (sender, mut pieces) = mpsc::channel::<Bytes>(PIECES);
        let (console, closed) = (Arc::clone(console), closed.clone());
        tokio::spawn(async move {
            let carry = async {
                while let Some(bytes) = pieces.recv().await {
                    if stdin.send(bytes).await.is_err() {
                        // The container reads no more, and goes on.
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                () = carry => {}
                () = closed.cancelled() => {}
            }
            if console.stdin_once && console.terminal.is_none() {
                console.close_stdin();
            } else {
                detached.cancel();
            }
        });
        sender
    });
    Session {
        stdin,
        stdout,
        stderr,
        terminal: console.terminal.clone(),
        ended: Box::pin(std::future::ready(0)),
        alive: closed.drop_guard(),
    }
}

/// Our ends of a process's standard streams, before its start.
pub enum Streams {
    Pipes(Ours),
    /// The process's init makes the terminal and sends it; whether we type into it.
    Terminal(OwnedFd, bool),
}

/// Our ends.
#[derive(Default)]
pub struct Ours {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub terminal: Option<Arc<Terminal>>,
}

impl Streams {
    /// With the process's ends, for its start. What is not wanted leads nowhere.
    pub fn open(wanted: Wanted) -> io::Result<(Self, [OwnedFd; 3])> {
        let null = || Ok::<OwnedFd, io::Error>(File::options().read(true).write(true).open("/dev/null")?.into());
        if wanted.tty {
            let (handover, end) = handover()?;
            return Ok((Self::Terminal(handover, wanted.stdin), [end, null()?, null()?]));
        }
        let (mut ours, mut theirs) = (Ours::default(), [null()?, null()?, null()?]);
        if wanted.stdin {
            let (end, pipe) = input_pipe()?;
            ours.stdin = Some(Input::Pipe(pipe));
            theirs[0] = end;
        }
        if wanted.stdout {
            let (pipe, end) = output_pipe()?;
            ours.stdout = Some(Output::Pipe(pipe));
            theirs[1] = end;
        }
        if wanted.stderr {
            let (pipe, end) = output_pipe()?;
            ours.stderr = Some(Output::Pipe(pipe));
            theirs[2] = end;
        }
        Ok((Self::Pipes(ours), theirs))
    }

    /// Our ends, once the process runs.
    pub fn ours(self) -> io::Result<Ours> {
        let (handover, typed) = match self {
            Self::Pipes(ours) => return Ok(ours),
            Self::Terminal(handover, typed) => (handover, typed),
        };
        let terminal = Terminal::receive(handover)?;
        Ok(Ours {
            stdin: typed.then(|| Input::Terminal(Arc::clone(&terminal))),
            stdout: Some(Output::Terminal(Arc::clone(&terminal))),
            stderr: None,
            terminal: Some(terminal),
        })
    }
}
