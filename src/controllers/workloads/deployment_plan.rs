//! What a Deployment does with its ReplicaSets: pure, from the Deployment and the sets
//! (`k8s.io/kubernetes/pkg/controller/deployment`).
//!
//! A turn first makes sure of the new set (the one of the present template) and its annotations, then does one thing:
//! scales all sets in proportion after a change of `replicas`, or takes one step of the rollout, or drops history.
//! What it does shows in the sets' status, and that brings the next turn.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::claims::{controller_ref, is_controlled_by, is_deleting};
use super::hash::template_hash;
use crate::api::kinds::{scaled_down, scaled_up};
use crate::controllers::endpoint_model::terminal;

pub(super) const HASH_LABEL: &str = "pod-template-hash";
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that its sets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];
/// Of the list of revisions that a set had.
const LONGEST_HISTORY: usize = 2000;

/// The numbers that a Deployment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) replicas: i32,
    pub(super) surge: i32,
    pub(super) unavailable: i32,
    pub(super) recreate: bool,
}

impl Limits {
    pub(super) fn of(spec: &DeploymentSpec) -> Self {
        let replicas = spec.replicas.unwrap_or(1);
        let strategy = spec.strategy.clone().unwrap_or_default();
        if strategy.type_.as_deref() == Some("Recreate") {
            return Self { replicas, surge: 0, unavailable: 0, recreate: true };
        }
        let rolling = strategy.rolling_update.unwrap_or_default();
        let (surge, unavailable) = fence_posts(rolling.max_surge.as_ref(), rolling.max_unavailable.as_ref(), replicas);
        Self { replicas, surge, unavailable: unavailable.min(replicas), recreate: false }
    }
}

/// A surge is rounded up, unavailability down; where both come to nothing one Pod may be unavailable, or else nothing
/// would ever move.
fn fence_posts(surge: Option<&IntOrString>, unavailable: Option<&IntOrString>, replicas: i32) -> (i32, i32) {
    let number = |count: i64| i32::try_from(count).unwrap_or(i32::MAX);
    let surge = surge.map_or(0, |value| number(scaled_up(value, replicas.into())));
    let unavailable = unavailable.map_or(0, |value| number(scaled_down(value, replicas.into())));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A set with another number of replicas, or other annotations alone when the numbers are equal.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Update {
    pub(super) set: ReplicaSet,
    pub(super) from: i32,
    pub(super) to: i32,
}

/// What a turn does with the sets.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) create: Option<ReplicaSet>,
    pub(super) update: Vec<Update>,
    pub(super) delete: Vec<Arc<ReplicaSet>>,
}

/// A Deployment and its sets. `new` is the one of the present template.
pub(super) struct Sets {
    pub(super) new: Option<Arc<ReplicaSet>>,
    pub(super) old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    /// `all` in any order. Of several sets of the present template the oldest is the new one.
    pub(super) fn of(template: &PodTemplateSpec, mut all: Vec<Arc<ReplicaSet>>) -> Self {
        all.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        let wanted = without_hash(template);
        let same = |set: &Arc<ReplicaSet>| set_template(set).is_some_and(|template| without_hash(template) == wanted);
        let new = all.iter().position(same).map(|place| all.remove(place));
        Self { new, old: all }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }

    /// Puts a written set in the place of the one that it was.
    pub(super) fn put(&mut self, written: ReplicaSet) {
        let written = Arc::new(written);
        let same = |set: &Arc<ReplicaSet>| set.metadata.uid == written.metadata.uid;
        match self.old.iter_mut().find(|set| same(set)) {
            Some(set) => *set = written,
            None => self.new = Some(written),
        }
    }
}

fn set_template(set: &ReplicaSet) -> Option<&PodTemplateSpec> {
    set.spec.as_ref()?.template.as_ref()
}

/// Labels that are not there and no labels are the same.
fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut template = template.clone();
    let metadata = template.metadata.get_or_insert_default();
    metadata.labels.get_or_insert_default().remove(HASH_LABEL);
    template
}

pub(super) fn is_of_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    set_template(set).is_some_and(|own| without_hash(own) == without_hash(template))
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

fn wanted<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i32 {
    sets.into_iter().map(|set| replicas(set)).sum()
}

fn number(set: &ReplicaSet, annotation: &str) -> Option<i64> {
    set.annotations().get(annotation)?.parse().ok()
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    number(set, REVISION).unwrap_or(0)
}

