use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn job(spec: Value, status: Value) -> Job {
    let mut all = json!({"parallelism": 2, "completions": 5, "backoffLimit": 3, "completionMode": "NonIndexed",
        "podReplacementPolicy": "TerminatingOrFailed",
        "template": {"metadata": {"labels": {"j": "1"}}, "spec": {"restartPolicy": "Never",
            "containers": [{"name": "c"}]}}});
    json_patch::merge(&mut all, &spec);
    let value = json!({"metadata": {"name": "j", "uid": "u", "generation": 1}, "spec": all, "status": status});
    serde_json::from_value(value).unwrap()
}

/// A Pod in a phase, with the finalizer or not, that ended at second 0 if it did.
fn pod(uid: &str, phase: &str, change: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": uid, "uid": uid, "finalizers": [FINALIZER], "creationTimestamp": at(-90).to_string()},
        "spec": {"nodeName": "n", "containers": []},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at(0).to_string()}}}]},
    });
    json_patch::merge(&mut pod, &change);
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn indexed(uid: &str, phase: &str, index: i32, failures: i32) -> Arc<Pod> {
    let annotations = json!({INDEX: index.to_string(), INDEX_FAILURES: failures.to_string()});
    pod(uid, phase, json!({"metadata": {"annotations": annotations}}))
}

fn counted_off(uid: &str, phase: &str) -> Arc<Pod> {
    pod(uid, phase, json!({"metadata": {"finalizers": null}}))
}

fn names(pods: &[Arc<Pod>]) -> Vec<String> {
    pods.iter().map(|pod| pod.name_any()).collect()
}

fn reason<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a str> {
    status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")?.reason.as_deref()
}

#[test]
fn pods_are_made_up_to_parallelism_and_what_is_left() {
    let none = job(json!({}), json!({}));
    let first = plan(&none, &[], at(0));
    assert_eq!(first.create.len(), 2);
    assert_eq!((first.status.active, first.status.start_time), (Some(2), Some(Time(at(0)))));
    assert_eq!(first.create[0].finalizers(), [FINALIZER]);
    assert_eq!(first.create[0].metadata.generate_name.as_deref(), Some("j-"));
    let nearly = job(json!({}), json!({"succeeded": 4}));
    assert_eq!(plan(&nearly, &[], at(0)).create.len(), 1);
    let running = [pod("a", "Running", json!({})), pod("b", "Pending", json!({}))];
    assert_eq!(names(&plan(&nearly, &running, at(0)).cancel), ["b"]);
    // A work queue: once one has succeeded no more are made.
    let queue = |status| job(json!({"completions": null, "parallelism": 3}), status);
    assert_eq!(plan(&queue(json!({})), &[], at(0)).create.len(), 3);
    assert_eq!(plan(&queue(json!({"succeeded": 1})), &running, at(0)).create.len(), 0);
}

