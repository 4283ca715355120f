//! Who may ask: the Host, Origin and token checks, and the headers that every answer carries.
//!
//! The dashboard listens on loopback, where any web page that the user visits can send requests. Three checks keep
//! such pages out: the Host must be a name of ours (a foreign name that was re-bound to 127.0.0.1 is refused), the
//! Origin, when sent, must be our own, and the visitor must hold the token, which comes once in the URL and then as a
//! cookie that scripts can't read. Another port of this host is the same site to a browser, which sends a strict cookie
//! along; so what the browser says of the way that a request came (`Sec-Fetch-Site`) counts too, the page itself aside.

use std::sync::Arc;

use axum::extract::{Query, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use subtle::ConstantTimeEq;

use super::assets;

/// Scripts, styles and streams from this very address and nothing else; markup can't be made from text by scripts,
/// except by the component framework's own templates (its policy has that name).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types svelte-trusted-html";

/// Why a request is turned away.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("this address is not one of the dashboard's own; open it as localhost or 127.0.0.1")]
    ForeignHost,
    #[error("requests from other sites are not answered")]
    ForeignOrigin,
    #[error("the token is missing or wrong")]
    NoToken,
}

/// What an admitted visitor gets.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// The answer to the request.
    Answer,
    /// The cookie of this name, and a second try without the token.
    Cookie { name: String, crossed_sites: bool },
    /// A second try without the token: the cookie is there already.
    Redirect,
}

pub(super) struct Guard {
    token: String,
    allowed_hosts: Vec<String>,
}

#[derive(Deserialize)]
struct TokenQuery {
    token: Option<String>,
}

impl Guard {
    pub(super) fn new(token: String, allowed_hosts: Vec<String>) -> Self {
        Self { token, allowed_hosts }
    }

    fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<Admission, Refusal> {
        let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(headers, &header::HOST));
        let host = host.filter(|host| self.is_ours(host)).ok_or(Refusal::ForeignHost)?;
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
                return Err(Refusal::ForeignOrigin);
            }
        }
        let apart = matches!(text(headers, &SEC_FETCH_SITE), Some("cross-site" | "same-site"));
        if apart && uri.path() != "/" {
            return Err(Refusal::ForeignOrigin);
        }
        let cookie = cookie_name(host);
        let known = cookies(headers).any(|(name, value)| name == cookie && self.opens(value));
        let offered = Query::<TokenQuery>::try_from_uri(uri).ok().and_then(|query| query.0.token);
        match offered.filter(|_| uri.path() == "/") {
            Some(offered) if self.opens(&offered) => {
                let crossed_sites = text(headers, &SEC_FETCH_SITE) == Some("cross-site");
                Ok(Admission::Cookie { name: cookie, crossed_sites })
            }
            Some(_) if known => Ok(Admission::Redirect),
            None if known => Ok(Admission::Answer),
            _ => Err(Refusal::NoToken),
        }
    }

    fn is_ours(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.parse::<u16>().is_ok() => name,
            _ => host,
        };
        let loopback = ["localhost", "127.0.0.1", "[::1]"].iter().any(|ours| name.eq_ignore_ascii_case(ours));
        loopback || self.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }

    fn opens(&self, token: &str) -> bool {
        !self.token.is_empty() && bool::from(self.token.as_bytes().ct_eq(token.as_bytes()))
    }
}

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Cookies are shared by all ports of a host, so the name holds the port: two clusters' dashboards live side by side.
fn cookie_name(host: &str) -> String {
    match host.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(port) => format!("vipyard-{port}"),
        None => "vipyard".to_owned(),
    }
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The middleware around every path.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let mut response = match guard.admit(request.uri(), request.headers()) {
        Ok(Admission::Answer) => next.run(request).await,
        Ok(Admission::Redirect) => to_the_page(),
        Ok(Admission::Cookie { name, crossed_sites }) => {
            // A strict cookie is not sent along a redirect that began on another site (a link in a web terminal), so
            // then a page of ours leads on.
            let mut response = if crossed_sites { assets::lead_on() } else { to_the_page() };
            let cookie = format!("{name}={}; Path=/; HttpOnly; SameSite=Strict", guard.token);
            if let Ok(cookie) = HeaderValue::try_from(cookie) {
                response.headers_mut().append(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin"));
    response
}

const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

fn to_the_page() -> Response {
    (StatusCode::SEE_OTHER, [(header::LOCATION, "/")]).into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::ForeignHost | Self::ForeignOrigin => (StatusCode::FORBIDDEN, format!("{self}\n")).into_response(),
            Self::NoToken => assets::sign_in(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(uri: &str, headers: &[(&'static str, &str)]) -> Result<Admission, Refusal> {
        let guard = Guard::new("s3cret".into(), vec!["box.example:8080".into()]);
        let headers = headers.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_str(v).unwrap()));
        guard.admit(&uri.parse().unwrap(), &headers.collect())
    }

    #[test]
    fn only_loopback_names_and_allowed_hosts_are_answered() {
        for host in ["localhost:8080", "LOCALHOST", "127.0.0.1:9", "[::1]:8080", "[::1]", "box.example:8080"] {
            assert_eq!(admit("/", &[("host", host)]), Err(Refusal::NoToken), "{host}");
        }
        for host in
            ["evil.example:8080", "box.example", "box.example:8081", "localhost.evil.example", "127.0.0.1.x", ""]
        {
            assert_eq!(admit("/", &[("host", host)]), Err(Refusal::ForeignHost), "{host}");
        }
        assert_eq!(admit("/", &[]), Err(Refusal::ForeignHost));
        assert_eq!(admit("http://evil.example/", &[("host", "localhost")]), Err(Refusal::ForeignHost));
    }

    #[test]
    fn origin_must_be_our_own_when_it_is_sent() {
        let ask = |origin| admit("/", &[("host", "localhost:80"), ("cookie", "vipyard-80=s3cret"), ("origin", origin)]);
        assert_eq!(ask("http://localhost:80"), Ok(Admission::Answer));
        for origin in ["http://localhost:81", "http://evil.example", "null", "", "localhost:80"] {
            assert_eq!(ask(origin), Err(Refusal::ForeignOrigin), "{origin}");
        }
    }

    #[test]
    fn pages_of_other_ports_and_sites_get_nothing_but_the_way_in() {
        let ask = |path, site| {
            let headers = [("host", "localhost:80"), ("cookie", "vipyard-80=s3cret"), ("sec-fetch-site", site)];
            admit(path, &headers)
        };
        for site in ["same-site", "cross-site"] {
            assert_eq!(ask("/ui/v1/api/api/v1/pods", site), Err(Refusal::ForeignOrigin), "{site}");
            assert_eq!(ask("/assets/page.js", site), Err(Refusal::ForeignOrigin), "{site}");
            assert_eq!(ask("/", site), Ok(Admission::Answer), "{site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(ask("/ui/v1/map", site), Ok(Admission::Answer), "{site}");
        }
    }

    #[test]
    fn token_becomes_a_cookie_and_the_cookie_opens() {
        let host = ("host", "127.0.0.1:8080");
        let name = "vipyard-8080".to_owned();
        assert_eq!(
            admit("/?token=s3cret", &[host]),
            Ok(Admission::Cookie { name: name.clone(), crossed_sites: false })
        );
        assert_eq!(
            admit("/?token=s3cret", &[host, ("sec-fetch-site", "cross-site")]),
            Ok(Admission::Cookie { name, crossed_sites: true })
        );
        assert_eq!(admit("/ui/v1/map", &[host, ("cookie", "a=b; vipyard-8080=s3cret")]), Ok(Admission::Answer));
        assert_eq!(admit("/?token=old", &[host, ("cookie", "vipyard-8080=s3cret")]), Ok(Admission::Redirect));
        for cookie in ["vipyard-8080=s3cre", "vipyard-8080=s3cret2", "vipyard-8081=s3cret", "vipyard-8080", ""] {
            assert_eq!(admit("/", &[host, ("cookie", cookie)]), Err(Refusal::NoToken), "{cookie}");
        }
        assert_eq!(admit("/?token=S3cret", &[host]), Err(Refusal::NoToken));
        assert_eq!(admit("/ui/v1/map?token=s3cret", &[host]), Err(Refusal::NoToken));
    }

    #[test]
    fn empty_token_opens_nothing() {
        let guard = Guard::new(String::new(), Vec::new());
        let headers = [(header::HOST, HeaderValue::from_static("localhost"))].into_iter().collect();
        assert_eq!(guard.admit(&"/?token=".parse().unwrap(), &headers), Err(Refusal::NoToken));
    }
}