/// The plan of a turn. `pods` lists those of the namespace, if it has to.
pub(super) fn plan(deployment: &Deployment, sets: &Sets, pods: impl FnOnce() -> Vec<Arc<Pod>>) -> Plan {
    let spec = deployment.spec.clone().unwrap_or_default();
    let limits = Limits::of(&spec);
    let next_revision = sets.old.iter().map(|set| revision(set)).max().unwrap_or(0) + 1;
    // The new set first gets the annotations and the minReadySeconds of its Deployment.
    if let Some(new) = &sets.new
        && let Some(update) = refreshed(deployment, &spec, new, next_revision)
    {
        return Plan { update: vec![update], ..Plan::default() };
    }
    let paused = spec.paused == Some(true);
    let scaled = if paused || was_scaled(sets, limits.replicas) { scale(deployment, sets, limits) } else { Vec::new() };
    if paused || !scaled.is_empty() {
        let delete = if scaled.is_empty() { expired(&spec, sets) } else { Vec::new() };
        return Plan { update: scaled, delete, ..Plan::default() };
    }
    let mut plan = if limits.recreate {
        recreate(deployment, &spec, sets, limits, next_revision, pods)
    } else {
        roll(deployment, &spec, sets, limits, next_revision)
    };
    if plan == Plan::default() && is_complete(deployment, sets, limits) {
        plan.delete = expired(&spec, sets);
    }
    plan
}

fn roll(deployment: &Deployment, spec: &DeploymentSpec, sets: &Sets, limits: Limits, next: i64) -> Plan {
    let Some(new) = &sets.new else {
        let count = room_for_new(sets, limits);
        return Plan { create: Some(new_set(deployment, spec, limits, count, next)), ..Plan::default() };
    };
    let target = if replicas(new) > limits.replicas { limits.replicas } else { room_for_new(sets, limits) };
    let scaled: Vec<_> = update(deployment, new, target, limits).into_iter().filter(|u| u.from != u.to).collect();
    if !scaled.is_empty() {
        return Plan { update: scaled, ..Plan::default() };
    }
    Plan { update: scale_down_old(deployment, sets, new, limits), ..Plan::default() }
}

/// How many replicas the new set may have now.
fn room_for_new(sets: &Sets, limits: Limits) -> i32 {
    let now = sets.new.as_ref().map_or(0, |new| replicas(new));
    let room = limits.replicas + limits.surge - wanted(sets.all());
    now + room.min(limits.replicas - now).max(0)
}

/// First replicas of old sets that are not available: they serve nobody. Then as many of the others as may go without
/// leaving fewer available than the Deployment allows.
fn scale_down_old(deployment: &Deployment, sets: &Sets, new: &ReplicaSet, limits: Limits) -> Vec<Update> {
    let mut old: Vec<(Arc<ReplicaSet>, i32)> = sets.old.iter().map(|set| (Arc::clone(set), replicas(set))).collect();
    old.retain(|(_, count)| *count > 0);
    let least = limits.replicas - limits.unavailable;
    let mut may_go = wanted(sets.all()) - least - (replicas(new) - available(new));
    if old.is_empty() || may_go <= 0 {
        return Vec::new();
    }
    for (set, count) in &mut old {
        let cleaned = (*count - available(set)).clamp(0, may_go);
        *count -= cleaned;
        may_go -= cleaned;
    }
    let mut may_go = sets.all().map(|set| available(set)).sum::<i32>() - least;
    for (_, count) in &mut old {
        let gone = (*count).min(may_go).max(0);
        *count -= gone;
        may_go -= gone;
    }
    old.iter()
        .filter_map(|(set, count)| update(deployment, set, *count, limits))
        .filter(|update| update.from != update.to)
        .collect()
}

