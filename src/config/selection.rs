//! Which controllers run: the flag `--controllers` of kube-controller-manager, with its names.

use std::collections::BTreeSet;
use std::str::FromStr;

/// Controllers that may be left out, for people who bring or write their own. What a cluster cannot be without
/// (namespaces, addresses, garbage collection) always runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    CronJob,
    DaemonSet,
    Deployment,
    Disruption,
    EndpointSlice,
    EndpointSliceMirroring,
    Endpoints,
    Job,
    NodeLifecycle,
    PersistentVolumeBinder,
    PersistentVolumeClaimProtection,
    PodGarbageCollector,
    ReplicaSet,
    ReplicationController,
    Scheduler,
    ServiceLoadBalancer,
    StatefulSet,
}

const NAMES: [(&str, Controller); 17] = [
    ("cronjob-controller", Controller::CronJob),
    ("daemonset-controller", Controller::DaemonSet),
    ("deployment-controller", Controller::Deployment),
    ("disruption-controller", Controller::Disruption),
    ("endpointslice-controller", Controller::EndpointSlice),
    ("endpointslice-mirroring-controller", Controller::EndpointSliceMirroring),
    ("endpoints-controller", Controller::Endpoints),
    ("job-controller", Controller::Job),
    ("node-lifecycle-controller", Controller::NodeLifecycle),
    ("persistentvolume-binder-controller", Controller::PersistentVolumeBinder),
    ("persistentvolumeclaim-protection-controller", Controller::PersistentVolumeClaimProtection),
    ("pod-garbage-collector-controller", Controller::PodGarbageCollector),
    ("replicaset-controller", Controller::ReplicaSet),
    ("replicationcontroller-controller", Controller::ReplicationController),
    ("kube-scheduler", Controller::Scheduler),
    ("service-lb-controller", Controller::ServiceLoadBalancer),
    ("statefulset-controller", Controller::StatefulSet),
];

/// The controllers that run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection(BTreeSet<Controller>);

impl Selection {
    pub const ALL: &str = "*";

    pub fn has(&self, controller: Controller) -> bool {
        self.0.contains(&controller)
    }
}

impl Default for Selection {
    fn default() -> Self {
        Self(NAMES.into_iter().map(|(_, controller)| controller).collect())
    }
}

impl FromStr for Selection {
    type Err = String;

    /// Reads a list with commas: `*` for all, `NAME` for one, `-NAME` for one that does not run, wherever it stands.
    fn from_str(list: &str) -> Result<Self, String> {
        let (mut some, mut without) = (BTreeSet::new(), BTreeSet::new());
        for item in list.split(',').map(str::trim) {
            if item == Self::ALL {
                some.append(&mut Self::default().0);
                continue;
            }
            let (name, set) = item.strip_prefix('-').map_or((item, &mut some), |name| (name, &mut without));
            let Some((_, controller)) = NAMES.iter().find(|(known, _)| *known == name) else {
                let known = NAMES.map(|(name, _)| name).join(", ");
                return Err(format!("{name:?} is none of {known}; * is all of them, and -NAME leaves one out"));
            };
            set.insert(*controller);
        }
        Ok(Self(&some - &without))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_is_read_as_kube_controller_manager_does() {
        let all: Selection = "*".parse().unwrap();
        assert_eq!(all, Selection::default());
        let most: Selection = "-deployment-controller,*".parse().unwrap();
        assert!(!most.has(Controller::Deployment) && most.has(Controller::Scheduler));
        assert_eq!(most.0.len(), NAMES.len() - 1);
        let two: Selection = "kube-scheduler, job-controller".parse().unwrap();
        assert_eq!(two.0, BTreeSet::from([Controller::Scheduler, Controller::Job]));
        let error = "*,-deployment".parse::<Selection>().unwrap_err();
        assert!(error.starts_with("\"deployment\" is none of cronjob-controller, "), "{error}");
    }
}
