//! ServiceAccount tokens: JSON Web Tokens that are bound to an object and to a time (KEP-1205).
//!
//! ```text
//! tokens     keys, claims, and the token as text
//! request    TokenRequest: makes a token for a ServiceAccount, bound to a Pod, a Node or a Secret if asked
//! accounts   whom a token stands for, as long as its ServiceAccount and the object that it is bound to exist
//! discovery  the keys as OpenID Connect relying parties find them
//! ```
//!
//! A token is signed with ECDSA on P-256 (`ES256`, RFC 7518 section 3.4). The one algorithm and the one key are fixed,
//! so nothing that a token's header says is looked at, and all that is left of the compact serialization (RFC 7515
//! section 7.1) is three parts in base64: it is written here on the cryptography that TLS uses anyway. A library for
//! it would bring a second one, with RSA and more that nobody asks for.

mod accounts;
pub(super) mod discovery;
mod request;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::auth::AUTHENTICATED;

/// The key that tokens are signed with. It is one P-256 key pair.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    /// The public key as an uncompressed point: 0x04, x, y.
    point: Vec<u8>,
    /// The `kid` of headers and of the published key: the hash of the public key, as the reference has it.
    id: String,
}

/// The key pair is not one that tokens can be signed with.
#[derive(Debug, thiserror::Error)]
#[error("not an ECDSA key on P-256: {0}")]
pub struct KeyRejected(String);

impl TokenKey {
    /// # Errors
    /// [`KeyRejected`] for keys of another kind.
    pub fn new(pair: &rcgen::KeyPair) -> Result<Self, KeyRejected> {
        use rcgen::PublicKeyData;
        let id = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, &pair.subject_public_key_info()));
        let point = pair.public_key_raw().to_vec();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &SystemRandom::new())
                .map_err(|e| KeyRejected(e.to_string()))?;
        Ok(Self { pair, point, id })
    }

    /// The token that makes these claims.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    fn sign(&self, claims: &Claims) -> Result<String, ring::error::Unspecified> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let claims = serde_json::to_vec(claims).map_err(|_| ring::error::Unspecified)?;
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    /// The claims of a token that was signed with this key.
    fn open(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (_, claims) = signed.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point).verify(signed.as_bytes(), &signature).ok()?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// What a token says. Times are seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Claims {
    aud: Vec<String>,
    exp: i64,
    iat: i64,
    iss: String,
    jti: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Binding,
    nbf: i64,
    sub: String,
}

/// The objects that a token is about. It is worth something while they exist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Binding {
    namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pod: Option<Reference>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secret: Option<Reference>,
    serviceaccount: Reference,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reference {
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    uid: String,
}

/// The user name of a ServiceAccount.
fn service_account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups that every ServiceAccount of a namespace is in, beside that of all authenticated users.
pub(super) fn service_account_groups(namespace: &str) -> Vec<String> {
    vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")]
}

/// All groups of a ServiceAccount that has shown a token.
fn authenticated_groups(namespace: &str) -> Vec<String> {
    let mut groups = service_account_groups(namespace);
    groups.push(AUTHENTICATED.into());
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TokenKey {
        TokenKey::new(&rcgen::KeyPair::generate().unwrap()).unwrap()
    }

    fn claims() -> Claims {
        let account = Reference { name: "default".into(), uid: "u1".into() };
        Claims {
            aud: vec!["api".into()],
            exp: 2000,
            iat: 1000,
            iss: "https://issuer".into(),
            jti: "id".into(),
            kubernetes: Binding {
                namespace: "web".into(),
                node: None,
                pod: Some(Reference { name: "p".into(), uid: "u2".into() }),
                secret: None,
                serviceaccount: account,
            },
            nbf: 1000,
            sub: service_account_user("web", "default"),
        }
    }

    #[test]
    fn token_has_the_form_and_claims_of_a_bound_token() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        let parts: Vec<serde_json::Value> = token
            .split('.')
            .take(2)
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        assert_eq!(parts[0], json!({"alg": "ES256", "kid": key.id}));
        assert_eq!(
            parts[1],
            json!({
                "aud": ["api"], "exp": 2000, "iat": 1000, "iss": "https://issuer", "jti": "id", "nbf": 1000,
                "kubernetes.io": {"namespace": "web", "pod": {"name": "p", "uid": "u2"},
                    "serviceaccount": {"name": "default", "uid": "u1"}},
                "sub": "system:serviceaccount:web:default",
            })
        );
        assert_eq!(key.open(&token), Some(claims()));
    }

    #[test]
    fn no_byte_of_a_token_can_be_changed() {
        let key = key();
        let token = key.sign(&claims()).unwrap();
        for (at, byte) in token.bytes().enumerate() {
            let mut changed = token.clone().into_bytes();
            changed[at] = if byte == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            // The last character of a part holds bits that stand for nothing: it is refused all the same.
            assert_eq!(key.open(&changed), None, "byte {at}");
        }
        let (signed, _) = token.rsplit_once('.').unwrap();
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        let unsigned = format!("{header}.{}.", signed.split_once('.').unwrap().1);
        for bad in [signed, &unsigned, "", ".", "..", "a.b.c", "no token"] {
            assert_eq!(key.open(bad), None, "{bad}");
        }
        assert_eq!(self::key().open(&token), None, "another cluster's key");
    }
}