#[test]
fn ended_pods_are_counted_once_by_their_finalizers() {
    let pods = [pod("good", "Succeeded", json!({})), pod("bad", "Failed", json!({}))];
    let noted = plan(&job(json!({}), json!({})), &pods, at(60));
    let uncounted = noted.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!((uncounted.succeeded, uncounted.failed), (Some(vec!["good".into()]), Some(vec!["bad".into()])));
    assert_eq!((noted.status.succeeded, noted.status.failed), (None, None));
    assert_eq!(names(&noted.release), ["good", "bad"]);
    let written = serde_json::to_value(&noted.status).unwrap();
    // The finalizer of one is gone; the other is still to be removed, and is not noted twice.
    let pods = [counted_off("good", "Succeeded"), Arc::clone(&pods[1])];
    let counted = plan(&job(json!({}), written), &pods, at(61));
    assert_eq!((counted.status.succeeded, counted.status.failed), (Some(1), None));
    assert_eq!(counted.status.uncounted_terminated_pods.clone().unwrap().failed, Some(vec!["bad".into()]));
    let written = serde_json::to_value(&counted.status).unwrap();
    // A Pod that somebody deleted altogether is counted as well.
    let last = plan(&job(json!({}), written), &[], at(62));
    assert_eq!((last.status.succeeded, last.status.failed), (Some(1), Some(1)));
    assert_eq!(last.status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
}

#[test]
fn failures_hold_the_next_pod_back_for_longer_and_longer() {
    let wait = |pods: &[Arc<Pod>], second| {
        let plan = plan(&job(json!({"parallelism": 1}), json!({})), pods, at(second));
        plan.again.map(|wait| wait.as_secs())
    };
    let bad = |uid: &str| counted_off(uid, "Failed");
    assert_eq!(wait(&[bad("a")], 0), Some(10));
    assert_eq!(wait(&[bad("a")], 4), Some(6));
    assert_eq!(wait(&[bad("a"), bad("b"), bad("c")], 0), Some(40));
    assert_eq!(wait(&[bad("a")], 10), None);
    let later = json!({"metadata": {"finalizers": null}, "status": {"containerStatuses": [{"name": "c", "image": "",
        "imageID": "", "ready": false, "restartCount": 0,
        "state": {"terminated": {"exitCode": 0, "finishedAt": at(5).to_string()}}}]}});
    assert_eq!(wait(&[bad("a"), pod("b", "Succeeded", later)], 6), None);
}

#[test]
fn job_that_is_done_for_lets_its_pods_go_and_then_says_so() {
    let running = || vec![pod("a", "Running", json!({}))];
    let failed = plan(&job(json!({}), json!({"failed": 4})), &running(), at(0));
    assert_eq!(reason(&failed.status, FAILURE_TARGET), Some("BackoffLimitExceeded"));
    assert_eq!((names(&failed.stop), reason(&failed.status, "Failed")), (vec!["a".to_owned()], None));
    let written = serde_json::to_value(&failed.status).unwrap();
    let going = pod("a", "Running", json!({"metadata": {"deletionTimestamp": at(1).to_string()}}));
    let waiting = plan(&job(json!({}), written), &[going], at(1));
    assert_eq!((reason(&waiting.status, "Failed"), names(&waiting.release)), (None, vec!["a".to_owned()]));
    let written = serde_json::to_value(&waiting.status).unwrap();
    let over = plan(&job(json!({}), written), &[], at(2));
    assert_eq!((reason(&over.status, "Failed"), over.status.failed), (Some("BackoffLimitExceeded"), Some(5)));
    assert_eq!(over.status.completion_time, None);
    assert_eq!(over.events[0].1, "BackoffLimitExceeded");
}

#[test]
fn job_is_complete_when_its_last_pod_is_gone() {
    let done = plan(&job(json!({}), json!({"succeeded": 5})), &[], at(0));
    assert_eq!(reason(&done.status, SUCCESS), Some("CompletionsReached"));
    assert_eq!(reason(&done.status, "Complete"), Some("CompletionsReached"));
    assert_eq!((done.status.completion_time, done.create.len()), (Some(Time(at(0))), 0));
}

#[test]
fn deadline_ends_a_job_that_is_not_suspended() {
    let spec = json!({"activeDeadlineSeconds": 30});
    let started = json!({"startTime": at(0).to_string()});
    let soon = plan(&job(spec.clone(), started.clone()), &[], at(10));
    assert_eq!(soon.again, Some(Duration::from_secs(20)));
    let late = plan(&job(spec, started.clone()), &[], at(30));
    assert_eq!(reason(&late.status, FAILURE_TARGET), Some("DeadlineExceeded"));
    let suspended = plan(&job(json!({"activeDeadlineSeconds": 30, "suspend": true}), started), &[], at(99));
    assert_eq!(
        (reason(&suspended.status, FAILURE_TARGET), reason(&suspended.status, SUSPENDED)),
        (None, Some("JobSuspended"))
    );
}

#[test]
fn suspended_job_gives_up_its_pods_without_counting_them() {
    let running = [pod("a", "Running", json!({}))];
    let held = plan(&job(json!({"suspend": true}), json!({})), &running, at(0));
    assert_eq!(
        (names(&held.cancel), held.status.active, held.status.start_time.clone()),
        (vec!["a".to_owned()], None, None)
    );
    let written = serde_json::to_value(&held.status).unwrap();
    let resumed = plan(&job(json!({}), written), &[], at(50));
    assert_eq!((resumed.create.len(), resumed.status.start_time), (2, Some(Time(at(50)))));
    assert_eq!(resumed.events[0].1, "Resumed");
    // What it ran before it was suspended does not count.
    let deadline = || json!({"activeDeadlineSeconds": 30, "suspend": false});
    let suspended = json!({"startTime": at(0).to_string(), "conditions": [{"type": SUSPENDED, "status": "True"}]});
    let resumed = plan(&job(deadline(), suspended), &[], at(99));
    assert_eq!(
        (reason(&resumed.status, FAILURE_TARGET), resumed.status.start_time.clone()),
        (None, Some(Time(at(99))))
    );
    assert_eq!((resumed.create.len(), resumed.again), (2, Some(Duration::from_secs(30))));
}

#[test]
fn indexed_job_makes_each_index_once() {
    let spec = |more: Value| {
        let mut all = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 3});
        json_patch::merge(&mut all, &more);
        all
    };
    let pods = [indexed("a", "Succeeded", 1, 0), indexed("b", "Running", 2, 0)];
    let found = plan(&job(spec(json!({})), json!({"completedIndexes": "0", "succeeded": 1})), &pods, at(0));
    assert_eq!((found.status.completed_indexes.as_deref(), found.status.succeeded), (Some("0,1"), Some(2)));
    assert_eq!(found.create.len(), 1);
    let made = &found.create[0];
    assert_eq!((made.annotations()[INDEX].as_str(), made.labels()[INDEX].as_str()), ("3", "3"));
    assert_eq!(made.metadata.generate_name.as_deref(), Some("j-3-"));
    let made = serde_json::to_value(made.spec.as_ref().unwrap()).unwrap();
    assert_eq!(made["hostname"], "j-3");
    assert_eq!(made["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    assert_eq!(
        made["containers"][0]["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        format!("metadata.labels['{INDEX}']")
    );
    // Two of one index: the younger goes.
    let young = json!({"metadata": {"creationTimestamp": at(-1).to_string(), "annotations": {INDEX: "2"}}});
    let twice = [pod("young", "Running", young), indexed("old", "Running", 2, 0)];
    assert_eq!(names(&plan(&job(spec(json!({})), json!({})), &twice, at(0)).cancel), ["young"]);
    // A success policy ends the Job before all indexes are done.
    let enough = spec(json!({"successPolicy": {"rules": [{"succeededIndexes": "0-1"}]}}));
    let found = plan(&job(enough, json!({"completedIndexes": "0,1"})), &[indexed("b", "Running", 2, 0)], at(0));
    assert_eq!((reason(&found.status, SUCCESS), names(&found.stop)), (Some("SuccessPolicy"), vec!["b".to_owned()]));
}

#[test]
fn limit_per_index_fails_an_index_and_not_the_others() {
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1,
        "backoffLimit": 99});
    let first = [indexed("a", "Failed", 0, 0), indexed("b", "Running", 1, 0)];
    let held = plan(&job(spec.clone(), json!({})), &first, at(3));
    assert_eq!((held.create.len(), held.again), (0, Some(Duration::from_secs(7))));
    assert_eq!(names(&held.release), Vec::<String>::new(), "it tells the next how often the index failed");
    let again = plan(&job(spec.clone(), json!({})), &first, at(10));
    assert_eq!(again.create[0].annotations()[INDEX_FAILURES], "1");
    let second = [indexed("a", "Failed", 0, 0), indexed("c", "Failed", 0, 1), indexed("b", "Running", 1, 0)];
    let failed = plan(&job(spec.clone(), json!({})), &second, at(60));
    assert_eq!((failed.status.failed_indexes.as_deref(), failed.create.len()), (Some("0"), 0));
    assert_eq!(reason(&failed.status, FAILURE_TARGET), None);
    let all = plan(&job(spec, json!({"failedIndexes": "0", "completedIndexes": "1"})), &[], at(60));
    assert_eq!(reason(&all.status, FAILURE_TARGET), Some("FailedIndexes"));
}