fn recreate(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    limits: Limits,
    next: i64,
    pods: impl FnOnce() -> Vec<Arc<Pod>>,
) -> Plan {
    let active = sets.old.iter().filter(|set| replicas(set) > 0);
    let down: Vec<_> = active.filter_map(|set| update(deployment, set, 0, limits)).collect();
    if !down.is_empty() {
        return Plan { update: down, ..Plan::default() };
    }
    let counted = |set: &Arc<ReplicaSet>| set.status.as_ref().is_some_and(|status| status.replicas > 0);
    let of_old = |pod: &Arc<Pod>| {
        sets.old.iter().any(|set| is_controlled_by(&pod.metadata, set.metadata.uid.as_deref())) && !terminal(pod)
    };
    let old_pods = sets.old.iter().any(counted) || (!sets.old.is_empty() && pods().iter().any(of_old));
    match &sets.new {
        _ if old_pods => Plan::default(),
        None => Plan { create: Some(new_set(deployment, spec, limits, limits.replicas, next)), ..Plan::default() },
        Some(new) => {
            let up = update(deployment, new, limits.replicas, limits).filter(|update| update.from != update.to);
            Plan { update: up.into_iter().collect(), ..Plan::default() }
        }
    }
}

/// A change of `replicas` shows in what the active sets remember of it.
fn was_scaled(sets: &Sets, replicas_now: i32) -> bool {
    let active = sets.all().filter(|set| replicas(set) > 0);
    active.filter_map(|set| number(set, DESIRED_REPLICAS)).any(|desired| desired != i64::from(replicas_now))
}

fn scale(deployment: &Deployment, sets: &Sets, limits: Limits) -> Vec<Update> {
    let active: Vec<_> = sets.all().filter(|set| replicas(set) > 0).cloned().collect();
    let newest_old = || sets.old.last();
    let one = match active.as_slice() {
        [] => sets.new.as_ref().or_else(newest_old),
        [only] => Some(only),
        _ => None,
    };
    if active.len() < 2 {
        return one.and_then(|set| update(deployment, set, limits.replicas, limits)).into_iter().collect();
    }
    if is_saturated(sets, limits) {
        let old = sets.old.iter().filter(|set| replicas(set) > 0);
        return old.filter_map(|set| update(deployment, set, 0, limits)).collect();
    }
    if limits.recreate {
        return Vec::new();
    }
    let before: i64 = deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0).into();
    shares(active, limits, before)
        .into_iter()
        .filter_map(|(set, count)| update(deployment, &set, count, limits))
        .collect()
}

/// Whether the new set alone has all replicas, and they are available.
fn is_saturated(sets: &Sets, limits: Limits) -> bool {
    sets.new.as_ref().is_some_and(|new| {
        replicas(new) == limits.replicas
            && number(new, DESIRED_REPLICAS) == Some(limits.replicas.into())
            && available(new) == limits.replicas
    })
}

/// Spreads what is to be added or taken over the active sets in proportion to their sizes; what is left by rounding
/// goes to the largest. `before` are the replicas of the Deployment's status.
fn shares(mut active: Vec<Arc<ReplicaSet>>, limits: Limits, before: i64) -> Vec<(Arc<ReplicaSet>, i32)> {
    let allowed = if limits.replicas > 0 { limits.replicas + limits.surge } else { 0 };
    let to_add = allowed - wanted(&active);
    active.sort_by_key(|set| {
        let created = set.creation_timestamp().map(|time| time.0);
        let newer_first = (to_add > 0).then_some(Reverse(created));
        let older_first = (to_add <= 0).then_some(created);
        (Reverse(replicas(set)), newer_first, older_first)
    });
    let mut added = 0;
    let mut shares: Vec<_> = active
        .into_iter()
        .map(|set| {
            let now = replicas(&set);
            let share = if to_add == 0 || to_add == added { 0 } else { fraction(&set, limits, before) };
            let left = to_add - added;
            let share = if to_add > 0 { share.min(left) } else { share.max(left) };
            added += share;
            (set, now + share)
        })
        .collect();
    if let Some((_, count)) = shares.first_mut() {
        *count = (*count + to_add - added).max(0);
    }
    shares
}

/// By how much a set's size changes when the Deployment's does.
fn fraction(set: &ReplicaSet, limits: Limits, before: i64) -> i32 {
    let now = i64::from(replicas(set));
    if limits.replicas == 0 {
        return -replicas(set);
    }
    let most_before = number(set, MAX_REPLICAS).filter(|most| *most != 0).unwrap_or(before);
    if most_before == 0 {
        return 0;
    }
    let most = i64::from(limits.replicas) + i64::from(limits.surge);
    // Rounded to the nearest, halves up.
    let size = (2 * now * most + most_before).div_euclid(2 * most_before);
    i32::try_from(size - now).unwrap_or(0)
}

