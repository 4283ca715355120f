//! Tokens of a cluster that is held in memory, at times of the test's choice.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::super::{Binding, Claims};
use super::*;
use crate::api::pki::token_key;
use crate::config::{Network, StoreConfig};
use crate::store::{Op, Store};

const NOW: i64 = 1_000_000;

async fn put(api: &Api, resource: &str, namespace: &str, metadata: serde_json::Value) {
    let name = metadata["name"].as_str().unwrap().to_owned();
    let key = Key::new(resource, namespace, name);
    if let Some(old) = api.store().get(&key) {
        let op = Op::Delete { expect: old.revision, encode: Box::new(|_| "{}".into()) };
        api.store().commit(key.clone(), op).await.unwrap();
    }
    let value = json!({"metadata": metadata}).to_string();
    api.store().commit(key, Op::Create { encode: Box::new(|_| value.into()) }).await.unwrap();
}

async fn api() -> Api {
    let store = Store::open(&StoreConfig::in_memory()).await.unwrap();
    let api = Api::new(store, Network::default(), token_key(None).unwrap(), CancellationToken::new());
    put(&api, "serviceaccounts", "web", json!({"name": "front", "uid": "sa"})).await;
    put(&api, "pods", "web", json!({"name": "p", "uid": "pod"})).await;
    put(&api, "secrets", "web", json!({"name": "s", "uid": "secret"})).await;
    put(&api, "nodes", "", json!({"name": "n1", "uid": "node"})).await;
    api
}

fn reference(name: &str, uid: &str) -> Reference {
    Reference { name: name.into(), uid: uid.into() }
}

fn claims(api: &Api) -> Claims {
    Claims {
        aud: vec![api.audience(), "vault".into()],
        exp: NOW + 600,
        iat: NOW,
        iss: api.issuer().into(),
        jti: "1".into(),
        kubernetes: Binding {
            namespace: "web".into(),
            node: Some(reference("n1", "node")),
            pod: Some(reference("p", "pod")),
            secret: None,
            serviceaccount: reference("front", "sa"),
        },
        nbf: NOW,
        sub: "system:serviceaccount:web:front".into(),
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn check(api: &Api, claims: &Claims, second: i64) -> Result<Authenticated, String> {
    api.check(claims, &[api.audience()], at(second)).map_err(|e| e.to_string())
}

#[tokio::test]
async fn token_names_its_account_pod_and_node() {
    let api = api().await;
    let shown = check(&api, &claims(&api), NOW).unwrap();
    assert_eq!(shown.audiences, [api.audience()]);
    let identity = shown.identity;
    assert_eq!((identity.user.as_str(), identity.uid.as_str()), ("system:serviceaccount:web:front", "sa"));
    assert_eq!(identity.groups, ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"]);
    let extra: Vec<(&str, &str)> =
        identity.extra.iter().map(|(key, values)| (key.rsplit('/').next().unwrap(), values[0].as_str())).collect();
    let expected =
        [("credential-id", "JTI=1"), ("node-name", "n1"), ("node-uid", "node"), ("pod-name", "p"), ("pod-uid", "pod")];
    assert_eq!(extra, expected);
}

#[tokio::test]
async fn token_lasts_as_long_as_it_says_give_or_take_a_minute() {
    let api = api().await;
    let claims = claims(&api);
    assert!(check(&api, &claims, NOW + 660).is_ok());
    assert!(check(&api, &claims, NOW + 661).unwrap_err().contains("token has expired"));
    assert!(check(&api, &claims, NOW - 60).is_ok());
    assert!(check(&api, &claims, NOW - 61).unwrap_err().contains("token is not valid yet"));
}

#[tokio::test]
async fn token_of_another_audience_issuer_or_subject_is_refused() {
    let api = api().await;
    let claims = claims(&api);
    let wrong = api.check(&claims, &["db".into()], at(NOW)).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "[invalid bearer token, token audiences [\"https://kubernetes.default.svc.cluster.local\" \"vault\"] is \
         invalid for the target audiences [\"db\"]]"
    );
    assert_eq!(api.check(&claims, &["vault".into(), "db".into()], at(NOW)).unwrap().audiences, ["vault"]);
    let other = Claims { iss: "https://elsewhere".into(), ..claims.clone() };
    assert_eq!(check(&api, &other, NOW).unwrap_err(), "invalid bearer token");
    let other = Claims { sub: "system:serviceaccount:web:other".into(), ..claims };
    assert_eq!(check(&api, &other, NOW).unwrap_err(), "invalid bearer token");
}

#[tokio::test]
async fn token_ends_with_its_account_and_its_pod() {
    let api = api().await;
    let claims = claims(&api);
    let deleted = |second| json!({"name": "p", "uid": "pod", "deletionTimestamp": at(second).to_string()});
    put(&api, "pods", "web", deleted(NOW - 60)).await;
    assert!(check(&api, &claims, NOW).is_ok(), "while its end may still be under way");
    put(&api, "pods", "web", deleted(NOW - 61)).await;
    assert!(check(&api, &claims, NOW).unwrap_err().contains("has been invalidated"));
    put(&api, "pods", "web", json!({"name": "p", "uid": "next"})).await;
    assert!(check(&api, &claims, NOW).unwrap_err().contains("pod UID (next) does not match"));

    let unbound = Claims { kubernetes: Binding { pod: None, node: None, ..claims.kubernetes.clone() }, ..claims };
    assert!(check(&api, &unbound, NOW).is_ok());
    put(&api, "serviceaccounts", "web", json!({"name": "front", "uid": "next"})).await;
    assert!(check(&api, &unbound, NOW).unwrap_err().contains("service account UID (next) does not match claim (sa)"));
}

#[tokio::test]
async fn node_of_a_pod_may_be_gone_a_node_that_a_token_is_bound_to_not() {
    let api = api().await;
    let mut claims = claims(&api);
    claims.kubernetes.node = Some(reference("gone", ""));
    assert!(check(&api, &claims, NOW).is_ok());
    claims.kubernetes.pod = None;
    assert!(check(&api, &claims, NOW).is_err());
    claims.kubernetes.node = Some(reference("n1", "node"));
    assert!(check(&api, &claims, NOW).is_ok());
    claims.kubernetes.secret = Some(reference("s", "another"));
    assert!(check(&api, &claims, NOW).unwrap_err().contains("secret UID (secret) does not match"));
}
