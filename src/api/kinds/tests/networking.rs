use super::*;

#[tokio::test]
async fn network_policy_defaults_and_rules() {
    let desk = Desk::of::<network_policy::Kind>().await;
    let base = json!({"metadata": {"name": "n"}, "spec": {"egress": [{"ports": [{"port": 53}]}]}});
    let spec = desk.create(base.clone()).unwrap()["spec"].clone();
    let wanted = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"], "egress": [{"ports": [{"port": 53, "protocol": "TCP"}]}]});
    assert_eq!(spec, wanted);
    let port = |port: Value| json!({"spec": {"ingress": [{"ports": [port]}]}});
    let from = |peer: Value| json!({"spec": {"ingress": [{"from": [peer]}]}});
    desk.assert_creates(&base, &[
        (port(json!({"port": 80, "endPort": 90})), None),
        (port(json!({"port": 80, "endPort": 70})), Some("spec.ingress[0].ports[0].endPort: Invalid value: 70: must be greater than or equal to `port`")),
        (port(json!({"port": "http", "endPort": 70})), Some("spec.ingress[0].ports[0].endPort: Invalid value: 70: may not be specified when `port` is non-numeric")),
        (port(json!({"protocol": "ICMP"})), Some("spec.ingress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"TCP\", \"UDP\", \"SCTP\"")),
        (from(json!({})), Some("spec.ingress[0].from[0]: Required value: must specify a peer")),
        (from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})), Some("spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer")),
        (from(json!({"ipBlock": {"cidr": "nope"}})), Some("spec.ingress[0].from[0].ipBlock.cidr: Invalid value: \"nope\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)")),
        (from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}})), Some("spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`")),
        (json!({"spec": {"policyTypes": ["Sideways"]}}), Some("spec.policyTypes[0]: Unsupported value: \"Sideways\": supported values: \"Ingress\", \"Egress\"")),
    ]);
}

