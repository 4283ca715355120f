//! Who a request comes from. Every authenticated user may do everything: the cluster is one person's sandbox.

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::status::ApiError;

/// A user as certificates and in-process clients name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub user: String,
    pub groups: Vec<String>,
}

impl Identity {
    /// A part of the cluster itself, such as `system:kube-scheduler`.
    pub fn system(user: &str) -> Self {
        Self { user: user.to_owned(), groups: vec!["system:masters".into(), "system:authenticated".into()] }
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
        groups.push("system:authenticated".into());
        Some(Self { user, groups })
    }
}

/// Lets only requests with an identity pass.
pub(super) async fn require(request: Request, next: Next) -> Response {
    if request.extensions().get::<Identity>().is_some() {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}

/// Paths that nothing is served at: 404 for those who may know it, 401 for everybody else.
pub(super) async fn not_found(request: Request) -> Response {
    if request.extensions().get::<Identity>().is_some() {
        (StatusCode::NOT_FOUND, "404 page not found\n").into_response()
    } else {
        ApiError::unauthorized().into_response()
    }
}
