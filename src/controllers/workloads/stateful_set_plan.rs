//! What a StatefulSet does with its Pods: pure (`k8s.io/kubernetes/pkg/controller/statefulset`).
//!
//! Ordered, a turn does the one thing that comes next: it makes the Pod of the lowest ordinal that is missing once all
//! before it are available, then lets those go that are too many, from the highest, then replaces those of an old
//! template, from the highest. In parallel it does not wait, except that a rolling update goes on as the Pods that it
//! replaced become available.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy as Retention, StatefulSetSpec, StatefulSetStatus,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::claims::controller_ref;
use super::pods::{self, BURST, is_available, is_ready, next_available, phase};
use super::revisions::REVISION_LABEL;
use super::{counted, positive};
use crate::api::kinds::scaled_down;
use crate::controllers::endpoint_model::{terminal, terminating};

const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// A template and the name of the revision that keeps it.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) name: String,
    pub(super) template: PodTemplateSpec,
}

/// A StatefulSet, its two versions, and its Pods.
pub(super) struct State<'a> {
    set: &'a StatefulSet,
    spec: StatefulSetSpec,
    current: Version,
    update: Version,
    /// How many there should be, from `start` on.
    count: i32,
    /// Those that are there of them, by ordinal.
    replicas: BTreeMap<i32, Arc<Pod>>,
    /// The others, from the highest ordinal.
    condemned: Vec<Arc<Pod>>,
    start: i32,
    now: Timestamp,
}

/// What a turn does.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Vec<Pod>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Pods that ended and are made anew.
    pub(super) recreate: Vec<Arc<Pod>>,
    /// Pods that lost what tells who they are.
    pub(super) mend: Vec<Pod>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The ordinal of a Pod of the set with this name.
