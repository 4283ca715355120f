use k8s_openapi::api::core::v1::PodSpec;
use serde_json::{Value, json};

use super::{
    Place, add_own_labels, check, check_ephemeral_update, check_resize, check_update, default_pod, default_spec,
};
use crate::api::causes::Causes;

fn spec(overlay: Value) -> PodSpec {
    let mut value = json!({"containers": [{"name": "c", "image": "i:1"}]});
    json_patch::merge(&mut value, &overlay);
    let mut spec = serde_json::from_value(value).unwrap();
    default_spec(&mut spec);
    spec
}

fn pod(overlay: Value) -> PodSpec {
    let mut spec = spec(overlay);
    default_pod(&mut spec);
    spec
}

/// A container with these fields besides name and image.
fn container(overlay: Value) -> Value {
    let mut value = json!({"name": "c", "image": "i:1"});
    json_patch::merge(&mut value, &overlay);
    json!({"containers": [value]})
}

/// Every case is an overlay and the cause that it must have, as `field: message`; `None` for none at all.
#[track_caller]
fn assert_causes(place: Place, cases: Vec<(Value, Option<&str>)>) {
    for (overlay, wanted) in cases {
        let mut causes = Causes::default();
        let spec = if place == Place::Pod { pod(overlay.clone()) } else { spec(overlay.clone()) };
        check(&spec, "spec", place, &mut causes);
        let found: Vec<String> = causes.0.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        match wanted {
            None => assert!(found.is_empty(), "{overlay}: {found:?}"),
            Some(wanted) => assert!(found.iter().any(|cause| cause.starts_with(wanted)), "{overlay}: {found:?}"),
        }
    }
}

