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
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::DataDir;
use crate::api::pki;

/// For commands, which do one thing: one thread is enough.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// A query of what is not empty.
pub(super) fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs.iter().filter(|(_, value)| !value.is_empty()));
    query.finish()
}

pub(super) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl DataDir {
    /// The text of the cluster's kubeconfig.
    pub(super) fn kubeconfig(&self) -> anyhow::Result<String> {
        let path = crate::app::kubeconfig_path(&self.data_dir);
        std::fs::read_to_string(&path).with_context(|| {
            format!("no kubeconfig at {}: start the cluster with `vipyard up`, or name its --data-dir", path.display())
        })
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let text = self.kubeconfig()?;
        let path = crate::app::kubeconfig_path(&self.data_dir);
        let (address, tls) = pki::dial(&text).with_context(|| path.display().to_string())?;
        Ok(Client { address, tls: TlsConnector::from(Arc::new(tls)) })
    }
}

impl Client {
    /// The code and the JSON of the answer.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        self.json(Method::GET, path).await
    }

    /// The same for a request that changes something.
    pub(super) async fn post(&self, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        self.json(Method::POST, path).await
    }

    async fn json(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Value)> {
        let (code, body) = self.ask(method, path).await?;
        let body = body.collect().await?.to_bytes();
        let body = serde_json::from_slice(&body).map_err(|_| anyhow!("{path}: {code}: the answer is not JSON"))?;
        Ok((code, body))
    }

    /// Hands over the lines of an answer as they come, until there are no more or `take` says that it has enough.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(StatusCode, &str) -> bool,
    ) -> anyhow::Result<StatusCode> {
        let (code, mut body) = self.ask(Method::GET, path).await?;
        let mut rest = Vec::new();
        while let Some(frame) = body.frame().await {
            rest.extend_from_slice(frame?.data_ref().map_or(&[][..], |data| data));
            let mut begin = 0;
            while let Some(length) = rest[begin..].iter().position(|byte| *byte == b'\n') {
                let line = &rest[begin..begin + length];
                if !take(code, &String::from_utf8_lossy(line)) {
                    return Ok(code);
                }
                begin += length + 1;
            }
            rest.drain(..begin);
        }
        if !rest.is_empty() {
            take(code, &String::from_utf8_lossy(&rest));
        }
        Ok(code)
    }

    async fn ask(&self, method: Method, path: &str) -> anyhow::Result<(StatusCode, Incoming)> {
        let host = self.address.to_string();
        let request = Request::builder().method(method).uri(path).header(header::HOST, host);
        let request = request.body(Empty::<Bytes>::new())?;
        let answer = self.send(request).await;
        answer.with_context(|| format!("cannot ask the cluster at {}: is it running?", self.address))
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> io::Result<(StatusCode, Incoming)> {
        let stream = TcpStream::connect(self.address).await?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::spawn(async move { drop(connection.await) });
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        Ok((response.status(), response.into_body()))
    }
}
