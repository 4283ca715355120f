//! The difference between two specifications, as the refusal of an update shows it.
//!
//! The reference compares its internal types, so that the difference shows the names of Go's fields, and each field, set
//! or not. `FIELDS` says how those types differ from what clients write; the order is that of
//! `k8s.io/kubernetes/pkg/apis/core/types.go`.

use k8s_openapi::api::core::v1::{PersistentVolumeClaimSpec, PodSpec};
use serde_json::{Map, Value};

/// `(type, fields)`. A field is `Name:kind`, or `Name=json:kind` where the name in JSON is another than the same with a
/// small first letter. Kinds: `s`, `i` and `b` are text, number and truth that are never null; `*` is anything that may
/// be; `T` is a struct that is always there, `*T` one that may be null, `[]T` a list of them.
const FIELDS: &[(&str, &str)] = &[
    (
        "PodSpec",
        "Volumes:[]Volume InitContainers:[]Container Containers:[]Container \
         EphemeralContainers:[]EphemeralContainer RestartPolicy:s TerminationGracePeriodSeconds:* \
         ActiveDeadlineSeconds:* DNSPolicy=dnsPolicy:s NodeSelector:* ServiceAccountName:s \
         AutomountServiceAccountToken:* NodeName:s SecurityContext:*PodSecurityContext \
         ImagePullSecrets:[]LocalObjectReference Hostname:s Subdomain:s SetHostnameAsFQDN:* Affinity:*Affinity \
         SchedulerName:s Tolerations:[]Toleration HostAliases:[]HostAlias PriorityClassName:s Priority:* \
         PreemptionPolicy:* DNSConfig=dnsConfig:*PodDNSConfig ReadinessGates:[]PodReadinessGate RuntimeClassName:* \
         Overhead:* EnableServiceLinks:* TopologySpreadConstraints:[]TopologySpreadConstraint OS=os:*PodOS \
         SchedulingGates:[]PodSchedulingGate ResourceClaims:[]PodResourceClaim Resources:*ResourceRequirements \
         HostnameOverride:* SchedulingGroup:*",
    ),
    (
        "PodSecurityContext",
        "HostNetwork:b HostPID:b HostIPC:b ShareProcessNamespace:* HostUsers:* SELinuxOptions=seLinuxOptions:* \
         WindowsOptions:* RunAsUser:* RunAsGroup:* RunAsNonRoot:* SupplementalGroups:* SupplementalGroupsPolicy:* \
         FSGroup=fsGroup:* FSGroupChangePolicy=fsGroupChangePolicy:* Sysctls:[]Sysctl \
         SeccompProfile:*SeccompProfile AppArmorProfile:*SeccompProfile SELinuxChangePolicy=seLinuxChangePolicy:*",
    ),
    (
        "Volume",
        "Name:s HostPath:*HostPath EmptyDir:*EmptyDir GCEPersistentDisk=gcePersistentDisk:* \
         AWSElasticBlockStore=awsElasticBlockStore:* GitRepo:* Secret:*Secret NFS=nfs:*NFS ISCSI=iscsi:* \
         Glusterfs:* PersistentVolumeClaim:*Claim RBD=rbd:* Quobyte:* FlexVolume:* Cinder:* CephFS=cephfs:* \
         Flocker:* DownwardAPI:*DownwardAPI FC=fc:* AzureFile:* ConfigMap:*ConfigMap VsphereVolume:* AzureDisk:* \
         PhotonPersistentDisk:* Projected:*Projected PortworxVolume:* ScaleIO:* StorageOS=storageos:* CSI=csi:* \
         Ephemeral:* Image:*Image",
    ),
    ("HostPath", "Path:s Type:*"),
    ("EmptyDir", "Medium:s SizeLimit:*"),
    ("Secret", "SecretName:s Items:[]KeyToPath DefaultMode:* Optional:*"),
    ("NFS", "Server:s Path:s ReadOnly:b"),
    ("Claim", "ClaimName:s ReadOnly:b"),
    ("ConfigMap", "Name:s Items:[]KeyToPath DefaultMode:* Optional:*"),
    ("KeyToPath", "Key:s Path:s Mode:*"),
    ("DownwardAPI", "Items:[]DownwardFile DefaultMode:*"),
    ("DownwardFile", "Path:s FieldRef:*FieldRef ResourceFieldRef:*ResourceFieldRef Mode:*"),
    ("Image", "Reference:s PullPolicy:s"),
    ("Projected", "Sources:[]Projection DefaultMode:*"),
    (
        "Projection",
        "Secret:*ProjectedKeys DownwardAPI:*ProjectedFields ConfigMap:*ProjectedKeys \
         ServiceAccountToken:*ProjectedToken ClusterTrustBundle:ProjectedBundle PodCertificate:*",
    ),
    ("ProjectedKeys", "Name:s Items:[]KeyToPath Optional:*"),
    ("ProjectedFields", "Items:[]DownwardFile"),
    ("ProjectedToken", "Audience:s ExpirationSeconds:i Path:s"),
    // Written out though unset. That is inferred: v1.36 counts six lines more for each source of a projected volume than
    // servers before it, and of its sources this one alone has the five fields that make six lines more.
    ("ProjectedBundle", "Name:* SignerName:* LabelSelector:* Optional:* Path:s"),
    ("FieldRef", "APIVersion=apiVersion:s FieldPath:s"),
    ("ResourceFieldRef", "ContainerName:s Resource:s Divisor:*"),
    (
        "Container",
        "Name:s Image:s Command:* Args:* WorkingDir:s Ports:[]Port EnvFrom:[]EnvFrom Env:[]Env \
         Resources:ResourceRequirements ResizePolicy:[]ResizePolicy RestartPolicy:* RestartPolicyRules:* \
         VolumeMounts:[]VolumeMount VolumeDevices:[]VolumeDevice LivenessProbe:*Probe ReadinessProbe:*Probe \
         StartupProbe:*Probe Lifecycle:*Lifecycle TerminationMessagePath:s TerminationMessagePolicy:s \
         ImagePullPolicy:s SecurityContext:*SecurityContext Stdin:b StdinOnce:b TTY=tty:b",
    ),
    (
        "EphemeralContainer",
        "Name:s Image:s Command:* Args:* WorkingDir:s Ports:[]Port EnvFrom:[]EnvFrom Env:[]Env \
         Resources:ResourceRequirements ResizePolicy:[]ResizePolicy RestartPolicy:* RestartPolicyRules:* \
         VolumeMounts:[]VolumeMount VolumeDevices:[]VolumeDevice LivenessProbe:*Probe ReadinessProbe:*Probe \
         StartupProbe:*Probe Lifecycle:*Lifecycle TerminationMessagePath:s TerminationMessagePolicy:s \
         ImagePullPolicy:s SecurityContext:*SecurityContext Stdin:b StdinOnce:b TTY=tty:b TargetContainerName:s",
    ),
    ("Port", "Name:s HostPort:i ContainerPort:i Protocol:s HostIP:s"),
    ("EnvFrom", "Prefix:s ConfigMapRef:*Reference SecretRef:*Reference"),
    ("Reference", "Name:s Optional:*"),
    ("Env", "Name:s Value:s ValueFrom:*EnvSource"),
    (
        "EnvSource",
        "FieldRef:*FieldRef ResourceFieldRef:*ResourceFieldRef ConfigMapKeyRef:*KeyReference \
         SecretKeyRef:*KeyReference FileKeyRef:*",
    ),
    ("KeyReference", "Name:s Key:s Optional:*"),
    ("ResourceRequirements", "Limits:* Requests:* Claims:[]ResourceClaim"),
    ("ResourceClaim", "Name:s Request:s"),
    ("ResizePolicy", "ResourceName:s RestartPolicy:s"),
    ("VolumeMount", "Name:s ReadOnly:b RecursiveReadOnly:* MountPath:s SubPath:s MountPropagation:* SubPathExpr:s"),
    ("VolumeDevice", "Name:s DevicePath:s"),
    (
        "Probe",
        "Exec:*Exec HTTPGet=httpGet:*HTTPGet TCPSocket=tcpSocket:*TCPSocket GRPC=grpc:*GRPC InitialDelaySeconds:i \
         TimeoutSeconds:i PeriodSeconds:i SuccessThreshold:i FailureThreshold:i TerminationGracePeriodSeconds:*",
    ),
    ("Exec", "Command:*"),
    ("HTTPGet", "Path:s Port:* Host:s Scheme:s HTTPHeaders=httpHeaders:[]Pair"),
    ("Pair", "Name:s Value:s"),
    ("TCPSocket", "Port:* Host:s"),
    ("GRPC", "Port:i Service:*"),
    ("Lifecycle", "PostStart:*Hook PreStop:*Hook StopSignal:*"),
    ("Hook", "Exec:*Exec HTTPGet=httpGet:*HTTPGet TCPSocket=tcpSocket:*TCPSocket Sleep:*Sleep"),
    ("Sleep", "Seconds:i"),
    (
        "SecurityContext",
        "Capabilities:*Capabilities Privileged:* SELinuxOptions=seLinuxOptions:* WindowsOptions:* RunAsUser:* \
         RunAsGroup:* RunAsNonRoot:* ReadOnlyRootFilesystem:* AllowPrivilegeEscalation:* ProcMount:* \
         SeccompProfile:*SeccompProfile AppArmorProfile:*SeccompProfile",
    ),
    ("Capabilities", "Add:* Drop:*"),
    ("SeccompProfile", "Type:s LocalhostProfile:*"),
    ("Sysctl", "Name:s Value:s"),
    ("LocalObjectReference", "Name:s"),
    ("Affinity", "NodeAffinity:*NodeAffinity PodAffinity:*PodAffinity PodAntiAffinity:*PodAffinity"),
    (
        "NodeAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution:*NodeSelector \
         PreferredDuringSchedulingIgnoredDuringExecution:[]PreferredNode",
    ),
    ("NodeSelector", "NodeSelectorTerms:[]NodeTerm"),
    ("NodeTerm", "MatchExpressions:[]NodeRequirement MatchFields:[]NodeRequirement"),
    ("NodeRequirement", "Key:s Operator:s Values:*"),
    ("PreferredNode", "Weight:i Preference:NodeTerm"),
    (
        "PodAffinity",
        "RequiredDuringSchedulingIgnoredDuringExecution:[]PodTerm \
         PreferredDuringSchedulingIgnoredDuringExecution:[]PreferredPod",
    ),
    ("PodTerm", "LabelSelector:* Namespaces:* TopologyKey:s NamespaceSelector:* MatchLabelKeys:* MismatchLabelKeys:*"),
    ("PreferredPod", "Weight:i PodAffinityTerm:PodTerm"),
    ("Toleration", "Key:s Operator:s Value:s Effect:s TolerationSeconds:*"),
    ("HostAlias", "IP=ip:s Hostnames:*"),
    ("PodDNSConfig", "Nameservers:* Searches:* Options:[]DNSOption"),
    ("DNSOption", "Name:s Value:*"),
    ("PodReadinessGate", "ConditionType:s"),
    (
        "TopologySpreadConstraint",
        "MaxSkew:i TopologyKey:s WhenUnsatisfiable:s LabelSelector:* MinDomains:* NodeAffinityPolicy:* \
         NodeTaintsPolicy:* MatchLabelKeys:*",
    ),
    ("PodOS", "Name:s"),
    ("PodSchedulingGate", "Name:s"),
    ("PodResourceClaim", "Name:s ResourceClaimName:* ResourceClaimTemplateName:*"),
    (
        "PersistentVolumeClaimSpec",
        "AccessModes:* Selector:* Resources:VolumeResources VolumeName:s StorageClassName:* VolumeMode:* \
         DataSource:*TypedReference DataSourceRef:*SpacedReference VolumeAttributesClassName:*",
    ),
    ("VolumeResources", "Limits:* Requests:*"),
    ("TypedReference", "APIGroup=apiGroup:* Kind:s Name:s"),
    ("SpacedReference", "APIGroup=apiGroup:* Kind:s Name:s Namespace:*"),
];

