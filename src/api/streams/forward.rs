//! port-forward: connections to ports of a Pod, each with a stream for its bytes and one for what goes wrong.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::conversation::{self, Connection, Inlet, LINGER, Outgoing, Outlet, PIECES, What};
use super::spdy::REFUSED_STREAM;
use super::spdy_session::{self, Opened};
use super::websocket::{self, Framing};
use crate::api::status::ApiError;

/// The subprotocol over SPDY.
pub(super) const SPDY: [&str; 1] = ["portforward.k8s.io"];
/// The subprotocols over WebSocket: SPDY in a tunnel, and channels for ports that are named in the request.
pub(super) const WEBSOCKET: [&str; 3] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
pub(super) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// How long one stream of a pair may wait for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// Most ports of one request: each has two of the 255 channels.
const PORTS: usize = 100;
const READ: usize = 32 * 1024;
const TUNNEL_BUFFER: usize = 64 * 1024;

/// Connects to a port of the Pod, or says why not.
pub(super) type Dial = Arc<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// The ports that a request for channels names.
pub(super) fn ports(query: &str) -> Result<Vec<u16>, ApiError> {
    let values = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "ports");
    let texts: Vec<String> =
        values.flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>()).collect();
    if texts.is_empty() {
        return Err(ApiError::bad_request(r#"query parameter "ports" is required"#));
    }
    if texts.len() > PORTS {
        return Err(ApiError::bad_request(format!("at most {PORTS} ports can be forwarded on one connection")));
    }
    let port = |text: &String| match text.parse() {
        Ok(0) => Err(ApiError::bad_request(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(ApiError::bad_request(format!("unable to parse {text:?} as a port"))),
    };
    texts.iter().map(port).collect()
}

/// Serves SPDY inside a WebSocket.
pub(super) async fn over_tunnel(connection: Box<dyn Connection>, gone: CancellationToken, dial: Dial) {
    let (outer, inner) = tokio::io::duplex(TUNNEL_BUFFER);
    let over = CancellationToken::new();
    let inside = async {
        over_spdy(inner, gone, dial).await;
        over.cancel();
    };
    let lingering = async {
        over.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let outside = async {
        tokio::select! {
            () = websocket::tunnel(connection, outer) => {}
            () = lingering => {}
        }
    };
    tokio::join!(outside, inside);
}

/// Serves a SPDY connection: for each connection that it accepts, the client opens two streams.
pub(super) async fn over_spdy(connection: impl Connection, gone: CancellationToken, dial: Dial) {
    spdy_session::serve(connection, gone.clone(), |mut opened| async move {
        let mut waiting = Waiting::default();
        // Aborted when the client is gone.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                stream = opened.recv() => {
                    let Some(stream) = stream else { return };
                    if let Some((port, error, data)) = waiting.pair(stream, Instant::now()).await {
                        connections.spawn(connect(port, error, data, Arc::clone(&dial)));
                    }
                }
                Some(_) = connections.join_next() => {}
                () = gone.cancelled() => return,
            }
        }
    })
    .await;
}

/// Streams that wait for the other of their pair, by the request that they belong to.
#[derive(Default)]
struct Waiting {
    streams: HashMap<String, (Opened, Instant)>,
}

impl Waiting {
    async fn pair(&mut self, stream: Opened, now: Instant) -> Option<(u16, Opened, Opened)> {
        for (_, (late, _)) in self.streams.extract_if(|_, (_, since)| now - *since > PAIRING) {
            let _ = late.outlet.put(What::Reset(REFUSED_STREAM)).await;
        }
        let error = stream.headers.get("streamtype") == "error";
        let known = error || stream.headers.get("streamtype") == "data";
        let port = stream.headers.get("port").parse().ok().filter(|port| *port > 0 && known);
        let Some(port) = port else {
            let _ = stream.outlet.put(What::Reset(REFUSED_STREAM)).await;
            return None;
        };
        let request = match stream.headers.get("requestid") {
            // Old clients open the error stream first, and the data stream next.
            "" if error => stream.outlet.stream.to_string(),
            "" => stream.outlet.stream.saturating_sub(2).to_string(),
            request => request.to_owned(),
        };
        let Some((other, _)) = self.streams.remove(&request) else {
            self.streams.insert(request, (stream, now));
            return None;
        };
        match (error, other.headers.get("streamtype")) {
            (true, "data") => Some((port, stream, other)),
            (false, "error") => Some((port, other, stream)),
            _ => {
                let _ = stream.outlet.put(What::Reset(REFUSED_STREAM)).await;
                self.streams.insert(request, (other, now));
                None
            }
        }
    }
}

async fn connect(port: u16, error: Opened, data: Opened, dial: Dial) {
    let Opened { inlet, outlet, reset, .. } = data;
    tokio::select! {
        () = forward(port, inlet, &outlet, &error.outlet, &reset, dial) => {
            let _ = error.outlet.finish().await;
            let _ = outlet.finish().await;
        }
        () = reset.cancelled() => {}
    }
}

/// Serves channels: two for each port, data and error.
pub(super) async fn over_channels(
    connection: Box<dyn Connection>,
    framing: Framing,
    ports: Vec<u16>,
    gone: CancellationToken,
    dial: Dial,
) {
    let (sink, messages) = websocket::accept(connection).await.split();
    let (queue, queued) = mpsc::channel::<Outgoing>(PIECES);
    let mut channels = Vec::new();
    let mut connections = JoinSet::new();
    for (stream, port) in (0..).step_by(2).zip(ports) {
        let (sender, inlet) = mpsc::channel(PIECES);
        channels.extend([Some(sender), None]);
        let outlet = |stream| Outlet { stream, queue: queue.clone(), gone: gone.clone() };
        let (data, error) = (outlet(stream), outlet(stream + 1));
        let (dial, gone) = (Arc::clone(&dial), gone.clone());
        connections.spawn(async move {
            // Each channel begins with its port, which is how clients know that it is there.
            for outlet in [&data, &error] {
                let _ = outlet.send(port.to_le_bytes().to_vec()).await;
            }
            forward(port, inlet, &data, &error, &gone, dial).await;
        });
    }
    drop(queue);
    let work = async {
        tokio::select! {
            () = async { while connections.join_next().await.is_some() {} } => {}
            () = gone.cancelled() => {}
        }
        connections.shutdown().await;
    };
    let reader = websocket::read_channels(messages, framing, channels);
    conversation::run(reader, websocket::write_channels(sink, framing, queued), work, gone.clone()).await;
}

/// Carries one connection until the Pod has closed it. What the client has sent before it stopped arrives.
async fn forward(port: u16, mut inlet: Inlet, data: &Outlet, error: &Outlet, reset: &CancellationToken, dial: Dial) {
    let mut tcp = match dial(port).await {
        Ok(tcp) => tcp,
        Err(why) => {
            let _ = error.send(why).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = tcp.split();
    let inward = async {
        while let Some(bytes) = inlet.recv().await {
            if to_pod.write_all(&bytes).await.is_err() {
                return;
            }
        }
        if !reset.is_cancelled() {
            let _ = to_pod.shutdown().await;
        }
    };
    let outward = async {
        loop {
            let mut piece = Vec::with_capacity(READ);
            match from_pod.read_buf(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(_) if data.send(Bytes::from(piece)).await.is_err() => return,
                Ok(_) => {}
            }
        }
    };
    let inward = async {
        inward.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn client_of_a_tunnel_that_does_nothing_does_not_hold_up_the_end() {
        // Nothing is read from this end, and it stays open.
        let (_client, server) = tokio::io::duplex(1);
        let gone = CancellationToken::new();
        let dial: Dial = Arc::new(|_| Box::pin(std::future::pending()));
        let tunnel = tokio::spawn(over_tunnel(Box::new(server), gone.clone(), dial));
        gone.cancel();
        tokio::time::timeout(Duration::from_secs(20), tunnel).await.expect("an end in time").unwrap();
    }

    #[test]
    fn ports_are_repeated_or_listed() {
        assert_eq!(ports("ports=80&ports=81,82").unwrap(), [80, 81, 82]);
        for (query, message) in [
            ("", r#"query parameter "ports" is required"#),
            ("ports=0", r#"port "0" must be > 0"#),
            ("ports=80,http", r#"unable to parse "http" as a port"#),
            ("ports=65536", r#"unable to parse "65536" as a port"#),
        ] {
            assert_eq!(ports(query).unwrap_err().message, message);
        }
        let many = vec!["1"; PORTS + 1].join(",");
        assert!(ports(&format!("ports={many}")).is_err());
    }
}
