//! How others verify this cluster's tokens: OpenID Connect discovery, as the reference serves it.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header;
use serde_json::{Value, json};

use super::super::Api;

/// Where the keys are.
pub(in crate::api) const KEYS_PATH: &str = "/openid/v1/jwks";
/// OpenID Connect Discovery 1.0, section 4.
pub(in crate::api) const CONFIGURATION_PATH: &str = "/.well-known/openid-configuration";

pub(in crate::api) async fn configuration(State(api): State<Api>) -> Response {
    let issuer = api.issuer();
    let document = json!({
        "issuer": issuer,
        "jwks_uri": format!("{issuer}{KEYS_PATH}"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    });
    cached(&document, "application/json")
}

/// The public key as a JSON Web Key Set (RFC 7517).
pub(in crate::api) async fn keys(State(api): State<Api>) -> Response {
    let key = &api.inner.token_key;
    // An uncompressed point: one byte that says so, then both coordinates.
    let (x, y) = key.point[1..].split_at(key.point.len() / 2);
    let coordinate = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let keys = json!({"keys": [{
        "use": "sig", "kty": "EC", "kid": key.id, "crv": "P-256", "alg": "ES256", "x": coordinate(x), "y": coordinate(y),
    }]});
    cached(&keys, "application/jwk-set+json")
}

fn cached(document: &Value, media: &'static str) -> Response {
    ([(header::CONTENT_TYPE, media), (header::CACHE_CONTROL, "public, max-age=3600")], document.to_string())
        .into_response()
}
