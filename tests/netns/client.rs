//! An API client over TLS, with the certificate of a kubeconfig: what kubectl is, in a page.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::kubeconfig;

#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    address: SocketAddr,
}

impl Client {
    pub fn of_kubeconfig(path: &Path) -> Self {
        let (address, tls) = kubeconfig::read(path);
        Self { tls: TlsConnector::from(Arc::new(tls)), address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends one request on a connection of its own; the body of the answer is still to be read.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        mime: &str,
        body: String,
    ) -> std::io::Result<http::Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string())
            .header("content-type", mime)
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        sender.send_request(request).await.map_err(std::io::Error::other)
    }

    /// A request with its whole answer: the code and the text.
    pub async fn text(&self, method: Method, path: &str, mime: &str, body: String) -> std::io::Result<(u16, String)> {
        let response = self.send(method, path, mime, body).await?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }
}
