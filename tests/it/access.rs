//! Who may ask: tokens of ServiceAccounts, reviews, and acting as somebody else.

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};

use crate::world::{Answer, CONFIG_MAPS, World, message, request};

const TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const AUTHENTICATION: &str = "/apis/authentication.k8s.io/v1";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

fn token_request(spec: Value) -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
}

fn review(group: &str, kind: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec})
}

async fn token(world: &World, spec: Value) -> String {
    let made = world.post(TOKEN, token_request(spec)).await.created();
    made["status"]["token"].as_str().expect("a token").to_owned()
}

/// A request that shows a token and nothing else.
async fn get_with(world: &World, path: &str, token: &str) -> Answer {
    let request = Request::get(path).header("authorization", format!("Bearer {token}"));
    world.send(request.body(Body::empty()).unwrap()).await
}

/// Who the API takes a request for.
async fn whoami(world: &World, builder: http::request::Builder) -> Answer {
    let question = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let builder = builder.method("POST").uri(format!("{AUTHENTICATION}/selfsubjectreviews"));
    world.send(builder.header("content-type", "application/json").body(question.into()).unwrap()).await
}

#[tokio::test]
async fn token_of_a_service_account_opens_the_api_until_the_account_goes() {
    let world = World::start().await;
    let token = token(&world, json!({})).await;
    get_with(&world, CONFIG_MAPS, &token).await.ok();
    let me = whoami(&world, Request::builder().header("authorization", format!("bearer {token}"))).await.created();
    let user = &me["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:default:default");
    let groups = ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"];
    assert_eq!(user["groups"], json!(groups));
    let account = world.get("/api/v1/namespaces/default/serviceaccounts/default").await.ok();
    assert_eq!(user["uid"], account["metadata"]["uid"]);

    world.delete("/api/v1/namespaces/default/serviceaccounts/default", json!({})).await.ok();
    let status = get_with(&world, CONFIG_MAPS, &token).await.refused(401, "Unauthorized");
    assert_eq!(message(&status), "Unauthorized");
}

#[tokio::test]
async fn everybody_else_is_unauthorized() {
    let world = World::start().await;
    let elsewhere = token(&world, json!({"audiences": ["vault"]})).await;
    for path in [CONFIG_MAPS, "/nowhere", "/version", "/openid/v1/jwks"] {
        for bad in [elsewhere.as_str(), "nonsense", "a.b.c"] {
            get_with(&world, path, bad).await.refused(401, "Unauthorized");
        }
        world.send(Request::get(path).body(Body::empty()).unwrap()).await.refused(401, "Unauthorized");
    }
    let basic = Request::get(CONFIG_MAPS).header("authorization", "Basic eDp5");
    world.send(basic.body(Body::empty()).unwrap()).await.refused(401, "Unauthorized");
    assert_eq!(world.send(Request::get("/livez").body(Body::empty()).unwrap()).await.text, "ok");
}

