//! Questions about what somebody may do (`k8s.io/kubernetes/pkg/apis/authorization/validation`).

use k8s_openapi::api::authorization::v1::{
    LocalSubjectAccessReview, NonResourceRule, ResourceRule, SelfSubjectAccessReview, SelfSubjectRulesReview,
    SubjectAccessReview, SubjectAccessReviewSpec, SubjectAccessReviewStatus, SubjectRulesReviewStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

use super::{Asker, Review, refuse};
use crate::api::ApiError;
use crate::api::auth::{ANONYMOUS, AUTHENTICATED, UNAUTHENTICATED};
use crate::api::causes::Causes;

impl Review for SelfSubjectAccessReview {
    const SINGULAR: &'static str = "selfsubjectaccessreview";

    fn answer(&mut self, _asker: &Asker<'_>) -> Result<(), ApiError> {
        let mut causes = Causes::default();
        one_kind_of_attributes(
            self.spec.resource_attributes.as_ref(),
            self.spec.non_resource_attributes.as_ref(),
            &mut causes,
        );
        empty_metadata(&self.metadata, false, &mut causes);
        refuse::<Self>(causes)?;
        self.status = Some(SubjectAccessReviewStatus { allowed: true, ..SubjectAccessReviewStatus::default() });
        Ok(())
    }
}

impl Review for SubjectAccessReview {
    const SINGULAR: &'static str = "subjectaccessreview";

    fn answer(&mut self, _asker: &Asker<'_>) -> Result<(), ApiError> {
        let mut causes = Causes::default();
        check_subject(&self.spec, &mut causes);
        empty_metadata(&self.metadata, false, &mut causes);
        refuse::<Self>(causes)?;
        self.status = Some(access_of(&self.spec));
        Ok(())
    }
}

impl Review for LocalSubjectAccessReview {
    const SINGULAR: &'static str = "localsubjectaccessreview";
    const NAMESPACED: bool = true;

    fn answer(&mut self, asker: &Asker<'_>) -> Result<(), ApiError> {
        match self.metadata.namespace.as_deref() {
            None | Some("") => self.metadata.namespace = Some(asker.namespace.to_owned()),
            Some(namespace) if namespace != asker.namespace => {
                return Err(ApiError::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            Some(_) => {}
        }
        let mut causes = Causes::default();
        check_subject(&self.spec, &mut causes);
        empty_metadata(&self.metadata, true, &mut causes);
        if let Some(attributes) = &self.spec.resource_attributes {
            let namespace = attributes.namespace.clone().unwrap_or_default();
            if namespace != asker.namespace {
                causes.invalid("spec.resourceAttributes.namespace", namespace, "must match metadata.namespace");
            }
        }
        if let Some(attributes) = &self.spec.non_resource_attributes {
            causes.invalid("spec.nonResourceAttributes", json(attributes), "disallowed on this kind of request");
        }
        refuse::<Self>(causes)?;
        self.status = Some(access_of(&self.spec));
        Ok(())
    }
}

impl Review for SelfSubjectRulesReview {
    const SINGULAR: &'static str = "selfsubjectrulesreview";

    fn answer(&mut self, _asker: &Asker<'_>) -> Result<(), ApiError> {
        if self.spec.namespace.as_deref().unwrap_or_default().is_empty() {
            return Err(ApiError::bad_request("no namespace on request"));
        }
        let everything = || vec!["*".to_owned()];
        self.status = Some(SubjectRulesReviewStatus {
            evaluation_error: None,
            incomplete: false,
            non_resource_rules: vec![NonResourceRule { non_resource_urls: Some(everything()), verbs: everything() }],
            resource_rules: vec![ResourceRule {
                api_groups: Some(everything()),
                resource_names: None,
                resources: Some(everything()),
                verbs: everything(),
            }],
        });
        Ok(())
    }
}

/// Everything for those who can authenticate, nothing for others.
fn access_of(spec: &SubjectAccessReviewSpec) -> SubjectAccessReviewStatus {
    let groups = spec.groups.as_deref().unwrap_or_default();
    let is_in = |name: &str| groups.iter().any(|group| group == name);
    let anonymous = spec.user.as_deref() == Some(ANONYMOUS) || is_in(UNAUTHENTICATED);
    let allowed = !anonymous || is_in(AUTHENTICATED);
    SubjectAccessReviewStatus { allowed, ..SubjectAccessReviewStatus::default() }
}

fn check_subject(spec: &SubjectAccessReviewSpec, causes: &mut Causes) {
    one_kind_of_attributes(spec.resource_attributes.as_ref(), spec.non_resource_attributes.as_ref(), causes);
    if spec.user.as_deref().unwrap_or_default().is_empty() && spec.groups.as_ref().is_none_or(Vec::is_empty) {
        causes.invalid("spec.user", "", "at least one of user or group must be specified");
    }
}

fn one_kind_of_attributes<R, N: Serialize>(resource: Option<&R>, other: Option<&N>, causes: &mut Causes) {
    match (resource, other) {
        (Some(_), Some(other)) => causes.invalid(
            "spec.nonResourceAttributes",
            json(other),
            "cannot be specified in combination with resourceAttributes",
        ),
        (None, None) => causes.invalid(
            "spec.resourceAttributes",
            "null",
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
}

/// Reviews have no name, labels or whatever else; those in a namespace name it.
fn empty_metadata(metadata: &ObjectMeta, namespaced: bool, causes: &mut Causes) {
    let mut rest = metadata.clone();
    rest.managed_fields = None;
    if namespaced {
        rest.namespace = None;
    }
    if rest != ObjectMeta::default() {
        let detail = if namespaced { "must be empty except for namespace" } else { "must be empty" };
        causes.invalid("metadata", json(metadata), detail);
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
