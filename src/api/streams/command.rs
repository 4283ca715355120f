//! exec and attach: a client's streams are connected with a process's.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::conversation::{Connection, Inlet, Outgoing, Outlet, PIECES};
use super::spdy_session::Opened;
use super::websocket::{self, Framing};
use super::{Session, Wanted, conversation, spdy_session};

/// The channels of the WebSocket protocols, in their order.
const STDIN: usize = 0;
const STDOUT: u32 = 1;
const STDERR: u32 = 2;
const ERROR: u32 = 3;
const RESIZE: usize = 4;

/// How long a client of SPDY may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);

/// The subprotocols over WebSocket, the newest first.
pub(super) const WEBSOCKET: [&str; 5] =
    ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", PLAIN, "base64.channel.k8s.io"];
/// What a WebSocket client speaks that names nothing.
pub(super) const PLAIN: &str = "channel.k8s.io";
/// The subprotocols over SPDY. A newer server and an older client meet at v4, which all of them know.
pub(super) const SPDY: [&str; 1] = ["v4.channel.k8s.io"];

/// How a process's end is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A `Status` object.
    Status,
    /// The message alone, and nothing on success: before v4.
    Text,
}

/// A client's ends of the streams.
struct Ends {
    stdin: Option<Inlet>,
    stdout: Option<Outlet>,
    stderr: Option<Outlet>,
    error: Outlet,
    resize: Option<Inlet>,
    form: Form,
    gone: CancellationToken,
}

/// What brings the process about, once the streams are there.
pub(super) type Begin = Box<dyn FnOnce() -> futures::future::BoxFuture<'static, Result<Session, String>> + Send>;

/// Serves a WebSocket of the subprotocol that was agreed on.
pub(super) async fn over_websocket(
    connection: Box<dyn Connection>,
    subprotocol: &str,
    wanted: Wanted,
    gone: CancellationToken,
    begin: Begin,
) {
    let framing = if subprotocol.contains("base64") { Framing::Base64 } else { Framing::Binary };
    let form = if subprotocol.starts_with('v') { Form::Status } else { Form::Text };
    let (sink, messages) = websocket::accept(connection).await.split();
    let (queue, queued) = mpsc::channel::<Outgoing>(PIECES);
    let outlet = |stream| Outlet { stream, queue: queue.clone(), gone: gone.clone() };
    let mut channels: Vec<Option<mpsc::Sender<Bytes>>> = vec![None; RESIZE + 1];
    let mut inlet = |wanted: bool, channel: usize| {
        wanted.then(|| {
            let (sender, receiver) = mpsc::channel(PIECES);
            channels[channel] = Some(sender);
            receiver
        })
    };
    let ends = Ends {
        stdin: inlet(wanted.stdin, STDIN),
        resize: inlet(wanted.tty, RESIZE),
        stdout: wanted.stdout.then(|| outlet(STDOUT)),
        stderr: wanted.stderr.then(|| outlet(STDERR)),
        error: outlet(ERROR),
        form,
        gone: gone.clone(),
    };
    drop(queue);
    let work = async {
        // An empty message on the first channel tells clients that the streams are there.
        let first = ends.stdout.as_ref().or(ends.stderr.as_ref()).unwrap_or(&ends.error);
        let _ = first.send(Bytes::new()).await;
        converse(ends, begin).await;
    };
    let reader = websocket::read_channels(messages, framing, channels);
    conversation::run(reader, websocket::write_channels(sink, framing, queued), work, gone).await;
}

/// Serves a SPDY connection, on which the client opens a stream for each thing that it wants.
pub(super) async fn over_spdy(connection: Box<dyn Connection>, wanted: Wanted, gone: CancellationToken, begin: Begin) {
    let going = gone.clone();
    spdy_session::serve(connection, gone, |mut opened| async move {
        let streams = tokio::time::timeout(OPENING, gather(&mut opened, wanted, &going)).await;
        if let Ok(Some(ends)) = streams {
            converse(ends, begin).await;
        }
    })
    .await;
}

/// Waits for all streams that the client's options promise.
async fn gather(opened: &mut mpsc::Receiver<Opened>, wanted: Wanted, gone: &CancellationToken) -> Option<Ends> {
    let mut streams: Vec<Opened> = Vec::new();
    let names = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr),
        ("resize", wanted.tty),
    ];
    let expected = names.iter().filter(|(_, wanted)| *wanted).count();
    while streams.len() < expected {
        streams.push(opened.recv().await?);
    }
    let mut take = |name: &str| {
        let at = streams.iter().position(|stream| stream.headers.get("streamtype") == name)?;
        Some(streams.swap_remove(at))
    };
    Some(Ends {
        error: take("error")?.outlet,
        stdin: take("stdin").map(|stream| stream.inlet),
        stdout: take("stdout").map(|stream| stream.outlet),
        stderr: take("stderr").map(|stream| stream.outlet),
        resize: take("resize").map(|stream| stream.inlet),
        form: Form::Status,
        gone: gone.clone(),
    })
}

