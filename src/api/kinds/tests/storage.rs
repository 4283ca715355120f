use super::*;

#[tokio::test]
async fn claims_are_checked_and_do_not_change() {
    let desk = Desk::of::<persistent_volume_claim::Kind>().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}});
    desk.assert_creates(&base, &[
        (json!({}), None),
        (json!({"spec": {"accessModes": null}}), Some("spec.accessModes: Required value: at least 1 access mode is required")),
        (json!({"spec": {"accessModes": ["Any"]}}), Some("spec.accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"")),
        (json!({"spec": {"accessModes": ["ReadWriteOncePod", "ReadOnlyMany"]}}), Some("spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes")),
        (json!({"spec": {"resources": {"requests": null}}}), Some("spec.resources[storage]: Required value")),
        (json!({"spec": {"resources": {"requests": {"storage": "0"}}}}), Some("spec.resources[storage]: Invalid value: \"0\": must be greater than zero")),
        (json!({"spec": {"volumeMode": "Tape"}}), Some("spec.volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"")),
        (json!({"spec": {"storageClassName": "A"}}), Some("spec.storageClassName: Invalid value: \"A\": ")),
    ]);
    let created = desk.create(base.clone()).unwrap();
    assert_eq!(
        (&created["status"], &created["spec"]["volumeMode"]),
        (&json!({"phase": "Pending"}), &json!("Filesystem"))
    );
    assert_eq!(created["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(
        Value::from(desk.cells(&created)),
        json!(["c", "Pending", "", "", "", "", "<unset>", "<unknown>", "Filesystem"])
    );
    let refused = "spec: Forbidden: spec is immutable after creation except resources.requests and \
        volumeAttributesClassName for bound claims\n@@ -";
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (json!({"spec": {"accessModes": ["ReadOnlyMany"]}}), Some(refused)),
            (json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}}), Some(refused)),
            (json!({"spec": {"volumeName": "v"}}), None),
        ],
    );
    let mut bound = created;
    bound["status"]["phase"] = "Bound".into();
    let mut grown = bound.clone();
    grown["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    assert!(desk.update(grown, bound, Part::Main).is_ok());
}

#[tokio::test]
async fn volumes_are_checked_and_keep_their_source() {
    let desk = Desk::of::<persistent_volume::Kind>().await;
    let base = json!({"metadata": {"name": "v"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany", "ReadWriteOnce"], "storageClassName": "slow",
        "hostPath": {"path": "/a"}, "claimRef": {"namespace": "ns", "name": "c"}}});
    desk.assert_creates(&base, &[
        (json!({"spec": {"accessModes": []}}), Some("spec.accessModes: Required value")),
        (json!({"spec": {"capacity": null}}), Some("spec.capacity: Required value")),
        (json!({"spec": {"capacity": {"cpu": "1"}}}), Some("spec.capacity: Unsupported value: {\"cpu\":\"1\",\"storage\":\"1Gi\"}: supported values: \"storage\"")),
        (json!({"spec": {"hostPath": null}}), Some("spec: Required value: must specify a volume type")),
        (json!({"spec": {"nfs": {"server": "s", "path": "/"}}}), Some("spec.nfs: Forbidden: may not specify more than 1 volume type")),
        (json!({"spec": {"persistentVolumeReclaimPolicy": "Keep"}}), Some("spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported values: \"Delete\", \"Recycle\", \"Retain\"")),
    ]);
    let created = desk.create(base.clone()).unwrap();
    assert_eq!(
        (&created["status"]["phase"], &created["spec"]["persistentVolumeReclaimPolicy"]),
        (&json!("Pending"), &json!("Retain"))
    );
    assert_eq!(
        Value::from(desk.cells(&created)),
        json!(["v", "1Gi", "RWO,ROX", "Retain", "Pending", "ns/c", "slow", "<unset>", "", "<unknown>", "Filesystem"])
    );
    desk.assert_updates(
        &base,
        Part::Main,
        &[
            (
                json!({"spec": {"hostPath": {"path": "/b"}}}),
                Some("spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"),
            ),
            (
                json!({"spec": {"volumeMode": "Block"}}),
                Some("spec.volumeMode: Invalid value: \"Block\": field is immutable"),
            ),
            (json!({"spec": {"capacity": {"storage": "2Gi"}}}), None),
        ],
    );
}
