use super::*;

fn workload() -> Value {
    json!({"metadata": {"name": "web", "uid": "u", "generation": 1, "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}})
}

#[tokio::test]
async fn deployment_rules() {
    let desk = Desk::of::<deployment::Kind>().await;
    let strategy = |strategy: Value| json!({"spec": {"strategy": strategy}});
    desk.assert_creates(&workload(), &[
        (json!({}), None),
        (json!({"spec": {"replicas": -1}}), Some("spec.replicas: Invalid value: -1: must be greater than or equal to 0")),
        (json!({"spec": {"selector": {"matchLabels": null}}}), Some("spec.selector: Invalid value: {}: empty selector is invalid for deployment")),
        (json!({"spec": {"template": {"metadata": {"labels": {"app": "x"}}}}}), Some("spec.template.metadata.labels: Invalid value: {\"app\":\"x\"}: `selector` does not match template `labels`")),
        (json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}), Some("spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"")),
        (json!({"spec": {"template": {"spec": {"activeDeadlineSeconds": 5}}}}), Some("spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported")),
        (json!({"spec": {"progressDeadlineSeconds": 5, "minReadySeconds": 5}}), Some("spec.progressDeadlineSeconds: Invalid value: 5: must be greater than minReadySeconds")),
        (strategy(json!({"type": "Recreate"})), None),
        (strategy(json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}})), Some("spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'")),
        (strategy(json!({"type": "Swap"})), Some("spec.strategy: Unsupported value: {\"RollingUpdate\":null,\"Type\":\"Swap\"}: supported values: \"Recreate\", \"RollingUpdate\"")),
        (strategy(json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}})), Some("spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0")),
        (strategy(json!({"rollingUpdate": {"maxUnavailable": "101%"}})), Some("spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%")),
        (strategy(json!({"rollingUpdate": {"maxSurge": "some"}})), Some("spec.strategy.rollingUpdate.maxSurge: Invalid value: \"some\": a valid percent string must be a numeric string")),
    ]);
    let labels = json!({"spec": {"selector": {"matchLabels": {"app": "x"}}, "template": {"metadata": {"labels": {"app": "x"}}}}});
    desk.assert_updates(
        &workload(),
        Part::Main,
        &[
            (json!({"spec": {"replicas": 3, "paused": true}}), None),
            (labels, Some("spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"x\"}}: field is immutable")),
        ],
    );
    desk.assert_updates(
        &workload(),
        Part::Status,
        &[
            (json!({"status": {"replicas": 2, "readyReplicas": 2, "availableReplicas": 1}}), None),
            (
                json!({"status": {"replicas": 1, "updatedReplicas": 2}}),
                Some("status.updatedReplicas: Invalid value: 2: cannot be greater than status.replicas"),
            ),
            (
                json!({"status": {"replicas": 1, "availableReplicas": 1}}),
                Some("status.availableReplicas: Invalid value: 1: cannot be greater than readyReplicas"),
            ),
        ],
    );
}

#[tokio::test]
async fn deployment_counts_changes_of_its_annotations() {
    let desk = Desk::of::<deployment::Kind>().await;
    let old = desk.create(workload()).unwrap();
    let mut new = old.clone();
    assert_eq!(desk.update(new.clone(), old.clone(), Part::Main).unwrap()["metadata"]["generation"], 1);
    new["metadata"]["annotations"] = json!({"a": "b"});
    assert_eq!(desk.update(new, old, Part::Main).unwrap()["metadata"]["generation"], 2);
}

#[tokio::test]
async fn replica_set_and_stateful_set_rules() {
    let sets = Desk::of::<replica_set::Kind>().await;
    sets.assert_creates(
        &workload(),
        &[
            (json!({}), None),
            (
                json!({"spec": {"template": {"spec": {"containers": []}}}}),
                Some("spec.template.spec.containers: Required value"),
            ),
        ],
    );
    assert_eq!(sets.create(workload()).unwrap()["status"], json!({"replicas": 0}));
    let stateful = Desk::of::<stateful_set::Kind>().await;
    let update = |strategy: Value| json!({"spec": {"updateStrategy": strategy}});
    stateful.assert_creates(&workload(), &[
        (json!({"spec": {"podManagementPolicy": "Random"}}), Some("spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'")),
        (update(json!({"type": "OnDelete"})), None),
        (update(json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}})), Some("spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'")),
        (update(json!({"type": "RollingUpdate", "rollingUpdate": {"partition": -1}})), Some("spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0")),
        // Mounts may name claims of the set, which are no volumes of the template.
        (json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}}}}), None),
    ]);
    stateful.assert_updates(&workload(), Part::Main, &[
        (json!({"spec": {"replicas": 5, "minReadySeconds": 1}}), None),
        (json!({"spec": {"serviceName": "other"}}), Some("spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template'")),
    ]);
    let mut claims = workload();
    claims["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": {"storageClassName": ""}}]);
    let claim = stateful.create(claims).unwrap()["spec"]["volumeClaimTemplates"][0].clone();
    // As the reference shows them, with their type.
    let wanted = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"}, "spec": {"storageClassName": "", "volumeMode": "Filesystem"}, "status": {"phase": "Pending"}});
    assert_eq!(claim, wanted);
}

