//! Probes of containers (rules PD3, PS7, PS8, PS10): HTTP, gRPC and TCP from the node's namespace, exec in the
//! container.

mod grpc;
mod http;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::container::{exec, output_pipe};
use super::context::NodeContext;
use super::environment::resolve_port;
use super::registry::Inside;
use crate::metrics::PROBES;
use crate::sys::errors::plain;
use crate::sys::process;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    /// The word with which the kubelet's events begin.
    pub fn word(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// A container to be probed.
#[derive(Clone)]
pub struct Target {
    pub node: Arc<NodeContext>,
    pub container: Arc<Container>,
    pub inside: Inside,
    /// The Pod's first address.
    pub address: IpAddr,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    Healthy,
    /// Healthy, as far as can be told: somewhere else would have to be asked.
    Warned(String),
    Unhealthy(String),
    /// Nobody listens yet: unhealthy, and worth another look soon while the container is young.
    Refused(String),
}

impl Finding {
    fn is_healthy(&self) -> bool {
        matches!(self, Self::Healthy | Self::Warned(_))
    }
}

/// What the owner of a probe learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// One attempt that told less than it should, for the event `ProbeWarning`.
    Warned(String),
    /// One failed attempt, for the event `Unhealthy`.
    Failed(String),
    /// Enough attempts in a row agree.
    Settled(bool),
}

/// The first delay between two looks at a container that does not listen yet.
const FIRST_LOOK: Duration = Duration::from_millis(10);

/// Probes until it is dropped, telling `report` of failures and of each change of mind. A verdict that starts the
/// container anew is the last, as is the startup probe's: the container that comes next has probes of its own.
///
/// Attempts come as the kubelet's do, with one addition: a program needs a moment between its start and its first
/// `listen`, and a kubelet that finds the port closed waits a whole period. Here a refused connection before the first
/// success is not counted, and the next look comes after 10 ms, doubling up to the period; so a Pod is ready when its
/// program is.
pub async fn watch(kind: Kind, probe: Probe, target: Target, report: impl Fn(Report)) {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0).unwrap_or(default))
    };
    let threshold = |value: Option<i32>, default: u32| value.and_then(|v| v.try_into().ok()).unwrap_or(default).max(1);
    let (period, limit) = (seconds(probe.period_seconds, 10), seconds(probe.timeout_seconds, 1));
    let (success, failure) = (threshold(probe.success_threshold, 1), threshold(probe.failure_threshold, 3));

    sleep(seconds(probe.initial_delay_seconds, 0)).await;
    let mut tally = Tally::new(kind, success, failure);
    let mut soon = Some(FIRST_LOOK);
    let mut next = Instant::now();
    loop {
        let finding = timeout(limit, attempt(&probe, &target)).await.unwrap_or_else(|_| timed_out(&probe, limit));
        PROBES.count(kind as usize, finding.is_healthy());
        match (&finding, soon) {
            (Finding::Refused(_), Some(delay)) if delay < period && kind != Kind::Liveness => {
                soon = Some(delay * 2);
                sleep(delay).await;
                next = Instant::now();
                continue;
            }
            _ => soon = None,
        }
        match &finding {
            Finding::Healthy => {}
            Finding::Warned(message) => report(Report::Warned(format!("{} probe warning: {message}", kind.word()))),
            Finding::Unhealthy(message) | Finding::Refused(message) => {
                report(Report::Failed(format!("{} probe failed: {message}", kind.word())));
            }
        }
        if let Some(verdict) = tally.count(finding.is_healthy()) {
            report(Report::Settled(verdict));
            if kind == Kind::Startup || (kind == Kind::Liveness && !verdict) {
                return;
            }
        }
        next += period;
        // After a pause of the machine, one attempt is due and not all that were missed.
        next = next.max(Instant::now());
        sleep_until(next).await;
    }
}

/// Counts attempts until enough of them agree.
struct Tally {
    verdict: Option<bool>,
    last: bool,
    in_a_row: u32,
    success: u32,
    failure: u32,
}

impl Tally {
    /// Rule PS7: readiness begins as failed and liveness as passed, so that only the other needs to be told.
    fn new(kind: Kind, success: u32, failure: u32) -> Self {
        let verdict = match kind {
            Kind::Startup => None,
            Kind::Readiness => Some(false),
            Kind::Liveness => Some(true),
        };
        Self { verdict, last: false, in_a_row: 0, success, failure }
    }

    /// The new verdict, if this attempt changed it.
    fn count(&mut self, healthy: bool) -> Option<bool> {
        self.in_a_row = if healthy == self.last { self.in_a_row.saturating_add(1) } else { 1 };
        self.last = healthy;
        let enough = self.in_a_row >= if healthy { self.success } else { self.failure };
        let changed = enough && self.verdict != Some(healthy);
        if changed {
            self.verdict = Some(healthy);
        }
        changed.then_some(healthy)
    }
}

