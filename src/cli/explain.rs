//! `vipyard explain`: why a Service or a packet fares as it does. The cluster knows; here it is printed.

mod text;

use std::process::ExitCode;

use anyhow::anyhow;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::{query, runtime};
use super::{Failure, Output, View};
use crate::explain::report::{FlowReport, ServiceReport};
use crate::explain::request;

#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// What serves a Service on each node, which Pods nearly would, and what is wrong
    ///
    /// The exit status is 0 for a Service each of whose ports is served by each of its families (a family that
    /// PreferDualStack gave it and that no endpoint has does not count), 1 for one that serves in part or not at all, and
    /// 64 for one that does not exist.
    Service(ServiceArgs),
    /// What becomes of a packet, step by step; nothing is sent
    ///
    /// The exit status is 0 for a packet that arrives (or leaves the cluster for the world), 1 for one that does not, and 64
    /// for a question that makes no sense.
    Flow(FlowArgs),
}

#[derive(clap::Args)]
struct ServiceArgs {
    /// The Service: NAME, NAMESPACE/NAME, svc/NAME or svc/NAMESPACE/NAME
    #[arg(value_name = "[svc/][NAMESPACE/]NAME")]
    service: String,
    #[command(flatten)]
    view: View,
}

#[derive(clap::Args)]
struct FlowArgs {
    /// Who sends: pod/NAME, pod/NAMESPACE/NAME, node/NAME, or host for this host
    #[arg(long, value_name = "SENDER")]
    from: String,
    /// Whom to: NAME:PORT as DNS has it, IP:PORT, svc/NAME:PORT or pod/NAME:PORT; a port may be a name, and may be left out
    /// where a Service has one alone
    #[arg(long, value_name = "TARGET")]
    to: String,
    /// tcp, udp or sctp
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: String,
    /// 4 or 6; IPv4 where both sides have it
    #[arg(long, value_name = "FAMILY", default_value = "", hide_default_value = true)]
    family: String,
    /// The node at which a packet from this host enters the cluster
    #[arg(long, value_name = "NODE", default_value = "", hide_default_value = true)]
    node: String,
    #[command(flatten)]
    view: View,
}

pub(super) fn run(args: Args) -> Result<ExitCode, Failure> {
    let good = match args.what {
        What::Service(args) => {
            let object = request::object(&args.service, &args.view.namespace, request::SERVICE_KINDS);
            let (namespace, name) = object.map_err(|e| Failure::Usage(e.into()))?;
            let path = format!("/vipyard/v1/explain/service?{}", query(&[("namespace", &namespace), ("name", &name)]));
            let report: ServiceReport = ask(&args.view, &path, text::service)?;
            report.complete
        }
        What::Flow(args) => {
            let query = query(&[
                ("from", &args.from),
                ("to", &args.to),
                ("namespace", &args.view.namespace),
                ("protocol", &args.protocol),
                ("family", &args.family),
                ("node", &args.node),
            ]);
            let report: FlowReport = ask(&args.view, &format!("/vipyard/v1/explain/flow?{query}"), text::flow)?;
            report.reachable
        }
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Asks the cluster and prints the answer.
fn ask<T: DeserializeOwned>(view: &View, path: &str, text: impl Fn(&T) -> String) -> Result<T, Failure> {
    let client = view.data_dir.client()?;
    let (code, answer) = runtime()?.block_on(client.get(path))?;
    match code {
        StatusCode::OK => {}
        StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => return Err(Failure::Usage(anyhow!("{}", message(&answer)))),
        _ => return Err(Failure::Failed(anyhow!("{}", message(&answer)))),
    }
    let pretty = serde_json::to_string_pretty(&answer)?;
    let report = serde_json::from_value(answer)?;
    match view.output {
        Output::Json => println!("{pretty}"),
        Output::Text => print!("{}", text(&report)),
    }
    Ok(report)
}

fn message(status: &Value) -> &str {
    status["message"].as_str().unwrap_or("the cluster refuses without saying why")
}
