//! Vipyard: a Kubernetes Service network in one process.
//!
//! One binary is an API server that kubectl talks to, with SQLite storage; the controllers; node agents that run Pods as
//! processes in network namespaces; cluster DNS; a packet router in user space that does the work of CNI and
//! kube-proxy; and a web page that shows which VIP leads to which Pod.
//!
//! # Parts and arrows
//!
//! ```text
//! main ─ cli ─ app ──┬── api ────── store            requests, objects, the revision log on SQLite
//!                    ├── cluster                     one typed copy of each object, fed by one watch per kind
//!                    ├── controllers ─ events        slices, Endpoints, scheduler, workloads, nodes, garbage, budgets
//!                    ├── plan ───── router ─ sys     objects in, immutable plan out; packets
//!                    ├── node ───── images ─ sys     Pods: namespaces, devices, processes, probes, logs
//!                    ├── edge ───── router, node     the host's own access, Pods' way out, health checks
//!                    ├── dns ────── sys              answers from the cache, forwarding
//!                    ├── explain ── router, dns      why a Service or a packet fares as it does, the flow log in words
//!                    └── dashboard                   the page and its streams
//! ```
//!
//! Parts meet only in [`app`]. The Kubernetes API is the one interface between them: controllers, node agents, DNS, the
//! plan, explanations and the dashboard read the shared informer cache of [`cluster`] and write with a `kube::Client` that
//! is wired straight to the axum router, without a socket. `router` knows only [`plan`]'s types; `plan` and the router's
//! wire, flow, nat, balance and pipeline modules are pure (time is an argument, no I/O); [`sys`] has all unsafe code and
//! imports nothing of ours. Every part may count in [`metrics`].
//!
//! # Threads
//!
//! * tokio's workers: API, controllers, node agents, DNS, dashboard, TLS connections;
//! * `router-0` and `router-1`: the data plane. A device is read by one of them, which reads a packet, decides, rewrites
//!   it in place and writes it to the other device, to completion;
//! * one thread that starts processes, so that the kernel's parent-death signal of containers is tied to the process
//!   and not to a worker that comes and goes;
//! * `loopback`, where the host cannot be connected by a device: sockets from the host's loopback into the cluster;
//! * SQLite's thread: one writer, which commits what is queued in one transaction with one fsync.
//!
//! # Listeners
//!
//! | Where | What |
//! |---|---|
//! | `--api-listen`, 127.0.0.1:6443 | API over TLS, client certificates from the cluster's own CA or ServiceAccounts' tokens |
//! | `--ui-listen`, 127.0.0.1:8080 | dashboard and its way to the API, plain HTTP with a token that becomes a cookie |
//! | `--metrics-listen`, nowhere | `/metrics` in plain HTTP, for everybody who reaches it |
//! | 127.0.0.1, node ports and load-balancer ports | relay to Services, where the host has no device into the cluster |
//! | port 1 of 10.245.0.3 and its IPv6 twin, TCP and UDP | flows of Pods into the world, in a namespace of their own |
//! | 10.245.0.1:6443 and its IPv6 twin | API, in the control plane's namespace, behind `default/kubernetes` |
//! | 10.245.0.1:53, UDP and TCP, and its IPv6 twin | DNS, in the control plane's namespace, behind `kube-system/kube-dns` |
//! | `--dns-listen`, 127.0.0.1 and a free port | DNS for the host, UDP and TCP |
//! | 10256 of each node, 10249 on its loopback | health and mode of the proxy, in the node's namespace |
//! | each `healthCheckNodePort` of each node | whether the node has endpoints of that Service, in the node's namespace |
//!
//! # The way of a write
//!
//! TLS → [`api`] parses and checks the object → the store's writer gives it a revision, appends it to the log and
//! syncs → the new state is published and watchers are woken → the informer cache decodes the event once → controllers
//! write what follows (a slice, say, by the same way) → `plan` compiles what changed and hands the router a new plan.
//!
//! The barrier of `app` follows a write to its end: it waits for the cache, then sends a mark behind the changes through
//! every subscription, and is over when controllers, DNS and the router have let go of it.
//!
//! # The way of a packet
//!
//! A Pod's `eth0` is a TUN device; the router holds the other end. The first packet of a flow runs the whole decision
//! over the plan (source check, VIP, policy, endpoint, masquerade, next node) and leaves a flow entry with the rewrite,
//! the reason and the revisions of the objects that it rests on; later packets replay the rewrite. Traffic between
//! nodes crosses the router once per node, in one step: the entry is the sum of the crossings.
//!
//! What is for nobody in the cluster is held back until the [`edge`] has dialed it with a socket of the host's, and then
//! goes to a listener behind the router, the gate, from where the edge carries the bytes on. The host itself is a port
//! of the router as well where it may have a device; it is a client outside of the cluster.
//!
//! The decision is generic over who looks on: nobody, which costs nothing, or [`explain`], which sends packets through a
//! copy of the pipeline. Beginnings, ends and refusals go to the flow log, a bounded queue without locks.
//!
//! # The way into a Pod
//!
//! exec, attach and port-forward are requests that [`api`] upgrades to a WebSocket or to SPDY; [`app`] hands them to
//! [`node`], which starts the process beside the container's, joins its console or dials in its network namespace. Each
//! stream has a short queue, and each connection a task that ends with the process, the client or vipyard.
//!
//! # Leaving nothing behind
//!
//! Namespaces and devices live by file descriptors and processes, never by name; containers die with the process by
//! the parent-death signal. So a killed vipyard leaves only files in its data directory, which the next start cleans.
#![deny(unsafe_code)]

pub mod answers;
pub mod api;
pub mod app;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod controllers;
pub mod dashboard;
pub mod dns;
pub mod edge;
pub mod events;
pub mod explain;
pub mod images;
pub mod insecure_tls;
pub mod lifecycle;
pub mod metrics;
pub mod netlink;
pub mod node;
pub mod plan;
pub mod router;
pub mod store;
pub mod sys;
pub mod telemetry;
