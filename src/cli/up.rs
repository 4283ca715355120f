//! `vipyard up`: starts a cluster and keeps it until a signal.

mod detach;
mod dns;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{DataDir, Failure};
use crate::app::{self, Running};
use crate::config::{self, Config, DnsConfig, HostAccess, Network, NodeTimes, Selection, StoreConfig};
use crate::images::ImageMap;
use crate::lifecycle::Signals;
use crate::{sys, telemetry};

/// How long draining may take before the rest is cut off.
const DRAIN: Duration = Duration::from_secs(30);
/// Of the flow log.
const MOST_RECORDS: usize = 1 << 20;

#[derive(clap::Args, Clone)]
pub(super) struct Args {
    #[command(flatten)]
    data_dir: DataDir,
    /// Keep no database: the cluster is forgotten when it ends
    #[arg(long)]
    in_memory: bool,
    /// How many revisions are kept for watches and exact lists; what is older is answered with 410 Gone
    #[arg(long, value_name = "N", default_value_t = StoreConfig::KEEP_REVISIONS)]
    keep_revisions: u64,
    /// What images are: a file that maps names to programs and root file systems, read again when it changes
    #[arg(long, value_name = "FILE")]
    images: Option<PathBuf>,
    /// Where the API listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = config::API_LISTEN)]
    api_listen: SocketAddr,
    /// Where the dashboard listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = config::UI_LISTEN)]
    ui_listen: SocketAddr,
    /// Where /metrics is served as well, in plain HTTP and without asking who asks
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// How many records the flow log keeps (`vipyard flows`); 0 switches it off
    #[arg(long, value_name = "N", default_value_t = config::FLOW_LOG, value_parser = flow_log)]
    flow_log: usize,
    /// How many virtual nodes there are
    #[arg(long, value_name = "N", default_value_t = config::NODES, value_parser = clap::value_parser!(u16).range(1..=i64::from(config::MAX_NODES)))]
    nodes: u16,
    /// Write the kubeconfig here, too
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Return when the cluster is ready and leave it running
    #[arg(long)]
    detach: bool,
    /// Service addresses: an IPv4 range, an IPv6 range, or both with a comma between
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    service_cidr: Vec<IpNet>,
    /// Pod addresses (IPv4 /16, IPv6 /56)
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    pod_cidr: Vec<IpNet>,
    /// Node addresses (IPv4 /24, IPv6 /64)
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    node_cidr: Vec<IpNet>,
    /// Load-balancer addresses
    #[arg(long, value_name = "CIDR[,CIDR]", value_delimiter = ',')]
    lb_cidr: Vec<IpNet>,
    /// Which controllers run, by the names of kube-controller-manager: * for all, NAME for one, -NAME for all but one
    #[arg(long, value_name = "LIST", default_value = Selection::ALL, allow_hyphen_values = true)]
    controllers: Selection,
    /// How long after a node's last heartbeat nothing is known of it any more (see `vipyard node stop`)
    #[arg(long, value_name = "SECONDS", default_value_t = NodeTimes::MONITOR_GRACE_SECONDS)]
    node_monitor_grace_period: u64,
    /// How long Pods that say nothing else stay on a node that is not ready
    #[arg(long, value_name = "SECONDS", default_value_t = NodeTimes::TOLERATION_SECONDS, value_parser = clap::value_parser!(i64).range(0..))]
    default_not_ready_toleration_seconds: i64,
    /// How long Pods that say nothing else stay on a node that is lost
    #[arg(long, value_name = "SECONDS", default_value_t = NodeTimes::TOLERATION_SECONDS, value_parser = clap::value_parser!(i64).range(0..))]
    default_unreachable_toleration_seconds: i64,
    /// Where this host asks cluster DNS, UDP and TCP; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDRESS:PORT", default_value = config::DNS_LISTEN)]
    dns_listen: SocketAddr,
    /// A resolver for names outside the cluster, in place of those of the host; give several, best first
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = dns::resolver)]
    dns_upstream: Vec<SocketAddr>,
    /// A resolver for a domain and all below it; the longest domain that fits is taken, several for one are asked in turn
    #[arg(long, value_name = "DOMAIN=ADDRESS[:PORT]", value_parser = dns::stub)]
    dns_stub: Vec<(String, SocketAddr)>,
    /// Append each question to cluster DNS and its answer to this file, as a line of JSON
    #[arg(long, value_name = "FILE")]
    dns_log: Option<PathBuf>,
    /// Let this host dial Pods, Services and nodes, by a TUN device and routes in the network namespace of the start
    #[arg(long, value_enum, default_value_t)]
    host_access: HostAccess,
}

