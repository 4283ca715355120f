//! The proxy subresources of Pods, Services and nodes: any request, passed on to an address of the cluster.
//!
//! The server behind does not know of the proxy, so what it says of itself is put right: `Location`, and links in HTML
//! (`k8s.io/apimachinery/pkg/util/proxy`). What the client says of itself to the API stays here.

mod html;
mod place;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::StreamExt;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Api;
use super::serve::Peer;
use super::status::ApiError;
use super::streams::{Switched, switched};
use crate::insecure_tls;
use html::Rewriter;
use place::Place;

/// How long a server may take to accept a connection.
const DIAL: Duration = Duration::from_secs(30);

/// What is said between neighbours and goes no further.
const HOP: [&str; 9] = [
    "connection",
    "proxy-connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// What is for the API server alone. An expected 100 was given when the body was asked for.
const OWN: [&str; 2] = ["authorization", "expect"];

/// What a request is for, as its path says it.
pub(super) struct Target<'a> {
    pub resource: &'a str,
    pub namespace: &'a str,
    pub id: &'a str,
    /// The request's path to `/proxy`, as it was sent.
    pub prefix: String,
    /// The path behind it; none without a slash.
    pub path: Option<String>,
}

trait Stream: AsyncRead + AsyncWrite + Send {}

impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

impl Api {
    pub(super) async fn proxy(&self, target: Target<'_>, mut request: Request) -> Result<Response, ApiError> {
        let place = self.place(target.resource, target.namespace, target.id)?;
        let upgrades = request.headers().contains_key(header::UPGRADE);
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if target.path.is_none() && reads && !upgrades {
            return redirect(&request);
        }
        let stream = self.reach(place).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| unreachable(&e))?;
        let stopping = self.inner.stopping.clone();
        self.inner.streams.spawn(async move {
            tokio::select! {
                _ = connection.with_upgrades() => {}
                () = stopping.cancelled() => {}
            }
        });
        let client = request.extensions_mut().remove::<OnUpgrade>().filter(|_| upgrades);
        let about = About::of(&request, &target, place);
        let mut response = sender.send_request(about.outgoing(request)?).await.map_err(|e| unreachable(&e))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.relay(response, client);
        }
        strip(response.headers_mut());
        about.rewrite(response.map(Body::new))
    }

    async fn reach(&self, Place { tls, address }: Place) -> Result<Pin<Box<dyn Stream>>, ApiError> {
        let dial = self.nodes()?.dial(address);
        let failed = |why: &str| ApiError::service_unavailable(format!("error trying to reach service: {why}"));
        let stream = match tokio::time::timeout(DIAL, dial).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let text = error.to_string();
                let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
                return Err(failed(&format!("dial tcp {address}: connect: {text}")));
            }
            Err(_) => return Err(failed(&format!("dial tcp {address}: i/o timeout"))),
        };
        if !tls {
            return Ok(Box::pin(stream));
        }
        let encrypted = tokio::time::timeout(DIAL, insecure_tls::connect(stream, address.ip())).await;
        match encrypted {
            Ok(Ok(stream)) => Ok(Box::pin(stream)),
            Ok(Err(error)) => Err(failed(&format!("tls: {error}"))),
            Err(_) => Err(failed("net/http: TLS handshake timeout")),
        }
    }

    /// Joins the two connections that are no HTTP any more.
    fn relay(
        &self,
        mut response: http::Response<hyper::body::Incoming>,
        client: Option<OnUpgrade>,
    ) -> Result<Response, ApiError> {
        let client = client.ok_or_else(|| ApiError::internal("the server switched protocols unasked"))?;
        let place = self.stream_place()?;
        let server = hyper::upgrade::on(&mut response);
        let stopping = self.inner.stopping.clone();
        self.inner.streams.spawn(async move {
            let _place = place;
            let (Ok(Switched { mut connection, .. }), Ok(server)) = tokio::join!(switched(client), server) else {
                return;
            };
            let mut server = TokioIo::new(server);
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut connection, &mut server) => {}
                () = stopping.cancelled() => {}
            }
        });
        Ok(response.map(|_| Body::empty()))
    }
}

/// A path without its slash would make relative links lead elsewhere.
fn redirect(request: &Request) -> Result<Response, ApiError> {
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    let place = format!("{}/{query}", request.uri().path());
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, place.try_into().map_err(ApiError::internal)?);
    Ok(response)
}

fn unreachable(error: &hyper::Error) -> ApiError {
    let why = if error.is_incomplete_message() { "EOF".to_owned() } else { error.to_string() };
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

/// Removes what is between neighbours.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    HOP.iter().for_each(|name| drop(headers.remove(*name)));
}

/// What an answer's links are judged by.
struct About {
    prefix: Arc<str>,
    /// The path at the server, with its slash.
    path: String,
    /// Hosts that are the server itself: its address, and the name that the client uses.
    hosts: Arc<[String]>,
}

impl About {
    fn of(request: &Request, target: &Target<'_>, place: Place) -> Self {
        let named = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let named = named.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        Self {
            prefix: target.prefix.as_str().into(),
            path: format!("/{}", target.path.as_deref().unwrap_or_default()),
            hosts: [place.address.to_string(), named.unwrap_or_default().to_owned()].into(),
        }
    }

