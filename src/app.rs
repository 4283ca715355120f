//! The one place where everything is built, bound and wired. The real addresses come back in [`Running`].

mod adapters;
pub(crate) mod barrier;
mod control_plane;
mod dns;
mod insight;
mod metrics;
mod ranges;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::barrier::Barrier;
use crate::api::auth::Identity;
use crate::api::insight::Insight;
use crate::api::pki::{self, Authority};
use crate::api::{Api, serve};
use crate::cluster::Cluster;
use crate::config::{CLAIMS_FOLDER, CLUSTER_API_PORT, Config, HostAccess, IMAGE_MAP_FILE, PKI_FOLDER};
use crate::controllers::{self, Controllers, ControllersConfig};
use crate::dashboard::{self, DashboardConfig};
use crate::edge::{self, EdgeConfig};
use crate::events::Recorder;
use crate::explain::Explainer;
use crate::images::Images;
use crate::lifecycle::Readiness;
use crate::node::{Agents, AgentsConfig};
use crate::router::{Router, RouterConfig};
use crate::store::{DirLock, Store};
use crate::{netlink, node, plan};

pub use dns::ADDRESS_FILE as DNS_ADDRESS_FILE;
pub use ranges::{RangeClash, check as check_ranges};

/// Where a cluster can be reached.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    pub api: SocketAddr,
    pub ui: SocketAddr,
    /// Where the host asks cluster DNS.
    pub dns: SocketAddr,
}

/// A cluster that runs.
pub struct Running {
    pub addresses: Addresses,
    pub kubeconfig: PathBuf,
    /// The page's address with its token.
    pub dashboard_url: String,
    pub readiness: Readiness,
    pub cluster: Cluster,
    api: Api,
    agents: Agents,
    router: Arc<Router>,
    tasks: JoinSet<()>,
    connections: TaskTracker,
    stopping: CancellationToken,
    files: Vec<PathBuf>,
    /// The store holds the directory's lock; a cluster without a database holds it here.
    _lock: Option<DirLock>,
}

/// The kubeconfig of the cluster in `data_dir`.
pub fn kubeconfig_path(data_dir: &Path) -> PathBuf {
    data_dir.join("kubeconfig")
}

