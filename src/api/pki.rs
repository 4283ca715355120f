//! The cluster's private CA and the certificates that it signs.
//!
//! Made at the first start and kept in `DATA_DIR/pki` (0700, keys 0600); an in-memory cluster keeps nothing.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};

use super::tokens::TokenKey;

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// The key that ServiceAccounts' tokens are signed with.
const TOKEN_KEY: &str = "sa.key";
/// The files in the folder of keys that make the cluster itself for its clients; everything else is made from them.
pub const IDENTITY: [&str; 3] = [CA_CERT, CA_KEY, TOKEN_KEY];
/// The name of cluster, user and context in a kubeconfig of ours.
pub const CONTEXT: &str = "vipyard";
const CA_YEARS: i64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read or write {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the CA in {path} cannot be used ({source}): remove it to have a new one made")]
    BadCa { path: String, source: rcgen::Error },
    #[error("the key of tokens in {path} cannot be used ({reason}): remove it to have a new one made")]
    BadTokenKey { path: String, reason: String },
    #[error("certificate cannot be made: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// A certificate with its private key, both in PEM.
#[derive(Clone)]
pub struct CertifiedKey {
    pub cert_pem: String,
    pub key_pem: String,
}

/// The CA that everything in the cluster trusts.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    cert_pem: String,
}

impl Authority {
    /// The CA of the folder `dir`, made there if it is missing; one for this run only when there is no folder.
    pub fn open(dir: Option<&Path>) -> Result<Self, PkiError> {
        let Some(dir) = dir else { return Ok(Self::from_parts(make_ca()?)?) };
        let (cert, key) = (dir.join(CA_CERT), dir.join(CA_KEY));
        if key.exists() && cert.exists() {
            let cert_pem = fs::read_to_string(&cert).map_err(io_error(&cert))?;
            let key_pem = fs::read_to_string(&key).map_err(io_error(&key))?;
            let path = dir.display().to_string();
            return Self::from_parts(CertifiedKey { cert_pem, key_pem })
                .map_err(|source| PkiError::BadCa { path, source });
        }
        make_folder(dir)?;
        let made = make_ca()?;
        write_private(&key, &made.key_pem).map_err(io_error(&key))?;
        write_private(&cert, &made.cert_pem).map_err(io_error(&cert))?;
        Ok(Self::from_parts(made)?)
    }

    fn from_parts(pair: CertifiedKey) -> Result<Self, rcgen::Error> {
        let key = KeyPair::from_pem(&pair.key_pem)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&pair.cert_pem, key)?, cert_pem: pair.cert_pem })
    }

    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// A certificate for the API's listeners.
    pub fn server(&self, addresses: &[IpAddr], names: &[String]) -> Result<CertifiedKey, PkiError> {
        let mut params = CertificateParams::new(names.to_vec())?;
        params.subject_alt_names.extend(addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.distinguished_name = name("vipyard-apiserver", &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(params)
    }

    /// A certificate for a user: its groups are the organizations of the subject.
    pub fn client(&self, user: &str, groups: &[&str]) -> Result<CertifiedKey, PkiError> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = name(user, groups);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<CertifiedKey, PkiError> {
        validity(&mut params, 1);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(CertifiedKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }
}

/// The key of ServiceAccounts' tokens in the folder `dir`, made there if it is missing; one for this run only when there
/// is no folder.
pub fn token_key(dir: Option<&Path>) -> Result<TokenKey, PkiError> {
    let usable = |pair: &KeyPair, path: &Path| {
        TokenKey::new(pair)
            .map_err(|e| PkiError::BadTokenKey { path: path.display().to_string(), reason: e.to_string() })
    };
    let Some(dir) = dir else { return usable(&KeyPair::generate()?, Path::new(TOKEN_KEY)) };
    let path = dir.join(TOKEN_KEY);
    let pair = match fs::read_to_string(&path) {
        Ok(pem) => KeyPair::from_pem(&pem)
            .map_err(|e| PkiError::BadTokenKey { path: path.display().to_string(), reason: e.to_string() })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            make_folder(dir)?;
            let pair = KeyPair::generate()?;
            write_private(&path, &pair.serialize_pem()).map_err(io_error(&path))?;
            pair
        }
        Err(e) => return Err(io_error(&path)(e)),
    };
    usable(&pair, &path)
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.display().to_string();
    move |source| PkiError::File { path, source }
}

fn make_folder(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))
}

