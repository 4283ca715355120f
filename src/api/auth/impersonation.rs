//! Acting as another user (`kubectl --as`): the headers of `k8s.io/apiserver/pkg/endpoints/filters/impersonation`.
//!
//! As every authenticated user may do everything, everyone may act as everyone.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue};

use super::super::status::ApiError;
use super::super::tokens::service_account_groups;
use super::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED, User};

const USER: &str = "impersonate-user";
const UID: &str = "impersonate-uid";
const GROUP: &str = "impersonate-group";
const EXTRA: &str = "impersonate-extra-";

/// The user that the headers name; `None` without such headers.
///
/// # Errors
/// 500, as the reference has it, when they name a group, a uid or more of nobody; 400 when they are no text.
pub(super) fn requested(headers: &HeaderMap) -> Result<Option<User>, ApiError> {
    if !headers.keys().any(|name| name.as_str().starts_with("impersonate-")) {
        return Ok(None);
    }
    for (name, value) in headers.iter().filter(|(name, _)| name.as_str().starts_with("impersonate-")) {
        if text(value).is_none() {
            // Left out, they would let the request act as somebody else.
            return Err(ApiError::bad_request(format!("the value of header {name} must be UTF-8")));
        }
    }
    let all =
        |name: &str| -> Vec<String> { headers.get_all(name).iter().filter_map(text).map(str::to_owned).collect() };
    let user = all(USER).into_iter().next().unwrap_or_default();
    let uid = all(UID).into_iter().next().unwrap_or_default();
    let mut groups = all(GROUP);
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for name in headers.keys() {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            extra.insert(unescaped(key), all(name.as_str()));
        }
    }
    if user.is_empty() {
        if groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        let asked = references(&groups, &extra, &uid);
        return Err(ApiError::internal(format!("requested [{asked}] without impersonating a user")));
    }
    if groups.is_empty() {
        if let Some((namespace, _)) = user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
        {
            groups = service_account_groups(namespace);
        }
        if user != ANONYMOUS {
            groups.push(AUTHENTICATED.into());
        }
    } else if user != ANONYMOUS && !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
        groups.push(AUTHENTICATED.into());
    }
    Ok(Some(User { user, uid, groups, extra }))
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}

/// Header names take no upper case and not every character, so keys come percent-encoded.
fn unescaped(key: &str) -> String {
    let mut bytes = Vec::with_capacity(key.len());
    let mut rest = key.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'%').then(|| after.get(..2)).flatten();
        match code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was asked for, as Go prints a list of `ObjectReference`.
fn references(groups: &[String], extra: &BTreeMap<String, Vec<String>>, uid: &str) -> String {
    const API: &str = "authentication.k8s.io/v1";
    let groups = groups.iter().map(|group| format!("{{Group  {group}    }}"));
    let extra = extra
        .iter()
        .flat_map(|(key, values)| values.iter().map(move |value| format!("{{UserExtra  {value}  {API}  {key}}}")));
    let uid = Some(uid).filter(|uid| !uid.is_empty()).map(|uid| format!("{{UID  {uid}  {API}  }}"));
    groups.chain(extra).chain(uid).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(pairs: &[(&'static str, &str)]) -> Result<Option<User>, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        requested(&headers)
    }

    #[test]
    fn user_without_groups_gets_the_groups_that_it_would_have() {
        let user = asked(&[(USER, "jane")]).unwrap().unwrap();
        assert_eq!((user.user.as_str(), user.groups), ("jane", vec![AUTHENTICATED.to_owned()]));
        let account = asked(&[(USER, "system:serviceaccount:web:front")]).unwrap().unwrap();
        assert_eq!(account.groups, ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"]);
        assert!(asked(&[(USER, ANONYMOUS)]).unwrap().unwrap().groups.is_empty());
        assert_eq!(asked(&[("accept", "*/*")]), Ok(None));
    }

    #[test]
    fn groups_uid_and_extra_are_taken_over() {
        let headers = [
            (USER, "jane"),
            (GROUP, "devs"),
            (GROUP, "ops"),
            (UID, "7"),
            ("impersonate-extra-acme.com%2fproject", "one"),
            ("impersonate-extra-acme.com%2fproject", "two"),
        ];
        let user = asked(&headers).unwrap().unwrap();
        assert_eq!(user.groups, ["devs", "ops", AUTHENTICATED]);
        assert_eq!(user.uid, "7");
        assert_eq!(user.extra, BTreeMap::from([("acme.com/project".to_owned(), vec!["one".into(), "two".into()])]));
    }

    #[test]
    fn names_are_utf8_or_refused() {
        let mut headers = HeaderMap::new();
        headers.append(USER, HeaderValue::from_bytes("jürgen".as_bytes()).unwrap());
        assert_eq!(requested(&headers).unwrap().unwrap().user, "jürgen");
        headers.append(GROUP, HeaderValue::from_bytes(b"\xff").unwrap());
        let error = requested(&headers).unwrap_err();
        assert_eq!(
            (error.code.as_u16(), error.message.as_str()),
            (400, "the value of header impersonate-group must be UTF-8")
        );
    }

    #[test]
    fn group_of_nobody_is_refused() {
        let error = asked(&[(GROUP, "devs")]).unwrap_err();
        assert_eq!(error.code, 500);
        assert_eq!(
            error.message,
            "Internal error occurred: requested [{Group  devs    }] without impersonating a user"
        );
    }
}
