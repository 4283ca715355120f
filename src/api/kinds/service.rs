//! Service: defaults (SD1-SD7), type changes (W1-W4) and columns. Its rules are in `service_validation`,
//! its addresses and node ports in `service_addresses`.

use k8s_openapi::api::core::v1::{
    ClientIPConfig, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus, SessionAffinityConfig,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{
    AGE, Context, Info, NAME, Part, STANDARD_TEXTS, age_cell, column, name_cell, service_addresses, service_validation,
    service_warnings, wide,
};
use crate::api::alloc::Reservation;
use crate::api::causes::Causes;
use crate::api::names::NameRule;
use crate::api::status::ApiError;

const AFFINITY_TIMEOUT: i32 = 10800;

pub struct Kind;

impl super::Kind for Kind {
    type Object = Service;
    const INFO: Info = Info {
        kind: "Service",
        plural: "services",
        singular: "service",
        short_names: &["svc"],
        categories: &["all"],
        status: true,
        condition_texts: STANDARD_TEXTS,
        create_on_update: true,
        returns_deleted: true,
        name_rule: NameRule::Label,
        fields: &["spec.clusterIP", "spec.type"],
        columns: &[
            NAME,
            column(
                "Type",
                "type determines how the Service is exposed. Defaults to ClusterIP. Valid options are ExternalName, ClusterIP, NodePort, and LoadBalancer. \"ClusterIP\" allocates a cluster-internal IP address for load-balancing to endpoints. Endpoints are determined by the selector or if that is not specified, by manual construction of an Endpoints object or EndpointSlice objects. If clusterIP is \"None\", no virtual IP is allocated and the endpoints are published as a set of endpoints rather than a virtual IP. \"NodePort\" builds on ClusterIP and allocates a port on every node which routes to the same endpoints as the clusterIP. \"LoadBalancer\" builds on NodePort and creates an external load-balancer (if supported in the current cloud) which routes to the same endpoints as the clusterIP. \"ExternalName\" aliases this service to the specified externalName. Several other fields do not apply to ExternalName services. More info: https://kubernetes.io/docs/concepts/services-networking/service/#publishing-services-service-types",
            ),
            column(
                "Cluster-IP",
                "clusterIP is the IP address of the service and is usually assigned randomly. If an address is specified manually, is in-range (as per system configuration), and is not in use, it will be allocated to the service; otherwise creation of the service will fail. This field may not be changed through updates unless the type field is also being changed to ExternalName (which requires this field to be blank) or the type field is being changed from ExternalName (in which case this field may optionally be specified, as describe above).  Valid values are \"None\", empty string (\"\"), or a valid IP address. Setting this to \"None\" makes a \"headless service\" (no virtual IP), which is useful when direct endpoint connections are preferred and proxying is not required.  Only applies to types ClusterIP, NodePort, and LoadBalancer. If this field is specified when creating a Service of type ExternalName, creation will fail. This field will be wiped when updating a Service to type ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
            ),
            column(
                "External-IP",
                "externalIPs is a list of IP addresses for which nodes in the cluster will also accept traffic for this service.  These IPs are not managed by Kubernetes.  The user is responsible for ensuring that traffic arrives at a node with this IP.  A common example is external load-balancers that are not part of the Kubernetes system.",
            ),
            column(
                "Port(s)",
                "The list of ports that are exposed by this service. More info: https://kubernetes.io/docs/concepts/services-networking/service/#virtual-ips-and-service-proxies",
            ),
            AGE,
            wide(
                "Selector",
                "Route service traffic to pods with label keys and values matching this selector. If empty or not present, the service is assumed to have an external process managing its endpoints, which Kubernetes will not modify. Only applies to types ClusterIP, NodePort, and LoadBalancer. Ignored if type is ExternalName. More info: https://kubernetes.io/docs/concepts/services-networking/service/",
            ),
        ],
        ..Info::DEFAULT
    };

    fn default(object: &mut Service) {
        let spec = object.spec.get_or_insert_default();
        let kind = spec.type_.get_or_insert_with(|| "ClusterIP".into()).clone();
        let affinity = spec.session_affinity.get_or_insert_with(|| "None".into());
        if affinity == "None" {
            spec.session_affinity_config = None;
        } else if affinity == "ClientIP" {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            config
                .client_ip
                .get_or_insert_with(ClientIPConfig::default)
                .timeout_seconds
                .get_or_insert(AFFINITY_TIMEOUT);
        }
        for port in spec.ports.iter_mut().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".into());
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if service_validation::externally_accessible(spec) {
            spec.external_traffic_policy.get_or_insert_with(|| "Cluster".into());
        }
        if kind == "ExternalName" {
            spec.internal_traffic_policy = None;
        } else if ["ClusterIP", "NodePort", "LoadBalancer"].contains(&kind.as_str()) {
            spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".into());
        }
        if kind == "LoadBalancer" {
            spec.allocate_load_balancer_node_ports.get_or_insert(true);
        }
        let status = object.status.get_or_insert_with(ServiceStatus::default);
        let balancer = status.load_balancer.get_or_insert_with(LoadBalancerStatus::default);
        for ingress in balancer.ingress.iter_mut().flatten().filter(|ingress| ingress.ip.is_some()) {
            ingress.ip_mode.get_or_insert_with(|| "VIP".into());
        }
    }

    fn create(ctx: &Context, object: &mut Service, causes: &mut Causes) -> Result<(), ApiError> {
        object.status = Some(ServiceStatus { load_balancer: Some(LoadBalancerStatus::default()), conditions: None });
        let spec = object.spec.get_or_insert_default();
        service_addresses::settle_families(ctx, spec, None, causes);
        service_validation::check(spec, None, causes);
        if let Some(annotations) = &object.metadata.annotations {
            service_validation::check_annotations(annotations, causes);
        }
        Ok(())
    }

    fn update(ctx: &Context, new: &mut Service, old: &Service, part: Part, causes: &mut Causes) {
        let old_spec = old.spec.clone().unwrap_or_default();
        if part == Part::Status {
            new.spec = old.spec.clone();
            service_validation::check_status(&old_spec, new.status.as_ref(), causes);
            return;
        }
        let spec = new.spec.get_or_insert_default();
        wipe_after_type_change(spec, &old_spec);
        service_addresses::settle_families(ctx, spec, Some(&old_spec), causes);
        service_validation::check(spec, Some(&old_spec), causes);
        service_validation::check_update(spec, &old_spec, causes);
        if spec.type_.as_deref() != Some("LoadBalancer")
            && let Some(status) = &mut new.status
        {
            status.load_balancer = Some(LoadBalancerStatus::default());
        }
        if let Some(annotations) = &new.metadata.annotations {
            service_validation::check_annotations(annotations, causes);
        }
    }

    fn warnings(new: &Value, _: Option<&Value>) -> Vec<String> {
        service_warnings::of(new)
    }

    fn reserve(
        ctx: &Context,
        new: &mut Service,
        old: Option<&Service>,
        causes: &mut Causes,
    ) -> Result<Reservation, ApiError> {
        let spec = new.spec.get_or_insert_default();
        service_addresses::reserve(ctx, spec, old.and_then(|old| old.spec.as_ref()), causes)
    }

    fn release(ctx: &Context, object: &Service) {
        ctx.allocators.release(object.spec.iter().flat_map(service_addresses::held));
    }

    fn cells(object: &Service, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let text = |value: &Option<String>| value.clone().filter(|v| !v.is_empty()).unwrap_or("<none>".into());
        let ports: Vec<String> = spec
            .ports
            .iter()
            .flatten()
            .map(|port| {
                let protocol = port.protocol.as_deref().unwrap_or("TCP");
                match port.node_port.filter(|node_port| *node_port > 0) {
                    Some(node_port) => format!("{}:{node_port}/{protocol}", port.port),
                    None => format!("{}/{protocol}", port.port),
                }
            })
            .collect();
        let ports = if ports.is_empty() { "<none>".into() } else { ports.join(",") };
        let selector: Vec<String> =
            spec.selector.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
        let selector = if selector.is_empty() { "<none>".into() } else { selector.join(",") };
        vec![
            name_cell(object),
            text(&spec.type_).into(),
            text(&spec.cluster_ip).into(),
            external_address(object, &spec).into(),
            ports.into(),
            age_cell(object, now),
            selector.into(),
        ]
    }
}

/// The External-IP column: who reaches the Service from outside, and where.
fn external_address(object: &Service, spec: &ServiceSpec) -> String {
    let external = spec.external_ips.clone().unwrap_or_default();
    let mut all: Vec<String> = Vec::new();
    match spec.type_.as_deref() {
        Some("ExternalName") => return spec.external_name.clone().unwrap_or_default(),
        Some("LoadBalancer") => {
            let ingress =
                object.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
            all.extend(ingress.into_iter().flatten().filter_map(|i| i.ip.clone().or(i.hostname.clone())));
            all.extend(external);
            if all.is_empty() {
                return "<pending>".into();
            }
        }
        _ => all.extend(external),
    }
    if all.is_empty() { "<none>".into() } else { all.join(",") }
}

/// Rule W1: what a type change makes meaningless goes away, unless the user changed it in the same write.
fn wipe_after_type_change(new: &mut ServiceSpec, old: &ServiceSpec) {
    let kind = |spec: &ServiceSpec| spec.type_.clone().unwrap_or_default();
    let (now, was) = (kind(new), kind(old));
    let has_node_ports = |kind: &str| kind == "NodePort" || kind == "LoadBalancer";
    if now == "ExternalName" && was != "ExternalName" {
        if new.cluster_ip == old.cluster_ip {
            new.cluster_ip = None;
        }
        if new.cluster_ips == old.cluster_ips {
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if has_node_ports(&was) && !has_node_ports(&now) {
        let old_ports: Vec<i32> = old.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.is_some_and(|node_port| old_ports.contains(&node_port)) {
                port.node_port = None;
            }
        }
    }
    if was == "LoadBalancer" && now != "LoadBalancer" {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    let needs_check = |spec: &ServiceSpec| service_validation::needs_health_check(spec);
    if needs_check(old) && !needs_check(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    if service_validation::externally_accessible(old)
        && !service_validation::externally_accessible(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}
