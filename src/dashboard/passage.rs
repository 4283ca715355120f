//! The page's way to the API: same origin, the guard's cookie, and the rights of the cluster's owner.
//!
//! A request that changes something must carry [`MARK`], a header that another site's page cannot send without asking
//! first, and nobody answers that question. Of what the browser sends, the API sees the headers that say what is asked
//! for; who asks is not the browser's to say. What Pods answer never comes by here (`proxy`): it would be shown with the
//! page's own origin. What comes may not run or frame anything, whatever type it has.

use axum::Router;
use axum::extract::Request;
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;

/// What a request that changes something carries, with any value.
pub(super) const MARK: HeaderName = HeaderName::from_static("x-vipyard-ui");
/// For whoever opens an answer as a document of its own.
const POLICY: &str = "default-src 'none'; sandbox; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const FORWARDED: [HeaderName; 3] = [header::ACCEPT, header::CONTENT_TYPE, header::CONTENT_LENGTH];
/// Subresources that lead into Pods.
const KEPT_BACK: [&str; 4] = ["attach", "exec", "portforward", "proxy"];

/// `api` behind the checks.
pub(super) fn to(api: Router) -> Router {
    api.layer(from_fn(pass))
}

async fn pass(mut request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = if !reads && !request.headers().contains_key(MARK) {
        (StatusCode::FORBIDDEN, format!("a request that changes something must carry the header {MARK}\n"))
            .into_response()
    } else if leads_into_pods(request.uri().path()) {
        (StatusCode::FORBIDDEN, "what Pods answer is not shown with this page's origin: use kubectl\n").into_response()
    } else {
        let mut kept = HeaderMap::new();
        for name in FORWARDED {
            if let Some(value) = request.headers_mut().remove(&name) {
                kept.insert(name, value);
            }
        }
        *request.headers_mut() = kept;
        next.run(request).await
    };
    let headers = response.headers_mut();
    headers.remove(header::SET_COOKIE);
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// Whether the path is `…/RESOURCE/NAME/SUBRESOURCE` of one that is kept back, as the API would read it.
fn leads_into_pods(path: &str) -> bool {
    let path = percent_decode_str(path).decode_utf8_lossy();
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    let Some(rest) = (match segments.first() {
        Some(&"api") => segments.get(2..),
        _ => segments.get(3..),
    }) else {
        return false;
    };
    let rest = if rest.first() == Some(&"namespaces") && rest.len() > 4 { &rest[2..] } else { rest };
    rest.get(2).is_some_and(|subresource| KEPT_BACK.contains(subresource))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subresources_that_lead_into_pods_are_told_from_names() {
        for path in [
            "/api/v1/namespaces/shop/pods/web/proxy",
            "/api/v1/namespaces/shop/pods/web/proxy/index.html",
            "/api/v1/namespaces/shop/services/http:web:80/%70roxy/",
            "/api/v1/namespaces/shop/pods/web/exec",
            "/api/v1/nodes/n1/proxy/logs",
            "/api/v1//namespaces/shop/pods/web/proxy",
        ] {
            assert!(leads_into_pods(path), "{path}");
        }
        for path in [
            "/api/v1/namespaces/shop/services/proxy",
            "/api/v1/namespaces/pods/services/proxy",
            "/api/v1/namespaces/shop/pods/web/log",
            "/api/v1/namespaces/proxy",
            "/apis/apps/v1/namespaces/shop/deployments/exec",
            "/vipyard/v1/flows",
            "/version",
        ] {
            assert!(!leads_into_pods(path), "{path}");
        }
    }
}