/// Reads the length of the flow log. A million records take some 400 MB.
fn flow_log(text: &str) -> Result<usize, String> {
    let length: usize = text.parse().map_err(|_| "a number is wanted".to_owned())?;
    if length > MOST_RECORDS { Err(format!("{MOST_RECORDS} at most")) } else { Ok(length) }
}

impl Args {
    /// A throw-away cluster on free ports, for `demo`.
    pub(super) fn throw_away(data_dir: PathBuf, ui_listen: SocketAddr) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir: DataDir { data_dir },
            in_memory: true,
            keep_revisions: StoreConfig::KEEP_REVISIONS,
            images: None,
            api_listen: any,
            ui_listen,
            metrics_listen: None,
            flow_log: config::FLOW_LOG,
            nodes: config::NODES,
            kubeconfig: None,
            detach: false,
            service_cidr: Vec::new(),
            pod_cidr: Vec::new(),
            node_cidr: Vec::new(),
            lb_cidr: Vec::new(),
            dns_listen: any,
            dns_upstream: Vec::new(),
            dns_stub: Vec::new(),
            dns_log: None,
            host_access: HostAccess::No,
            controllers: Selection::default(),
            node_monitor_grace_period: NodeTimes::MONITOR_GRACE_SECONDS,
            default_not_ready_toleration_seconds: NodeTimes::TOLERATION_SECONDS,
            default_unreachable_toleration_seconds: NodeTimes::TOLERATION_SECONDS,
        }
    }

    pub(super) fn config(&self) -> Result<Config, Failure> {
        let data_dir = std::path::absolute(&self.data_dir.data_dir).context("bad --data-dir")?;
        let path = (!self.in_memory).then(|| data_dir.join(config::DATABASE_FILE));
        let store = StoreConfig { path, keep_revisions: self.keep_revisions };
        let images = self.images.as_deref().map(std::path::absolute).transpose().context("bad --images")?;
        if let Some(file) = &images {
            // A mistake in it is a mistake of the command.
            ImageMap::read(file).map_err(|e| Failure::Usage(e.into()))?;
        }
        let mut network = Network::default();
        override_range(
            "--service-cidr",
            &self.service_cidr,
            &mut network.service_v4,
            &mut network.service_v6,
            (12, 28),
            (64, 124),
        )?;
        override_range("--pod-cidr", &self.pod_cidr, &mut network.pod_v4, &mut network.pod_v6, (8, 16), (32, 56))?;
        override_range("--node-cidr", &self.node_cidr, &mut network.node_v4, &mut network.node_v6, (8, 24), (32, 64))?;
        override_range("--lb-cidr", &self.lb_cidr, &mut network.lb_v4, &mut network.lb_v6, (12, 30), (64, 126))?;
        let dns = DnsConfig {
            listen: self.dns_listen,
            upstreams: self.dns_upstream.clone(),
            stubs: self.dns_stub.clone(),
            log: self.dns_log.as_ref().map(std::path::absolute).transpose().context("bad --dns-log")?,
        };
        dns::check(&dns, &network).map_err(Failure::Usage)?;
        Ok(Config {
            store,
            api_listen: self.api_listen,
            ui_listen: self.ui_listen,
            metrics_listen: self.metrics_listen,
            flow_log: self.flow_log,
            nodes: self.nodes,
            network,
            host_access: self.host_access,
            images,
            node_times: NodeTimes {
                monitor_grace: Duration::from_secs(self.node_monitor_grace_period),
                not_ready_toleration: self.default_not_ready_toleration_seconds,
                unreachable_toleration: self.default_unreachable_toleration_seconds,
                absence: NodeTimes::ABSENCE,
            },
            controllers: self.controllers.clone(),
            dns,
            data_dir,
            kubeconfig: self.kubeconfig.clone(),
        })
    }
}

