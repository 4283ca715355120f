//! Subresources that are a connection instead of an object: exec, attach, portforward and proxy.

use axum::extract::Request;
use axum::response::Response;

use crate::api::Api;
use crate::api::proxy;
use crate::api::status::ApiError;

const STREAMS: [&str; 3] = ["attach", "exec", "portforward"];

/// What a path of the core group names, with the number of its segments up to the subresource.
enum Named<'a> {
    Stream { namespace: &'a str, pod: &'a str, subresource: &'a str },
    Proxy { resource: &'a str, namespace: &'a str, id: &'a str, segments: usize },
}

impl<'a> Named<'a> {
    fn parse(rest: &'a str) -> Option<Self> {
        let segments: Vec<&str> = rest.split('/').collect();
        Some(match segments[..] {
            ["namespaces", namespace, "pods", pod, subresource] if STREAMS.contains(&subresource) => {
                Self::Stream { namespace, pod, subresource }
            }
            ["namespaces", namespace, resource @ ("pods" | "services"), id, "proxy", ..] => {
                Self::Proxy { resource, namespace, id, segments: 5 }
            }
            ["nodes", id, "proxy", ..] => Self::Proxy { resource: "nodes", namespace: "", id, segments: 3 },
            _ => return None,
        })
    }
}

impl Api {
    /// Serves a request that makes a connection; gives every other one back.
    pub(in crate::api) async fn connect(
        &self,
        group: &str,
        version: &str,
        rest: &str,
        mut request: Request,
    ) -> Result<Result<Response, ApiError>, Request> {
        let named = Named::parse(rest).filter(|_| group.is_empty() && version == "v1");
        match named {
            None => Err(request),
            Some(Named::Stream { namespace, pod, subresource }) => {
                Ok(self.stream(namespace, pod, subresource, &mut request))
            }
            Some(Named::Proxy { resource, namespace, id, segments }) => {
                let (prefix, path) = split(request.uri().path(), segments + 2);
                let target = proxy::Target { resource, namespace, id, prefix, path };
                Ok(self.proxy(target, request).await)
            }
        }
    }
}

/// A path up to its segment of this number, and what follows behind a slash.
fn split(path: &str, segments: usize) -> (String, Option<String>) {
    match path.match_indices('/').nth(segments) {
        Some((at, _)) => (path[..at].to_owned(), Some(path[at + 1..].to_owned())),
        None => (path.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_behind_the_proxy_stays_as_it_was_sent() {
        const PREFIX: &str = "/api/v1/namespaces/a/pods/b/proxy";
        let split = |tail: &str| split(&format!("{PREFIX}{tail}"), 7);
        for (tail, path) in [("", None), ("/", Some("")), ("/x%2Fy//z/", Some("x%2Fy//z/"))] {
            assert_eq!(split(tail), (PREFIX.to_owned(), path.map(str::to_owned)), "{tail}");
        }
    }
}