#[tokio::test]
async fn daemon_set_rules() {
    let desk = Desk::of::<daemon_set::Kind>().await;
    let rolling = |rolling: Value| json!({"spec": {"updateStrategy": {"rollingUpdate": rolling}}});
    desk.assert_creates(&workload(), &[
        (json!({}), None),
        (rolling(json!({"maxSurge": 1})), Some("spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero")),
        (rolling(json!({"maxUnavailable": 0})), Some("spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0")),
        (rolling(json!({"maxUnavailable": 0, "maxSurge": "50%"})), None),
    ]);
    let old = desk.create(workload()).unwrap();
    let count = |object: &Value| object["metadata"]["annotations"]["deprecated.daemonset.template.generation"].clone();
    assert_eq!(count(&old), "1");
    let mut new = old.clone();
    new["spec"]["template"]["spec"]["containers"][0]["image"] = "i:2".into();
    assert_eq!(count(&desk.update(new, old, Part::Main).unwrap()), "2");
}

#[tokio::test]
async fn job_selects_its_pods_by_its_uid() {
    let desk = Desk::of::<job::Kind>().await;
    let mut base = json!({"metadata": {"name": "once", "uid": "u"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i:1"}]}}}});
    let job = desk.create(base.clone()).unwrap();
    assert_eq!(job["spec"]["selector"], json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}));
    let labels = json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "once", "controller-uid": "u", "job-name": "once"});
    assert_eq!((&job["spec"]["template"]["metadata"]["labels"], &job["metadata"]["labels"]), (&labels, &labels));
    let defaults = ["parallelism", "completions", "backoffLimit", "completionMode", "suspend", "podReplacementPolicy"];
    let found: Vec<&Value> = defaults.iter().map(|field| &job["spec"][*field]).collect();
    assert_eq!(
        found,
        [&json!(1), &json!(1), &json!(6), &json!("NonIndexed"), &json!(false), &json!("TerminatingOrFailed")]
    );
    desk.assert_creates(
        &base,
        &[
            (
                json!({"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}),
                Some("spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""),
            ),
            (
                json!({"spec": {"completionMode": "Indexed", "parallelism": 2}}),
                Some("spec.completions: Required value: when completion mode is Indexed"),
            ),
            (json!({"spec": {"backoffLimit": -1}}), Some("spec.backoffLimit: Invalid value: -1")),
        ],
    );
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"spec": {"parallelism": 3, "suspend": true}}), None),
            (json!({"spec": {"completions": 3}}), Some("spec.completions: Invalid value: 3: field is immutable")),
            (json!({"spec": {"template": {"spec": {"hostNetwork": true}}}}), Some("spec.template: Invalid value")),
        ],
    );
    base["spec"]["suspend"] = true.into();
    desk.assert_updates(
        &base,
        Part::Main,
        &[(json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}}), None)],
    );
}

#[tokio::test]
async fn controller_revision_keeps_its_data() {
    let desk = Desk::of::<controller_revision::Kind>().await;
    let base = json!({"metadata": {"name": "r"}, "revision": 1, "data": {"a": 1}});
    desk.assert_creates(
        &base,
        &[
            (json!({}), None),
            (json!({"data": null}), Some("data: Required value: data is mandatory")),
            (json!({"revision": -1}), Some("revision: Invalid value: -1")),
        ],
    );
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"revision": 2}), None),
            (json!({"data": {"a": 2}}), Some("data: Invalid value: {\"a\":2}: field is immutable")),
        ],
    );
}

