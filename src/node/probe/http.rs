//! Probes by HTTP and HTTPS. A redirect is followed while it stays on the host that is asked; one that leads elsewhere
//! counts as healthy, with a warning, as nobody may send a kubelet to where it likes.

use std::net::SocketAddr;

use http::Request;
use http::header::{HOST, LOCATION};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use tokio::io::{AsyncRead, AsyncWrite};
use url::{Position, Url};

use super::{Finding, Target, connect};
use crate::insecure_tls;
use crate::node::environment::resolve_port;

/// Redirects that are followed in a row.
const MOST_REDIRECTS: usize = 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(super) async fn get(action: &HTTPGetAction, target: &Target) -> Finding {
    let tls = action.scheme.as_deref().is_some_and(|s| s.eq_ignore_ascii_case("https"));
    let Some(port) = resolve_port(&action.port, &target.container) else {
        return Finding::Unhealthy(format!("couldn't find port: {:?}", action.port));
    };
    let host = action.host.as_deref().filter(|h| !h.is_empty());
    let path = action.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    let authority = match host {
        Some(host) => format!("{host}:{port}"),
        None => SocketAddr::new(target.address, port).to_string(),
    };
    let mut place = Place { tls, authority, port, path };
    // The name that the probe asks for goes along as long as nobody names another.
    let mut named = action.http_headers.iter().flatten().find(|header| header.name.eq_ignore_ascii_case("host"));
    for _ in 0..=MOST_REDIRECTS {
        let asked = named.map_or(place.authority.as_str(), |header| header.value.as_str());
        let answer = match ask(action, target, &place, host, asked).await {
            Ok(answer) => answer,
            Err(finding) => return finding,
        };
        let status = answer.status;
        if !(200..400).contains(&status) {
            return Finding::Unhealthy(format!("HTTP probe failed with statuscode: {status}"));
        }
        let Some(location) = answer.location.filter(|_| matches!(status, 301..=303 | 307 | 308)) else {
            return if status < 300 { Finding::Healthy } else { elsewhere() };
        };
        match place.follow(&location) {
            Some((next, is_absolute)) => {
                named = named.filter(|_| !is_absolute);
                place = next;
            }
            None => return elsewhere(),
        }
    }
    Finding::Unhealthy(format!("Get {:?}: stopped after {MOST_REDIRECTS} redirects", place.url()))
}

fn elsewhere() -> Finding {
    Finding::Warned("Probe terminated redirects".to_owned())
}

/// What is asked for, and of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    /// With the port, where the URL has it.
    authority: String,
    port: u16,
    /// With the query.
    path: String,
}

impl Place {
    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority, self.path)
    }

    /// Where a redirect leads, and whether it is a whole URL; `None` if that is another host, or cannot be read.
    fn follow(&self, location: &str) -> Option<(Self, bool)> {
        let own = Url::parse(&self.url()).ok()?;
        let url = own.join(location).ok()?;
        let tls = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        if url.host() != own.host() {
            return None;
        }
        let next = Self {
            tls,
            authority: url[Position::BeforeHost..Position::AfterPort].to_owned(),
            port: url.port_or_known_default()?,
            path: url[Position::BeforePath..Position::AfterQuery].to_owned(),
        };
        Some((next, Url::parse(location).is_ok()))
    }
}

struct Answer {
    status: u16,
    location: Option<String>,
}

async fn ask(
    action: &HTTPGetAction,
    target: &Target,
    place: &Place,
    host: Option<&str>,
    named: &str,
) -> Result<Answer, Finding> {
    let url = place.url();
    let stream = connect(target, host, place.port).await.map_err(|finding| match finding {
        Finding::Refused(message) => Finding::Refused(format!("Get {url:?}: {message}")),
        Finding::Unhealthy(message) => Finding::Unhealthy(format!("Get {url:?}: {message}")),
        healthy => healthy,
    })?;
    let answer = if place.tls {
        let address = host.and_then(|host| host.parse().ok()).unwrap_or(target.address);
        match insecure_tls::connect(stream, address).await {
            Ok(stream) => request(action, named, &place.path, stream).await,
            Err(e) => Err(e.into()),
        }
    } else {
        request(action, named, &place.path, stream).await
    };
    answer.map_err(|e| Finding::Unhealthy(format!("Get {url:?}: {e}")))
}

async fn request(
    action: &HTTPGetAction,
    named: &str,
    path: &str,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Answer, BoxError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let mut request = Request::builder()
        .uri(path)
        .header(HOST, named)
        .header("User-Agent", "kube-probe/1.36")
        .header("Accept", "*/*")
        .header("Connection", "close");
    for header in action.http_headers.iter().flatten().filter(|header| !header.name.eq_ignore_ascii_case("host")) {
        request = request.header(&header.name, &header.value);
    }
    let response = sender.send_request(request.body(Empty::<bytes::Bytes>::new())?);
    // The connection is driven here, by the same task, and is closed when the answer's head is there.
    let response = tokio::select! {
        response = response => response?,
        Err(e) = connection => return Err(e.into()),
    };
    let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    Ok(Answer { status: response.status().as_u16(), location: location.map(str::to_owned) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_stay_on_the_host_or_are_not_followed_ps10() {
        let from = Place { tls: false, authority: "10.0.0.1:8080".into(), port: 8080, path: "/a/b?c=d".into() };
        let to =
            |location: &str| from.follow(location).map(|(place, is_absolute)| (place.url(), place.port, is_absolute));
        let place = |url: &str, port, is_absolute| Some((url.to_owned(), port, is_absolute));
        for (location, expected) in [
            ("/login?x=1#top", place("http://10.0.0.1:8080/login?x=1", 8080, false)),
            ("c", place("http://10.0.0.1:8080/a/c", 8080, false)),
            ("../c/./d#top", place("http://10.0.0.1:8080/c/d", 8080, false)),
            ("c?to=http://example.com/", place("http://10.0.0.1:8080/a/c?to=http://example.com/", 8080, false)),
            ("?e=f", place("http://10.0.0.1:8080/a/b?e=f", 8080, false)),
            ("", place("http://10.0.0.1:8080/a/b?c=d", 8080, false)),
            ("https://10.0.0.1:8443/", place("https://10.0.0.1:8443/", 8443, true)),
            ("https://10.0.0.1", place("https://10.0.0.1/", 443, true)),
            ("//10.0.0.1/x", place("http://10.0.0.1/x", 80, false)),
            ("http://10.0.0.2:8080/", None),
            ("http://example.com/", None),
            ("gopher://10.0.0.1/", None),
        ] {
            assert_eq!(to(location), expected, "{location}");
        }
    }
}
