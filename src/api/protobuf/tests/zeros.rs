//! Which zeros stay. Messages are written as clients in Go do: fields that are plain there always, pointers when set.

use k8s_pb::api::{apps, autoscaling, coordination, core};
use k8s_pb::apimachinery::pkg::apis::meta::v1 as meta;
use prost::Message;
use serde_json::{Value, json};

use super::part;

fn none() -> Option<String> {
    Some(String::new())
}

/// A container as Go writes one that says nothing.
fn container(name: &str) -> core::v1::Container {
    core::v1::Container {
        name: Some(name.into()),
        image: none(),
        working_dir: none(),
        resources: Some(core::v1::ResourceRequirements::default()),
        termination_message_path: none(),
        termination_message_policy: none(),
        image_pull_policy: none(),
        stdin: Some(false),
        stdin_once: Some(false),
        tty: Some(false),
        ..Default::default()
    }
}

/// A Pod as Go writes one that says nothing.
fn pod_spec(container: core::v1::Container) -> core::v1::PodSpec {
    core::v1::PodSpec {
        containers: vec![container],
        restart_policy: none(),
        dns_policy: none(),
        service_account_name: none(),
        service_account: none(),
        node_name: none(),
        host_network: Some(false),
        host_pid: Some(false),
        host_ipc: Some(false),
        hostname: none(),
        subdomain: none(),
        scheduler_name: none(),
        priority_class_name: none(),
        ..Default::default()
    }
}

fn pod(spec: core::v1::PodSpec) -> Value {
    part("v1", "Pod", &core::v1::Pod { spec: Some(spec), ..Default::default() }.encode_to_vec())["spec"].take()
}

#[test]
fn a_pod_that_says_nothing_has_nothing() {
    assert_eq!(pod(pod_spec(container("c"))), json!({"containers": [{"name": "c", "resources": {}}]}));
}

#[test]
fn zeros_with_a_meaning_of_their_own_stay() {
    let mut all = container("c");
    all.security_context = Some(core::v1::SecurityContext {
        run_as_user: Some(0),
        run_as_group: Some(0),
        run_as_non_root: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(false),
        allow_privilege_escalation: Some(false),
        ..Default::default()
    });
    let key = core::v1::SecretKeySelector { key: Some("k".into()), optional: Some(false), ..Default::default() };
    let source = core::v1::EnvVarSource { secret_key_ref: Some(key), ..Default::default() };
    all.env = vec![core::v1::EnvVar { name: Some("E".into()), value: none(), value_from: Some(source) }];
    let mut spec = pod_spec(all);
    spec.automount_service_account_token = Some(false);
    spec.enable_service_links = Some(false);
    spec.termination_grace_period_seconds = Some(0);
    spec.priority = Some(0);
    spec.host_users = Some(false);
    spec.tolerations =
        vec![core::v1::Toleration { key: none(), value: none(), toleration_seconds: Some(0), ..Default::default() }];
    let secret = core::v1::SecretVolumeSource { secret_name: none(), default_mode: Some(0), ..Default::default() };
    let source = core::v1::VolumeSource { secret: Some(secret), ..Default::default() };
    spec.volumes = vec![core::v1::Volume { name: Some("v".into()), volume_source: Some(source) }];
    let expected = json!({
        "containers": [{
            "name": "c",
            "resources": {},
            "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"key": "k", "optional": false}}}],
            "securityContext": {
                "runAsUser": 0, "runAsGroup": 0, "runAsNonRoot": false, "privileged": false,
                "readOnlyRootFilesystem": false, "allowPrivilegeEscalation": false,
            },
        }],
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 0,
        "priority": 0,
        "hostUsers": false,
        "tolerations": [{"tolerationSeconds": 0}],
        "volumes": [{"name": "v", "secret": {"defaultMode": 0}}],
    });
    assert_eq!(pod(spec), expected);
}

/// The documentation gives these other defaults, too, but says that one is the least.
#[test]
fn zeros_of_a_probe_ask_for_the_defaults() {
    let handler = core::v1::ProbeHandler { exec: Some(core::v1::ExecAction::default()), ..Default::default() };
    let probe = core::v1::Probe {
        handler: Some(handler),
        initial_delay_seconds: Some(0),
        timeout_seconds: Some(0),
        period_seconds: Some(0),
        success_threshold: Some(0),
        failure_threshold: Some(0),
        termination_grace_period_seconds: None,
    };
    let mut probed = container("c");
    probed.liveness_probe = Some(probe);
    assert_eq!(pod(pod_spec(probed))["containers"][0]["livenessProbe"], json!({"exec": {}}));
}

#[test]
fn a_deployment_of_no_replicas_has_none() {
    let deployment = |replicas, history| {
        let spec = apps::v1::DeploymentSpec {
            replicas,
            revision_history_limit: history,
            min_ready_seconds: Some(0),
            paused: Some(false),
            strategy: Some(apps::v1::DeploymentStrategy { r#type: none(), rolling_update: None }),
            ..Default::default()
        };
        part("apps/v1", "Deployment", &apps::v1::Deployment { spec: Some(spec), ..Default::default() }.encode_to_vec())
    };
    let zero = json!({"spec": {"replicas": 0, "revisionHistoryLimit": 0, "strategy": {}}});
    assert_eq!(deployment(Some(0), Some(0)), zero);
    assert_eq!(deployment(None, None), json!({"spec": {"strategy": {}}}));
}

#[test]
fn scaling_down_may_be_without_delay() {
    let down = autoscaling::v2::HpaScalingRules { stabilization_window_seconds: Some(0), ..Default::default() };
    let behavior = autoscaling::v2::HorizontalPodAutoscalerBehavior { scale_down: Some(down), scale_up: None };
    let spec = autoscaling::v2::HorizontalPodAutoscalerSpec {
        min_replicas: Some(0),
        max_replicas: Some(0),
        behavior: Some(behavior),
        ..Default::default()
    };
    let scaler = autoscaling::v2::HorizontalPodAutoscaler { spec: Some(spec), ..Default::default() };
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 0}});
    assert_eq!(
        part("autoscaling/v2", "HorizontalPodAutoscaler", &scaler.encode_to_vec()),
        json!({"spec": {"minReplicas": 0, "maxReplicas": 0, "behavior": behavior}})
    );
}

#[test]
fn empty_names_stay_where_they_are_names() {
    let lease = coordination::v1::Lease {
        spec: Some(coordination::v1::LeaseSpec {
            holder_identity: none(),
            lease_transitions: Some(0),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(
        part("coordination.k8s.io/v1", "Lease", &lease.encode_to_vec()),
        json!({"spec": {"holderIdentity": "", "leaseTransitions": 0}})
    );
    let claim = core::v1::PersistentVolumeClaim {
        spec: Some(core::v1::PersistentVolumeClaimSpec {
            volume_name: none(),
            storage_class_name: none(),
            ..Default::default()
        }),
        ..Default::default()
    };
    assert_eq!(part("v1", "PersistentVolumeClaim", &claim.encode_to_vec()), json!({"spec": {"storageClassName": ""}}));
}

/// A precondition on an empty uid is one that no object meets; without it anything would be deleted.
#[test]
fn an_empty_precondition_is_not_dropped() {
    let preconditions = meta::Preconditions { uid: none(), resource_version: None };
    let options = meta::DeleteOptions { preconditions: Some(preconditions), ..Default::default() };
    assert_eq!(part("v1", "DeleteOptions", &options.encode_to_vec()), json!({"preconditions": {"uid": ""}}));
}
