//! An API client over TLS, with the certificate of a kubeconfig: what kubectl is, in a page.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[derive(Clone)]
pub struct Client {
    tls: TlsConnector,
    address: SocketAddr,
}

impl Client {
    pub fn of_kubeconfig(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the cluster's kubeconfig");
        let config: Value = serde_saphyr::from_str(&text).expect("the kubeconfig is YAML");
        let pem = |value: &Value| STANDARD.decode(value.as_str().expect("a certificate")).expect("base64");
        let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);

        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_slice(&pem(&cluster["certificate-authority-data"])).expect("a CA");
        roots.add(ca).expect("a usable CA");
        let chain = pem(&user["client-certificate-data"]);
        let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>().expect("certificates");
        let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the usual versions of TLS")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .expect("a client certificate");
        let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://")).expect("a URL");
        Self { tls: TlsConnector::from(Arc::new(tls)), address: server.parse().expect("an address") }
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
