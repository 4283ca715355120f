//! What a kubeconfig of vipyard holds: where the API listens, the CA, and a client certificate.

use std::net::SocketAddr;
use std::path::Path;

use rustls::ClientConfig;
use vipyard::api::pki::dial;

/// The address of the API, and TLS that trusts its CA and shows the kubeconfig's certificate.
pub fn read(path: &Path) -> (SocketAddr, ClientConfig) {
    dial(&std::fs::read_to_string(path).expect("the cluster's kubeconfig")).expect("as vipyard writes it")
}
