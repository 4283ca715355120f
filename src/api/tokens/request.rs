//! TokenRequest, the `token` subresource of a ServiceAccount (`kubectl create token`).
//!
//! The reference makes a token of the usual hour valid for a year where a Pod's volume asks for it, for clients from
//! before tokens were renewed. This cluster has no such past: a token ends when its answer says.

use axum::response::Response;
use http::StatusCode;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec, TokenRequestStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::super::Api;
use super::super::causes::Causes;
use super::super::request::{Call, decode_object};
use super::super::status::{About, ApiError, json_response};
use super::{Binding, Claims, Reference, service_account_user};
use crate::store::Key;

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const LEAST_SECONDS: i64 = 600;
const MOST_SECONDS: i64 = 1 << 32;

/// What a token is bound to is looked up for.
#[derive(Deserialize)]
struct Found {
    metadata: ObjectMeta,
    #[serde(default)]
    spec: FoundSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FoundSpec {
    service_account_name: String,
    node_name: String,
}

impl Found {
    fn reference(&self) -> Reference {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Reference { name: text(&self.metadata.name), uid: text(&self.metadata.uid) }
    }
}

impl Api {
    /// The issuer of this cluster's tokens.
    pub(in crate::api) fn issuer(&self) -> &str {
        &self.inner.issuer
    }

    /// The audience of tokens for this API.
    pub(in crate::api) fn audience(&self) -> String {
        self.issuer().to_owned()
    }

    pub(in crate::api) fn request_token(&self, call: &Call) -> Result<Response, ApiError> {
        let (namespace, name) = (call.target.namespace(), call.target.name());
        let mut request: TokenRequest = decode_object(call.content_type(), &call.body, &format!("{GROUP}/v1"), KIND)?;
        check_names(&request, namespace, name)?;
        let account = self.found("serviceaccounts", namespace, name)?;
        let mut spec = request.spec.take().unwrap_or_default();
        let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        check_seconds(seconds)?;
        let audiences = spec.audiences.take().filter(|audiences| !audiences.is_empty());
        let audiences = audiences.unwrap_or_else(|| vec![self.audience()]);

        let mut binding = Binding {
            namespace: namespace.to_owned(),
            node: None,
            pod: None,
            secret: None,
            serviceaccount: account.reference(),
        };
        if let Some(reference) = &spec.bound_object_ref {
            self.bind_token(reference, &mut binding)?;
        }
        let now = Timestamp::now();
        let expires = now.as_second() + seconds;
        let claims = Claims {
            aud: audiences.clone(),
            exp: expires,
            iat: now.as_second(),
            iss: self.issuer().to_owned(),
            jti: uuid::Uuid::new_v4().to_string(),
            kubernetes: binding,
            nbf: now.as_second(),
            sub: service_account_user(namespace, name),
        };
        let token = self
            .inner
            .token_key
            .sign(&claims)
            .map_err(|e| ApiError::internal(format!("failed to generate token: {e}")))?;

        request.metadata.name = Some(name.to_owned());
        request.metadata.namespace = Some(namespace.to_owned());
        request.metadata.creation_timestamp = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
        request.spec = Some(TokenRequestSpec { audiences: Some(audiences), expiration_seconds: Some(seconds), ..spec });
        let expires = Timestamp::from_second(expires).unwrap_or(Timestamp::MAX);
        request.status = Some(TokenRequestStatus { expiration_timestamp: Some(Time(expires)), token: Some(token) });
        let answer = serde_json::to_value(&request).map_err(ApiError::internal)?;
        Ok(json_response(StatusCode::CREATED, &answer))
    }

    fn found(&self, resource: &str, namespace: &str, name: &str) -> Result<Found, ApiError> {
        let entry = self
            .store()
            .get(&Key::new(resource, namespace, name))
            .ok_or_else(|| ApiError::not_found(About { group: "", resource, name }))?;
        serde_json::from_slice(&entry.value).map_err(ApiError::internal)
    }

    /// Binds the token of `binding`'s account to one more object.
    fn bind_token(&self, reference: &BoundObjectReference, binding: &mut Binding) -> Result<(), ApiError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (version, kind, name) = (text(&reference.api_version), text(&reference.kind), text(&reference.name));
        let (group, bare_version) = version.split_once('/').unwrap_or(("", &version));
        let bound = match (group, kind.as_str()) {
            ("", "Pod") => {
                let pod = self.found("pods", &binding.namespace, &name)?;
                if pod.spec.service_account_name != binding.serviceaccount.name {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                        binding.serviceaccount.name
                    )));
                }
                if !pod.spec.node_name.is_empty() {
                    let node = self.found("nodes", "", &pod.spec.node_name).map(|node| node.reference());
                    let gone = |_| Reference { name: pod.spec.node_name.clone(), uid: String::new() };
                    binding.node = Some(node.unwrap_or_else(gone));
                }
                &*binding.pod.insert(pod.reference())
            }
            ("", "Node") => &*binding.node.insert(self.found("nodes", "", &name)?.reference()),
            ("", "Secret") => {
                let secret = self.found("secrets", &binding.namespace, &name)?;
                &*binding.secret.insert(secret.reference())
            }
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {group}/{bare_version}, Kind={kind}"
                )));
            }
        };
        match &reference.uid {
            Some(uid) if !uid.is_empty() && *uid != bound.uid => Err(ApiError::conflict(
                About { group: "", resource: &kind, name: &name },
                format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. \
                     The object might have been deleted and then recreated"
                ),
            )),
            _ => Ok(()),
        }
    }
}

/// A request may name the ServiceAccount that its path names, and no other.
fn check_names(request: &TokenRequest, namespace: &str, name: &str) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if let Some(other) = given(&request.metadata.name).filter(|other| other != name) {
        causes.invalid("metadata.name", other, "must match the service account name if specified");
    }
    if let Some(other) = given(&request.metadata.namespace).filter(|other| other != namespace) {
        causes.invalid("metadata.namespace", other, "must match the service account namespace if specified");
    }
    refuse(causes, name)
}

fn check_seconds(seconds: i64) -> Result<(), ApiError> {
    let mut causes = Causes::default();
    if seconds < LEAST_SECONDS {
        causes.invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds > MOST_SECONDS {
        causes.invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds");
    }
    refuse(causes, "")
}

fn refuse(causes: Causes, name: &str) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(About { group: GROUP, resource: KIND, name }, &causes.0))
}
