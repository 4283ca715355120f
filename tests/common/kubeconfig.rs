//! What a kubeconfig of vipyard holds: where the API listens, the CA, and a client certificate.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

/// The address of the API, and TLS that trusts its CA and shows the kubeconfig's certificate. No protocol is
/// negotiated: who wants HTTP/2 sets `alpn_protocols`.
pub fn read(path: &Path) -> (SocketAddr, ClientConfig) {
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
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the usual versions of TLS")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("a client certificate");
    let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://")).expect("a URL");
    (server.parse().expect("an address"), tls)
}
