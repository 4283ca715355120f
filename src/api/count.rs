//! Counts requests, for `/metrics`: by verb, resource and code, and how long they took.

use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::Method;

use super::Api;
use super::discovery::subresources;
use super::limits::is_long_running;
use crate::metrics::REQUESTS;

/// The middleware around everything that is served. Watches and logs last as long as somebody looks: no time is kept.
pub(super) async fn count(State(api): State<Api>, request: Request, next: Next) -> Response {
    let long = is_long_running(request.method(), request.uri());
    let (verb, resource) = api.question(request.method(), request.uri().path(), long);
    let begin = Instant::now();
    let response = next.run(request).await;
    REQUESTS.count(verb, &resource, response.status().as_u16(), (!long).then(|| begin.elapsed()));
    response
}

impl Api {
    /// The verb as Kubernetes has it, and the resource: `pods`, `pods/log`, empty for paths that are no resource, `other`
    /// for what is not served.
    fn question(&self, method: &Method, path: &str, long: bool) -> (&'static str, String) {
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let (group, version, rest) = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
            ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
            _ => return (plain(method, true), String::new()),
        };
        let rest = match rest {
            ["namespaces", _, plural, rest @ ..] if !["status", "finalize"].contains(plural) => {
                [&[*plural], rest].concat()
            }
            rest => rest.to_vec(),
        };
        let (plural, name, sub) = (rest[0], rest.get(1), rest.get(2));
        let resource = match (self.registry().find(group, version, plural), sub) {
            (None, _) => "other".to_owned(),
            (Some(_), None) => plural.to_owned(),
            // The subresources that there are; anything else is a client's invention.
            (Some(kind), Some(sub)) if subresources(kind.info()).iter().any(|(name, ..)| name == sub) => {
                format!("{plural}/{sub}")
            }
            (Some(_), Some(_)) => "other".to_owned(),
        };
        let verb = match *method {
            Method::GET if name.is_none() && long => "watch",
            Method::GET if name.is_none() => "list",
            Method::DELETE if name.is_none() => "deletecollection",
            _ => plain(method, false),
        };
        (verb, resource)
    }
}

fn plain(method: &Method, path: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD => "get",
        // Of a path that is no resource, as of a resource, nobody asks for more.
        Method::POST if path => "post",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::api::pki::token_key;
    use crate::config::{Network, StoreConfig};
    use crate::store::Store;

    #[tokio::test]
    async fn subresources_are_counted_by_name_and_inventions_are_not() {
        let store = Store::open(&StoreConfig::in_memory()).await.unwrap();
        let api = Api::new(store, Network::default(), token_key(None).unwrap(), CancellationToken::new());
        let resource = |path: &str| api.question(&Method::GET, path, false).1;
        for (path, counted) in [
            ("/api/v1/namespaces/a/pods", "pods"),
            ("/api/v1/namespaces/a/pods/p/resize", "pods/resize"),
            ("/api/v1/namespaces/a/pods/p/proxy/index.html", "pods/proxy"),
            ("/api/v1/namespaces/a/services/s/proxy", "services/proxy"),
            ("/api/v1/nodes/n1/proxy/logs", "nodes/proxy"),
            ("/api/v1/namespaces/a/status", "namespaces/status"),
            ("/apis/apps/v1/namespaces/a/deployments/d/scale", "deployments/scale"),
            ("/api/v1/namespaces/a/configmaps/c/proxy", "other"),
            ("/api/v1/namespaces/a/pods/p/invented", "other"),
            ("/version", ""),
        ] {
            assert_eq!(resource(path), counted, "{path}");
        }
    }
}
