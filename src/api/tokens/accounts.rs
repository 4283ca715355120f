//! Whom a token stands for (`k8s.io/kubernetes/pkg/serviceaccount`).

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::super::Api;
use super::super::auth::{Identity, User};
use super::{Claims, Reference, authenticated_groups, service_account_user};
use crate::store::Key;

/// How far the clocks of a token's maker and its reader may be apart, in seconds. An object that is being deleted
/// counts for as long after its time.
const LEEWAY: i64 = 60;

/// Why a token is worth nothing. The texts are what `TokenReview` answers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::api) enum TokenError {
    /// Not a token, not signed by this cluster, or of another issuer.
    #[error("invalid bearer token")]
    Invalid,
    #[error("[invalid bearer token, service account token has expired]")]
    Expired,
    #[error("[invalid bearer token, service account token is not valid yet]")]
    NotYet,
    #[error(
        "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
        quoted(has),
        quoted(wanted)
    )]
    Audience { has: Vec<String>, wanted: Vec<String> },
    #[error("[invalid bearer token, serviceaccounts {0:?} not found]")]
    NoAccount(String),
    #[error("[invalid bearer token, service account {0}/{1} has been deleted]")]
    AccountDeleted(String, String),
    #[error("[invalid bearer token, {what} UID ({found}) does not match {claim} ({claimed})]")]
    Uid { what: &'static str, claim: &'static str, found: String, claimed: String },
    /// The object that the token is bound to is gone.
    #[error("[invalid bearer token, service account token has been invalidated]")]
    Unbound,
}

/// Strings as Go's `%q` prints a list of them.
fn quoted(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

/// Somebody who has shown a token.
#[derive(Debug)]
pub(in crate::api) struct Authenticated {
    pub identity: Identity,
    /// Those of the wanted audiences that the token is for.
    pub audiences: Vec<String>,
}

/// What decides about a bound object, of whatever kind.
#[derive(Deserialize)]
struct Bound {
    metadata: ObjectMeta,
}

impl Bound {
    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    fn deleted_before(&self, time: Timestamp) -> bool {
        self.metadata.deletion_timestamp.as_ref().is_some_and(|deleted| deleted.0 < time)
    }
}

impl Api {
    /// Who shows this token, if it is for one of these audiences now.
    pub(in crate::api) fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Authenticated, TokenError> {
        let claims = self.inner.token_key.open(token).ok_or(TokenError::Invalid)?;
        self.check(&claims, audiences, Timestamp::now())
    }

    fn check(&self, claims: &Claims, wanted: &[String], now: Timestamp) -> Result<Authenticated, TokenError> {
        let (binding, account) = (&claims.kubernetes, &claims.kubernetes.serviceaccount);
        let user = service_account_user(&binding.namespace, &account.name);
        if claims.iss != self.issuer() || claims.sub != user {
            return Err(TokenError::Invalid);
        }
        if now.as_second() > claims.exp.saturating_add(LEEWAY) {
            return Err(TokenError::Expired);
        }
        if now.as_second() < claims.nbf.saturating_sub(LEEWAY) {
            return Err(TokenError::NotYet);
        }
        let audiences: Vec<String> = wanted.iter().filter(|wanted| claims.aud.contains(wanted)).cloned().collect();
        if audiences.is_empty() {
            return Err(TokenError::Audience { has: claims.aud.clone(), wanted: wanted.to_vec() });
        }
        self.check_account(claims, now)?;
        if let Some(secret) = &binding.secret {
            let found = self.bound("secrets", &binding.namespace, secret, now)?;
            same_uid("secret", "service account secret ref claim", &found, secret)?;
        }
        let mut extra = BTreeMap::new();
        let mut note = |name: &str, value: &str| {
            extra.insert(format!("authentication.kubernetes.io/{name}"), vec![value.to_owned()]);
        };
        note("credential-id", &format!("JTI={}", claims.jti));
        match (&binding.pod, &binding.node) {
            (Some(pod), _) => {
                let found = self.bound("pods", &binding.namespace, pod, now)?;
                same_uid("pod", "service account pod ref claim", &found, pod)?;
                note("pod-name", &pod.name);
                note("pod-uid", &pod.uid);
            }
            (None, Some(node)) => {
                let found = self.bound("nodes", "", node, now)?;
                same_uid("node", "service account node ref claim", &found, node)?;
            }
            (None, None) => {}
        }
        // The node of a Pod is told, but it may be gone while the Pod is not.
        if let Some(node) = &binding.node {
            note("node-name", &node.name);
            if !node.uid.is_empty() {
                note("node-uid", &node.uid);
            }
        }
        let groups = authenticated_groups(&binding.namespace);
        let identity = User { user, uid: account.uid.clone(), groups, extra }.into();
        Ok(Authenticated { identity, audiences })
    }

    fn check_account(&self, claims: &Claims, now: Timestamp) -> Result<(), TokenError> {
        let (namespace, account) = (&claims.kubernetes.namespace, &claims.kubernetes.serviceaccount);
        let found = self
            .find("serviceaccounts", namespace, account)
            .ok_or_else(|| TokenError::NoAccount(account.name.clone()))?;
        if found.deleted_before(with_leeway(now)) {
            return Err(TokenError::AccountDeleted(namespace.clone(), account.name.clone()));
        }
        same_uid("service account", "claim", &found, account)
    }

    fn bound(&self, resource: &str, namespace: &str, object: &Reference, now: Timestamp) -> Result<Bound, TokenError> {
        self.find(resource, namespace, object)
            .filter(|found| !found.deleted_before(with_leeway(now)))
            .ok_or(TokenError::Unbound)
    }

    fn find(&self, resource: &str, namespace: &str, object: &Reference) -> Option<Bound> {
        let entry = self.store().get(&Key::new(resource, namespace, object.name.as_str()))?;
        serde_json::from_slice(&entry.value).ok()
    }
}

fn with_leeway(now: Timestamp) -> Timestamp {
    now.saturating_sub(SignedDuration::from_secs(LEEWAY)).unwrap_or(Timestamp::MIN)
}

fn same_uid(what: &'static str, claim: &'static str, found: &Bound, claimed: &Reference) -> Result<(), TokenError> {
    if found.uid() == claimed.uid {
        return Ok(());
    }
    Err(TokenError::Uid { what, claim, found: found.uid().to_owned(), claimed: claimed.uid.clone() })
}

#[cfg(test)]
mod tests;
