//! Reviews: questions that clients put by creating an object, whose status is the answer. Nothing is stored.
//!
//! | Review | Question |
//! |---|---|
//! | TokenReview | whose is this token? |
//! | SelfSubjectReview | who am I? (`kubectl auth whoami`) |
//! | SelfSubjectAccessReview | may I do this? (`kubectl auth can-i`) |
//! | SubjectAccessReview, LocalSubjectAccessReview | may somebody else? |
//! | SelfSubjectRulesReview | what may I do? (`kubectl auth can-i --list`) |
//!
//! Every authenticated user may do everything, so the answers about access are short. Roles and bindings are stored and
//! change nothing.
//!
//! Reviews stand beside the registry of kinds: they share no verb with what is stored. [`all`] lists them for whoever
//! tells clients what is served.

mod access;
mod identity;

use axum::response::Response;
use http::request::Parts;
use http::{Method, StatusCode, header};
use k8s_openapi::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Api;
use super::auth::Identity;
use super::causes::Causes;
use super::discovery::page_not_found;
use super::request::{Params, decode_object};
use super::status::{About, ApiError, json_response};

/// The only verb of reviews.
pub(super) const VERBS: [&str; 1] = ["create"];

/// Who asks, and where.
struct Asker<'a> {
    api: &'a Api,
    identity: &'a Identity,
    /// The namespace in the path, for reviews that live in one.
    namespace: &'a str,
}

/// A kind of question.
trait Review: Resource + Serialize + DeserializeOwned {
    const SINGULAR: &'static str;
    const NAMESPACED: bool = false;

    /// Fills in the status.
    fn answer(&mut self, asker: &Asker<'_>) -> Result<(), ApiError>;
}

/// What is fixed about a review.
pub(super) struct Info {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub namespaced: bool,
    answer: fn(&Asker<'_>, &str, &[u8]) -> Result<Value, ApiError>,
}

impl Info {
    const fn of<R: Review>() -> Self {
        Self {
            group: R::GROUP,
            version: R::VERSION,
            kind: R::KIND,
            plural: R::URL_PATH_SEGMENT,
            singular: R::SINGULAR,
            namespaced: R::NAMESPACED,
            answer: |asker, media, body| {
                let mut review: R = decode_object(media, body, R::API_VERSION, R::KIND)?;
                review.answer(asker)?;
                serde_json::to_value(&review).map_err(ApiError::internal)
            },
        }
    }

    /// The namespace in a path below the group's version, if it is this review's path.
    fn matches<'a>(&self, path: &'a str) -> Option<&'a str> {
        let namespace = match self.namespaced {
            true => path.strip_prefix("namespaces/")?.strip_suffix(self.plural)?.strip_suffix('/')?,
            false => path.strip_suffix(self.plural)?,
        };
        (namespace.is_empty() != self.namespaced && !namespace.contains('/')).then_some(namespace)
    }
}

/// Every review, in the order of discovery.
pub(super) fn all() -> &'static [Info] {
    use k8s_openapi::api::authentication::v1::{SelfSubjectReview, TokenReview};
    use k8s_openapi::api::authorization::v1::{
        LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
    };
    const ALL: &[Info] = &[
        Info::of::<SelfSubjectReview>(),
        Info::of::<TokenReview>(),
        Info::of::<LocalSubjectAccessReview>(),
        Info::of::<SelfSubjectAccessReview>(),
        Info::of::<SelfSubjectRulesReview>(),
        Info::of::<SubjectAccessReview>(),
    ];
    ALL
}

/// The reviews of a group's version.
pub(super) fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Info> {
    all().iter().filter(move |info| info.group == group && info.version == version)
}

impl Api {
    /// Answers a request below a group's version in which no stored kinds are.
    pub(super) fn review(
        &self,
        group: &str,
        version: &str,
        path: &str,
        parts: &Parts,
        body: &[u8],
    ) -> Result<Response, ApiError> {
        if of(group, version).next().is_none() {
            return Ok(page_not_found());
        }
        let found = of(group, version).find_map(|info| Some((info, info.matches(path)?)));
        let (info, namespace) = found.ok_or_else(ApiError::no_such_resource)?;
        if parts.method != Method::POST {
            return Err(ApiError::method_not_allowed());
        }
        // Nothing is written in either case, but an unknown kind of dry run is refused.
        Params::parse(parts.uri.query().unwrap_or_default()).dry_run("CreateOptions")?;
        let identity = parts.extensions.get::<Identity>().ok_or_else(ApiError::unauthorized)?;
        let media = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let answer = (info.answer)(&Asker { api: self, identity, namespace }, media, body)?;
        Ok(json_response(StatusCode::CREATED, &answer))
    }
}

/// Refuses a review that breaks rules.
fn refuse<R: Review>(causes: Causes) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(About { group: R::GROUP, resource: R::KIND, name: "" }, &causes.0))
}
