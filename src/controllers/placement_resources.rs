//! What Pods ask for and nodes have (kube-scheduler's NodeResourcesFit): pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Node, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::endpoint_model::restartable;
use crate::api::kinds::billionths;

/// Amounts by the name of the resource, in billionths of its unit; none is zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Amounts(BTreeMap<String, i128>);

impl Amounts {
    /// What a Pod needs of its node: the most that its containers need at one time, or what the Pod itself says, and
    /// the overhead of its runtime class.
    pub(super) fn requested(spec: &PodSpec) -> Self {
        let mut sum = Self::default();
        spec.containers.iter().for_each(|container| sum.add(&of_container(container)));
        // Init containers run one by one, each beside the sidecars before it.
        let (mut sidecars, mut most) = (Self::default(), Self::default());
        for container in spec.init_containers.iter().flatten() {
            let own = of_container(container);
            if restartable(container) {
                sum.add(&own);
                sidecars.add(&own);
                most.raise(sidecars.clone());
            } else {
                let mut beside = sidecars.clone();
                beside.add(&own);
                most.raise(beside);
            }
        }
        sum.raise(most);
        let of_pod = of_requirements(spec.resources.as_ref());
        sum.0.extend(of_pod.0.into_iter().filter(|(name, _)| is_pods_to_say(name)));
        sum.add(&of_list(spec.overhead.as_ref()));
        sum
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() += amount;
        }
    }

    pub(super) fn take_away(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            *self.0.entry(name.clone()).or_default() -= amount;
        }
        self.0.retain(|_, amount| *amount != 0);
    }

    /// Brings each amount to that of `other` where that is more.
    fn raise(&mut self, other: Self) {
        for (name, amount) in other.0 {
            let own = self.0.entry(name).or_default();
            *own = amount.max(*own);
        }
    }

    /// Why a Pod that needs this much finds no room on a node whose `pods` Pods need `taken`, in kube-scheduler's words.
    pub(super) fn lacks(&self, node: &Node, pods: usize, taken: Option<&Self>) -> Vec<String> {
        let status = node.status.as_ref();
        let offered = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let offered = |name: &str| offered.and_then(|all| billionths(&all.get(name)?.0)).unwrap_or(0);
        let mut lacking = Vec::new();
        if i128::try_from(pods + 1).unwrap_or(i128::MAX).saturating_mul(1_000_000_000) > offered("pods") {
            lacking.push("Too many pods".to_owned());
        }
        for (name, wanted) in &self.0 {
            let taken = taken.and_then(|taken| taken.0.get(name)).copied().unwrap_or(0);
            if *wanted > offered(name) - taken {
                lacking.push(format!("Insufficient {name}"));
            }
        }
        lacking
    }
}

/// What a Pod's own resources may speak of.
fn is_pods_to_say(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn of_container(container: &Container) -> Amounts {
    of_requirements(container.resources.as_ref())
}

fn of_requirements(resources: Option<&ResourceRequirements>) -> Amounts {
    of_list(resources.and_then(|resources| resources.requests.as_ref()))
}

fn of_list(list: Option<&BTreeMap<String, Quantity>>) -> Amounts {
    let read = |(name, quantity): (&String, &Quantity)| {
        let amount = billionths(&quantity.0).filter(|amount| *amount > 0)?;
        Some((name.clone(), amount))
    };
    Amounts(list.into_iter().flatten().filter_map(read).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn requested(spec: Value) -> Amounts {
        Amounts::requested(&serde_json::from_value(spec).unwrap())
    }

    fn asking(cpu: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu}}})
    }

    fn millis(cpu: i128) -> Amounts {
        Amounts([("cpu".to_owned(), cpu * 1_000_000)].into_iter().filter(|(_, amount)| *amount > 0).collect())
    }

    #[test]
    fn pod_asks_for_the_most_that_it_needs_at_one_time() {
        let sidecar = |cpu| {
            let mut container = asking(cpu);
            container["restartPolicy"] = "Always".into();
            container
        };
        let two = || json!([asking("100m"), asking("0.2")]);
        let cases = [
            (json!({"containers": [{"name": "c"}]}), 0),
            (json!({"containers": [asking("0")]}), 0),
            (json!({"containers": two()}), 300),
            (json!({"containers": two(), "initContainers": [asking("250m"), asking("200m")]}), 300),
            (json!({"containers": two(), "initContainers": [asking("1"), asking("200m")]}), 1000),
            (json!({"containers": two(), "initContainers": [sidecar("50m"), asking("200m")]}), 350),
            // The sidecar runs beside the init container that comes after it, not beside the one before.
            (json!({"containers": two(), "initContainers": [asking("1"), sidecar("50m")]}), 1000),
            (json!({"containers": two(), "initContainers": [sidecar("50m"), asking("1")]}), 1050),
            (json!({"containers": two(), "overhead": {"cpu": "10m"}}), 310),
            (json!({"containers": two(), "resources": {"requests": {"cpu": "2"}}, "overhead": {"cpu": "10m"}}), 2010),
        ];
        for (spec, expected) in cases {
            assert_eq!(requested(spec.clone()), millis(expected), "{spec}");
        }
    }

    #[test]
    fn what_is_added_and_taken_away_leaves_nothing() {
        let mut taken = millis(100);
        taken.add(&requested(json!({"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"}}}]})));
        taken.take_away(&requested(json!({"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "1100m", "memory": "1Gi", "example.com/gpu": "1"}}}]})));
        assert_eq!(taken, Amounts::default());
    }

    #[test]
    fn everything_that_a_node_lacks_is_told() {
        let node: Node = serde_json::from_value(json!({"metadata": {"name": "n1"}, "status": {"allocatable":
            {"pods": "2", "cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Mi"}}}))
        .unwrap();
        let asks =
            |requests: Value| requested(json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}));
        let taken = asks(json!({"cpu": "500m", "memory": "1Mi"}));
        let cases = [
            (json!({}), 1, vec![]),
            (json!({"cpu": "500m", "memory": "1023Mi", "ephemeral-storage": "1Mi"}), 1, vec![]),
            (json!({"cpu": "501m"}), 1, vec!["Insufficient cpu"]),
            (json!({"memory": "1Gi"}), 1, vec!["Insufficient memory"]),
            (json!({"ephemeral-storage": "2Mi"}), 1, vec!["Insufficient ephemeral-storage"]),
            (json!({"example.com/gpu": "1"}), 1, vec!["Insufficient example.com/gpu"]),
            (json!({"cpu": "1", "memory": "2Gi"}), 2, vec!["Too many pods", "Insufficient cpu", "Insufficient memory"]),
        ];
        for (requests, pods, expected) in cases {
            assert_eq!(asks(requests.clone()).lacks(&node, pods, Some(&taken)), expected, "{requests}");
        }
        assert_eq!(asks(json!({})).lacks(&Node::default(), 0, None), ["Too many pods"]);
    }
}
