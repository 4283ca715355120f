//! One connection of a client, kept open.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig;

/// What Go's HTTP/2 client lets a server send before it has read it: 4 MiB per request, 1 GiB per connection.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// Where to connect, and how.
#[derive(Clone)]
pub struct Endpoint {
    address: SocketAddr,
    tls: TlsConnector,
    http1: bool,
}

impl Endpoint {
    pub fn new(kubeconfig: &Path, http1: bool) -> Self {
        let (address, mut tls) = kubeconfig::read(kubeconfig);
        tls.alpn_protocols = vec![if http1 { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
        Self { address, tls: TlsConnector::from(Arc::new(tls)), http1 }
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await.context("TLS")?;
        let sender = if self.http1 {
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Sender::Http1(sender)
        } else {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .handshake(TokioIo::new(stream))
                .await?;
            tokio::spawn(connection);
            Sender::Http2(sender)
        };
        Ok(Connection { sender, address: self.address })
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

pub struct Connection {
    sender: Sender,
    address: SocketAddr,
}

impl Connection {
    /// Sends a request; the body of the answer is still to be read.
    pub async fn send(&mut self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let builder = Request::builder().method(method).header("content-type", "application/json");
        let body = Full::new(body);
        Ok(match &mut self.sender {
            Sender::Http1(sender) => {
                let request = builder.uri(path).header("host", self.address.to_string()).body(body)?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let request = builder.uri(format!("https://{}{path}", self.address)).body(body)?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
        })
    }

    /// A request that must be answered with `code`, and its whole answer.
    pub async fn expect(&mut self, code: StatusCode, method: Method, path: &str, body: Bytes) -> Result<Bytes> {
        let response = self.send(method, path, body).await?;
        let found = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(found == code, "{path}: {found}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