/// The old sets that are too many for `revisionHistoryLimit`, the oldest revisions first.
fn expired(spec: &DeploymentSpec, sets: &Sets) -> Vec<Arc<ReplicaSet>> {
    let Some(limit) = spec.revision_history_limit.filter(|limit| *limit != i32::MAX) else { return Vec::new() };
    let mut old: Vec<_> = sets.old.iter().filter(|set| !is_deleting(&set.metadata)).cloned().collect();
    let over = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    old.sort_by_key(|set| (revision(set), set.creation_timestamp(), set.name_any()));
    let idle = |set: &Arc<ReplicaSet>| {
        let status = set.status.clone().unwrap_or_default();
        status.replicas == 0 && replicas(set) == 0 && status.observed_generation >= set.metadata.generation
    };
    old.into_iter().take(over).filter(idle).collect()
}

/// Whether all replicas are of the new set, and available, by what the sets say of themselves.
fn is_complete(deployment: &Deployment, sets: &Sets, limits: Limits) -> bool {
    super::deployment_status::is_complete(deployment, &super::deployment_status::counts(deployment, sets, limits))
}

/// The set with that number of replicas and the annotations that go with it, if anything changes.
fn update(deployment: &Deployment, set: &ReplicaSet, count: i32, limits: Limits) -> Option<Update> {
    let from = replicas(set);
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(limits.replicas);
    let mut changed = set.clone();
    let noted = note_replicas(changed.annotations_mut(), wanted, limits);
    if !noted && from == count {
        return None;
    }
    changed.spec.get_or_insert_default().replicas = Some(count);
    Some(Update { set: changed, from, to: count })
}

fn note_replicas(annotations: &mut BTreeMap<String, String>, desired: i32, limits: Limits) -> bool {
    let mut changed = false;
    for (key, value) in [(DESIRED_REPLICAS, desired), (MAX_REPLICAS, desired + limits.surge)] {
        let value = value.to_string();
        changed |= annotations.insert(key.to_owned(), value.clone()) != Some(value);
    }
    changed
}

/// The new set with what it has of the Deployment, if that differs.
fn refreshed(deployment: &Deployment, spec: &DeploymentSpec, new: &ReplicaSet, next_revision: i64) -> Option<Update> {
    let mut changed = new.clone();
    annotate(deployment, changed.annotations_mut(), next_revision);
    changed.spec.get_or_insert_default().min_ready_seconds = spec.min_ready_seconds;
    let count = replicas(new);
    (changed.metadata.annotations != new.metadata.annotations || changed.spec != new.spec).then_some(Update {
        set: changed,
        from: count,
        to: count,
    })
}

/// A set has the annotations of its Deployment, and its revision, which only grows; those that it had before are kept.
fn annotate(deployment: &Deployment, annotations: &mut BTreeMap<String, String>, next_revision: i64) {
    for (key, value) in deployment.annotations() {
        if !NOT_COPIED.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
    let before = annotations.get(REVISION).cloned();
    if before.as_ref().and_then(|before| before.parse().ok()).unwrap_or(0) >= next_revision {
        return;
    }
    annotations.insert(REVISION.to_owned(), next_revision.to_string());
    let Some(before) = before else { return };
    let history = annotations.entry(REVISION_HISTORY.to_owned()).or_default();
    let mut revisions: Vec<&str> = history.split(',').filter(|revision| !revision.is_empty()).collect();
    revisions.push(&before);
    while revisions.len() > 1 && revisions.iter().map(|revision| revision.len() + 1).sum::<usize>() > LONGEST_HISTORY {
        revisions.remove(0);
    }
    *history = revisions.join(",");
}

fn new_set(deployment: &Deployment, spec: &DeploymentSpec, limits: Limits, count: i32, revision: i64) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut match_labels = spec.selector.match_labels.clone().unwrap_or_default();
    match_labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = BTreeMap::new();
    annotate(deployment, &mut annotations, revision);
    note_replicas(&mut annotations, limits.replicas, limits);
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: Some(ReplicaSetSpec {
            replicas: Some(count),
            min_ready_seconds: spec.min_ready_seconds,
            selector: LabelSelector { match_labels: Some(match_labels), ..spec.selector.clone() },
            template: Some(template),
        }),
        status: None,
    }
}

#[cfg(test)]
mod tests;
