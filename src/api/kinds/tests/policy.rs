use super::*;

#[tokio::test]
async fn pod_disruption_budget_rules() {
    let desk = Desk::of::<pod_disruption_budget::Kind>().await;
    let base = json!({"metadata": {"name": "b"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}});
    desk.assert_creates(&base, &[
        (json!({"spec": {"minAvailable": "50%"}}), None),
        (json!({"spec": {"minAvailable": -1}}), Some("spec.minAvailable: Invalid value: -1: must be greater than or equal to 0")),
        (json!({"spec": {"maxUnavailable": "120%"}}), Some("spec.maxUnavailable: Invalid value: \"120%\": must not be greater than 100%")),
        (json!({"spec": {"minAvailable": 1, "maxUnavailable": 1}}), Some("spec: Invalid value: {")),
        (json!({"spec": {"unhealthyPodEvictionPolicy": "Maybe"}}), Some("spec.unhealthyPodEvictionPolicy: Unsupported value: \"Maybe\": supported values: \"IfHealthyBudget\", \"AlwaysAllow\"")),
    ]);
    let created = desk.create(base).unwrap();
    assert_eq!(
        created["status"],
        json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0})
    );
    assert_eq!(Value::from(desk.cells(&created)), json!(["b", "N/A", "N/A", 0, "<unknown>"]));
}

#[tokio::test]
async fn roles_and_bindings_are_checked() {
    let role = Desk::of::<rbac::RoleKind>().await;
    let rule = |rule: Value| json!({"rules": [rule]});
    let base = json!({"metadata": {"name": "r"}});
    role.assert_creates(&base, &[
        (rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]})), None),
        (rule(json!({"apiGroups": [""], "resources": ["pods"]})), Some("rules[0].verbs: Required value: verbs must contain at least one value")),
        (rule(json!({"verbs": ["get"], "resources": ["pods"]})), Some("rules[0].apiGroups: Required value: resource rules must supply at least one api group")),
        (rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), Some("rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs")),
    ]);
    assert_eq!(role.create(base.clone()).unwrap().get("rules"), Some(&Value::Null));
    let cluster = Desk::of::<rbac::ClusterRoleKind>().await;
    cluster.assert_creates(
        &base,
        &[
            (rule(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), None),
            (json!({"aggregationRule": {}}), Some("aggregationRule.clusterRoleSelectors: Required value")),
        ],
    );
    let binding = Desk::of::<rbac::RoleBindingKind>().await;
    let base = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "Role", "name": "r"},
        "subjects": [{"kind": "User", "name": "me"}, {"kind": "ServiceAccount", "name": "sa", "namespace": "ns"}]});
    let created = binding.create(base.clone()).unwrap();
    assert_eq!(created["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(created["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(created["subjects"][1].get("apiGroup"), None);
    assert_eq!(Value::from(binding.cells(&created)), json!(["b", "Role/r", "<unknown>", "me", "", "ns/sa"]));
    binding.assert_creates(&base, &[
        (json!({"roleRef": {"kind": "Rule"}}), Some("roleRef.kind: Unsupported value: \"Rule\": supported values: \"Role\", \"ClusterRole\"")),
        (json!({"subjects": [{"kind": "Robot", "name": "x"}]}), Some("subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"")),
    ]);
    binding.assert_updates(
        &base,
        Part::Main,
        &[(json!({"roleRef": {"name": "other"}}), Some("roleRef: Invalid value"))],
    );
    let cluster = Desk::of::<rbac::ClusterRoleBindingKind>().await;
    let base = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r"}});
    cluster.assert_creates(
        &base,
        &[(
            json!({"subjects": [{"kind": "ServiceAccount", "name": "sa"}]}),
            Some("subjects[0].namespace: Required value"),
        )],
    );
}

#[tokio::test]
async fn priority_class_rules() {
    let desk = Desk::of::<priority_class::Kind>().await;
    let base = json!({"metadata": {"name": "high"}, "value": 1000});
    assert_eq!(desk.create(base.clone()).unwrap()["preemptionPolicy"], "PreemptLowerPriority");
    desk.assert_creates(
        &base,
        &[
            (
                json!({"value": 1_000_000_001}),
                Some("value: Forbidden: maximum allowed value of a user defined priority is 1000000000"),
            ),
            (
                json!({"metadata": {"name": "system-x"}}),
                Some("metadata.name: Forbidden: priority class names with 'system-' prefix are reserved"),
            ),
        ],
    );
    desk.assert_updates(
        &base,
        Part::Main,
        &[(json!({"value": 1}), Some("value: Forbidden: may not be changed in an update."))],
    );
}
