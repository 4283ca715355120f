//! Bounds on requests from outside: how long one may take, and how many are worked on at a time.
//!
//! Watches, logs and what else runs long by its nature are not bounded here: each costs little, and a client that
//! does not read is cut off by its connection ([`serve`](super::serve)), unless it is a log that it reads. Requests of
//! parts of this process are not bounded either: a cluster must not stand still because its users are many.

use std::time::Duration;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, Uri, header};
use tokio::time::timeout;

use super::Api;
use super::dns;
use super::request::Params;
use super::status::ApiError;

/// How long a request may take, as in the reference: its body's arrival included, its answer's departure not.
const MOST_TIME: Duration = Duration::from_secs(60);
/// How long one waits for its turn when too many are worked on: a quarter of its time, as in the reference.
const MOST_WAIT: Duration = Duration::from_secs(15);
/// How many are worked on at a time: the sum of the reference's defaults for those that read and those that write.
pub(super) const IN_FLIGHT: usize = 600;

/// Subresources whose requests last as long as both sides like.
const LONG_RUNNING: [&str; 5] = ["attach", "exec", "log", "portforward", "proxy"];

/// Bounds a request, unless it is long-running.
pub(super) async fn bound(State(api): State<Api>, request: Request, next: Next) -> Response {
    if is_long_running(request.method(), request.uri()) {
        return next.run(request).await;
    }
    let limit = match time_limit(request.uri()) {
        Ok(limit) => limit,
        Err(error) => return error.into_response(),
    };
    let Ok(Ok(_turn)) = timeout(MOST_WAIT.min(limit), api.inner.in_flight.acquire()).await else {
        return too_many_requests();
    };
    // What is dropped at the end of its time writes nothing any more, but a write that the store has taken is made.
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timeout("request did not complete within the allotted timeout").into_response(),
    }
}

fn too_many_requests() -> Response {
    let mut response = ApiError::too_many_requests("Too many requests, please try again later.").into_response();
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

pub(super) fn is_long_running(method: &Method, uri: &Uri) -> bool {
    let query = uri.query().unwrap_or_default();
    let watch = *method == Method::GET && query.contains("watch") && Params::parse(query).flag("watch");
    let follows = uri.path() == super::insight::FLOWS && Params::parse(query).flag("follow");
    let follows = follows || uri.path() == dns::QUERIES_PATH;
    watch || follows || subresource(uri.path()).is_some_and(|name| LONG_RUNNING.contains(&name))
}

/// The subresource in a path: `/api/V/[namespaces/NS/]PLURAL/NAME/SUBRESOURCE`, or the same below `/apis/GROUP/V`.
fn subresource(path: &str) -> Option<&str> {
    let mut segments = path.split('/').skip(1);
    match segments.next()? {
        "api" => segments.next()?,
        "apis" => segments.nth(1)?,
        _ => return None,
    };
    match segments.next()? {
        "namespaces" => segments.nth(3),
        _ => segments.nth(1),
    }
}

/// The time that the client gives a request (`timeout`, a Go duration), at most [`MOST_TIME`].
fn time_limit(uri: &Uri) -> Result<Duration, ApiError> {
    let query = uri.query().unwrap_or_default();
    if !query.contains("timeout=") {
        return Ok(MOST_TIME);
    }
    let params = Params::parse(query);
    match params.get("timeout") {
        "" => Ok(MOST_TIME),
        text => match go_duration(text) {
            Ok(asked) if asked.is_zero() => Ok(MOST_TIME),
            Ok(asked) => Ok(asked.min(MOST_TIME)),
            Err(error) => {
                Err(ApiError::bad_request(format!("invalid timeout specified in the request URL - time: {error}")))
            }
        },
    }
}

/// Go's `time.ParseDuration`, with negative durations as none.
fn go_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "" => return Err(format!("missing unit in duration {text:?}")),
            unit => return Err(format!("unknown unit {unit:?} in duration {text:?}")),
        };
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| invalid())?;
        total = total.checked_add(part).ok_or_else(invalid)?;
        rest = &rest[unit..];
    }
    Ok(if negative { Duration::ZERO } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("32s", 32_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("0", 0),
            ("+2s", 2000),
            ("-1s", 0),
        ] {
            assert_eq!(go_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, error) in [
            ("", "invalid duration \"\""),
            ("soon", "invalid duration \"soon\""),
            ("10", "missing unit in duration \"10\""),
            ("10x", "unknown unit \"x\" in duration \"10x\""),
        ] {
            assert_eq!(go_duration(text).unwrap_err(), error);
        }
    }

    #[test]
    fn what_runs_long_by_its_nature_is_not_bounded() {
        let long = |method: Method, uri: &str| is_long_running(&method, &uri.parse().unwrap());
        for uri in [
            "/api/v1/pods?watch=true",
            "/api/v1/pods?limit=1&watch=1",
            "/api/v1/namespaces/a/pods/p/log?follow=true",
            "/api/v1/namespaces/a/pods/p/exec?command=ls",
            "/api/v1/namespaces/a/services/s/proxy/x/y",
            "/api/v1/nodes/n1/proxy/",
            "/apis/example.com/v1/namespaces/a/gadgets/g/exec",
            "/vipyard/v1/dns/queries?follow=1",
        ] {
            assert!(long(Method::GET, uri), "{uri}");
        }
        for uri in [
            "/api/v1/pods",
            "/api/v1/pods?watch=false",
            "/api/v1/namespaces/a/pods/log",
            "/api/v1/namespaces/proxy/status",
            "/api/v1/nodes/proxy",
            "/vipyard/v1/dns?name=web",
            "/version",
        ] {
            assert!(!long(Method::GET, uri), "{uri}");
        }
        assert!(!long(Method::POST, "/api/v1/pods?watch=true"));
    }

    #[test]
    fn time_is_the_clients_up_to_a_minute() {
        let limit = |uri: &str| time_limit(&uri.parse().unwrap());
        assert_eq!(limit("/x?timeout=5s"), Ok(Duration::from_secs(5)));
        for uri in ["/x", "/x?timeout=0s", "/x?timeout=10m", "/x?timeout="] {
            assert_eq!(limit(uri), Ok(MOST_TIME), "{uri}");
        }
        let error = limit("/x?timeout=never").unwrap_err();
        assert_eq!(error.message, "invalid timeout specified in the request URL - time: invalid duration \"never\"");
    }
}
