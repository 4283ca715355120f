//! `vipyard demo`: a cluster of its own that applies examples/web.yaml and shows what a VIP does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use futures::{AsyncBufReadExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, DynamicObject, LogParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use super::{Failure, up};
use crate::app::Running;
use crate::cluster::{Change, Informer, SERVICE_NAME_LABEL};
use crate::config::UI_LISTEN;
use crate::controllers::endpoint_model::pod_ready;

const MANIFEST: &str = include_str!("../../examples/web.yaml");
const SERVICE: &str = "web";
const CLIENT: &str = "client";
const NAMESPACE: &str = "default";
/// Requests that are shown before and after the Pod is deleted.
const REQUESTS: usize = 12;
/// How long each step may take.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(super) struct Args {
    /// End after the show: 0 if it went as it should, else 1
    #[arg(long)]
    exit: bool,
    /// Where the dashboard listens
    #[arg(long, value_name = "ADDRESS:PORT", default_value = UI_LISTEN)]
    ui_listen: SocketAddr,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let folder = Folder::make().context("cannot make a folder for the demo")?;
    let config = up::Args::throw_away(folder.0.clone(), args.ui_listen).config()?;
    up::start(config, args.exit, async |running: &Running, started: Instant| {
        println!("cluster is ready ({} ms)\n", started.elapsed().as_millis());
        show(running).await?;
        println!("\ndashboard   {}", running.dashboard_url);
        if !args.exit {
            println!("kubeconfig  export KUBECONFIG={}", running.kubeconfig.display());
            println!("Ctrl-C ends the demo.");
        }
        Ok(())
    })
}

/// A folder that goes with the demo.
struct Folder(PathBuf);

impl Folder {
    fn make() -> std::io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("vipyard-demo-{}", std::process::id()));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nobody is left to tell; a folder in the temporary directory does no harm.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One answer that the client Pod got through the VIP.
#[derive(Clone, Debug, Default)]
struct Answer {
    pod: String,
    node: String,
}

async fn show(running: &Running) -> Result<()> {
    let client = running.client();
    println!("$ kubectl apply -f {}", Path::new("examples/web.yaml").display());
    apply(&client).await?;
    let pods = &running.cluster.pods;
    within(
        "every Pod to be Ready",
        until(pods, || pods.list_in(NAMESPACE).iter().filter(|pod| pod_ready(pod)).count() >= 4),
    )
    .await?;
    let services = running.cluster.services.list_in(NAMESPACE);
    let vip =
        services.iter().find(|service| service.name_any() == SERVICE).and_then(|s| s.spec.as_ref()?.cluster_ip.clone());
    println!("service/{SERVICE} has the address {}, and these Pods:", vip.as_deref().unwrap_or("?"));
    for pod in pods.list_in(NAMESPACE).iter().filter(|pod| pod.labels().get("app").is_some_and(|app| app == SERVICE)) {
        println!("  {:<8} {:<12} on {}", pod.name_any(), pod_ip(pod), node_of(pod));
    }

    println!("\nPod {CLIENT:?} asks http://{SERVICE} and http://{SERVICE}.{NAMESPACE}.svc.cluster.local in turn:");
    let mut answers = Box::pin(answers(&client).await?);
    let seen = collect(&mut answers, |_| true).await?;
    let nodes: BTreeSet<&str> = seen.iter().map(|answer| answer.node.as_str()).collect();
    summary(&seen);
    ensure!(nodes.len() >= 2, "all {REQUESTS} requests went to one node: they should be spread");

    let gone = seen[0].pod.clone();
    println!("\n$ kubectl delete pod {gone}");
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let address = pods.get(NAMESPACE, &gone).map(|pod| pod_ip(&pod)).unwrap_or_default();
    api.delete(&gone, &Default::default()).await.context("cannot delete the Pod")?;
    let slices = &running.cluster.slices;
    within(
        "the Pod to leave the EndpointSlice",
        until(slices, || !slices.list_in(NAMESPACE).iter().any(|s| is_endpoint(s, &address))),
    )
    .await?;
    println!("endpoints of service/{SERVICE} now: {}", endpoints(&slices.list_in(NAMESPACE)).join(", "));
    within("the Pod to be gone", until(pods, || pods.get(NAMESPACE, &gone).is_none())).await?;
    // What the client still had under way when the Pod left has been answered by then.
    let after = collect(&mut answers, |answer: &Answer| answer.pod != gone).await?;
    summary(&after);
    println!("the address stayed, {gone} got no request after it had left, and no request failed");
    Ok(())
}

