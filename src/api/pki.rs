//! The cluster's private CA and the certificates that it signs.
//!
//! Made at the first start and kept in `DATA_DIR/pki` (0700, keys 0600); an in-memory cluster keeps nothing.

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

const CA_CERT: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
/// The name of cluster, user and context in a kubeconfig of ours.
pub const CONTEXT: &str = "vipyard";
const CA_YEARS: i64 = 10;

#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot read or write {path}: {source}")]
    File { path: String, source: io::Error },
    #[error("the CA in {path} cannot be used ({source}): remove it to have a new one made")]
    BadCa { path: String, source: rcgen::Error },
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
        let io_error = |path: &Path| {
            let path = path.display().to_string();
            move |source| PkiError::File { path, source }
        };
        if key.exists() && cert.exists() {
            let cert_pem = fs::read_to_string(&cert).map_err(io_error(&cert))?;
            let key_pem = fs::read_to_string(&key).map_err(io_error(&key))?;
            let path = dir.display().to_string();
            return Self::from_parts(CertifiedKey { cert_pem, key_pem })
                .map_err(|source| PkiError::BadCa { path, source });
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error(dir))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::auth::Identity;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_ca_is_made_once_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("pki");
        let first = Authority::open(Some(&dir)).unwrap();
        let second = Authority::open(Some(&dir)).unwrap();
        assert_eq!(first.cert_pem(), second.cert_pem());
        for file in [CA_CERT, CA_KEY] {
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
