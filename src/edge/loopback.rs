//! Services at 127.0.0.1, for a host that cannot be connected by a device: a relay for each node port, and for each port
//! of a Service with a load-balancer address. Whoever comes in this way has the address of a client outside of the
//! cluster, whatever it was before.
//!
//! The listeners are the host's; what they accept is carried on from a namespace of the relay's own, which is connected
//! to the router as the host would be, so that traffic policies mean the same. A socket belongs to the namespace in
//! which it was made for ever, so one thread in there dials for all.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::Resource;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::datagrams;
use super::host;
use super::loopback_plan::{Door, doors};
use super::relay::{relay, reset};
use super::shut_doors::{ShutDoor, ShutDoors, TellShut};
use crate::cluster::{Change, Informer, ObjectKey};
use crate::config::Network;
use crate::events::{EventType, Recorder};
use crate::node::netif;
use crate::plan::Protocol;
use crate::router::Router;
use crate::sys::netns::NetNs;

/// The reason of the Event about a port that could not be had.
const PORT_NOT_OPEN: &str = "LoopbackPortNotOpen";

const DEVICE: &str = "eth0";
/// Connections, and datagram flows, of one door at the same time.
const FLOWS: usize = 512;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connects the relay and follows the Services.
///
/// # Errors
/// When a namespace, a device or a thread cannot be had.
pub(super) fn start(
    network: &Network,
    services: &Informer<Service>,
    router: &Arc<Router>,
    events: Recorder,
    tell_shut: TellShut,
    stopping: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<()> {
    let ns = NetNs::create().context("cannot make a network namespace: see `vipyard doctor`")?;
    let device = netif::create(&ns, DEVICE, &network.host().both(), network.mtu)
        .context("cannot make a TUN device: see `vipyard doctor`")?;
    host::connect(network, device, &**router)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (inside, stop) = (runtime.handle().clone(), stopping.clone());
    let (entered, entering) = std::sync::mpsc::channel();
    let failed = entered.clone();
    std::thread::Builder::new()
        .name("loopback".into())
        .spawn(move || {
            let served = ns.run(|| {
                let _ = entered.send(Ok(()));
                runtime.block_on(stop.cancelled());
            });
            // Nobody listens any more when it ends as it should.
            let _ = failed.send(served);
        })
        .context("cannot start a thread")?;
    entering.recv().context("the loopback's thread ended")?.context("cannot enter a namespace of its own")?;
    let doorkeeper = Doorkeeper {
        inside,
        router: Arc::clone(router),
        events,
        open: BTreeMap::new(),
        shut: BTreeMap::new(),
        told: ShutDoors::default(),
        tell_shut,
    };
    (doorkeeper.tell_shut)(&doorkeeper.told);
    tasks.spawn(doorkeeper.follow(services.clone()));
    Ok(())
}

/// Opens and closes the doors of Services.
struct Doorkeeper {
    /// Where sockets into the cluster are made.
    inside: Handle,
    router: Arc<Router>,
    events: Recorder,
    open: BTreeMap<ObjectKey, BTreeMap<Door, Open>>,
    /// Services with doors that could not be opened: they are tried again when another Service's are closed.
    shut: BTreeMap<ObjectKey, Shut>,
    /// What was told last.
    told: ShutDoors,
    tell_shut: TellShut,
}

struct Shut {
    service: Arc<Service>,
    doors: Vec<ShutDoor>,
}

struct Open(JoinHandle<()>);

impl Open {
    /// Returns when the port can be had by another Service.
    async fn close(self) {
        self.0.abort();
        // The error says that it was aborted.
        let _ = self.0.await;
    }
}

impl Doorkeeper {
    async fn follow(mut self, services: Informer<Service>) {
        let mut changes = services.subscribe();
        while let Some(change) = changes.recv().await {
            let (service, wanted) = match change {
                Change::Applied { new, .. } => (Arc::clone(&new), doors(&new)),
                Change::Deleted(old) => (old, Vec::new()),
                // What came before a mark is open or closed by now.
                Change::Synced | Change::Marked(_) => continue,
            };
            if self.set(&service, wanted).await {
                let waiting: Vec<_> = self.shut.values().map(|shut| Arc::clone(&shut.service)).collect();
                for service in waiting {
                    self.set(&service, doors(&service)).await;
                }
            }
            self.tell();
        }
    }

    fn tell(&mut self) {
        let shut = ShutDoors(self.shut.iter().map(|(key, shut)| (key.to_string(), shut.doors.clone())).collect());
        if shut != self.told {
            (self.tell_shut)(&shut);
            self.told = shut;
        }
    }

    /// Makes exactly the `wanted` doors of a Service open, as far as the host allows; whether one was closed.
    async fn set(&mut self, service: &Arc<Service>, wanted: Vec<Door>) -> bool {
        let key = ObjectKey::of(&**service);
        let was_shut = self.shut.remove(&key);
        let mut shut = Vec::new();
        let mut open = self.open.remove(&key).unwrap_or_default();
        let mut closed = false;
        for (_, door) in open.extract_if(.., |door, _| !wanted.contains(door)) {
            door.close().await;
            closed = true;
        }
        for door in wanted {
            if open.contains_key(&door) {
                continue;
            }
            match self.open(door) {
                Ok(handle) => {
                    open.insert(door, handle);
                }
                Err(error) => {
                    let message = explain(door, &error);
                    // Said once, and again when the Service is changed.
                    if was_shut.as_ref().is_none_or(|known| !Arc::ptr_eq(&known.service, service)) {
                        let about = service.object_ref(&());
                        self.events.event(about, EventType::Warning, PORT_NOT_OPEN, message.clone());
                    }
                    shut.push(ShutDoor { port: door.port, protocol: door.protocol.as_str().to_owned(), message });
                }
            }
        }
        if !shut.is_empty() {
            self.shut.insert(key.clone(), Shut { service: Arc::clone(service), doors: shut });
        }
        if !open.is_empty() {
            self.open.insert(key, open);
        }
        closed
    }

    fn open(&self, door: Door) -> io::Result<Open> {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, door.port));
        let router = Arc::clone(&self.router);
        let target = move || door.to.address(door.protocol, &router.plan());
        let handle = match door.protocol {
            Protocol::Tcp => {
                let listener = StdListener::bind(at)?;
                listener.set_nonblocking(true)?;
                self.inside.spawn(connections(listener, target))
            }
            Protocol::Udp | Protocol::Sctp => {
                let socket = StdSocket::bind(at)?;
                socket.set_nonblocking(true)?;
                self.inside.spawn(datagrams::relay(socket, FLOWS, target))
            }
        };
        info!(%at, protocol = door.protocol.as_str(), "a Service is at the loopback");
        Ok(Open(handle))
    }
}