/// PD1, but for what admission adds.
#[test]
fn template_has_the_defaults_of_a_spec_and_not_those_of_a_pod() {
    let overlay =
        container(json!({"resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80, "hostPort": 0}]}));
    let template = spec(overlay.clone());
    assert_eq!(template.enable_service_links, None);
    assert_eq!(template.containers[0].resources.as_ref().unwrap().requests, None);
    let pod = pod(overlay);
    assert_eq!(pod.enable_service_links, Some(true));
    let resources = pod.containers[0].resources.clone().unwrap();
    assert_eq!(resources.requests, resources.limits);
    for spec in [template, pod] {
        let port = &spec.containers[0].ports.as_ref().unwrap()[0];
        assert_eq!((port.protocol.as_deref(), port.host_port), (Some("TCP"), None));
        assert_eq!(spec.termination_grace_period_seconds, Some(30));
        assert_eq!(spec.dns_policy.as_deref(), Some("ClusterFirst"));
    }
}

#[test]
fn images_without_a_fixed_tag_are_always_pulled_pd2() {
    for (image, policy) in [
        ("a", "Always"),
        ("a:latest", "Always"),
        ("host:5000/a", "Always"),
        ("host:5000/a:1", "IfNotPresent"),
        ("a@sha256:0123", "IfNotPresent"),
        ("a:latest@sha256:0123", "Always"),
    ] {
        let spec = spec(container(json!({"image": image})));
        assert_eq!(spec.containers[0].image_pull_policy.as_deref(), Some(policy), "{image}");
    }
}

#[test]
fn probes_and_volumes_have_defaults_pd3() {
    let probe = json!({"httpGet": {"port": 80}, "timeoutSeconds": 0, "initialDelaySeconds": 0});
    let mut overlay = container(json!({"livenessProbe": probe, "startupProbe": {"grpc": {"port": 1}}}));
    overlay["volumes"] = json!([{"name": "none"}, {"name": "h", "hostPath": {"path": "/x"}}, {"name": "s", "secret": {"secretName": "s"}}]);
    let value = serde_json::to_value(spec(overlay)).unwrap();
    let wanted = json!({"httpGet": {"path": "/", "port": 80, "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
        "successThreshold": 1, "failureThreshold": 3});
    assert_eq!(value["containers"][0]["livenessProbe"], wanted);
    assert_eq!(value["containers"][0]["startupProbe"]["grpc"], json!({"port": 1, "service": ""}));
    let volumes = json!([{"name": "none", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x", "type": ""}},
        {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}}]);
    assert_eq!(value["volumes"], volumes);
}

#[test]
fn containers_are_checked() {
    let port = |port: Value| container(json!({"ports": [port]}));
    let env = |env: Value| container(json!({"env": [env]}));
    assert_causes(
        Place::Pod,
        vec![
            (json!({}), None),
            (json!({"containers": []}), Some("spec.containers: Required value")),
            (json!({"containers": [{"name": "c"}]}), Some("spec.containers[0].image: Required value")),
            (
                container(json!({"name": "C"})),
                Some("spec.containers[0].name: Invalid value: \"C\": a lowercase RFC 1123 label"),
            ),
            (
                json!({"containers": [{"name": "c", "image": "i"}, {"name": "c", "image": "i"}]}),
                Some("spec.containers[1].name: Duplicate value: \"c\""),
            ),
            (
                json!({"initContainers": [{"name": "c", "image": "i"}]}),
                Some("spec.initContainers[0].name: Duplicate value: \"c\""),
            ),
            (
                container(json!({"imagePullPolicy": "Sometimes"})),
                Some(
                    "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
                ),
            ),
            (port(json!({"containerPort": 0})), Some("spec.containers[0].ports[0].containerPort: Required value")),
            (
                port(json!({"containerPort": 70000})),
                Some(
                    "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                ),
            ),
            (
                port(json!({"containerPort": 80, "protocol": "ICMP"})),
                Some(
                    "spec.containers[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ),
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "hostPort": 5}, {"containerPort": 2, "hostPort": 5}]})),
                Some("spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//5\""),
            ),
            (
                container(json!({"ports": [{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]})),
                Some("spec.containers[0].ports[1].name: Duplicate value: \"a\""),
            ),
            (
                env(json!({"name": "A=B"})),
                Some("spec.containers[0].env[0].name: Invalid value: \"A=B\": a valid environment variable name"),
            ),
            (
                env(json!({"name": "A", "valueFrom": {}})),
                Some("spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of"),
            ),
            (
                env(json!({"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})),
                Some(
                    "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
                ),
            ),
            (env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}})), None),
            (
                env(json!({"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}})),
                Some(
                    "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting fieldPath: field label not supported: spec.nope",
                ),
            ),
            (
                env(
                    json!({"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}),
                ),
                Some(
                    "spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported",
                ),
            ),
            (
                container(json!({"envFrom": [{}]})),
                Some(
                    "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
                ),
            ),
        ],
    );
}

#[test]
fn volumes_and_mounts_are_checked() {
    let volume = |volume: Value| json!({"volumes": [volume]});
    let mount = |mounts: Value| {
        let mut overlay = container(json!({"volumeMounts": mounts}));
        overlay["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        overlay
    };
    assert_causes(
        Place::Template,
        vec![
            (
                volume(json!({"name": "v", "emptyDir": {}, "hostPath": {"path": "/"}})),
                Some("spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"),
            ),
            (json!({"volumes": [{"name": "v"}, {"name": "v"}]}), Some("spec.volumes[1].name: Duplicate value: \"v\"")),
            (volume(json!({"name": "v", "secret": {}})), Some("spec.volumes[0].secret.secretName: Required value")),
            (
                volume(json!({"name": "v", "configMap": {"name": "c", "defaultMode": 4096}})),
                Some(
                    "spec.volumes[0].configMap.defaultMode: Invalid value: 4096: must be a number between 0 and 0777 (octal), both inclusive",
                ),
            ),
            (
                volume(json!({"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "../x"}]}})),
                Some("spec.volumes[0].configMap.items[0].path: Invalid value: \"../x\": must not contain '..'"),
            ),
            (
                volume(json!({"name": "v", "hostPath": {"path": "/x", "type": "Odd"}})),
                Some("spec.volumes[0].hostPath.type: Unsupported value: \"Odd\""),
            ),
            (
                volume(json!({"name": "v", "persistentVolumeClaim": {"claimName": ""}})),
                Some("spec.volumes[0].persistentVolumeClaim.claimName: Required value"),
            ),
            (
                volume(
                    json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}),
                ),
                Some(
                    "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                ),
            ),
            (mount(json!([{"name": "v", "mountPath": "/a"}])), None),
            (
                mount(json!([{"name": "w", "mountPath": "/a"}])),
                Some("spec.containers[0].volumeMounts[0].name: Not found: \"w\""),
            ),
            (
                mount(json!([{"name": "v", "mountPath": ""}])),
                Some("spec.containers[0].volumeMounts[0].mountPath: Required value"),
            ),
            (
                mount(json!([{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}])),
                Some("spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/a\": must be unique"),
            ),
            (
                mount(json!([{"name": "v", "mountPath": "/a", "subPath": "/x"}])),
                Some("spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path"),
            ),
            (
                mount(json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"}])),
                Some(
                    "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                ),
            ),
        ],
    );
}

#[test]
fn probes_and_hooks_are_checked() {
    let probe = |field: &str, probe: Value| container(json!({field: probe}));
    assert_causes(
        Place::Pod,
        vec![
            (
                probe("livenessProbe", json!({})),
                Some("spec.containers[0].livenessProbe: Required value: must specify a handler type"),
            ),
            (
                probe("livenessProbe", json!({"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}})),
                Some("spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"),
            ),
            (
                probe("livenessProbe", json!({"exec": {"command": ["x"]}, "successThreshold": 2})),
                Some("spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"),
            ),
            (probe("readinessProbe", json!({"exec": {"command": ["x"]}, "successThreshold": 2})), None),
            (
                probe("readinessProbe", json!({"exec": {"command": []}})),
                Some("spec.containers[0].readinessProbe.exec.command: Required value"),
            ),
            (
                probe("readinessProbe", json!({"tcpSocket": {"port": 0}})),
                Some(
                    "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ),
            ),
            (
                probe("readinessProbe", json!({"httpGet": {"port": 1, "scheme": "FTP"}})),
                Some(
                    "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                ),
            ),
            (
                probe("readinessProbe", json!({"httpGet": {"port": 1}, "periodSeconds": -1})),
                Some(
                    "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                ),
            ),
            (
                probe("lifecycle", json!({"preStop": {"sleep": {"seconds": 31}}})),
                Some(
                    "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
                ),
            ),
            (
                json!({"initContainers": [{"name": "i", "image": "i", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
                Some(
                    "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
                ),
            ),
            (
                json!({"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Always", "livenessProbe": {"exec": {"command": ["x"]}}}]}),
                None,
            ),
        ],
    );
}

#[test]
fn resources_are_checked() {
    let resources = |resources: Value| container(json!({"resources": resources}));
    assert_causes(
        Place::Pod,
        vec![
            (resources(json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}})), None),
            (
                resources(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}})),
                Some(
                    "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                ),
            ),
            (
                resources(json!({"limits": {"cpu": "-1"}})),
                Some(
                    "spec.containers[0].resources.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                ),
            ),
            (
                resources(json!({"limits": {"disk": "1"}})),
                Some(
                    "spec.containers[0].resources.limits[disk]: Invalid value: \"disk\": must be a standard resource type or fully qualified",
                ),
            ),
            (
                resources(json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "2"}})),
                Some(
                    "spec.containers[0].resources.requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2",
                ),
            ),
            (
                json!({"resources": {"requests": {"cpu": "1"}}, "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]}),
                Some(
                    "spec.resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                ),
            ),
        ],
    );
}

#[test]
fn scheduling_and_security_are_checked() {
    let spread = |spread: Value| json!({"topologySpreadConstraints": [spread]});
    assert_causes(
        Place::Pod,
        vec![
            (
                json!({"restartPolicy": "Sometimes"}),
                Some(
                    "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                ),
            ),
            (
                json!({"dnsPolicy": "None"}),
                Some("spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"),
            ),
            (
                json!({"dnsPolicy": "None", "dnsConfig": {}}),
                Some(
                    "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
                ),
            ),
            (
                json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
                Some(
                    "spec.dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"1.1.1.4\"]: must not have more than 3 nameservers",
                ),
            ),
            (json!({"dnsConfig": {"searches": ["_a.b.", "."]}}), None),
            (
                json!({"hostAliases": [{"ip": "x"}]}),
                Some("spec.hostAliases[0].ip: Invalid value: \"x\": must be a valid IP address"),
            ),
            (
                json!({"tolerations": [{"operator": "Equal"}]}),
                Some(
                    "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty",
                ),
            ),
            (
                json!({"tolerations": [{"key": "a", "tolerationSeconds": 1}]}),
                Some(
                    "spec.tolerations[0].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                ),
            ),
            (
                spread(json!({"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"})),
                Some("spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero"),
            ),
            (
                spread(json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "Never"})),
                Some(
                    "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                ),
            ),
            (
                json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": ""}]}}}),
                Some(
                    "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
                ),
            ),
            (
                json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {}}]}}}),
                Some(
                    "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
                ),
            ),
            (
                json!({"schedulingGates": [{"name": "a"}, {"name": "a"}]}),
                Some("spec.schedulingGates[1]: Duplicate value: \"a\""),
            ),
            (
                json!({"securityContext": {"runAsUser": -1}}),
                Some("spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"),
            ),
            (
                json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
                Some(
                    "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                ),
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "Net", "value": "1"}]}}),
                Some("spec.securityContext.sysctls[0].name: Invalid value: \"Net\": must have at most 253 characters"),
            ),
            (
                json!({"activeDeadlineSeconds": 0}),
                Some("spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"),
            ),
            (
                json!({"hostUsers": false, "hostNetwork": true}),
                Some("spec.hostNetwork: Forbidden: when `pod.Spec.HostUsers` is false"),
            ),
        ],
    );
}

#[track_caller]
fn fields(check: impl Fn(&PodSpec, &PodSpec, &mut Causes), new: Value, old: Value) -> Vec<String> {
    let mut causes = Causes::default();
    check(&pod(new), &pod(old), &mut causes);
    causes.0.into_iter().map(|cause| cause.field).collect()
}

#[test]
fn pods_change_only_where_they_may_pd5() {
    let gate = json!({"schedulingGates": [{"name": "g"}]});
    for (new, old, wanted) in [
        (container(json!({"image": "i:2"})), json!({}), vec![]),
        (container(json!({"command": ["x"]})), json!({}), vec!["spec"]),
        (
            json!({"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}),
            json!({}),
            vec!["spec.containers"],
        ),
        (json!({"activeDeadlineSeconds": 5}), json!({"activeDeadlineSeconds": 9}), vec![]),
        (json!({"activeDeadlineSeconds": 9}), json!({"activeDeadlineSeconds": 5}), vec!["spec.activeDeadlineSeconds"]),
        (json!({}), json!({"activeDeadlineSeconds": 5}), vec!["spec.activeDeadlineSeconds"]),
        (json!({"tolerations": [{"key": "a", "operator": "Exists"}]}), json!({}), vec![]),
        (json!({}), json!({"tolerations": [{"key": "a", "operator": "Exists"}]}), vec!["spec.tolerations"]),
        (json!({"terminationGracePeriodSeconds": 1}), json!({"terminationGracePeriodSeconds": -1}), vec![]),
        (json!({"terminationGracePeriodSeconds": 1}), json!({}), vec!["spec"]),
        (json!({}), gate.clone(), vec![]),
        (gate.clone(), json!({}), vec!["spec.schedulingGates[0].name"]),
        (json!({"nodeSelector": {"a": "b"}}), gate.clone(), vec![]),
        (json!({"nodeSelector": {"a": "b"}}), json!({}), vec!["spec"]),
    ] {
        assert_eq!(fields(check_update, new.clone(), old.clone()), wanted, "{old} to {new}");
    }
}

#[test]
fn resize_changes_cpu_and_memory_alone() {
    let resources = |resources: Value| container(json!({"resources": resources}));
    let old = resources(json!({"requests": {"cpu": "1"}}));
    for (new, wanted) in [
        (resources(json!({"requests": {"cpu": "2"}})), vec![]),
        (resources(json!({"requests": {"cpu": "1", "ephemeral-storage": "1"}})), vec!["spec"]),
        (json!({}), vec!["spec.containers[0].resources.requests"]),
        (container(json!({"image": "i:2", "resources": {"requests": {"cpu": "1"}}})), vec!["spec"]),
    ] {
        assert_eq!(fields(check_resize, new.clone(), old.clone()), wanted, "{new}");
    }
}

#[test]
fn ephemeral_containers_come_and_stay() {
    let with =
        |image: &str| json!({"ephemeralContainers": [{"name": "debug", "image": image, "targetContainerName": "c"}]});
    let none = Vec::<String>::new();
    assert_eq!(fields(check_ephemeral_update, with("a"), json!({})), none);
    assert_eq!(fields(check_ephemeral_update, with("a"), with("a")), none);
    assert_eq!(fields(check_ephemeral_update, with("b"), with("a")), ["spec.ephemeralContainers"]);
    assert_eq!(fields(check_ephemeral_update, json!({}), with("a")), ["spec.ephemeralContainers"]);
    let debug =
        |field: &str, value: Value| json!({"ephemeralContainers": [{"name": "debug", "image": "i", field: value}]});
    assert_causes(
        Place::Pod,
        vec![
            (with("a"), None),
            (
                debug("targetContainerName", json!("x")),
                Some("spec.ephemeralContainers[0].targetContainerName: Not found: \"x\""),
            ),
            (
                debug("ports", json!([{"containerPort": 1}])),
                Some("spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container"),
            ),
            (
                json!({"ephemeralContainers": [{"name": "c", "image": "i"}]}),
                Some("spec.ephemeralContainers[0].name: Duplicate value: \"c\""),
            ),
        ],
    );
}

#[test]
fn label_keys_select_pods_with_the_labels_of_their_pod() {
    let selector = json!({"matchLabels": {"app": "web"}});
    let term = json!({"topologyKey": "zone", "labelSelector": selector,
        "matchLabelKeys": ["hash", "absent"], "mismatchLabelKeys": ["tenant"]});
    let overlay = json!({
        "affinity": {
            "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]},
            "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": selector, "matchLabelKeys": ["hash"]}],
    });
    let labels = [("hash", "1"), ("tenant", "t")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let mut spec = pod(overlay.clone());
    add_own_labels(&mut spec, &labels);
    let made = serde_json::to_value(&spec).unwrap();
    let same = json!({"key": "hash", "operator": "In", "values": ["1"]});
    let other = json!({"key": "tenant", "operator": "NotIn", "values": ["t"]});
    for (at, expected) in [
        ("/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution/0", json!([same, other])),
        (
            "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution/0/podAffinityTerm",
            json!([same, other]),
        ),
        ("/topologySpreadConstraints/0", json!([same])),
    ] {
        assert_eq!(made.pointer(at).unwrap()["labelSelector"]["matchExpressions"], expected, "{at}");
    }
    let found = |spec: &PodSpec| {
        let mut causes = Causes::default();
        check(spec, "spec", Place::Pod, &mut causes);
        causes.0.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect::<Vec<_>>()
    };
    assert_eq!(found(&spec), [""; 0]);
    // What the selector says already is said twice now.
    let mut twice = pod(json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"hash": "2"}}, "matchLabelKeys": ["hash"]}]}));
    add_own_labels(&mut twice, &labels);
    let why = "spec.topologySpreadConstraints[0][0]: Invalid value: \"hash\": exists in both matchLabelKeys and labelSelector";
    assert_eq!(found(&twice), [why]);
}