fn name(common_name: &str, organizations: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    for organization in organizations {
        name.push(DnType::OrganizationName, *organization);
    }
    name
}

fn validity(params: &mut CertificateParams, years: i64) {
    let now = time::OffsetDateTime::now_utc();
    // Clocks of clients may be a little behind.
    params.not_before = now - time::Duration::hours(1);
    params.not_after = now + time::Duration::days(365 * years);
}

fn make_ca() -> Result<CertifiedKey, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = name("vipyard-ca", &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_YEARS);
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(CertifiedKey { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
}

/// Writes a file that only its owner may read, whole or not at all.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let part = path.with_extension("part");
    let _ = fs::remove_file(&part);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&part, path)
}

/// A kubeconfig (JSON, which is YAML) for the API at `server`, with the admin's certificate inside.
pub fn kubeconfig(server: &str, authority: &Authority, admin: &CertifiedKey) -> String {
    let name = CONTEXT;
    let encoded = |text: &str| STANDARD.encode(text);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encoded(authority.cert_pem())}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encoded(&admin.cert_pem), "client-key-data": encoded(&admin.key_pem)}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": "default"}}],
        "current-context": name,
    });
    format!("{}\n", serde_json::to_string_pretty(&config).unwrap_or_default())
}

/// Why a kubeconfig is no way to a cluster of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a kubeconfig as `vipyard up` writes it: {0}")]
pub struct BadKubeconfig(&'static str);

/// The other end of [`kubeconfig`]: the address of the API, and TLS that trusts its CA and shows its certificate. No
/// protocol is negotiated: who wants HTTP/2 sets `alpn_protocols`.
///
/// # Errors
/// For a text that [`kubeconfig`] did not write.
pub fn dial(kubeconfig: &str) -> Result<(SocketAddr, ClientConfig), BadKubeconfig> {
    let config: Value = serde_json::from_str(kubeconfig).map_err(|_| BadKubeconfig("it is not JSON"))?;
    let (cluster, user) = (&config["clusters"][0]["cluster"], &config["users"][0]["user"]);
    let pem = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok());
    let bad = || BadKubeconfig("it has no CA, or no certificate with its key");
    let ca = pem(&cluster["certificate-authority-data"]).ok_or_else(bad)?;
    let mut roots = RootCertStore::empty();
    CertificateDer::from_pem_slice(&ca).ok().and_then(|ca| roots.add(ca).ok()).ok_or_else(bad)?;
    let chain = pem(&user["client-certificate-data"]).ok_or_else(bad)?;
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<Vec<_>, _>>().map_err(|_| bad())?;
    let key = pem(&user["client-key-data"]).and_then(|key| PrivateKeyDer::from_pem_slice(&key).ok()).ok_or_else(bad)?;
    let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .ok()
        .and_then(|builder| builder.with_root_certificates(roots).with_client_auth_cert(chain, key).ok())
        .ok_or_else(bad)?;
    let server = cluster["server"].as_str().and_then(|url| url.strip_prefix("https://"));
    let server = server.and_then(|server| server.parse().ok());
    Ok((server.ok_or(BadKubeconfig("its server is no https://ADDRESS:PORT"))?, tls))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::Identity;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_keys_are_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        let first = Authority::open(Some(&dir)).unwrap();
        let second = Authority::open(Some(&dir)).unwrap();
        assert_eq!(first.cert_pem(), second.cert_pem());
        token_key(Some(&dir)).unwrap();
        let key = fs::read(dir.join(TOKEN_KEY)).unwrap();
        token_key(Some(&dir)).unwrap();
        assert_eq!(fs::read(dir.join(TOKEN_KEY)).unwrap(), key);
        for file in [CA_CERT, CA_KEY, TOKEN_KEY] {
            assert_eq!(fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn client_certificates_name_user_and_groups() {
        let authority = Authority::open(None).unwrap();
        let client = authority.client("admin", &["system:masters"]).unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(client.cert_pem.as_bytes()).unwrap();
        let identity = Identity::of_certificate(&pem.contents).unwrap();
        assert_eq!(identity.user, "admin");
        assert_eq!(identity.groups, ["system:masters", "system:authenticated"]);
    }
}
