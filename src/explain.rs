//! Why a request goes where it goes, or nowhere: one engine for the API, the command line and the page.
//!
//! * [`service`] explains a Service: what serves it on each node, what nearly would, and what is wrong (pure: objects and
//!   the router's plan in, a [`report`] out).
//! * [`flow`] explains a packet: it is sent through a copy of the router's own pipeline, which tells each step as it takes
//!   it. There is no second implementation of the rules, and nothing leaves the process.
//! * [`flows`] puts records of the router's flow log into the words of the API.
//!
//! [`Explainer`] gathers what they need. Statements name the objects that they rest on with uid and resourceVersion.

pub mod flow;
pub mod flows;
mod lists;
mod lookup;
pub mod packet;
mod pods;
pub mod report;
pub mod request;
mod resolvers;
pub mod service;
mod steps;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Event, Service};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use self::report::{FlowReport, ServiceReport};
use self::request::{BadRequest, FlowRequest};
pub use self::resolvers::Resolvers;
use crate::cluster::{Cluster, SERVICE_NAME_LABEL};
use crate::dns::{Index, Zone};
use crate::router::Router;

/// Problems of a Service that go with the explanation of a packet to it.
const FOREMOST: usize = 3;

/// Answers questions about a running cluster.
pub struct Explainer {
    pub cluster: Cluster,
    pub router: Arc<Router>,
    pub index: Arc<Index>,
    pub zone: Zone,
    pub resolvers: Arc<Resolvers>,
    /// For Events, which nobody else keeps.
    pub client: Client,
}

impl Explainer {
    /// # Errors
    /// When there is no such Service.
    pub async fn service(&self, namespace: &str, name: &str) -> Result<ServiceReport, BadRequest> {
        let service = lookup::service(&self.cluster, namespace, name)?;
        Ok(self.with_facts(&service, service::explain).await)
    }

    async fn with_facts<T>(&self, service: &Service, ask: impl FnOnce(&service::Facts<'_>) -> T) -> T {
        let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
        let slices: Vec<_> = self
            .cluster
            .slices
            .list_in(&namespace)
            .into_iter()
            .filter(|slice| slice.labels().get(SERVICE_NAME_LABEL) == Some(&name))
            .collect();
        let events = self.events(&namespace).await;
        ask(&service::Facts {
            service,
            slices: &slices,
            pods: &self.cluster.pods.list(),
            nodes: &self.cluster.nodes.list(),
            events: &events,
            plan: &self.router.plan(),
            domain: self.zone.domain(),
        })
    }

    /// What failed lately. Events are a courtesy: without them there is less to tell.
    async fn events(&self, namespace: &str) -> Vec<Event> {
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        let list = events.list(&ListParams::default().fields("type=Warning")).await;
        list.map(|list| list.items).unwrap_or_default()
    }

    /// # Errors
    /// When the question names what is not there.
    pub async fn flow(&self, request: &FlowRequest) -> Result<FlowReport, BadRequest> {
        let explained = {
            let records = self.index.load();
            let facts =
                flow::Facts { cluster: &self.cluster, records: &records, zone: &self.zone, resolvers: &self.resolvers };
            flow::explain(&facts, request, |client| self.router.scratch(client))?
        };
        let mut report = explained.report;
        if let Some(lack) = explained.lack
            && let Some(service) = self.cluster.services.get(&lack.port.namespace, &lack.port.name)
        {
            let causes = self.with_facts(&service, |facts| service::causes(facts, &lack)).await;
            report.problems.extend(causes.into_iter().take(FOREMOST));
        }
        Ok(report)
    }
}