/// What the owner of a Service is told about a door that stays shut.
fn explain(door: Door, error: &io::Error) -> String {
    let (port, protocol) = (door.port, door.protocol.as_str());
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => "it is in use: free it and change the Service, or use another port".to_owned(),
        io::ErrorKind::PermissionDenied => {
            format!(
                "it takes privilege: use the node port, or `sudo sysctl net.ipv4.ip_unprivileged_port_start={port}`"
            )
        }
        _ => error.to_string(),
    };
    format!("Port {port}/{protocol} of 127.0.0.1 does not lead to this Service, {why}")
}

async fn connections(listener: StdListener, target: impl Fn() -> Option<SocketAddr>) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return debug!(%error, "door not opened"),
    };
    let room = Arc::new(Semaphore::new(FLOWS));
    loop {
        match (listener.accept().await, Arc::clone(&room).try_acquire_owned(), target()) {
            (Ok((client, _)), Ok(place), Some(target)) => {
                // It outlives the door, as any connection outlives its Service (C1).
                tokio::spawn(async move {
                    let _place = place;
                    match TcpStream::connect(target).await {
                        Ok(inside) => relay(client, inside).await,
                        Err(error) => {
                            debug!(%target, %error, "no connection for the loopback");
                            reset(&client);
                        }
                    }
                });
            }
            (Ok((client, _)), ..) => reset(&client),
            (Err(error), ..) => {
                debug!(%error, "cannot accept a connection at the loopback");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
