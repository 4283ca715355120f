//! Questions to the API of a running cluster, with the kubeconfig of its data directory.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Client {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Client {
    /// The client of the cluster in `data_dir`.
    pub(super) fn of(data_dir: &Path) -> Result<Self> {
        let path = crate::app::kubeconfig_path(data_dir);
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("no kubeconfig at {}: start the cluster with `vipyard up`, or name its --data-dir", path.display())
        })?;
        let config: Value = serde_json::from_str(&text).context("the kubeconfig is not vipyard's own")?;
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
        let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://")).unwrap_or_default();
        let address = server.parse().context("the kubeconfig names no address")?;
        let tls = tls(cluster, user).context("the kubeconfig has no usable certificates")?;
        Ok(Self { address, tls: TlsConnector::from(Arc::new(tls)) })
    }

    /// An object; `None` when there is none.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>> {
        let answer = tokio::time::timeout(PATIENCE, self.ask(path)).await;
        let (status, body) =
            answer.map_err(|_| anyhow!("the API at {} does not answer", self.address)).and_then(|answer| answer)?;
        match status {
            200 => serde_json::from_slice(&body).map(Some).with_context(|| format!("{path} is not what it should be")),
            404 => Ok(None),
            _ => Err(anyhow!("the API answers {status} for {path}: {}", String::from_utf8_lossy(&body))),
        }
    }

    async fn ask(&self, path: &str) -> Result<(u16, Bytes)> {
        let stream = TcpStream::connect(self.address).await.with_context(|| {
            format!("nobody answers at {}: start the cluster with `vipyard up`, or name its --data-dir", self.address)
        })?;
        let stream = self.tls.connect(ServerName::from(self.address.ip()), stream).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(path).header("host", self.address.to_string()).body(Empty::<Bytes>::new())?;
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }
}

fn tls(cluster: &Value, user: &Value) -> Result<ClientConfig> {
    let pem = |value: &Value| STANDARD.decode(value.as_str().unwrap_or_default());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])?)?)?;
    let chain = pem(&user["client-certificate-data"])?;
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_root_certificates(roots).with_client_auth_cert(chain, key)?)
}