fn timed_out(probe: &Probe, limit: Duration) -> Finding {
    Finding::Unhealthy(if probe.exec.is_some() {
        format!(
            "command timed out: {:?} timed out after {limit:?}",
            probe.exec.as_ref().and_then(|e| e.command.clone())
        )
    } else if let Some(action) = &probe.grpc {
        format!("timeout: health rpc at port {} did not complete within {limit:?}", action.port)
    } else {
        "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned()
    })
}

/// One attempt, without a limit in time.
pub async fn attempt(probe: &Probe, target: &Target) -> Finding {
    let failed = Finding::Unhealthy;
    if let Some(action) = &probe.exec {
        return run_command(action.command.clone().unwrap_or_default(), target).await;
    }
    if let Some(action) = &probe.http_get {
        return http::get(action, target).await;
    }
    if let Some(action) = &probe.tcp_socket {
        let Some(port) = resolve_port(&action.port, &target.container) else {
            return failed(format!("couldn't find port: {:?}", action.port));
        };
        let host = action.host.as_deref().filter(|h| !h.is_empty());
        return match connect(target, host, port).await {
            Ok(_) => Finding::Healthy,
            Err(finding) => finding,
        };
    }
    if let Some(action) = &probe.grpc {
        return grpc::check(action, target).await;
    }
    failed("missing probe handler".to_owned())
}

/// Connects from the node's namespace, as a kubelet on that node would.
async fn connect(target: &Target, host: Option<&str>, port: u16) -> Result<TcpStream, Finding> {
    let ip: IpAddr = match host {
        None => target.address,
        Some(host) => host.parse().map_err(|_| Finding::Unhealthy(format!("host {host:?} is not an IP address")))?,
    };
    let address = SocketAddr::new(ip, port);
    let describe = |e: std::io::Error| {
        let message = format!("dial tcp {address}: connect: {}", plain(&e));
        if e.kind() == std::io::ErrorKind::ConnectionRefused {
            Finding::Refused(message)
        } else {
            Finding::Unhealthy(message)
        }
    };
    let node = Arc::clone(&target.node);
    let socket = tokio::task::spawn_blocking(move || {
        node.ns.run(|| if ip.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })
    });
    let socket = socket.await.map_err(std::io::Error::other).and_then(|made| made).and_then(|made| made);
    socket.map_err(describe)?.connect(address).await.map_err(describe)
}

async fn run_command(argv: Vec<String>, target: &Target) -> Finding {
    let failed = |e: &dyn std::fmt::Display| Finding::Unhealthy(e.to_string());
    let (mut output, end) = match output_pipe() {
        Ok(pipe) => pipe,
        Err(e) => return failed(&e),
    };
    let stdio = std::fs::File::open("/dev/null").and_then(|null| Ok([null.into(), end.try_clone()?, end]));
    let stdio = match stdio {
        Ok(stdio) => stdio,
        Err(e) => return failed(&e),
    };
    let child = match exec(&target.node.shared.spawner, &target.inside, argv, stdio, false).await {
        Ok(child) => child,
        Err(e) => return failed(&e),
    };
    let mut text = Vec::new();
    let mut part = [0; 1024];
    while let Ok(n) = output.read(&mut part).await {
        if n == 0 {
            break;
        }
        // The first 10 KiB are told, and the rest is read so that the command does not block.
        let room = 10_240_usize.saturating_sub(text.len());
        text.extend_from_slice(&part[..n.min(room)]);
    }
    match child.wait().await {
        Ok(process::Exit::Code(0)) => Finding::Healthy,
        Ok(_) => Finding::Unhealthy(String::from_utf8_lossy(&text).into_owned()),
        Err(e) => failed(&e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(mut tally: Tally, attempts: &[bool]) -> Vec<Option<bool>> {
        attempts.iter().map(|healthy| tally.count(*healthy)).collect()
    }

    #[test]
    fn readiness_starts_failed_and_needs_its_thresholds_ps7() {
        let tally = Tally::new(Kind::Readiness, 2, 3);
        let seen = verdicts(tally, &[true, true, false, false, true, false, false, false, false, true, true]);
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(seen, [None, yes, None, None, None, None, None, no, None, None, yes]);
    }

    #[test]
    fn liveness_starts_passed_and_tells_failure_once_ps7() {
        assert_eq!(
            verdicts(Tally::new(Kind::Liveness, 1, 2), &[true, false, false, false]),
            [None, None, Some(false), None]
        );
    }

    #[test]
    fn startup_tells_either_way_ps7() {
        assert_eq!(verdicts(Tally::new(Kind::Startup, 1, 1), &[false]), [Some(false)]);
        assert_eq!(verdicts(Tally::new(Kind::Startup, 1, 3), &[false, true]), [None, Some(true)]);
    }
}