#[tokio::test]
async fn workloads_print_as_kubectl_shows_them() {
    let mut object = workload();
    object["spec"]["replicas"] = 3.into();
    object["status"] = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2});
    let cells = Desk::of::<deployment::Kind>().await.cells(&object);
    assert_eq!(cells, ["web", "2/3", "1", "2", "60m", "c", "i:1", "app=web"].map(Value::from));
    let cells = Desk::of::<replica_set::Kind>().await.cells(&object);
    assert_eq!(Value::from(cells), json!(["web", 3, 3, 2, "60m", "c", "i:1", "app=web"]));
    let cells = Desk::of::<stateful_set::Kind>().await.cells(&object);
    assert_eq!(Value::from(cells), json!(["web", "2/3", "60m", "c", "i:1"]));
    object["status"] =
        json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 2, "numberReady": 1, "numberMisscheduled": 0});
    let cells = Desk::of::<daemon_set::Kind>().await.cells(&object);
    assert_eq!(Value::from(cells), json!(["web", 3, 2, 1, 0, 0, "<none>", "60m", "c", "i:1", "app=web"]));
    object["spec"]["completions"] = 4.into();
    object["status"] = json!({"succeeded": 1, "startTime": "2024-01-01T00:59:00Z"});
    let cells = Desk::of::<job::Kind>().await.cells(&object);
    assert_eq!(Value::from(cells), json!(["web", "Running", "1/4", "60s", "60m", "c", "i:1", "app=web"]));
}

#[tokio::test]
async fn cron_jobs_are_checked_with_their_schedule_and_their_jobs() {
    let desk = Desk::of::<cron_job::Kind>().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {"schedule": "0 * * * *", "jobTemplate": {"spec": {"template": {
        "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}});
    let job = |spec: Value| json!({"spec": {"jobTemplate": {"spec": spec}}});
    desk.assert_creates(&base, &[
        (json!({"spec": {"timeZone": "UTC"}}), None),
        (json!({"spec": {"schedule": ""}}), Some("spec.schedule: Required value")),
        (json!({"spec": {"schedule": "daily"}}), Some("spec.schedule: Invalid value: \"daily\": expected exactly 5 fields, found 1: [daily]")),
        (json!({"spec": {"schedule": "TZ=UTC 0 * * * *"}}), Some("spec.schedule: Invalid value: \"TZ=UTC 0 * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead")),
        (json!({"spec": {"timeZone": "Local"}}), Some("spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")),
        (json!({"spec": {"concurrencyPolicy": "Maybe"}}), Some("spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"")),
        (json!({"metadata": {"name": "c".repeat(53)}}), Some("metadata.name: Invalid value: ")),
        (job(json!({"parallelism": -1})), Some("spec.jobTemplate.spec.parallelism: Invalid value: -1: must be greater than or equal to 0")),
        (job(json!({"selector": {"matchLabels": {"a": "b"}}})), Some("spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated")),
        (job(json!({"template": {"spec": {"restartPolicy": "Always"}}})), Some("spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"")),
    ]);
    let created = desk.create(base).unwrap();
    assert_eq!(created["spec"]["concurrencyPolicy"], "Allow");
    assert_eq!(created["spec"]["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
    assert_eq!(
        Value::from(desk.cells(&created)),
        json!(["c", "0 * * * *", "<none>", "False", 0, "<none>", "<unknown>", "c", "i", "<none>"])
    );
}

#[tokio::test]
async fn replication_controllers_take_their_labels_from_their_template() {
    let desk = Desk::of::<replication_controller::Kind>().await;
    let base = json!({"metadata": {"name": "r"}, "spec": {"template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    desk.assert_creates(&base, &[
        (json!({"spec": {"replicas": -1}}), Some("spec.replicas: Invalid value: -1: must be greater than or equal to 0")),
        (json!({"spec": {"selector": {"app": "other"}}}), Some("spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`")),
        (json!({"spec": {"template": {"metadata": null}}}), Some("spec.selector: Required value")),
        (json!({"spec": {"template": {"spec": {"restartPolicy": "Never"}}}}), Some("spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"")),
    ]);
    let created = desk.create(base).unwrap();
    assert_eq!(
        (&created["spec"]["selector"], &created["metadata"]["labels"]),
        (&json!({"app": "web"}), &json!({"app": "web"}))
    );
    assert_eq!(Value::from(desk.cells(&created)), json!(["r", 1, 0, 0, "<unknown>", "c", "i", "app=web"]));
}
