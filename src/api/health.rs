//! `/healthz`, `/livez` and `/readyz`: `ok`, or with `?verbose` and on failure a line for each check, as the API server
//! prints them.

use std::fmt::Write;
use std::sync::atomic::Ordering;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;

use super::Api;
use super::request::Params;

/// What is looked at: its name, and what is wrong with it.
type Check = (&'static str, Option<&'static str>);

/// Whoever gets an answer has proved it.
const PING: Check = ("ping", None);

pub(super) async fn healthz(RawQuery(query): RawQuery) -> Response {
    answer("healthz", &[PING], query)
}

pub(super) async fn livez(RawQuery(query): RawQuery) -> Response {
    answer("livez", &[PING], query)
}

/// The cluster is ready when everything that its start waits for has come up.
pub(super) async fn readyz(State(api): State<Api>, RawQuery(query): RawQuery) -> Response {
    let starting = (!api.inner.ready.load(Ordering::Acquire)).then_some("it is still starting");
    answer("readyz", &[PING, ("cluster-started", starting)], query)
}

fn answer(path: &str, checks: &[Check], query: Option<String>) -> Response {
    let verbose = Params::parse(&query.unwrap_or_default()).flag("verbose");
    report(path, checks, verbose).into_response()
}

fn report(path: &str, checks: &[Check], verbose: bool) -> (StatusCode, String) {
    let well = checks.iter().all(|(_, wrong)| wrong.is_none());
    if well && !verbose {
        return (StatusCode::OK, "ok".to_owned());
    }
    let mut text = String::new();
    for (name, wrong) in checks {
        let _ = match wrong {
            None => writeln!(text, "[+]{name} ok"),
            Some(why) => writeln!(text, "[-]{name} failed: {why}"),
        };
    }
    let _ = writeln!(text, "{path} check {}", if well { "passed" } else { "failed" });
    (if well { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_listed_when_asked_for_and_when_one_fails() {
        let (good, bad) = ([PING], [PING, ("cluster-started", Some("it is still starting"))]);
        assert_eq!(report("livez", &good, false), (StatusCode::OK, "ok".into()));
        assert_eq!(report("livez", &good, true), (StatusCode::OK, "[+]ping ok\nlivez check passed\n".into()));
        let failed = "[+]ping ok\n[-]cluster-started failed: it is still starting\nreadyz check failed\n";
        assert_eq!(report("readyz", &bad, false), (StatusCode::INTERNAL_SERVER_ERROR, failed.into()));
    }
}