/// Begins the process and carries bytes until it has ended and all its output is sent, or the client is gone.
async fn converse(ends: Ends, begin: Begin) {
    let session = tokio::select! {
        session = begin() => session,
        () = ends.gone.cancelled() => return,
    };
    let outcome = match session {
        Ok(session) => {
            let Session { stdin, stdout, stderr, resize, ended, alive: _alive } = session;
            let input = async {
                tokio::join!(feed(ends.stdin, stdin), resizes(ends.resize, resize));
                std::future::pending::<()>().await;
            };
            let output = async {
                tokio::join!(carry(stdout, ends.stdout), carry(stderr, ends.stderr));
                ended.await
            };
            // What is left of the session goes when the client does, and the process learns of it by its streams.
            tokio::select! {
                outcome = output => outcome,
                () = input => return,
                () = ends.gone.cancelled() => return,
            }
        }
        Err(why) => Err(why),
    };
    if let Some(bytes) = ends.form.of(&outcome) {
        let _ = ends.error.send(bytes).await;
    }
    let _ = ends.error.finish().await;
}

async fn feed(inlet: Option<Inlet>, stdin: Option<mpsc::Sender<Bytes>>) {
    let Some(mut inlet) = inlet else { return };
    while let Some(bytes) = inlet.recv().await {
        if let Some(stdin) = &stdin {
            // A process that reads no more is no reason to stop the client.
            let _ = stdin.send(bytes).await;
        }
    }
}

async fn resizes(inlet: Option<Inlet>, resize: Option<super::Resize>) {
    let (Some(mut inlet), Some(resize)) = (inlet, resize) else { return };
    while let Some(bytes) = inlet.recv().await {
        // SPDY is a stream of objects; clients write each at once.
        for size in serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>().map_while(Result::ok) {
            let side = |name: &str| size[name].as_u64().and_then(|side| u16::try_from(side).ok());
            if let (Some(width), Some(height)) = (side("Width"), side("Height")) {
                resize(width, height);
            }
        }
    }
}

async fn carry(output: Option<BoxStream<'static, Bytes>>, outlet: Option<Outlet>) {
    let Some(outlet) = outlet else { return };
    if let Some(mut output) = output {
        while let Some(bytes) = output.next().await {
            if outlet.send(bytes).await.is_err() {
                return;
            }
        }
    }
    let _ = outlet.finish().await;
}

impl Form {
    /// What the error stream says at the end.
    fn of(self, outcome: &Result<super::Ended, String>) -> Option<String> {
        let status = match outcome {
            Ok(super::Ended { code: 0, .. }) => json!({"metadata": {}, "status": "Success"}),
            Ok(super::Ended { code, what }) => json!({
                "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": format!("command terminated with non-zero exit code: error executing command {what}, exit code {code}"),
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Err(why) => json!({
                "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
                "message": format!("Internal error occurred: {why}"), "details": {"causes": [{"message": why}]},
            }),
        };
        match self {
            Self::Status => Some(status.to_string()),
            Self::Text => status["message"].as_str().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Ended;
    use super::*;

    #[test]
    fn ends_are_told_as_the_kubelet_does() {
        let told = |outcome| serde_json::from_str::<Value>(&Form::Status.of(&outcome).unwrap()).unwrap();
        let ended = |code| Ok(Ended { code, what: "[sh -c exit 7]".to_owned() });
        assert_eq!(told(ended(0)), json!({"metadata": {}, "status": "Success"}));
        assert_eq!(
            told(ended(7)),
            json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                "message": "command terminated with non-zero exit code: error executing command [sh -c exit 7], exit code 7",
                "details": {"causes": [{"reason": "ExitCode", "message": "7"}]}})
        );
        let failed = told(Err("no such program".to_owned()));
        assert_eq!((&failed["reason"], &failed["code"]), (&json!("InternalError"), &json!(500)));
        assert_eq!(failed["message"], "Internal error occurred: no such program");
        assert_eq!(Form::Text.of(&ended(0)), None);
        assert!(Form::Text.of(&ended(7)).unwrap().ends_with("exit code 7"));
    }

    #[tokio::test]
    async fn sizes_are_taken_and_nonsense_is_left() {
        let (sender, inlet) = mpsc::channel(8);
        for text in [
            r#"{"Width":80,"Height":24}"#,
            "nonsense",
            r#"{"Width":-1,"Height":1}"#,
            r#"{"Width":1,"Height":2}{"Width":3,"Height":4}"#,
        ] {
            sender.send(Bytes::from(text)).await.unwrap();
        }
        drop(sender);
        let (seen, mut sizes) = mpsc::unbounded_channel();
        let resize: super::super::Resize = Box::new(move |width, height| {
            let _ = seen.send((width, height));
        });
        resizes(Some(inlet), Some(resize)).await;
        let mut all = Vec::new();
        while let Some(size) = sizes.recv().await {
            all.push(size);
        }
        assert_eq!(all, [(80, 24), (1, 2), (3, 4)]);
    }
}