/// Takes the ranges of one flag; prefix lengths must lie within the given limits.
fn override_range(
    flag: &str,
    ranges: &[IpNet],
    v4: &mut Ipv4Net,
    v6: &mut Ipv6Net,
    limits4: (u8, u8),
    limits6: (u8, u8),
) -> Result<(), Failure> {
    for range in ranges {
        let limits = if range.addr().is_ipv4() { limits4 } else { limits6 };
        if !(limits.0..=limits.1).contains(&range.prefix_len()) {
            let (low, high) = limits;
            return Err(Failure::Usage(anyhow!("{flag} {range}: the prefix must be between /{low} and /{high}")));
        }
        match range {
            IpNet::V4(range) => *v4 = range.trunc(),
            IpNet::V6(range) => *v6 = range.trunc(),
        }
    }
    Ok(())
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let config = args.config()?;
    if args.detach && !detach::is_detached() {
        return detach::run(&config);
    }
    if args.detach {
        detach::leave_terminal();
    }
    start(config, false, async |running: &Running, started: Instant| {
        print_ready(running, started);
        if args.detach { detach::announce() } else { Ok(()) }
    })
}

/// Starts a cluster, runs `then` when it is ready, and drains: when `then` is done if it is to `end` then, else at a
/// signal.
pub(super) fn start(
    config: Config,
    end: bool,
    then: impl AsyncFnOnce(&Running, Instant) -> anyhow::Result<()>,
) -> Result<(), Failure> {
    let started = Instant::now();
    telemetry::start();
    if !rustix::process::geteuid().is_root() {
        // Before any thread exists: a process with threads cannot enter a user namespace.
        sys::userns::enter().context("a cluster without root needs a user namespace")?;
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        let mut running = tokio::select! {
            running = app::build(config) => running?,
            // What was started ends with the values that are dropped.
            _ = signals.next() => return Ok(()),
        };
        let work = async {
            await_ready(&running).await;
            running.set_ready();
            then(&running, started).await
        };
        let done = tokio::select! {
            done = work => Some(done),
            _ = signals.next() => None,
        };
        let result = match done {
            Some(Ok(())) if !end => tokio::select! {
                _ = signals.next() => Ok(()),
                () = running.broken() => {
                    Err(anyhow::anyhow!("a part of the cluster has panicked, see above: please report it; start it again"))
                }
            },
            Some(result) => result,
            // Asked to end before its time: that is no failure.
            None => Ok(()),
        };
        if signals.until_second(running.shutdown(DRAIN)).await.is_err() {
            eprintln!("vipyard: not waiting any longer");
        }
        result.map_err(Failure::Failed)
    })
}

/// Waits until every part is ready; a person sees what is still awaited.
async fn await_ready(running: &Running) {
    let person = std::io::stderr().is_terminal();
    let progress = |waiting: &BTreeSet<&str>| {
        if person {
            let parts: Vec<&str> = waiting.iter().copied().collect();
            eprint!("\r\x1b[Kwaiting for {}", parts.join(", "));
        }
    };
    running.readiness.wait(progress).await;
    if person {
        eprint!("\r\x1b[K");
    }
}

fn print_ready(running: &Running, started: Instant) {
    println!("cluster is ready ({} ms)", started.elapsed().as_millis());
    println!("  API         https://{}", running.addresses.api);
    println!("  kubeconfig  {}", running.kubeconfig.display());
    println!("  dashboard   {}", running.dashboard_url);
    println!("  DNS         {}", running.addresses.dns);
    println!("try:  export KUBECONFIG={}", running.kubeconfig.display());
    println!("      kubectl apply -f examples/web.yaml && kubectl get pods,svc -o wide");
    println!("      vipyard reach svc/web");
}