#[tokio::test]
async fn ingress_rules_ig3() {
    let desk = Desk::of::<ingress::Kind>().await;
    let base = json!({"metadata": {"name": "i", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
    let path = |path: Value| {
        let mut whole =
            json!({"path": "/", "pathType": "Prefix", "backend": {"service": {"name": "s", "port": {"name": "http"}}}});
        json_patch::merge(&mut whole, &path);
        json!({"spec": {"rules": [{"host": "a.b", "http": {"paths": [whole]}}]}})
    };
    const AT: &str = "spec.rules[0].http.paths[0]";
    desk.assert_creates(&base, &[
        (path(json!({})), None),
        (json!({"spec": {"defaultBackend": null}}), Some("spec: Invalid value: null: either `defaultBackend` or `rules` must be specified")),
        (path(json!({"pathType": null})), Some(&format!("{AT}.pathType: Required value: pathType must be specified"))),
        (path(json!({"pathType": "Regex"})), Some(&format!("{AT}.pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\""))),
        (path(json!({"path": "x"})), Some(&format!("{AT}.path: Invalid value: \"x\": must be an absolute path"))),
        (path(json!({"path": "/a//b"})), Some(&format!("{AT}.path: Invalid value: \"/a//b\": must not contain '//'"))),
        (path(json!({"backend": {"service": {"port": {"number": 1}}}})), Some(&format!("{AT}.backend: Invalid value: \"\": cannot set both port name & port number"))),
        (path(json!({"backend": {"service": {"port": null}}})), Some(&format!("{AT}.backend: Required value: port name or number is required"))),
        (path(json!({"backend": {"service": null}})), Some(&format!("{AT}.backend: Invalid value: \"\": resource or service backend is required"))),
        (json!({"spec": {"rules": [{"host": "*.a.b"}]}}), None),
        (json!({"spec": {"rules": [{"host": "a.*.b"}]}}), Some("spec.rules[0].host: Invalid value: \"a.*.b\": a wildcard DNS-1123 subdomain must start with '*.'")),
        (json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "x"}}, "spec": {"ingressClassName": "y"}}), Some("annotations.kubernetes.io/ingress.class: Invalid value: \"x\": must match `ingressClassName` when both are specified")),
    ]);
    desk.assert_updates(&base, Part::Status, &[
        (json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1", "ports": [{"port": 80, "protocol": "TCP"}]}]}}}), None),
        (json!({"status": {"loadBalancer": {"ingress": [{"hostname": "10.0.0.1"}]}}}), Some("status.loadBalancer.ingress[0].hostname: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address")),
    ]);
    let mut object = base;
    object["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}});
    assert_eq!(Value::from(desk.cells(&object)), json!(["i", "<none>", "*", "10.0.0.1,10.0...", "80", "60m"]));
}

#[tokio::test]
async fn ingress_class_rules() {
    let desk = Desk::of::<ingress_class::Kind>().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/x", "parameters": {"kind": "K", "name": "n"}}});
    assert_eq!(desk.create(base.clone()).unwrap()["spec"]["parameters"]["scope"], "Cluster");
    desk.assert_creates(&base, &[
        (json!({"spec": {"controller": null}}), Some("spec.controller: Required value")),
        (json!({"spec": {"controller": "plain"}}), Some("spec.controller: Invalid value: \"plain\": must be a domain-prefixed path (such as \"acme.io/foo\")")),
        (json!({"spec": {"parameters": {"scope": "Namespace"}}}), Some("spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'")),
        (json!({"spec": {"parameters": {"namespace": "x"}}}), Some("spec.parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'")),
    ]);
    desk.assert_updates(
        &base,
        Part::Main,
        &[(
            json!({"spec": {"controller": "example.com/y"}}),
            Some("spec.controller: Invalid value: \"example.com/y\": field is immutable"),
        )],
    );
}

#[tokio::test]
async fn service_cidr_and_ip_address_rules_sc2_sc5() {
    let cidrs = Desk::of::<service_cidr::Kind>().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {"cidrs": ["10.0.0.0/24"]}});
    let with = |cidrs: Value| json!({"spec": {"cidrs": cidrs}});
    cidrs.assert_creates(
        &base,
        &[
            (with(json!(["10.0.0.0/24", "fd00::/112"])), None),
            (with(json!([])), Some("spec.cidrs: Required value: at least one CIDR required")),
            (
                with(json!(["10.0.0.1/24"])),
                Some("spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length"),
            ),
            (with(json!(["10.0.0.0/24", "10.1.0.0/24"])), Some("spec.cidrs: Invalid value")),
        ],
    );
    cidrs.assert_updates(
        &base,
        Part::Main,
        &[
            (with(json!(["10.0.0.0/24", "fd00::/112"])), None),
            (with(json!(["10.1.0.0/24"])), Some("spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable")),
        ],
    );
    let addresses = Desk::of::<ip_address::Kind>().await;
    let base = json!({"metadata": {"name": "10.96.0.9"}, "spec": {"parentRef": {"resource": "services", "namespace": "a", "name": "s"}}});
    addresses.assert_creates(
        &base,
        &[
            (json!({"spec": {"parentRef": {"resource": null}}}), Some("spec.parentRef.resource: Required value")),
            (
                json!({"spec": {"parentRef": {"name": "a/b"}}}),
                Some("spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'"),
            ),
        ],
    );
    addresses.assert_updates(
        &base,
        Part::Main,
        &[(json!({"spec": {"parentRef": {"name": "t"}}}), Some("spec.parentRef: Invalid value"))],
    );
    let cells = addresses.cells(&base);
    assert_eq!(cells[..2], ["10.96.0.9".into(), Value::from("services/a/s")]);
}

#[tokio::test]
async fn addresses_of_a_slice_are_of_its_family() {
    let desk = Desk::of::<endpoint_slice::Kind>().await;
    let base = json!({"metadata": {"name": "s"}, "addressType": "IPv6", "endpoints": []});
    let slice = |kind: &str, address: &str| json!({"addressType": kind, "endpoints": [{"addresses": [address]}]});
    const AT: &str = "endpoints[0].addresses[0]: Invalid value";
    let mapped = "::ffff:10.244.1.3";
    let refused = format!("{AT}: \"{mapped}\": must not be an IPv4-mapped IPv6 address");
    desk.assert_creates(
        &base,
        &[
            (slice("IPv6", "fd00::3"), None),
            (slice("IPv4", "10.244.1.3"), None),
            (slice("IPv6", mapped), Some(&refused)),
            (slice("IPv6", "10.244.1.3"), Some(&format!("{AT}: \"10.244.1.3\": must be an IPv6 address"))),
            (slice("IPv4", "fd00::3"), Some(&format!("{AT}: \"fd00::3\": must be an IPv4 address"))),
        ],
    );
}
