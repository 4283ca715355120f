//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, numbered, for `kubectl rollout undo`
//! (`k8s.io/kubernetes/pkg/controller/history`).

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use serde_json::json;

use super::claims::{Namespaced, claim, controller_ref, is_controlled_by};
use super::hash::template_hash;
use crate::cluster::{Informer, ObjectKey};
use crate::controllers::runner::{Error, is_already_exists, unless_gone};

/// Pods and revisions carry it: which revision a Pod is of.
pub(super) const REVISION_LABEL: &str = "controller-revision-hash";

/// The revisions of the owners of one kind.
pub(super) struct Revisions {
    client: Client,
    pub(super) cache: Informer<ControllerRevision>,
    /// The label of a revision that has its hash.
    hash_label: &'static str,
}

/// What is to be done to have a revision of the present template that is the newest.
#[derive(Debug, PartialEq)]
enum Step {
    Keep(Arc<ControllerRevision>),
    /// The template is an old one again.
    Raise(Arc<ControllerRevision>, i64),
    Create(i64),
}

/// `all` are in the order of their numbers.
fn step(all: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Step {
    let next = all.last().map_or(1, |last| last.revision + 1);
    let same = all.iter().rev().find(|revision| template_of(revision).as_ref() == Some(template));
    match same {
        Some(same) if same.revision + 1 == next => Step::Keep(Arc::clone(same)),
        Some(same) => Step::Raise(Arc::clone(same), next),
        None => Step::Create(next),
    }
}

/// The template that a revision keeps.
pub(super) fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = revision.data.as_ref()?.0.pointer("/spec/template")?;
    serde_json::from_value(template.clone()).ok()
}

/// The oldest revisions beyond `limit` of those that are not in use.
fn expired(all: &[Arc<ControllerRevision>], live: &[String], limit: Option<i32>) -> Vec<Arc<ControllerRevision>> {
    let idle: Vec<_> = all.iter().filter(|revision| !live.contains(&revision.name_any())).collect();
    let over = idle.len().saturating_sub(usize::try_from(limit.unwrap_or(10)).unwrap_or(0));
    idle.into_iter().take(over).cloned().collect()
}

impl Revisions {
    pub(super) fn new(client: &Client, cache: &Informer<ControllerRevision>, hash_label: &'static str) -> Self {
        Self { client: client.clone(), cache: cache.clone(), hash_label }
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The hash of a revision, as its label has it.
    pub(super) fn hash_of(&self, revision: &ControllerRevision) -> String {
        revision.labels().get(self.hash_label).cloned().unwrap_or_default()
    }

    /// The owner's revisions, ordered by their numbers.
    pub(super) async fn of<O: Namespaced>(
        &self,
        owner: &O,
        selector: &LabelSelector,
        wrote: impl Fn(&ControllerRevision),
    ) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        let all = self.cache.list_in(&owner.namespace().unwrap_or_default());
        let mut owned = claim(&self.client, owner, selector, all, wrote).await?;
        owned.sort_by_key(|revision| (revision.revision, revision.creation_timestamp(), revision.name_any()));
        Ok(owned)
    }

    /// The revision of the present template, which is made or becomes the newest as needs be. `None` if its name is
    /// taken by another template: the status' count of collisions has to grow.
    pub(super) async fn present<O: Namespaced>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
        all: &[Arc<ControllerRevision>],
        wrote: impl Fn(&ControllerRevision),
    ) -> Result<Option<Arc<ControllerRevision>>, Error> {
        let api = self.api(&owner.namespace().unwrap_or_default());
        let of = || format!("{} {}", O::kind(&()), ObjectKey::of(owner));
        match step(all, template) {
            Step::Keep(revision) => Ok(Some(revision)),
            Step::Raise(revision, number) => {
                let name = revision.name_any();
                let patch = Patch::Merge(json!({"revision": number}));
                let raised = api.patch(&name, &PatchParams::default(), &patch).await;
                let raised = raised.map_err(Error::api(format!("raise ControllerRevision {name} of {}", of())))?;
                wrote(&raised);
                Ok(Some(Arc::new(raised)))
            }
            Step::Create(number) => {
                let revision = self.revision(owner, template, number, collisions);
                match api.create(&PostParams::default(), &revision).await {
                    Ok(created) => {
                        wrote(&created);
                        Ok(Some(Arc::new(created)))
                    }
                    Err(e) if is_already_exists(&e) => {
                        let found = api.get_opt(&revision.name_any()).await;
                        let found = found.map_err(Error::api(format!("read a ControllerRevision of {}", of())))?;
                        let ours = |found: &ControllerRevision| {
                            is_controlled_by(&found.metadata, owner.uid().as_deref())
                                && template_of(found).as_ref() == Some(template)
                        };
                        Ok(found.filter(ours).map(Arc::new))
                    }
                    Err(e) => Err(Error::api(format!("create a ControllerRevision of {}", of()))(e)),
                }
            }
        }
    }

    fn revision<O: Namespaced>(
        &self,
        owner: &O,
        template: &PodTemplateSpec,
        number: i64,
        collisions: Option<i32>,
    ) -> ControllerRevision {
        let hash = template_hash(template, collisions);
        let mut labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        let mut data = json!({"spec": {"template": template}});
        // As a strategic merge patch it puts the template in the place of what is there.
        data["spec"]["template"]["$patch"] = "replace".into();
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", owner.name_any())),
                namespace: owner.namespace(),
                labels: Some(labels),
                annotations: Some(owner.annotations().clone()),
                owner_references: Some(vec![controller_ref(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: number,
        }
    }

    /// Deletes what is over `limit` and not `live`.
    pub(super) async fn truncate(
        &self,
        all: &[Arc<ControllerRevision>],
        live: &[String],
        limit: Option<i32>,
    ) -> Result<(), Error> {
        for revision in expired(all, live, limit) {
            let name = revision.name_any();
            let only_this = Preconditions { uid: revision.uid(), ..Preconditions::default() };
            let api = self.api(&revision.namespace().unwrap_or_default());
            let deleted = api.delete(&name, &DeleteParams::default().preconditions(only_this)).await;
            unless_gone(deleted).map_err(Error::api(format!("delete ControllerRevision {name}")))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"spec": {"containers": [{"name": "c", "image": image}]}})).unwrap()
    }

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        let value = json!({"metadata": {"name": format!("r{number}")}, "revision": number,
            "data": {"spec": {"template": {"$patch": "replace", "spec": {"containers": [{"name": "c", "image": image}]}}}}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn present_template_is_the_newest_revision() {
        let all = [revision(1, "a"), revision(2, "b")];
        assert_eq!(step(&[], &template("a")), Step::Create(1));
        assert_eq!(step(&all, &template("b")), Step::Keep(Arc::clone(&all[1])));
        assert_eq!(step(&all, &template("a")), Step::Raise(Arc::clone(&all[0]), 3));
        assert_eq!(step(&all, &template("c")), Step::Create(3));
    }

    #[test]
    fn oldest_idle_revisions_expire() {
        let all: Vec<_> = (1..=5).map(|number| revision(number, "a")).collect();
        let gone = expired(&all, &["r1".into(), "r5".into()], Some(1));
        assert_eq!(gone.iter().map(|revision| revision.revision).collect::<Vec<_>>(), [2, 3]);
    }
}