/// Builds, binds and starts everything. Returns as soon as it is started; [`Running::readiness`] tells when it is ready.
///
/// # Errors
/// One line that says what is wrong and the way out. Nothing is left behind: what was started ends with the values
/// that are dropped.
pub async fn build(config: Config) -> Result<Running> {
    let readiness = Readiness::default();
    let api_ready = readiness.register("API");
    let router_ready = readiness.register("router");
    let dns_ready = readiness.register("DNS");
    let nodes_ready = readiness.register("nodes");
    let accounts_ready = readiness.register("ServiceAccounts");

    let folder = DataFolder::make(&config.data_dir)?;
    // Asked first, so that a second cluster on one directory hears of the directory and not of a port.
    let lock = DirLock::acquire(&config.data_dir)?;
    let taken = match config.host_access {
        // Nothing of the host's is touched, and its networks may be the cluster's as well.
        HostAccess::No => Vec::new(),
        HostAccess::Auto | HostAccess::Yes => netlink::host_networks().context("cannot read the host's routes")?,
    };
    check_ranges(&config.network, &taken)?;
    let api_listener = bind(config.api_listen, "--api-listen").await?;
    let ui_listener = bind(config.ui_listen, "--ui-listen").await?;
    let metrics_listener = match config.metrics_listen {
        Some(address) => Some(bind(address, "--metrics-listen").await?),
        None => None,
    };
    let dns_door = dns::open(config.dns.listen)?;
    let in_memory = config.store.path.is_none();
    // A store with a database takes the lock itself.
    let lock = in_memory.then_some(lock);
    let store = Store::open(&config.store).await?;
    let addresses = Addresses { api: api_listener.local_addr()?, ui: ui_listener.local_addr()?, dns: dns_door.address };
    info!(?config, ?addresses, "starting");

    let stopping = CancellationToken::new();
    let connections = TaskTracker::new();
    let mut tasks = JoinSet::new();
    let pki_dir = config.store.path.is_some().then(|| config.data_dir.join(PKI_FOLDER));
    let token_key = pki::token_key(pki_dir.as_deref())?;
    let api = Api::with_times(store, config.network.clone(), config.node_times, token_key, stopping.clone());

    let router_config = RouterConfig { flow_log: config.flow_log, ..RouterConfig::new(config.network.clone()) };
    let router = Router::start(router_config).context("cannot start the packet router")?;
    let control_plane = control_plane::attach(&config.network, &*router)?;

    // The API, on the host and inside the cluster.
    let authority = Authority::open(pki_dir.as_deref())?;
    let server = authority.server(&api_addresses(&config, addresses.api), &api_names(&config))?;
    let tls = serve::acceptor(&authority, &server)?;
    let inside = control_plane.listeners(CLUSTER_API_PORT)?.into_iter().map(TcpListener::from_std);
    let inside = inside.collect::<std::io::Result<Vec<_>>>()?;
    for listener in std::iter::once(api_listener).chain(inside) {
        let (tls, router) = (Some(tls.clone()), api.public_router());
        tasks.spawn(serve::serve(listener, tls, router, stopping.clone(), connections.clone()));
    }
    let admin = authority.client("vipyard-admin", &["system:masters"])?;
    let kubeconfig = kubeconfig_path(&config.data_dir);
    let text = pki::kubeconfig(&format!("https://{}", addresses.api), &authority, &admin);
    pki::write_private(&kubeconfig, &text).with_context(|| format!("cannot write {}", kubeconfig.display()))?;
    if let Some(path) = &config.kubeconfig {
        write_kubeconfig(path, &text)?;
    }
    // The CA of a cluster without a database goes with it, and its kubeconfigs are worth nothing then.
    let mut files = Vec::new();
    if in_memory {
        files.push(kubeconfig.clone());
        files.extend(config.kubeconfig.clone());
    }
    drop(api_ready);

    let client = |user: &str| api.client(Identity::system(user));
    controllers::bootstrap(client("system:apiserver"), &config.network)
        .await
        .context("cannot make the system's objects")?;
    let (cluster, writers) = Cluster::new();
    writers.run(&client("system:kube-controller-manager"), &mut tasks);
    Controllers::start(
        ControllersConfig {
            client: client("system:kube-controller-manager"),
            cluster: cluster.clone(),
            network: config.network.clone(),
            root_ca_pem: authority.cert_pem().to_owned(),
            claims_folder: config.data_dir.join(CLAIMS_FOLDER),
            node_times: config.node_times,
            selection: config.controllers.clone(),
            resources: api.registry().resources(),
        },
        &mut tasks,
    );

    let accounts = cluster.clone();
    tasks.spawn(async move {
        controllers::wait_for_default_account(&accounts).await;
        drop(accounts_ready);
    });

    // Packets: the plan follows the cluster, the nodes attach their Pods.
    let (planned, mut progress) = watch::channel(0);
    let follower = Arc::clone(&router);
    tasks.spawn(plan::run(cluster.clone(), config.network.clone(), move |plan| follower.apply(plan), planned));
    tasks.spawn(async move {
        if progress.wait_for(|epoch| *epoch > 0).await.is_ok() {
            drop(router_ready);
        }
    });
    let names = dns::start(&config, &cluster, &control_plane, dns_door, dns_ready, &stopping, &mut tasks)?;
    api.set_names(Arc::clone(&names) as Arc<dyn crate::api::dns::NameService>);
    let dns_file = config.data_dir.join(dns::ADDRESS_FILE);
    pki::write_private(&dns_file, &format!("{}\n", addresses.dns))
        .with_context(|| format!("cannot write {}", dns_file.display()))?;
    files.push(dns_file);
    let barrier = Arc::new(Barrier::new(api.store().clone(), cluster.clone()));
    let images = Images::open(config.images.clone())?;
    tasks.spawn(images.clone().follow());
    if let Some(map) = &config.images {
        let file = config.data_dir.join(IMAGE_MAP_FILE);
        pki::write_private(&file, &format!("{}\n", map.display()))
            .with_context(|| format!("cannot write {}", file.display()))?;
        files.push(file);
    } else {
        // Of an earlier vipyard that was killed.
        let _ = std::fs::remove_file(config.data_dir.join(IMAGE_MAP_FILE));
    }
    let agents = Agents::start(AgentsConfig {
        nodes: config.nodes,
        monitor_grace: config.node_times.monitor_grace,
        network: config.network.clone(),
        data_dir: config.data_dir.clone(),
        client: client("system:node"),
        cluster: cluster.clone(),
        ports: Arc::clone(&router) as Arc<dyn crate::router::Ports>,
        data_plane: Arc::clone(&barrier) as Arc<dyn node::DataPlane>,
        events: Arc::new(adapters::NodeEvents(Recorder::new(client("system:node"), "kubelet", None))),
        timings: node::Timings::default(),
        images,
    })
    .await?;
    api.set_data_plane(barrier);
    let insight: Arc<dyn Insight> = Arc::new(insight::Answers {
        explainer: Explainer {
            cluster: cluster.clone(),
            router: Arc::clone(&router),
            index: Arc::clone(&names.dns.index),
            zone: names.dns.zone.as_ref().clone(),
            resolvers: Arc::clone(&names.resolvers),
            client: client("system:apiserver"),
        },
        sources: metrics::Sources {
            router: Arc::clone(&router),
            store: api.store().clone(),
            dns: Arc::clone(&names.dns),
            cluster: cluster.clone(),
        },
    });
    api.set_insight(Arc::clone(&insight));
    if let Some(listener) = metrics_listener {
        tasks.spawn(serve::serve(listener, None, metrics::routes(insight), stopping.clone(), connections.clone()));
    }
    api.set_node_power(Arc::new(adapters::Power(agents.clone())));
    api.set_log_source(Arc::new(adapters::NodeLogs(agents.clone())));
    let inside = Arc::new(control_plane.namespace()?);
    api.set_nodes(Arc::new(adapters::NodeStreams { agents: agents.clone(), control_plane: inside }));
    let shut_doors = config.data_dir.join(edge::SHUT_DOORS_FILE);
    files.push(shut_doors.clone());
    let reach = edge::start(EdgeConfig {
        network: config.network.clone(),
        host_access: config.host_access,
        nodes: config.nodes,
        agents: &agents,
        cluster: cluster.clone(),
        router: Arc::clone(&router),
        events: Recorder::new(client("system:kube-proxy"), "kube-proxy", None),
        tell_shut: adapters::shut_doors_in(shut_doors),
        stopping: stopping.clone(),
        tasks: &mut tasks,
    })?;
    let reach_file = config.data_dir.join(edge::HOST_ACCESS_FILE);
    pki::write_private(&reach_file, &format!("{}\n", reach.as_str()))
        .with_context(|| format!("cannot write {}", reach_file.display()))?;
    files.push(reach_file);
    let nodes = agents.clone();
    tasks.spawn(async move {
        nodes.ready().await;
        drop(nodes_ready);
    });

    let token = dashboard::new_token();
    let dashboard_url = format!("http://{}/?token={token}", addresses.ui);
    let address_file = config.data_dir.join(dashboard::ADDRESS_FILE);
    pki::write_private(&address_file, &format!("{dashboard_url}\n"))
        .with_context(|| format!("cannot write {}", address_file.display()))?;
    files.push(address_file);
    let page = dashboard::router(DashboardConfig {
        token,
        cluster: cluster.clone(),
        api: api.public_router().layer(axum::Extension(Identity::system("vipyard-admin"))),
        meter: adapters::meters(&router),
        allowed_hosts: vec![addresses.ui.to_string()],
        version: env!("CARGO_PKG_VERSION"),
        shutdown: stopping.clone(),
    });
    tasks.spawn(serve::serve(ui_listener, None, page, stopping.clone(), connections.clone()));

    folder.keep();
    Ok(Running {
        addresses,
        kubeconfig,
        dashboard_url,
        readiness,
        cluster,
        api,
        agents,
        router,
        tasks,
        connections,
        stopping,
        files,
        _lock: lock,
    })
}

