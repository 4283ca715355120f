//! Who a request comes from. Every authenticated user may do everything: the cluster is one person's sandbox.
//!
//! A request is authenticated by, in this order: an identity that a part of this process brings with it, a client
//! certificate (both are in the request's extensions), or a ServiceAccount's token (`Authorization: Bearer`, see
//! [`tokens`](super::tokens)). Everything else gets 401; there are no anonymous requests beside health checks. Whoever
//! is authenticated may act as somebody else ([`impersonation`]).

mod impersonation;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use k8s_openapi::api::authentication::v1::UserInfo;
use tracing::debug;

use super::Api;
use super::status::ApiError;

/// The group of everybody who has said who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everybody else; none of them gets past [`require`].
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The user name of everybody else.
pub const ANONYMOUS: &str = "system:anonymous";

/// A user as certificates, tokens and in-process clients name them. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Arc<User>);

/// What is known of a user: `UserInfo` of `authentication.k8s.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    pub user: String,
    /// Empty for users of certificates.
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Deref for Identity {
    type Target = User;

    fn deref(&self) -> &User {
        &self.0
    }
}

impl From<User> for Identity {
    fn from(user: User) -> Self {
        Self(Arc::new(user))
    }
}

impl From<&Identity> for UserInfo {
    fn from(identity: &Identity) -> Self {
        let User { user, uid, groups, extra } = &*identity.0;
        Self {
            username: Some(user.clone()),
            uid: Some(uid.clone()).filter(|uid| !uid.is_empty()),
            groups: Some(groups.clone()).filter(|groups| !groups.is_empty()),
            extra: Some(extra.clone()).filter(|extra| !extra.is_empty()),
        }
    }
}

impl Identity {
    /// A part of the cluster itself, such as `system:kube-scheduler`.
    pub fn system(user: &str) -> Self {
        let groups = vec!["system:masters".into(), AUTHENTICATED.into()];
        User { user: user.to_owned(), groups, ..User::default() }.into()
    }

    /// The subject of a client certificate: its common name is the user, its organizations are the groups.
    ///
    /// The certificate has been verified against the cluster's CA by the TLS layer.
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let subject = certificate.subject();
        let user = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
        let mut groups: Vec<String> =
            subject.iter_organization().filter_map(|name| name.as_str().ok()).map(str::to_owned).collect();
        groups.push(AUTHENTICATED.into());
        Some(User { user, groups, ..User::default() }.into())
    }
}

/// Lets only requests with an identity pass, which is then among their extensions.
pub(super) async fn require(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let shown = request.extensions().get::<Identity>().is_some();
    let of_token = match bearer_token(request.headers()) {
        _ if shown => None,
        Some(token) => match api.authenticate_token(token, &[api.audience()]) {
            Ok(authenticated) => Some(authenticated.identity),
            Err(error) => {
                debug!(%error, "bearer token refused");
                return ApiError::unauthorized().into_response();
            }
        },
        None => return ApiError::unauthorized().into_response(),
    };
    let acting_as = match impersonation::requested(request.headers()) {
        // Who asks to be nobody gets what nobody gets.
        Ok(Some(other)) if other.user == ANONYMOUS => return ApiError::unauthorized().into_response(),
        Ok(other) => other.map(Identity::from),
        Err(error) => return error.into_response(),
    };
    if let Some(identity) = acting_as.or(of_token) {
        request.extensions_mut().insert(identity);
    }
    next.run(request).await
}

fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?.trim();
    let (scheme, token) = text.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}
