//! What containers may do, and as whom.

use serde_json::{Value, json};

use super::pods::{shell, whole_log, with};
use super::world::{World, condition, is_ready};

fn succeeded(status: &Value) -> bool {
    status["phase"] == "Succeeded"
}

fn once(script: &str, security: Value) -> Value {
    let mut spec = with(shell(script), json!({"restartPolicy": "Never"}));
    spec["containers"][0]["securityContext"] = security;
    spec
}

/// Whether all ids of the machine can be had, as by root.
pub fn all_ids() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"))
}

/// A set of capabilities, as the bits that /proc shows.
fn bits(numbers: &[u32]) -> String {
    format!("{:016x}", numbers.iter().fold(0_u64, |all, number| all | 1 << number))
}

pub async fn users_groups_and_capabilities_are_as_asked() {
    let world = World::start().await;
    let show = "grep -E '^(Cap(Bnd|Eff)|NoNewPrivs):' /proc/self/status | cut -f2";
    // CAP_NET_BIND_SERVICE is number 10.
    let drop =
        json!({"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}, "allowPrivilegeEscalation": false});
    world.run("dropped", once(show, drop), succeeded).await;
    let one = bits(&[10]);
    assert_eq!(whole_log(&world, "dropped").await, format!("{one}\n{one}\n1\n"));
    world.run("default", once(show, json!({})), succeeded).await;
    let default = bits(&[0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31]);
    assert_eq!(whole_log(&world, "default").await, format!("{default}\n{default}\n0\n"));
    world.run("privileged", once(show, json!({"privileged": true})), succeeded).await;
    let log = whole_log(&world, "privileged").await;
    assert!(log.len() > 3 && !log.starts_with(&default), "{log}");

    if all_ids() {
        let script = "id -u; id -g; id -G; echo $HOME; touch /data/f; stat -c '%u %g %a' /data/f; echo out >/dev/stdout; \
                      cat /keys/k; stat -Lc '%g %a' /keys/k";
        let mut spec = once(script, json!({"runAsUser": 1234, "runAsNonRoot": true}));
        spec["securityContext"] =
            json!({"runAsUser": 1, "runAsGroup": 2345, "supplementalGroups": [7777], "fsGroup": 3456});
        spec["volumes"] =
            json!([{"name": "v", "emptyDir": {}}, {"name": "k", "secret": {"secretName": "s", "defaultMode": 0o400}}]);
        let mounts = json!([{"name": "v", "mountPath": "/data"}, {"name": "k", "mountPath": "/keys"}]);
        spec["containers"][0]["volumeMounts"] = mounts;
        world.secret("s", json!({"k": "eAo="}));
        world.run("user", spec, succeeded).await;
        let log = whole_log(&world, "user").await;
        assert_eq!(log, "1234\n2345\n2345 3456 7777\n/\n1234 3456 644\nout\nx\n3456 440\n");
        let mut spec = once("echo again >\"$(tty)\"", json!({"runAsUser": 1234}));
        spec["containers"][0]["tty"] = json!(true);
        world.run("terminal", spec, succeeded).await;
        assert_eq!(whole_log(&world, "terminal").await, "again\r\n");
    } else {
        world.run("user", once("id -u", json!({"runAsUser": 1234})), succeeded).await;
        let told = |text: &str| text.starts_with("runAsUser 1234 of container c is not honored");
        assert!(world.api.events.lock().iter().any(|(reason, text)| reason == "NotSupported" && told(text)));
        assert_eq!(whole_log(&world, "user").await, "0\n");
    }
    world.end().await;
}

pub async fn read_only_root_leaves_volumes_writable() {
    let world = World::start().await;
    let script = "for p in /x /etc/x /tmp/x /new/y/x /etc/hosts; do (echo >$p) 2>/dev/null && echo wrote $p; done; \
                  echo v >/data/x; cat /data/x; echo s >/dev/shm/x; cat /dev/shm/x; echo n >/dev/null; \
                  echo last >/dev/termination-log";
    let mut spec = once(script, json!({"readOnlyRootFilesystem": true}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"},
        {"name": "v", "mountPath": "/new/y/z"}]);
    let status = world.run("fixed", spec, succeeded).await;
    // /etc/hosts is the Pod's own file, as with a container runtime.
    assert_eq!(whole_log(&world, "fixed").await, "wrote /etc/hosts\nv\ns\n");
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["message"], "last\n");
    world.end().await;
}

pub async fn root_user_is_refused_where_the_pod_forbids_it() {
    let world = World::start().await;
    let spec = once("true", json!({"runAsNonRoot": true}));
    let waiting = |s: &Value| s["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let status = world.run("root", spec, waiting).await;
    let message =
        "container has runAsNonRoot and image will run as root (pod: \"root_default(uid-root)\", container: c)";
    assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["message"], message);
    assert_eq!(world.event("Failed").await, format!("Error: {message}"));
    world.end().await;
}

/// The other half of the next scenario: prints what signals are blocked and ignored in a container.
pub async fn tell_signals() {
    let world = World::start().await;
    let script = "exec grep -E '^Sig(Blk|Ign):' /proc/self/status";
    world.run("signals", once(script, json!({})), succeeded).await;
    print!("{}", whole_log(&world, "signals").await);
    world.end().await;
}

pub async fn signals_mean_the_usual_whatever_vipyard_was_started_with() {
    let mut vipyard = std::process::Command::new("env");
    vipyard.args(["--ignore-signal=HUP", "--block-signal=TERM"]);
    let told = vipyard.arg(std::env::current_exe().unwrap()).arg("tell-signals").output().unwrap();
    let none = bits(&[]);
    assert_eq!(String::from_utf8_lossy(&told.stdout), format!("SigBlk:\t{none}\nSigIgn:\t{none}\n"), "{told:?}");
}

pub async fn sysctls_of_the_pods_network_are_set_and_others_refused() {
    let world = World::start().await;
    let sysctl = |name: &str, value: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": value}]}});
    let script = shell("cat /proc/sys/net/ipv4/ip_local_port_range");
    let spec = with(script.clone(), json!({"restartPolicy": "Never"}));
    world.run("set", with(spec.clone(), sysctl("net.ipv4.ip_local_port_range", "2000 3000")), succeeded).await;
    assert_eq!(whole_log(&world, "set").await.split_whitespace().collect::<Vec<_>>(), ["2000", "3000"]);
    let status = world.run("refused", with(spec, sysctl("vm.swappiness", "1")), |s| s["phase"] == "Failed").await;
    assert_eq!(
        (&status["reason"], &status["message"]),
        (&json!("SysctlForbidden"), &json!("forbidden sysctl: \"vm.swappiness\" not allowlisted"))
    );
    world.end().await;
}

pub async fn shared_process_namespace_shows_all_and_reaps() {
    let world = World::start().await;
    // An orphan goes to process 1, which is not the container's; it must not stay as a zombie.
    let script = "(sleep 0.01 &) ; i=0; while :; do n=0; z=0; for d in /proc/[0-9]*; do read -r _ _ s _ <$d/stat || continue; \
                  n=$((n+1)); [ $s = Z ] && z=$((z+1)); done 2>/dev/null; [ $n -ge 3 ] && [ $z = 0 ] && [ $i -gt 3 ] && break; \
                  i=$((i+1)); [ $i -lt 200 ] || break; sleep 0.05; done; echo $$ zombies $z; tr '\\0' ' ' </proc/1/cmdline; \
                  echo; exec sleep 100";
    let mut spec = with(shell(script), json!({"shareProcessNamespace": true, "terminationGracePeriodSeconds": 1}));
    spec["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "d", "image": "vipyard/host", "command": ["/bin/sleep", "100"]}));
    world.run("shares", spec, is_ready).await;
    world.logged("shares", "vipyard image pause ").await;
    let log = std::fs::read_to_string(world.dir.path().join("pods/uid-shares/c/0.log")).unwrap();
    let said = log.lines().next().unwrap().splitn(4, ' ').nth(3).unwrap().to_owned();
    assert!(said.ends_with(" zombies 0") && !said.starts_with("1 "), "{said}");
    world.api.delete_gracefully("shares", 1);
    world.gone("shares").await;
    world.end().await;
}

pub async fn processes_of_a_shared_namespace_end_with_their_container() {
    let world = World::start().await;
    let script = "if [ ! -e /v/first ]; then touch /v/first; tail -f /dev/null & exit 1; fi; \
                  while :; do n=0; for d in /proc/[0-9]*; do read -r _ name _ <$d/stat || continue; \
                  [ \"$name\" = '(tail)' ] && n=1; done 2>/dev/null; [ $n = 0 ] && break; sleep 0.02; done; \
                  touch /v/clean; exec sleep 100";
    let mut spec = with(
        shell(script),
        json!({"shareProcessNamespace": true, "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    let container = &mut spec["containers"][0];
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    container["readinessProbe"] = json!({"exec": {"command": ["test", "-e", "/v/clean"]}, "periodSeconds": 1});
    let status = world.run("leaves", spec, is_ready).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    world.end().await;
}

pub async fn what_can_not_be_given_is_told_once() {
    let world = World::start().await;
    let mut spec = with(shell("exit 1"), json!({"hostPID": true}));
    spec["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["FLY"]}});
    world.run("asks", spec, |s| s["containerStatuses"][0]["restartCount"].as_i64() >= Some(2)).await;
    let events = world.api.events.lock().clone();
    let told: Vec<&str> = events.iter().filter(|(r, _)| r == "NotSupported").map(|(_, text)| text.as_str()).collect();
    assert_eq!(
        told,
        [
            "hostPID is not honored: containers have process ids of their own, and end with them",
            "capability FLY of container c is not known to this kernel"
        ]
    );
    world.end().await;
}

pub async fn limits_that_can_not_be_kept_are_told_once_for_all() {
    let world = World::start().await;
    let mut spec = with(shell("true"), json!({"restartPolicy": "Never"}));
    spec["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi"}});
    for name in ["one", "two"] {
        world.run(name, spec.clone(), succeeded).await;
    }
    let events = world.api.events.lock().clone();
    let told = events.iter().filter(|(_, text)| text.starts_with("limits of resources are not kept")).count();
    if std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|known| known.contains("memory")) {
        assert!(told <= 1, "{events:?}");
        // Where they are kept, who wants more is killed.
        spec["containers"][0]["command"][2] = json!("x=$(head -c 200000000 /dev/zero | tr '\0' x); echo ${#x}");
        if told == 0 {
            let status = world.run("big", spec, |s| s["phase"] == "Failed").await;
            assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled");
        }
    } else {
        assert_eq!(told, 1, "{events:?}");
    }
    world.end().await;
}

pub async fn resize_starts_a_container_anew_where_it_asks_for_that() {
    let world = World::start().await;
    let mut spec = shell("exec sleep 100");
    spec["terminationGracePeriodSeconds"] = json!(0);
    let resources = |memory: &str| json!({"requests": {"memory": memory, "cpu": "1m"}, "limits": {"memory": memory}});
    spec["containers"][0]["resources"] = resources("64Mi");
    let mut live = spec.clone();
    spec["containers"][0]["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    world.run("anew", spec.clone(), is_ready).await;
    spec["containers"][0]["resources"] = resources("65Mi");
    world.api.edit("anew", json!({"spec": spec}));
    world.status("anew", |s| is_ready(s) && s["containerStatuses"][0]["restartCount"] == 1).await;
    // A limit that cannot be kept is told of.
    world.run("live", live.clone(), is_ready).await;
    let refused = world.api.reported("NotSupported");
    live["containers"][0]["resources"] = resources("66Mi");
    world.api.edit("live", json!({"spec": live}));
    if refused {
        let told = |text: &str| text.starts_with("new limits of container c are not kept: ");
        world.told(told).await;
    }
    assert_eq!(world.api.pod("live").unwrap()["status"]["containerStatuses"][0]["restartCount"], 0);
    world.end().await;
}

pub async fn ephemeral_container_ends_at_once_and_says_why() {
    let world = World::start().await;
    world.run("debugged", shell("exec sleep 100"), is_ready).await;
    let containers = json!([{"name": "debug", "image": "busybox"}]);
    world.api.edit("debugged", json!({"spec": {"ephemeralContainers": containers}}));
    let status = world.status("debugged", |s| s["ephemeralContainerStatuses"].is_array()).await;
    let end = &status["ephemeralContainerStatuses"][0]["state"]["terminated"];
    assert_eq!((&end["reason"], &end["exitCode"]), (&json!("StartError"), &json!(128)));
    assert!(end["message"].as_str().unwrap().contains("use kubectl exec"), "{end}");
    assert!(world.api.reported("NotSupported") && is_ready(&status));
    world.end().await;
}

pub async fn last_words_come_from_the_log_where_the_file_is_empty() {
    let world = World::start().await;
    let mut spec = with(shell("seq 20000; echo in the log; exit 2"), json!({"restartPolicy": "Never"}));
    spec["containers"][0]["terminationMessagePolicy"] = json!("FallbackToLogsOnError");
    // Several times: what is in the pipe still at the end differs.
    for name in ["log-1", "log-2", "log-3", "log-4"] {
        let status = world.run(name, spec.clone(), |s| s["phase"] == "Failed").await;
        let message = status["containerStatuses"][0]["state"]["terminated"]["message"].as_str();
        assert!(message.is_some_and(|text| text.ends_with("\n19999\n20000\nin the log")), "{message:?}");
        assert_eq!(condition(&status, "Ready"), "False");
    }
    spec["containers"][0]["command"][2] = json!("echo no; echo -n own >/tmp/words; exit 2");
    spec["containers"][0]["terminationMessagePath"] = json!("/tmp/words");
    let status = world.run("file", spec, |s| s["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["message"], "own");
    world.end().await;
}