impl Running {
    /// Returns when a part has panicked: the others would go on with what it last said.
    pub async fn broken(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if ended.is_err_and(|e| e.is_panic()) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Makes /readyz say so.
    pub fn set_ready(&self) {
        self.api.set_ready();
    }

    /// A client with the rights of the cluster's owner.
    pub fn client(&self) -> kube::Client {
        self.api.client(Identity::system("vipyard-admin"))
    }

    /// Ends everything in order: Pods, connections, data plane, store. Runs every step, also after one failed.
    pub async fn shutdown(mut self, limit: Duration) {
        let drained = tokio::time::timeout(limit, async {
            self.agents.shutdown(limit / 2).await;
            self.stopping.cancel();
            self.connections.close();
            self.connections.wait().await;
            self.api.streams_ended().await;
        });
        if drained.await.is_err() {
            warn!(limit_seconds = limit.as_secs(), "not everything ended in time, the rest is cut off");
            self.stopping.cancel();
        }
        self.tasks.shutdown().await;
        self.router.shutdown();
        self.api.store().clone().close().await;
        for file in &self.files {
            // They name what is gone; one that cannot be removed does no harm.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Every address that clients dial the API by.
fn api_addresses(config: &Config, listen: SocketAddr) -> Vec<std::net::IpAddr> {
    let loopback: [std::net::IpAddr; 2] = [[127, 0, 0, 1].into(), std::net::Ipv6Addr::LOCALHOST.into()];
    let mut addresses = vec![listen.ip()];
    addresses.extend(loopback);
    addresses.extend(config.network.api_vip().both());
    addresses.extend(config.network.control_plane().both());
    addresses.dedup();
    addresses
}

fn api_names(config: &Config) -> Vec<String> {
    let domain = &config.network.domain;
    ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .into_iter()
        .map(str::to_owned)
        .chain([format!("kubernetes.default.svc.{domain}")])
        .collect()
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| match address.port() {
        0 => format!("cannot listen on {address}: choose another address with {flag}"),
        port => format!("cannot listen on {address}: free port {port} or choose another with {flag}"),
    })
}

/// The data directory. One that was made for a start that fails goes with it.
struct DataFolder {
    made: Option<PathBuf>,
}

impl DataFolder {
    fn make(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let made = (!dir.exists()).then(|| dir.to_owned());
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).with_context(|| {
            format!("cannot make the data directory {}: choose another with --data-dir", dir.display())
        })?;
        Ok(Self { made })
    }

    fn keep(mut self) {
        self.made = None;
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        if let Some(dir) = &self.made
            && let Err(e) = std::fs::remove_dir_all(dir)
        {
            warn!(dir = %dir.display(), error = %e, "the data directory of a failed start is left behind");
        }
    }
}

/// Writes the kubeconfig to a place of the user's choice, unless a file of somebody else's is there.
fn write_kubeconfig(path: &Path, text: &str) -> Result<()> {
    if let Ok(found) = std::fs::read_to_string(path) {
        let ours =
            serde_json::from_str::<serde_json::Value>(&found).is_ok_and(|c| c["current-context"] == pki::CONTEXT);
        anyhow::ensure!(
            ours || found.trim().is_empty(),
            "{} is a kubeconfig of other clusters and is left alone: name another file with --kubeconfig, \
             or use KUBECONFIG={}:FILE to have both",
            path.display(),
            path.display()
        );
    }
    pki::write_private(path, text)
        .with_context(|| format!("cannot write {}: choose another with --kubeconfig", path.display()))
}