#[test]
fn failure_policy_ignores_pods_or_fails_the_job() {
    let policy = |action: &str| json!({"podFailurePolicy": {"rules": [{"action": action, "onExitCodes": {"operator": "In", "values": [1]}}]}});
    let bad = [pod("a", "Failed", json!({}))];
    let ignored = plan(&job(policy("Ignore"), json!({})), &bad, at(60));
    assert_eq!(ignored.status.uncounted_terminated_pods, Some(UncountedTerminatedPods::default()));
    assert_eq!(names(&ignored.release), ["a"]);
    let failed = plan(&job(policy("FailJob"), json!({})), &bad, at(60));
    assert_eq!(reason(&failed.status, FAILURE_TARGET), Some("PodFailurePolicy"));
}

#[test]
fn replacement_waits_for_the_end_where_the_policy_says_so() {
    let going = || [pod("a", "Running", json!({"metadata": {"deletionTimestamp": at(0).to_string()}}))];
    let late = plan(&job(json!({"parallelism": 1, "podReplacementPolicy": "Failed"}), json!({})), &going(), at(60));
    assert_eq!((late.create.len(), late.status.terminating, late.release.len()), (0, Some(1), 0));
    let soon = plan(&job(json!({"parallelism": 1}), json!({})), &going(), at(60));
    assert_eq!((soon.create.len(), soon.release.len()), (1, 1));
}
