use super::*;

fn secret(kind: &str, data: Value) -> Value {
    json!({"metadata": {"name": "s"}, "type": kind, "stringData": data})
}

#[tokio::test]
async fn secrets_of_a_known_type_have_what_the_type_needs() {
    let desk = Desk::of::<super::super::secret::Kind>().await;
    let cases = [
        ("kubernetes.io/tls", json!({"tls.crt": "", "tls.key": ""}), None),
        ("kubernetes.io/tls", json!({"tls.crt": "c"}), Some("data[tls.key]: Required value")),
        ("kubernetes.io/dockercfg", json!({".dockercfg": "{}"}), None),
        ("kubernetes.io/dockercfg", json!({}), Some("data[.dockercfg]: Required value")),
        ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "{\"auths\": {}}"}), None),
        (
            "kubernetes.io/dockerconfigjson",
            json!({".dockerconfigjson": "hunter2"}),
            Some("data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": "),
        ),
        ("kubernetes.io/basic-auth", json!({"password": ""}), None),
        ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": "k"}), None),
        ("kubernetes.io/ssh-auth", json!({"ssh-privatekey": ""}), Some("data[ssh-privatekey]: Required value")),
        (
            "kubernetes.io/service-account-token",
            json!({}),
            Some("metadata.annotations[kubernetes.io/service-account.name]: Required value"),
        ),
        ("example.com/own", json!({"any": "thing"}), None),
        ("Opaque", json!({"a b": ""}), Some("data[a b]: Invalid value: \"a b\": a valid config key must consist of")),
    ];
    for (kind, data, wanted) in cases {
        assert_cause(desk.create(secret(kind, data.clone())), wanted, &json!([kind, data]));
    }
    let neither = desk.create(secret("kubernetes.io/basic-auth", json!({}))).unwrap_err();
    assert_eq!(neither, ["data[username]: Required value", "data[password]: Required value"]);
}

#[tokio::test]
async fn secrets_and_config_maps_hold_one_mebibyte() {
    let (least, most) = ("x", "x".repeat(1024 * 1024));
    let too_long = "Too long: may not be more than 1048576 bytes";
    let desk = Desk::of::<super::super::secret::Kind>().await;
    assert!(desk.create(secret("Opaque", json!({"a": most}))).is_ok());
    let refused = desk.create(secret("Opaque", json!({"a": most, "b": least}))).unwrap_err();
    assert_eq!(refused, [format!("data: {too_long}")]);
    let desk = Desk::of::<super::super::config_map::Kind>().await;
    assert!(desk.create(json!({"metadata": {"name": "m"}, "data": {"a": most}})).is_ok());
    let both = json!({"metadata": {"name": "m"}, "data": {"a": most}, "binaryData": {"b": "eA=="}});
    assert_eq!(desk.create(both).unwrap_err(), [format!("[]: {too_long}")]);
}

#[tokio::test]
async fn what_is_immutable_stays_as_it_is() {
    let frozen = "field is immutable when `immutable` is set";
    let desk = Desk::of::<super::super::secret::Kind>().await;
    let mut base = secret("Opaque", json!({"a": "1"}));
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"type": "example.com/own"}), Some("type: Invalid value: \"example.com/own\": field is immutable")),
            (json!({"data": {"a": "Mg=="}}), None),
            (json!({"immutable": true}), None),
        ],
    );
    base["immutable"] = true.into();
    let data = format!("data: Forbidden: {frozen}");
    let immutable = format!("immutable: Forbidden: {frozen}");
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"stringData": {"a": "2"}}), Some(&data)),
            (json!({"immutable": false}), Some(&immutable)),
            (json!({"metadata": {"labels": {"a": "b"}}}), None),
        ],
    );
    let desk = Desk::of::<super::super::config_map::Kind>().await;
    let base = json!({"metadata": {"name": "m"}, "immutable": true, "data": {"a": "1"}});
    let binary = format!("binaryData: Forbidden: {frozen}");
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"data": {"a": "2"}}), Some(&data)),
            (json!({"binaryData": {"b": "eA=="}}), Some(&binary)),
            (json!({"immutable": null}), Some(&immutable)),
        ],
    );
}