#[tokio::test]
async fn token_is_bound_to_the_pod_that_it_is_asked_for() {
    let world = World::start().await;
    let pod = world.pod("p", json!({}), None).await;
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let made = world.post(TOKEN, token_request(json!({"boundObjectRef": bound, "expirationSeconds": 3607}))).await;
    let made = made.created();
    assert_eq!(made["spec"]["audiences"], json!(["https://kubernetes.default.svc.cluster.local"]));
    assert_eq!(made["spec"]["expirationSeconds"], 3607);
    let seconds = |value: &Value| value.as_str().unwrap().parse::<k8s_openapi::jiff::Timestamp>().unwrap().as_second();
    let lasts = seconds(&made["status"]["expirationTimestamp"]) - seconds(&made["metadata"]["creationTimestamp"]);
    assert_eq!(lasts, 3607);
    let token = made["status"]["token"].as_str().unwrap();
    get_with(&world, CONFIG_MAPS, token).await.ok();
    world.delete(&format!("{}/p", crate::world::PODS), json!({"gracePeriodSeconds": 0})).await.ok();
    get_with(&world, CONFIG_MAPS, token).await.refused(401, "Unauthorized");

    let again = world.post(TOKEN, token_request(json!({"boundObjectRef": bound}))).await.refused(404, "NotFound");
    assert_eq!(message(&again), "pods \"p\" not found");
    world.pod("p", json!({}), None).await;
    let other = world.post(TOKEN, token_request(json!({"boundObjectRef": bound}))).await.refused(409, "Conflict");
    assert!(message(&other).contains("does not match the UID in record"), "{other}");
    let kind = json!({"boundObjectRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}});
    let other = world.post(TOKEN, token_request(kind)).await.refused(400, "BadRequest");
    assert_eq!(message(&other), "cannot bind token to object of type apps/v1, Kind=Deployment");
}

#[tokio::test]
async fn token_requests_that_break_rules_are_refused() {
    let world = World::start().await;
    let short = world.post(TOKEN, token_request(json!({"expirationSeconds": 599}))).await;
    let status = short.invalid(&["spec.expirationSeconds"]);
    assert_eq!(
        message(&status),
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not \
         specify a duration less than 10 minutes"
    );
    world
        .post(TOKEN, token_request(json!({"expirationSeconds": 1_u64 << 33})))
        .await
        .invalid(&["spec.expirationSeconds"]);
    let mut named = token_request(json!({}));
    named["metadata"] = json!({"name": "other", "namespace": "other"});
    world.post(TOKEN, named).await.invalid(&["metadata.name", "metadata.namespace"]);
    world.post(&TOKEN.replace("default/token", "none/token"), token_request(json!({}))).await.refused(404, "NotFound");
    world.get(TOKEN).await.refused(405, "MethodNotAllowed");
    world.post(TOKEN, json!({"apiVersion": "v1", "kind": "Pod"})).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn token_review_tells_whose_a_token_is() {
    let world = World::start().await;
    let path = format!("{AUTHENTICATION}/tokenreviews");
    let ask = async |spec: Value| {
        let answer = world.post(&path, review("authentication.k8s.io", "TokenReview", spec)).await.created();
        answer["status"].clone()
    };
    let token = token(&world, json!({"audiences": ["vault"]})).await;
    let status = ask(json!({"token": token, "audiences": ["vault", "db"]})).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:default");
    let status = ask(json!({"token": token})).await;
    assert_eq!(status["authenticated"].as_bool(), None, "{status}");
    assert!(status["error"].as_str().unwrap().contains("invalid for the target audiences"), "{status}");
    assert_eq!(ask(json!({"token": "nonsense"})).await, json!({"error": "invalid bearer token"}));
    let empty = world.post(&path, review("authentication.k8s.io", "TokenReview", json!({}))).await;
    empty.refused(400, "BadRequest");
}

#[tokio::test]
async fn access_reviews_allow_everything_to_everybody_who_is_somebody() {
    let world = World::start().await;
    let ask = async |path: &str, kind: &str, spec: Value| {
        world.post(&format!("{AUTHORIZATION}/{path}"), review("authorization.k8s.io", kind, spec)).await
    };
    let attributes = json!({"verb": "delete", "resource": "nodes", "namespace": "default"});
    let own = json!({"resourceAttributes": attributes});
    let kind = "SelfSubjectAccessReview";
    let answer = ask("selfsubjectaccessreviews", kind, own.clone()).await.created();
    assert_eq!(answer["status"], json!({"allowed": true}));
    assert_eq!(answer["spec"], own);
    let status = ask("selfsubjectaccessreviews", kind, json!({})).await.invalid(&["spec.resourceAttributes"]);
    assert_eq!(
        message(&status),
        "SelfSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Invalid value: \
         \"null\": exactly one of nonResourceAttributes or resourceAttributes must be specified"
    );

    let of = |user: &str| json!({"resourceAttributes": attributes, "user": user});
    let answer = ask("subjectaccessreviews", "SubjectAccessReview", of("jane")).await.created();
    assert_eq!(answer["status"]["allowed"], true);
    let answer = ask("subjectaccessreviews", "SubjectAccessReview", of("system:anonymous")).await.created();
    assert_eq!(answer["status"]["allowed"], false);
    ask("subjectaccessreviews", "SubjectAccessReview", own).await.invalid(&["spec.user"]);
    let local = "namespaces/default/localsubjectaccessreviews";
    let answer = ask(local, "LocalSubjectAccessReview", of("jane")).await.created();
    assert_eq!((&answer["status"]["allowed"], &answer["metadata"]["namespace"]), (&json!(true), &json!("default")));
    let elsewhere = "namespaces/kube-system/localsubjectaccessreviews";
    ask(elsewhere, "LocalSubjectAccessReview", of("jane")).await.invalid(&["spec.resourceAttributes.namespace"]);

    let rules = json!({"namespace": "default"});
    let answer = ask("selfsubjectrulesreviews", "SelfSubjectRulesReview", rules).await.created();
    let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]);
    assert_eq!(answer["status"]["resourceRules"], all);
    ask("selfsubjectrulesreviews", "SelfSubjectRulesReview", json!({})).await.refused(400, "BadRequest");
}

#[tokio::test]
async fn reviews_are_discovered_and_can_only_be_created() {
    let world = World::start().await;
    let groups = world.get("/apis").await.ok();
    let names: Vec<&str> = groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"authentication.k8s.io") && names.contains(&"authorization.k8s.io"), "{names:?}");
    let list = world.get(AUTHORIZATION).await.ok();
    let local = &list["resources"].as_array().unwrap()[0];
    assert_eq!(
        *local,
        json!({"name": "localsubjectaccessreviews", "singularName": "localsubjectaccessreview", "namespaced": true,
            "kind": "LocalSubjectAccessReview", "verbs": ["create"]})
    );
    let core = world.get("/api/v1").await.ok();
    let token = core["resources"].as_array().unwrap().iter().find(|r| r["name"] == "serviceaccounts/token").unwrap();
    assert_eq!((&token["group"], &token["verbs"]), (&json!("authentication.k8s.io"), &json!(["create"])));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = world.get_as("/apis", aggregated).await.ok();
    assert!(all.to_string().contains(r#""resource":"selfsubjectreviews""#));

    world.get(&format!("{AUTHENTICATION}/tokenreviews")).await.refused(405, "MethodNotAllowed");
    world.post(&format!("{AUTHENTICATION}/gadgets"), json!({})).await.refused(404, "NotFound");
    let bare = format!("{AUTHORIZATION}/localsubjectaccessreviews");
    world.post(&bare, json!({})).await.refused(404, "NotFound");
    assert_eq!(world.get("/apis/none.k8s.io/v1/x").await.text, "404 page not found\n");
}

#[tokio::test]
async fn whoever_is_somebody_may_act_as_somebody_else() {
    let world = World::start().await;
    let as_jane = request("POST", "/").header("impersonate-user", "jane").header("impersonate-group", "devs");
    let user = whoami(&world, as_jane).await.created()["status"]["userInfo"].clone();
    assert_eq!(user, json!({"username": "jane", "groups": ["devs", "system:authenticated"]}));
    let nobody = request("POST", "/").header("impersonate-user", "system:anonymous");
    whoami(&world, nobody).await.refused(401, "Unauthorized");
    let group = request("POST", "/").header("impersonate-group", "devs");
    whoami(&world, group).await.refused(500, "InternalError");
}

#[tokio::test]
async fn keys_are_published_for_others_to_verify_tokens() {
    let world = World::start().await;
    let configuration = world.get("/.well-known/openid-configuration").await.ok();
    assert_eq!(configuration["issuer"], "https://kubernetes.default.svc.cluster.local");
    let keys = world.get("/openid/v1/jwks").await.ok();
    let key = &keys["keys"][0];
    assert_eq!((&key["kty"], &key["crv"], &key["alg"]), (&json!("EC"), &json!("P-256"), &json!("ES256")));
    for coordinate in ["x", "y"] {
        assert_eq!(key[coordinate].as_str().unwrap().len(), 43, "32 bytes in base64");
    }
}
