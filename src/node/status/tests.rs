use super::*;
use serde_json::json;

fn pod(value: serde_json::Value) -> Pod {
    let mut base = json!({"metadata": {"name": "p", "namespace": "d", "generation": 3}, "spec": {"containers": []}});
    json_patch::merge(&mut base, &value);
    serde_json::from_value(base).unwrap()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn running(name: &str, role: Role, ready: bool) -> ContainerView {
    ContainerView {
        name: name.into(),
        role,
        image: "vipyard/whoami".into(),
        image_id: "id".into(),
        container_id: "vipyard://1".into(),
        phase: Phase::Running { since: at(5) },
        last: None,
        restarts: 0,
        ready,
        started: true,
    }
}

fn waiting(name: &str, role: Role) -> ContainerView {
    let phase = Phase::Waiting { reason: "PodInitializing".into(), message: None };
    ContainerView { phase, started: false, ready: false, ..running(name, role, false) }
}

fn ended(name: &str, role: Role, exit_code: i32) -> ContainerView {
    let ended = Ended {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed".into() } else { "Error".into() },
        message: None,
        started_at: at(5),
        finished_at: at(6),
        container_id: "vipyard://1".into(),
    };
    ContainerView { phase: Phase::Ended(ended), started: false, ..running(name, role, false) }
}

fn view(containers: Vec<ContainerView>) -> PodView {
    PodView {
        host_ips: vec!["10.245.0.11".into()],
        pod_ips: vec!["10.244.1.2".into(), "fd00::2".into()],
        sandbox: true,
        start_time: at(4),
        containers,
        terminal: false,
        failed: None,
    }
}

/// `(status, reason)` of a condition.
fn of(status: &PodStatus, type_: &str) -> (String, Option<String>) {
    let c = status.conditions.iter().flatten().find(|c| c.type_ == type_).expect("condition is there");
    (c.status.clone(), c.reason.clone())
}

fn yes() -> (String, Option<String>) {
    ("True".into(), None)
}

fn no(reason: &str) -> (String, Option<String>) {
    ("False".into(), Some(reason.into()))
}

#[test]
fn running_ready_pod_has_all_conditions_and_addresses_ps1_ps5() {
    let status = pod_status(&pod(json!({})), &view(vec![running("c", Role::Main, true)]), at(9));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    for type_ in OWN {
        assert_eq!(of(&status, type_), yes(), "{type_}");
    }
    assert!(status.conditions.iter().flatten().all(|c| c.observed_generation == Some(3)));
    assert_eq!(status.pod_ip.as_deref(), Some("10.244.1.2"));
    assert_eq!(status.pod_ips.unwrap()[0].ip, "10.244.1.2");
    assert_eq!(status.start_time, Some(Time(at(4))));
}

#[test]
fn unready_container_is_named_ps2() {
    let status = pod_status(
        &pod(json!({})),
        &view(vec![running("a", Role::Main, false), running("b", Role::Main, true)]),
        at(9),
    );
    assert_eq!(of(&status, "ContainersReady"), no("ContainersNotReady"));
    assert_eq!(of(&status, "Ready"), no("ContainersNotReady"));
    let ready = status.conditions.unwrap().into_iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
}

#[test]
fn gates_hold_ready_back_and_foreign_conditions_stay_ps2_ps6() {
    let gated = |conditions: serde_json::Value| {
        pod(json!({"spec": {"readinessGates": [{"conditionType": "lb"}]}, "status": {"conditions": conditions}}))
    };
    let view = view(vec![running("c", Role::Main, true)]);
    assert_eq!(of(&pod_status(&gated(json!([])), &view, at(9)), "Ready"), no("ReadinessGatesNotReady"));
    let shut = pod_status(&gated(json!([{"type": "lb", "status": "False"}])), &view, at(9));
    assert_eq!(of(&shut, "Ready"), no("ReadinessGatesNotReady"));
    assert_eq!(of(&shut, "ContainersReady"), yes());
    let open = pod_status(&gated(json!([{"type": "lb", "status": "True"}])), &view, at(9));
    assert_eq!(of(&open, "Ready"), yes());
    assert_eq!(of(&open, "lb"), yes());
}

#[test]
fn transition_time_moves_only_with_the_status() {
    let mut pod = pod(json!({}));
    pod.status = Some(pod_status(&pod, &view(vec![running("c", Role::Main, true)]), at(9)));
    let again = pod_status(&pod, &view(vec![running("c", Role::Main, true)]), at(20));
    assert_eq!(Some(&again), pod.status.as_ref());
    let unready = pod_status(&pod, &view(vec![running("c", Role::Main, false)]), at(20));
    let time = |type_: &str| {
        let found = unready.conditions.iter().flatten().find(|c| c.type_ == type_);
        found.and_then(|c| c.last_transition_time.clone()).unwrap()
    };
    assert_eq!((time("Initialized"), time("Ready")), (Time(at(9)), Time(at(20))));
}

#[test]
fn pending_until_init_is_done_ps4_ps11() {
    let pod = pod(json!({}));
    let status = pod_status(&pod, &view(vec![running("i", Role::Init, false), waiting("c", Role::Main)]), at(9));
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    assert_eq!(of(&status, "Initialized"), no("ContainersNotInitialized"));
    let status = pod_status(&pod, &view(vec![ended("i", Role::Init, 0), running("c", Role::Main, true)]), at(9));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(of(&status, "Initialized"), yes());
    assert!(status.init_container_statuses.unwrap()[0].ready);
}

#[test]
fn phase_follows_exit_codes_and_restart_policy_ps3_ps11() {
    let phase = |policy: &str, code: i32| {
        let pod = pod(json!({"spec": {"restartPolicy": policy}}));
        let status = pod_status(&pod, &view(vec![ended("c", Role::Main, code)]), at(9));
        (status.phase.clone().unwrap(), of(&status, "Ready").1.unwrap())
    };
    assert_eq!(phase("Never", 0), ("Succeeded".into(), "PodCompleted".into()));
    assert_eq!(phase("Never", 1), ("Failed".into(), "PodFailed".into()));
    assert_eq!(phase("OnFailure", 0), ("Succeeded".into(), "PodCompleted".into()));
    assert_eq!(phase("OnFailure", 1), ("Running".into(), "ContainersNotReady".into()));
    assert_eq!(phase("Always", 0), ("Running".into(), "ContainersNotReady".into()));
}

#[test]
fn crash_loop_shows_waiting_with_the_last_end_ps9() {
    let mut container = waiting("c", Role::Main);
    container.phase = Phase::Waiting { reason: "CrashLoopBackOff".into(), message: Some("back-off".into()) };
    container.restarts = 2;
    container.last = match ended("c", Role::Main, 137).phase {
        Phase::Ended(ended) => Some(ended),
        _ => None,
    };
    let status = pod_status(&pod(json!({})), &view(vec![container]), at(9));
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = serde_json::to_value(&status.container_statuses.unwrap()[0]).unwrap();
    assert_eq!(container["restartCount"], 2);
    assert_eq!(container["state"], json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}));
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 137);
    assert_eq!(container["lastState"]["terminated"]["finishedAt"], "1970-01-01T00:00:06Z");
}

#[test]
fn ended_pod_is_terminal_px3() {
    let mut view = view(vec![ended("c", Role::Main, 143)]);
    view.terminal = true;
    assert_eq!(pod_status(&pod(json!({})), &view, at(9)).phase.as_deref(), Some("Failed"));
}
