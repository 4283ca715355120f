//! `podFailurePolicy` and `successPolicy` of Jobs: what follows from a failed Pod, and when enough has succeeded.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::Pod;

use super::job_indexes::Indexes;
use crate::cluster::ObjectKey;

/// What a failed Pod means to its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Counts,
    Ignored,
    FailsIndex,
    /// With a sentence that says why.
    FailsJob(String),
}

/// The first rule that matches decides.
pub(super) fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let Some(policy) = &spec.pod_failure_policy else { return Verdict::Counts };
    for (place, rule) in policy.rules.iter().enumerate() {
        let found = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => exit_code(codes, pod),
            (None, Some(patterns)) => pod_condition(patterns, pod),
            (None, None) => None,
        };
        let Some(found) = found else { continue };
        match rule.action.as_str() {
            "Ignore" => return Verdict::Ignored,
            "FailIndex" if spec.backoff_limit_per_index.is_some() => return Verdict::FailsIndex,
            "Count" => return Verdict::Counts,
            "FailJob" => return Verdict::FailsJob(format!("{found} matching FailJob rule at index {place}")),
            _ => {}
        }
    }
    Verdict::Counts
}

fn exit_code(rule: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    for container in all.filter(|c| rule.container_name.as_ref().is_none_or(|name| *name == c.name)) {
        let Some(code) = container.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
        else {
            continue;
        };
        let listed = rule.values.contains(&code);
        if code != 0 && listed == (rule.operator == "In") {
            let (name, pod) = (&container.name, ObjectKey::of(pod));
            return Some(format!("Container {name} for pod {pod} failed with exit code {code}"));
        }
    }
    None
}

fn pod_condition(patterns: &[PodFailurePolicyOnPodConditionsPattern], pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let matches = |kind: &str, status: &str| {
        patterns.iter().any(|pattern| pattern.type_ == kind && pattern.status.as_deref().unwrap_or("True") == status)
    };
    let found = conditions.iter().find(|condition| matches(&condition.type_, &condition.status))?;
    Some(format!("Pod {} has condition {}", ObjectKey::of(pod), found.type_))
}

/// The place of the rule of `successPolicy` that these indexes meet.
pub(super) fn success(spec: &JobSpec, succeeded: &Indexes, completions: i32) -> Option<usize> {
    let policy = spec.success_policy.as_ref()?;
    policy.rules.iter().position(|rule| {
        let wanted = rule.succeeded_indexes.as_ref().map(|text| Indexes::parse(text, completions));
        let count = wanted.as_ref().map_or(succeeded.len(), |wanted| wanted.common(succeeded));
        match (&wanted, rule.succeeded_count) {
            (_, Some(least)) => i32::try_from(count).is_ok_and(|count| count >= least),
            (Some(wanted), None) => count == wanted.len(),
            (None, None) => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(value: Value) -> JobSpec {
        let mut all = json!({"template": {}, "backoffLimitPerIndex": 1});
        json_patch::merge(&mut all, &value);
        serde_json::from_value(all).unwrap()
    }

    fn pod(code: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"namespace": "x", "name": "p"},
            "status": {
                "conditions": [{"type": "DisruptionTarget", "status": "True"}],
                "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": {"terminated": {"exitCode": code}}}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn first_matching_rule_decides() {
        let codes = |operator: &str, name: Option<&str>, action: &str| {
            json!({"podFailurePolicy": {"rules": [{"action": action,
                "onExitCodes": {"operator": operator, "values": [42], "containerName": name}}]}})
        };
        let why = "Container c for pod x/p failed with exit code 42 matching FailJob rule at index 0";
        for (rules, code, expected) in [
            (codes("In", None, "FailJob"), 42, Verdict::FailsJob(why.into())),
            (codes("In", None, "FailJob"), 1, Verdict::Counts),
            (codes("NotIn", None, "Ignore"), 1, Verdict::Ignored),
            (codes("NotIn", None, "Ignore"), 0, Verdict::Counts),
            (codes("In", Some("other"), "Ignore"), 42, Verdict::Counts),
            (codes("In", Some("c"), "FailIndex"), 42, Verdict::FailsIndex),
        ] {
            assert_eq!(verdict(&spec(rules.clone()), &pod(code)), expected, "{rules} {code}");
        }
        let disrupted = json!({"podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]}});
        assert_eq!(verdict(&spec(disrupted), &pod(1)), Verdict::Ignored);
    }

    #[test]
    fn success_is_met_by_indexes_by_count_or_by_both() {
        let met = |rule: Value, indexes: &[i32]| {
            let spec = spec(json!({"successPolicy": {"rules": [rule]}}));
            let mut succeeded = Indexes::default();
            indexes.iter().for_each(|index| assert!(succeeded.insert(*index)));
            success(&spec, &succeeded, 10).is_some()
        };
        assert!(met(json!({"succeededIndexes": "0,2-3"}), &[0, 2, 3, 7]));
        assert!(!met(json!({"succeededIndexes": "0,2-3"}), &[0, 2]));
        assert!(met(json!({"succeededCount": 2}), &[4, 7]));
        assert!(met(json!({"succeededIndexes": "0-5", "succeededCount": 1}), &[5]));
        assert!(!met(json!({"succeededIndexes": "0-5", "succeededCount": 1}), &[6]));
    }
}
