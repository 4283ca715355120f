//! Probes and lifecycle hooks (PD3).

use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, Lifecycle, Probe, SleepAction, TCPSocketAction,
};

use super::super::checks::{check_port, text};
use super::super::service_validation::check_port_number;
use crate::api::causes::Causes;

const ONE_HANDLER: &str = "may not specify more than 1 handler type";
const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                      regex used for validation is '[-A-Za-z0-9]+')";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Liveness,
    Readiness,
    Startup,
}

pub(super) fn check_all(container: &Container, grace: Option<i64>, at: &str, causes: &mut Causes) {
    if let Some(lifecycle) = &container.lifecycle {
        check_lifecycle(lifecycle, grace, &format!("{at}.lifecycle"), causes);
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe, Purpose::Liveness),
        ("readinessProbe", &container.readiness_probe, Purpose::Readiness),
        ("startupProbe", &container.startup_probe, Purpose::Startup),
    ];
    for (field, probe, purpose) in probes {
        if let Some(probe) = probe {
            check_probe(probe, purpose, &format!("{at}.{field}"), causes);
        }
    }
}

fn check_lifecycle(lifecycle: &Lifecycle, grace: Option<i64>, at: &str, causes: &mut Causes) {
    for (field, hook) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
        let Some(hook) = hook else { continue };
        let handlers = Handlers {
            exec: hook.exec.as_ref(),
            http_get: hook.http_get.as_ref(),
            tcp_socket: hook.tcp_socket.as_ref(),
            grpc: None,
            sleep: hook.sleep.as_ref(),
        };
        handlers.check(grace, &format!("{at}.{field}"), causes);
    }
}

fn check_probe(probe: &Probe, purpose: Purpose, at: &str, causes: &mut Causes) {
    let handlers = Handlers {
        exec: probe.exec.as_ref(),
        http_get: probe.http_get.as_ref(),
        tcp_socket: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    handlers.check(None, at, causes);
    causes.non_negative(format!("{at}.initialDelaySeconds"), probe.initial_delay_seconds);
    causes.non_negative(format!("{at}.timeoutSeconds"), probe.timeout_seconds);
    causes.non_negative(format!("{at}.periodSeconds"), probe.period_seconds);
    causes.non_negative(format!("{at}.successThreshold"), probe.success_threshold);
    causes.non_negative(format!("{at}.failureThreshold"), probe.failure_threshold);
    if let Some(seconds) = probe.termination_grace_period_seconds {
        let field = format!("{at}.terminationGracePeriodSeconds");
        if seconds <= 0 {
            causes.invalid(&field, seconds, "must be greater than 0");
        }
        if purpose == Purpose::Readiness {
            causes.invalid(field, seconds, "must not be set for readinessProbes");
        }
    }
    let threshold = probe.success_threshold.unwrap_or(1);
    if purpose != Purpose::Readiness && threshold != 1 {
        causes.invalid(format!("{at}.successThreshold"), threshold, "must be 1");
    }
}

/// What a probe or a hook does: one of these.
struct Handlers<'a> {
    exec: Option<&'a ExecAction>,
    http_get: Option<&'a HTTPGetAction>,
    tcp_socket: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

impl Handlers<'_> {
    fn check(&self, grace: Option<i64>, at: &str, causes: &mut Causes) {
        let set = [
            ("exec", self.exec.is_some()),
            ("httpGet", self.http_get.is_some()),
            ("tcpSocket", self.tcp_socket.is_some()),
            ("grpc", self.grpc.is_some()),
            ("sleep", self.sleep.is_some()),
        ];
        let mut set = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name);
        let Some(first) = set.next() else {
            causes.required(at, "must specify a handler type");
            return;
        };
        self.check_first(first, grace, &format!("{at}.{first}"), causes);
        set.for_each(|name| causes.forbidden(format!("{at}.{name}"), ONE_HANDLER));
    }

    fn check_first(&self, name: &str, grace: Option<i64>, at: &str, causes: &mut Causes) {
        match (name, self) {
            ("exec", Self { exec: Some(exec), .. }) if exec.command.as_ref().is_none_or(Vec::is_empty) => {
                causes.required(format!("{at}.command"), "");
            }
            ("httpGet", Self { http_get: Some(http), .. }) => check_http(http, at, causes),
            ("tcpSocket", Self { tcp_socket: Some(tcp), .. }) => check_port(causes, &format!("{at}.port"), &tcp.port),
            ("grpc", Self { grpc: Some(grpc), .. }) => check_port_number(causes, &format!("{at}.port"), grpc.port),
            ("sleep", Self { sleep: Some(sleep), .. }) => {
                if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&sleep.seconds)) {
                    let detail = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    causes.invalid(at, sleep.seconds, detail);
                }
            }
            _ => {}
        }
    }
}

fn check_http(http: &HTTPGetAction, at: &str, causes: &mut Causes) {
    if text(&http.path).is_empty() {
        causes.required(format!("{at}.path"), "");
    }
    check_port(causes, &format!("{at}.port"), &http.port);
    causes.one_of(&format!("{at}.scheme"), http.scheme.as_ref(), &["HTTP", "HTTPS"]);
    for header in http.http_headers.iter().flatten() {
        let valid = header.name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') && !header.name.is_empty();
        if !valid {
            causes.invalid(format!("{at}.httpHeaders"), header.name.as_str(), HEADER);
        }
    }
}