/// Fields that are the security context's in the internal types.
const OF_CONTEXT: [&str; 5] = ["hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"];

/// The unified difference of the internal forms, three lines of context around each change.
pub(super) fn unified(old: &PodSpec, new: &PodSpec) -> String {
    unified_text(&internal(old), &internal(new))
}

/// The same for the specifications of two PersistentVolumeClaims.
pub(in crate::api::kinds) fn unified_claims(
    old: &PersistentVolumeClaimSpec,
    new: &PersistentVolumeClaimSpec,
) -> String {
    let text = |spec: &PersistentVolumeClaimSpec| {
        let mut text = String::new();
        write_struct("PersistentVolumeClaimSpec", &serde_json::to_value(spec).unwrap_or_default(), 0, &mut text);
        text
    };
    unified_text(&text(old), &text(new))
}

fn unified_text(old: &str, new: &str) -> String {
    similar::TextDiff::from_lines(old, new).unified_diff().missing_newline_hint(false).to_string()
}

fn internal(spec: &PodSpec) -> String {
    let mut value = serde_json::to_value(spec).unwrap_or_default();
    for field in OF_CONTEXT {
        if let Some(moved) = value.as_object_mut().and_then(|fields| fields.remove(field)) {
            value["securityContext"][field] = moved;
        }
    }
    let mut text = String::new();
    write_struct("PodSpec", &value, 0, &mut text);
    text
}