    /// The request as the server gets it.
    fn outgoing(&self, request: Request) -> Result<Request, ApiError> {
        let (mut parts, body) = request.into_parts();
        let upgrade = parts.headers.get(header::UPGRADE).cloned();
        strip(&mut parts.headers);
        OWN.iter().for_each(|name| drop(parts.headers.remove(*name)));
        let impersonating: Vec<HeaderName> =
            parts.headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
        impersonating.into_iter().for_each(|name| drop(parts.headers.remove(name)));
        if let Some(upgrade) = upgrade {
            parts.headers.insert(header::UPGRADE, upgrade);
            parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        }
        // A page that is to be rewritten must not come compressed.
        let accepts = |headers: &HeaderMap| {
            let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
            accept.is_some_and(|accept| accept.contains("text/html"))
        };
        if accepts(&parts.headers) {
            parts.headers.remove(header::ACCEPT_ENCODING);
        }
        if let Some(host) = self.hosts.last().filter(|host| !host.is_empty()) {
            parts.headers.insert(header::HOST, host.parse().map_err(ApiError::internal)?);
        }
        if let Some(Peer(peer)) = parts.extensions.get::<Peer>() {
            let before = parts.headers.get("x-forwarded-for").and_then(|value| value.to_str().ok());
            let all = before.map_or(String::new(), |before| format!("{before}, ")) + &peer.ip().to_string();
            parts.headers.insert("x-forwarded-for", all.parse().map_err(ApiError::internal)?);
        }
        let forwarded = format!("{}{}", self.prefix, self.path);
        parts.headers.insert("x-forwarded-uri", forwarded.parse().map_err(ApiError::internal)?);
        let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path: PathAndQuery = format!("{}{query}", self.path).parse().map_err(ApiError::internal)?;
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.uri_mut() = Uri::from(path);
        *outgoing.headers_mut() = parts.headers;
        Ok(outgoing)
    }

    /// The answer as the client gets it.
    fn rewrite(&self, mut response: Response) -> Result<Response, ApiError> {
        let cors: Vec<HeaderName> =
            response.headers().keys().filter(|name| name.as_str().starts_with("access-control-")).cloned().collect();
        cors.into_iter().for_each(|name| drop(response.headers_mut().remove(name)));
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        if let Some(new) = text(header::LOCATION).and_then(|location| link(location, &self.prefix, &self.hosts)) {
            response.headers_mut().insert(header::LOCATION, new.parse().map_err(ApiError::internal)?);
            return Ok(response);
        }
        let kind = text(header::CONTENT_TYPE).and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if kind != "text/html" || response.headers().contains_key(header::CONTENT_ENCODING) {
            return Ok(response);
        }
        response.headers_mut().remove(header::CONTENT_LENGTH);
        let (prefix, hosts) = (Arc::clone(&self.prefix), Arc::clone(&self.hosts));
        let rewriter = Rewriter::new(move |url: &str| link(url, &prefix, &hosts));
        Ok(response.map(|body| {
            let pieces = body.into_data_stream();
            let rewritten = futures::stream::unfold(Some((pieces, rewriter)), |state| async move {
                let (mut pieces, mut rewriter) = state?;
                match pieces.next().await {
                    Some(Ok(piece)) => Some((Ok(rewriter.feed(&piece)), Some((pieces, rewriter)))),
                    Some(Err(error)) => Some((Err(error), None)),
                    None => Some((Ok(rewriter.end()), None)),
                }
            });
            Body::from_stream(rewritten)
        }))
    }
}

/// The URL by which a client of the proxy follows a link of the server's; none where it can follow the link as it is.
fn link(url: &str, prefix: &str, hosts: &[String]) -> Option<String> {
    let path = match url.split_once("://") {
        Some(("http" | "https", rest)) => on_host(rest, hosts)?,
        Some(_) => return None,
        None => match url.strip_prefix("//") {
            Some(rest) => on_host(rest, hosts)?,
            None => url,
        },
    };
    let ours = path.starts_with('/') && !path.starts_with(prefix);
    let other = path.len() != url.len();
    (ours || (other && path.starts_with('/'))).then(|| if ours { format!("{prefix}{path}") } else { path.to_owned() })
}

/// The path of a URL without its scheme, if its host is the server.
fn on_host<'a>(rest: &'a str, hosts: &[String]) -> Option<&'a str> {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let ours = !host.is_empty() && hosts.iter().any(|known| known == host);
    ours.then_some(if path.is_empty() { "/" } else { path })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_the_server_itself_lead_through_the_proxy() {
        const PREFIX: &str = "/api/v1/namespaces/default/services/web/proxy";
        let hosts = ["10.244.1.2:80".to_owned(), "localhost:8001".to_owned()];
        for (url, expected) in [
            ("/x?y#z", Some("/x?y#z")),
            ("http://10.244.1.2:80/x", Some("/x")),
            ("https://localhost:8001/x", Some("/x")),
            ("//localhost:8001/x", Some("/x")),
            ("http://10.244.1.2:80", Some("/")),
            ("http://example.com/x", None),
            ("//example.com/x", None),
            ("x", None),
            ("../x", None),
            ("#top", None),
            ("mailto:a@b", None),
            ("ftp://10.244.1.2:80/x", None),
        ] {
            let expected = expected.map(|path| format!("{PREFIX}{path}"));
            assert_eq!(link(url, PREFIX, &hosts), expected, "{url}");
        }
        assert_eq!(link(&format!("{PREFIX}/x"), PREFIX, &hosts), None);
    }

    #[test]
    fn hop_headers_and_those_that_connection_names_are_removed() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, X-Mine"), ("x-mine", "1"), ("te", "trailers"), ("accept", "*/*")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
