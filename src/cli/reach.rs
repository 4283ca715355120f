//! `vipyard reach`: how to reach a Service from this host, from a Pod and from a browser, and what keeps it from working.

mod ways;

use anyhow::{Context, anyhow};
use http::StatusCode;
use k8s_openapi::List;
use k8s_openapi::api::core::v1::{Event, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use self::ways::{Dns, Facts, Way, Ways};
use super::client::{Client, runtime};
use super::{Failure, Output, View};
use crate::app::DNS_ADDRESS_FILE;
use crate::edge::{HOST_ACCESS_FILE, HostReach, SHUT_DOORS_FILE, ShutDoors};

#[derive(clap::Args)]
pub(super) struct Args {
    /// The Service: svc/NAME
    #[arg(value_name = "svc/NAME")]
    service: String,
    #[command(flatten)]
    view: View,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let name = match args.service.split_once('/') {
        Some(("svc" | "service" | "services", name)) => name,
        None => &args.service,
        Some((kind, _)) => return Err(Failure::Usage(anyhow!("{kind} is not reached by an address: name svc/NAME"))),
    };
    let dir = &args.view.data_dir.data_dir;
    let client = args.view.data_dir.client()?;
    let reach = std::fs::read_to_string(dir.join(HOST_ACCESS_FILE)).unwrap_or_default();
    let mut facts = runtime()?.block_on(facts(&client, &args.view.namespace, name, HostReach::parse(&reach)))?;
    let mut shut = ShutDoors::read(&dir.join(SHUT_DOORS_FILE));
    facts.shut = shut.0.remove(&format!("{}/{name}", args.view.namespace)).unwrap_or_default();
    let mut ways = ways::of(&facts);
    let dns = std::fs::read_to_string(dir.join(DNS_ADDRESS_FILE)).unwrap_or_default();
    ways.dns = dns.trim().parse().ok().map(|server| Dns::new(server, &args.view.namespace, name));
    match args.view.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&ways)?),
        Output::Text => print!("{}", text(&ways)),
    }
    Ok(())
}

async fn facts(client: &Client, namespace: &str, name: &str, host: HostReach) -> anyhow::Result<Facts> {
    let path = format!("/api/v1/namespaces/{namespace}/services/{name}");
    let service: Option<Service> = get(client, &path).await?;
    let service = service
        .ok_or_else(|| anyhow!("there is no Service {namespace}/{name}: see `kubectl get services -n {namespace}`"))?;
    let path = format!(
        "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{name}"
    );
    let slices: List<EndpointSlice> = get(client, &path).await?.context("no list of slices")?;
    let nodes: List<Node> = get(client, "/api/v1/nodes").await?.context("no list of Nodes")?;
    let uid = service.metadata.uid.as_deref().unwrap_or_default();
    let path = format!("/api/v1/namespaces/{namespace}/events?fieldSelector=involvedObject.uid%3D{uid}");
    let events: List<Event> = get(client, &path).await?.context("no list of Events")?;
    Ok(Facts { service, slices: slices.items, nodes: nodes.items, events: events.items, host, shut: Vec::new() })
}

/// An object; `None` when there is none.
async fn get<T: DeserializeOwned>(client: &Client, path: &str) -> anyhow::Result<Option<T>> {
    match client.get(path).await? {
        (StatusCode::OK, object) => Ok(Some(serde_json::from_value(object)?)),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (code, status) => Err(anyhow!("{}", status["message"].as_str().unwrap_or(code.as_str()))),
    }
}

fn text(ways: &Ways) -> String {
    let mut text = format!("Service {}/{}\n", ways.namespace, ways.name);
    for (title, ways) in [("host", &ways.host), ("Pod", &ways.pod), ("browser", &ways.browser)] {
        text += &format!("\nfrom {}{title}\n", if title == "host" { "this " } else { "a " });
        let width = ways.iter().map(|way| way.address.len()).max().unwrap_or_default();
        for Way { address, by } in ways {
            text += &format!("  {address:width$}  {by}\n");
        }
        if ways.is_empty() {
            text += "  no way\n";
        }
    }
    if let Some(Dns { server, name }) = &ways.dns {
        text += &format!("\nby name, from this host\n  dig @{} -p {} {name}\n", server.ip(), server.port());
    }
    if !ways.notes.is_empty() {
        text += "\n";
    }
    for note in &ways.notes {
        text += &format!("note: {note}\n");
    }
    text
}