async fn apply(client: &Client) -> Result<()> {
    let objects: Vec<DynamicObject> =
        serde_saphyr::from_multiple(MANIFEST).context("examples/web.yaml cannot be read")?;
    for object in objects {
        let types = object.types.clone().unwrap_or_default();
        let gvk = GroupVersionKind::try_from(&types).context("examples/web.yaml has an object without a kind")?;
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &ApiResource::from_gvk(&gvk));
        let name = object.name_any();
        api.create(&Default::default(), &object)
            .await
            .with_context(|| format!("cannot create {} {name}", types.kind))?;
        println!("{}/{name} created", types.kind.to_lowercase());
    }
    Ok(())
}

/// The answers that the client Pod writes to its log, one block of `name: value` lines each.
async fn answers(client: &Client) -> Result<impl Stream<Item = Result<Answer>> + use<>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let log = api.log_stream(CLIENT, &LogParams { follow: true, ..LogParams::default() }).await;
    let lines = log.context("cannot read the client's log")?.lines();
    let answers = lines.scan(Answer::default(), |answer, line| {
        let done = match line {
            Err(e) => Some(Err(e.into())),
            Ok(line) => match line.split_once(": ") {
                Some(("pod", pod)) => {
                    answer.pod = pod.to_owned();
                    None
                }
                Some(("node", node)) => {
                    answer.node = node.to_owned();
                    None
                }
                // The last line of an answer.
                Some(("client", _)) => Some(Ok(std::mem::take(answer))),
                _ if line.starts_with("no answer") => Some(Err(anyhow!(
                    "a request through the VIP failed: {line} (127 means that curl is not installed)"
                ))),
                _ => None,
            },
        };
        std::future::ready(Some(done))
    });
    Ok(answers.filter_map(std::future::ready))
}

/// Prints the next answers; each must be as `expected`.
async fn collect(
    answers: &mut (impl Stream<Item = Result<Answer>> + Unpin),
    expected: impl Fn(&Answer) -> bool,
) -> Result<Vec<Answer>> {
    let mut seen = Vec::new();
    while seen.len() < REQUESTS {
        let answer = within("an answer", answers.next()).await?.ok_or_else(|| anyhow!("the client Pod ended"))??;
        ensure!(expected(&answer), "{} answered after it had left the Service", answer.pod);
        println!("  answered by {} on {}", answer.pod, answer.node);
        seen.push(answer);
    }
    Ok(seen)
}

fn summary(answers: &[Answer]) {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry((&answer.pod, &answer.node)).or_insert(0) += 1;
    }
    let parts: Vec<String> = counts.iter().map(|((pod, node), count)| format!("{pod} on {node}: {count}")).collect();
    println!("{} requests, {}", answers.len(), parts.join(", "));
}

/// Waits until `condition` holds, looking each time an object of the kind changes.
async fn until<K: Clone>(informer: &Informer<K>, condition: impl Fn() -> bool) {
    let mut changes = informer.look_on();
    while !condition() {
        match changes.recv().await {
            Some(Change::Applied { .. } | Change::Deleted(_) | Change::Synced | Change::Marked(_)) => {}
            // The cluster is going down; the time limit ends the wait.
            None => std::future::pending().await,
        }
    }
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(LIMIT, work).await.map_err(|_| anyhow!("waited {} s in vain for {what}", LIMIT.as_secs()))
}

fn pod_ip(pod: &Pod) -> String {
    pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or_default()
}

fn node_of(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default()
}

fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = &String> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false))).flat_map(|e| &e.addresses)
}

fn is_endpoint(slice: &EndpointSlice, address: &str) -> bool {
    ready_addresses(slice).any(|known| known == address)
}

fn endpoints(slices: &[std::sync::Arc<EndpointSlice>]) -> Vec<String> {
    let ours = slices.iter().filter(|slice| slice.labels().get(SERVICE_NAME_LABEL).is_some_and(|s| s == SERVICE));
    ours.flat_map(|slice| ready_addresses(slice)).cloned().collect()
}