fn json_name(go: &str) -> String {
    let mut chars = go.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// Writes a struct of the kind `name`, each field on its own line, one space of indent for each level.
fn write_struct(name: &str, value: &Value, depth: usize, text: &mut String) {
    let fields = FIELDS.iter().find(|(kind, _)| *kind == name).map_or("", |(_, fields)| *fields);
    let entries = fields.split_whitespace().filter_map(|field| field.split_once(':')).map(|(names, kind)| {
        let (go, json) = names.split_once('=').map_or_else(|| (names, json_name(names)), |(go, j)| (go, j.to_owned()));
        (go, kind, value.get(&json).unwrap_or(&Value::Null))
    });
    let entries: Vec<_> = entries.collect();
    write_list('{', '}', entries.len(), depth, text, |i, text| {
        let (go, kind, value) = &entries[i];
        text.push_str(&format!("\"{go}\": "));
        write_field(kind, value, depth + 1, text);
    });
}

fn write_field(kind: &str, value: &Value, depth: usize, text: &mut String) {
    match (kind, value) {
        ("s", Value::Null) => text.push_str("\"\""),
        ("i", Value::Null) => text.push('0'),
        ("b", Value::Null) => text.push_str("false"),
        ("s" | "i" | "b" | "*", value) => write_plain(value, depth, text),
        (kind, Value::Null) if kind.starts_with(['*', '[']) => text.push_str("null"),
        (kind, Value::Array(items)) => {
            let kind = kind.trim_start_matches("[]");
            write_list('[', ']', items.len(), depth, text, |i, text| write_struct(kind, &items[i], depth + 1, text));
        }
        (kind, value) => write_struct(kind.trim_start_matches('*'), value, depth, text),
    }
}

/// Values whose JSON is the same inside and outside.
fn write_plain(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Array(items) => {
            write_list('[', ']', items.len(), depth, text, |i, text| write_plain(&items[i], depth + 1, text));
        }
        Value::Object(fields) => {
            let entries: Vec<_> = Map::iter(fields).collect();
            write_list('{', '}', entries.len(), depth, text, |i, text| {
                text.push_str(&format!("{}: ", Value::from(entries[i].0.as_str())));
                write_plain(entries[i].1, depth + 1, text);
            });
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}

fn write_list(
    open: char,
    close: char,
    count: usize,
    depth: usize,
    text: &mut String,
    mut write: impl FnMut(usize, &mut String),
) {
    text.push(open);
    for i in 0..count {
        text.push_str(if i == 0 { "\n" } else { ",\n" });
        text.push_str(&" ".repeat(depth + 1));
        write(i, text);
    }
    if count > 0 {
        text.push('\n');
        text.push_str(&" ".repeat(depth));
    }
    text.push(close);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: Value) -> PodSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_kind_of_the_table_is_in_the_table() {
        let kinds = FIELDS.iter().flat_map(|(_, fields)| fields.split_whitespace());
        for kind in
            kinds.filter_map(|field| field.split_once(':')).map(|(_, kind)| kind.trim_start_matches(['*', '[', ']']))
        {
            let plain = matches!(kind, "" | "s" | "i" | "b");
            assert!(plain || FIELDS.iter().any(|(name, _)| *name == kind), "{kind}");
        }
    }

    #[test]
    fn difference_shows_the_fields_of_the_internal_types() {
        let old = spec(json!({"containers": [], "securityContext": {}}));
        let new = spec(json!({"containers": [], "securityContext": {}, "hostNetwork": true}));
        let wanted = " \"AutomountServiceAccountToken\": null,\n  \"NodeName\": \"\",\n  \"SecurityContext\": {\n\
                      -  \"HostNetwork\": false,\n+  \"HostNetwork\": true,\n   \"HostPID\": false,\n   \"HostIPC\": false,\n";
        let found = unified(&old, &new);
        assert!(found.contains(wanted), "{found}");
        assert!(found.starts_with("@@ -"), "{found}");
    }
    #[test]
    fn hunks_stand_where_the_internal_form_has_them() {
        // A Pod with the volume that every Pod gets, as v1.36 has it.
        let mut old = json!({
            "volumes": [{"name": "kube-api-access", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}}]}}],
            "containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 80, "protocol": "TCP"}]}],
        });
        let before = spec(old.clone());
        old["containers"][0]["ports"][0]["hostPort"] = 80.into();
        let found = unified(&before, &spec(old));
        assert!(found.starts_with("@@ -117,7 +117,7 @@\n    \"Ports\": [\n"), "{found}");
    }
}
