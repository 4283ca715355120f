//! A client for the cluster of a data directory, with the rights of its owner: one request on one connection.
//!
//! kube's own client would bring its readers of kubeconfigs and all the ways to log in, three megabytes of binary.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::DataDir;
use crate::api::pki;

/// For commands that ask a running cluster: one thread is enough.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

pub(super) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl DataDir {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let path = crate::app::kubeconfig_path(&self.data_dir);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("no kubeconfig at {}: start the cluster with `vipyard up`, or name its --data-dir", path.display())
        })?;
        let (address, tls) = pki::dial(&text).with_context(|| path.display().to_string())?;
        Ok(Client { address, tls: TlsConnector::from(Arc::new(tls)) })
    }
}

impl Client {
    /// The code and the JSON of the answer.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        self.ask(Method::GET, path).await
    }

    /// The same for a request that changes something.
    pub(super) async fn post(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        self.ask(Method::POST, path).await
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        let host = self.address.to_string();
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = self.send(request).await;
        let (code, body) =
            answer.with_context(|| format!("cannot ask the cluster at {}: is it running?", self.address))?;
        let body = serde_json::from_slice(&body).map_err(|_| anyhow!("{path}: {code}: the answer is not JSON"))?;
        Ok((code, body))
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> io::Result<(StatusCode, Bytes)> {
        let stream = TcpStream::connect(self.address).await?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let code = response.status();
        let body = response.into_body().collect().await.map_err(io::Error::other)?;
        Ok((code, body.to_bytes()))
    }
}