pub(super) fn ordinal(set: &str, pod: &str) -> Option<i32> {
    let digits = pod.strip_prefix(set)?.strip_prefix('-')?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

impl<'a> State<'a> {
    pub(super) fn of(
        set: &'a StatefulSet,
        current: Version,
        update: Version,
        pods: Vec<Arc<Pod>>,
        now: Timestamp,
    ) -> Self {
        let spec = set.spec.clone().unwrap_or_default();
        let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
        let count = spec.replicas.unwrap_or(1).max(0);
        let (mut replicas, mut condemned) = (BTreeMap::new(), Vec::new());
        let name = set.name_any();
        for pod in pods {
            let Some(ordinal) = ordinal(&name, &pod.name_any()) else { continue };
            if (start..start.saturating_add(count)).contains(&ordinal) {
                replicas.insert(ordinal, pod);
            } else {
                condemned.push((ordinal, pod));
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        let condemned = condemned.into_iter().map(|(_, pod)| pod).collect();
        Self { set, spec, current, update, count, replicas, condemned, start, now }
    }

    fn is_ordered(&self) -> bool {
        self.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    fn is_available(&self, pod: &Pod) -> bool {
        phase(pod) == "Running" && is_available(pod, self.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !terminating(pod)
    }

    fn pods(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.replicas.values().chain(&self.condemned)
    }

    /// All that should be there, with those that are.
    fn places(&self) -> impl DoubleEndedIterator<Item = (i32, Option<&Arc<Pod>>)> {
        let ordinals = self.start..self.start.saturating_add(self.count);
        ordinals.map(|ordinal| (ordinal, self.replicas.get(&ordinal)))
    }

    pub(super) fn plan(&self) -> Plan {
        let mut plan = Plan::default();
        let go_on = self.fill(&mut plan) && self.condemn(&mut plan);
        if go_on && self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete") {
            self.roll(&mut plan);
        }
        plan
    }

    /// Makes what is missing. `false` if the turn ends here.
    fn fill(&self, plan: &mut Plan) -> bool {
        let ordered = self.is_ordered();
        let mut go_on = true;
        for (ordinal, replica) in self.places() {
            let Some(pod) = replica else {
                plan.create.push(self.pod(ordinal));
                // More than a turn makes need not be thought of.
                if ordered || plan.create.len() == BURST {
                    return false;
                }
                continue;
            };
            if terminal(pod) {
                if !terminating(pod) {
                    plan.recreate.push(Arc::clone(pod));
                }
                go_on = false;
                if ordered {
                    return false;
                }
                continue;
            }
            if ordered && !self.is_healthy(pod) {
                return false;
            }
            if let Some(mended) = self.mended(pod, ordinal).filter(|_| !terminating(pod)) {
                plan.mend.push(mended);
            }
        }
        go_on
    }

    /// Lets go what is too many. `false` if the turn ends here.
    fn condemn(&self, plan: &mut Plan) -> bool {
        let ordered = self.is_ordered();
        let first_unhealthy = self.pods().find(|pod| !self.is_healthy(pod)).map(|pod| pod.name_any());
        for pod in &self.condemned {
            if terminating(pod) {
                if ordered {
                    return false;
                }
                continue;
            }
            if ordered && !self.is_available(pod) && Some(pod.name_any()) != first_unhealthy {
                return false;
            }
            plan.delete.push(Arc::clone(pod));
            if ordered {
                return false;
            }
        }
        plan.delete.is_empty()
    }

    /// Replaces Pods of an old template, from the highest ordinal down to the partition.
    fn roll(&self, plan: &mut Plan) {
        let rolling = self.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let lowest = self.start.saturating_add(partition);
        let most = self.most_unavailable(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()));
        let old = |pod: &Pod| pod.labels().get(REVISION_LABEL) != Some(&self.update.name);
        let mut unavailable = 0;
        for (_, replica) in self.places().rev().take_while(|(ordinal, _)| *ordinal >= lowest) {
            if unavailable >= most {
                return;
            }
            match replica {
                Some(pod) if old(pod) && !terminating(pod) => {
                    plan.delete.push(Arc::clone(pod));
                    unavailable += 1;
                }
                Some(pod) if self.is_healthy(pod) => {}
                Some(_) | None => unavailable += 1,
            }
        }
    }

    fn most_unavailable(&self, value: Option<&IntOrString>) -> usize {
        value.map_or(1, |value| usize::try_from(scaled_down(value, self.count.into())).unwrap_or(0)).max(1)
    }

    /// The Pod for an ordinal: of the update, unless the rollout has not come to it yet.
    fn pod(&self, ordinal: i32) -> Pod {
        let strategy = self.spec.update_strategy.clone().unwrap_or_default();
        let current = match (strategy.type_.as_deref(), strategy.rolling_update) {
            (Some("OnDelete"), _) => false,
            (_, Some(rolling)) => ordinal - self.start < rolling.partition.unwrap_or(0),
            (_, None) => ordinal - self.start < self.counts().current_replicas.unwrap_or(0),
        };
        let version = if current { &self.current } else { &self.update };
        let mut pod = pods::from_template(self.set, &version.template);
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(format!("{}-{ordinal}", self.set.name_any()));
        let pod = self.mended(&pod, ordinal).unwrap_or(pod);
        let mut pod = pod;
        pod.labels_mut().insert(REVISION_LABEL.to_owned(), version.name.clone());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = pod.metadata.name.clone();
        spec.subdomain = self.spec.service_name.clone().filter(|name| !name.is_empty());
        let volumes = spec.volumes.get_or_insert_default();
        for claim in self.claims(ordinal) {
            let template = claim.template;
            volumes.retain(|volume| volume.name != template);
            volumes.push(Volume {
                name: template,
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim.object.name_any(),
                    read_only: None,
                }),
                ..Volume::default()
            });
        }
        pod
    }

    /// The Pod with the labels that tell who it is, if it lacks them.
    fn mended(&self, pod: &Pod, ordinal: i32) -> Option<Pod> {
        let wanted = [(POD_NAME_LABEL, pod.name_any()), (POD_INDEX_LABEL, ordinal.to_string())];
        if wanted.iter().all(|(key, value)| pod.labels().get(*key) == Some(value)) {
            return None;
        }
        let mut pod = pod.clone();
        pod.labels_mut().extend(wanted.map(|(key, value)| (key.to_owned(), value)));
        Some(pod)
    }

    /// The claims of the Pod with this name, from `volumeClaimTemplates`.
    pub(super) fn claims_of(&self, pod: &str) -> Vec<PersistentVolumeClaim> {
        let ordinal = ordinal(&self.set.name_any(), pod);
        ordinal.map_or(Vec::new(), |ordinal| self.claims(ordinal).map(|claim| claim.object).collect())
    }

    /// Claims whose owners are not as `persistentVolumeClaimRetentionPolicy` has them, with the owners that they should
    /// have: the set, whose end is theirs, or their Pod, when it goes because the set has become smaller.
    pub(super) fn retained<'b>(
        &self,
        found: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + 'b,
    ) -> Vec<(Arc<PersistentVolumeClaim>, Vec<OwnerReference>)> {
        let name = self.set.name_any();
        let mut changes = Vec::new();
        for pod in self.pods() {
            let Some(ordinal) = ordinal(&name, &pod.name_any()) else { continue };
            for claim in self.claims(ordinal).filter_map(|claim| found(&claim.object.name_any())) {
                let others = |owner: &&OwnerReference| owner.uid != self.uid() && !is_pod(owner, &pod.name_any());
                // Somebody else's to keep or to let go.
                if claim.owner_references().iter().filter(others).any(|owner| owner.controller == Some(true)) {
                    continue;
                }
                let owner = if !self.replicas.contains_key(&ordinal) && self.goes(|policy| &policy.when_scaled) {
                    Some(controller_ref(&**pod))
                } else {
                    self.goes(|policy| &policy.when_deleted).then(|| controller_ref(self.set))
                };
                let mut owners: Vec<_> = claim.owner_references().iter().filter(others).cloned().collect();
                owners.extend(owner);
                if owners != claim.owner_references() {
                    changes.push((claim, owners));
                }
            }
        }
        changes
    }

    fn uid(&self) -> &str {
        self.set.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Whether claims go in this case.
    fn goes(&self, case: fn(&Retention) -> &Option<String>) -> bool {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        policy.and_then(|policy| case(policy).as_deref()) == Some("Delete")
    }

    fn claims(&self, ordinal: i32) -> impl Iterator<Item = Claim> + use<'_> {
        let templates = self.spec.volume_claim_templates.iter().flatten();
        let goes_with_set = self.goes(|policy| &policy.when_deleted);
        templates.map(move |template| {
            let name = template.name_any();
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
            let metadata = ObjectMeta {
                name: Some(format!("{name}-{}-{ordinal}", self.set.name_any())),
                namespace: self.set.namespace(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                owner_references: goes_with_set.then(|| vec![controller_ref(self.set)]),
                ..ObjectMeta::default()
            };
            let object = PersistentVolumeClaim { metadata, spec: template.spec.clone(), status: None };
            Claim { template: name, object }
        })
    }

    fn counts(&self) -> StatefulSetStatus {
        let of = |version: &Version| {
            let own = |pod: &&Arc<Pod>| pod.labels().get(REVISION_LABEL) == Some(&version.name);
            self.pods().filter(|pod| !terminating(pod)).filter(own).count()
        };
        let running = || self.pods().filter(|pod| phase(pod) == "Running");
        StatefulSetStatus {
            replicas: counted(self.pods().count()),
            ready_replicas: positive(running().filter(|pod| is_ready(pod)).count()),
            available_replicas: Some(counted(running().filter(|pod| self.is_available(pod)).count())),
            current_replicas: positive(of(&self.current)),
            updated_replicas: positive(of(&self.update)),
            current_revision: Some(self.current.name.clone()),
            update_revision: Some(self.update.name.clone()),
            observed_generation: self.set.metadata.generation,
            ..StatefulSetStatus::default()
        }
    }

    /// The status, and when the next Pod becomes available.
    pub(super) fn status(&self) -> (StatefulSetStatus, Option<Duration>) {
        let before = self.set.status.clone().unwrap_or_default();
        let mut status = StatefulSetStatus {
            collision_count: before.collision_count,
            conditions: before.conditions,
            ..self.counts()
        };
        let rolling = self.spec.update_strategy.as_ref().and_then(|s| s.type_.as_deref()) != Some("OnDelete");
        let all = Some(status.replicas).filter(|count| *count > 0);
        if rolling && status.updated_replicas == all && status.ready_replicas == all {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        let min_ready = self.spec.min_ready_seconds.unwrap_or(0);
        (status, next_available(self.pods().map(|pod| &**pod), min_ready, self.now))
    }
}

/// Whether the owner is the Pod of this name, now or before it was made anew.
fn is_pod(owner: &OwnerReference, pod: &str) -> bool {
    owner.kind == "Pod" && owner.api_version == "v1" && owner.name == pod
}

struct Claim {
    /// The name of the template, which is that of the volume.
    template: String,
    object: PersistentVolumeClaim,
}

#[cfg(test)]
mod tests;
