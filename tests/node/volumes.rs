//! Volumes as containers see them.

use std::path::Path;

use serde_json::{Value, json};

use super::pods::{shell, whole_log, with};
use super::world::{World, is_ready};

/// A Pod with one container that runs a script, a volume and its mount.
fn pod(script: &str, volume: Value, mount: Value) -> Value {
    let mut spec = with(shell(script), json!({"restartPolicy": "Never", "volumes": [volume]}));
    spec["containers"][0]["volumeMounts"] = json!([mount]);
    spec
}

fn succeeded(status: &Value) -> bool {
    status["phase"] == "Succeeded"
}

fn reason(status: &Value) -> &Value {
    &status["containerStatuses"][0]["state"]["waiting"]["reason"]
}

/// Waits, in a container's shell, until a command holds.
fn until(command: &str) -> String {
    format!("i=0; until {command}; do i=$((i+1)); [ $i -lt 400 ] || exit 9; sleep 0.05; done")
}

pub async fn config_maps_and_secrets_are_files_that_change_with_them() {
    let world = World::start().await;
    world.config_map("settings", json!({"a": "one", "b": "two"}));
    world.secret("keys", json!({"key": "aGlkZGVu"}));
    let script = format!(
        "cd /config; ls; cat dir/b; echo; stat -Lc %a dir/b /keys/key; cat /keys/key; echo; \
         touch x 2>/dev/null || echo read-only; echo up; {}; cat dir/b",
        until("grep -q three dir/b")
    );
    let map =
        json!({"name": "settings", "defaultMode": 0o444, "items": [{"key": "b", "path": "dir/b", "mode": 0o400}]});
    let mut spec = pod(&script, json!({"name": "v", "configMap": map}), json!({"name": "v", "mountPath": "/config"}));
    let secret = json!({"name": "s", "secret": {"secretName": "keys", "defaultMode": 0o440}});
    spec["volumes"].as_array_mut().unwrap().push(secret);
    let mounts = spec["containers"][0]["volumeMounts"].as_array_mut().unwrap();
    mounts.push(json!({"name": "s", "mountPath": "/keys"}));
    world.api.create_pod("files", spec);
    world.status("files", is_ready).await;
    world.logged("files", "up").await;
    world.config_map("settings", json!({"b": "three"}));
    world.status("files", succeeded).await;
    assert_eq!(whole_log(&world, "files").await, "dir\ntwo\n400\n440\nhidden\nread-only\nup\nthree\n");
    world.end().await;
}

pub async fn pods_labels_are_files_that_change_with_them() {
    let world = World::start().await;
    let items = json!([{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {"path": "cpu", "resourceFieldRef": {"containerName": "c", "resource": "limits.cpu", "divisor": "1m"}}]);
    let script = format!("cat /pod/cpu; echo; echo up; {}; cat /pod/labels", until("grep -q new /pod/labels"));
    let volume = json!({"name": "v", "downwardAPI": {"items": items}});
    let mut spec = pod(&script, volume, json!({"name": "v", "mountPath": "/pod"}));
    spec["containers"][0]["resources"] = json!({"limits": {"cpu": "250m"}});
    world.api.create_pod("labels", spec);
    world.logged("labels", "up").await;
    world.api.edit("labels", json!({"metadata": {"labels": {"age": "new"}}}));
    world.status("labels", succeeded).await;
    assert_eq!(whole_log(&world, "labels").await, "250\nup\nage=\"new\"\n");
    world.end().await;
}

pub async fn empty_dirs_are_shared_and_gone_with_the_pod() {
    let world = World::start().await;
    let writer =
        format!("echo disk >/data/f; echo memory >/mem/f; df -k /mem | tail -1; {}", until("test -e /mem/seen"));
    let mut spec = with(
        shell(&writer),
        json!({"restartPolicy": "Never", "volumes": [{"name": "data", "emptyDir": {}},
            {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "2Mi"}}]}),
    );
    let mounts = json!([{"name": "data", "mountPath": "/data"}, {"name": "mem", "mountPath": "/mem"}]);
    let reader =
        format!("{}; cat /data/f /mem/f; stat -c %a /data; stat -fc %T /mem; touch /mem/seen", until("test -e /mem/f"));
    let mut other = spec["containers"][0].clone();
    (other["name"], other["command"][2]) = (json!("d"), json!(reader));
    spec["containers"].as_array_mut().unwrap().push(other);
    for container in spec["containers"].as_array_mut().unwrap() {
        container["volumeMounts"] = mounts.clone();
    }
    world.run("shared", spec, succeeded).await;
    let folder = world.dir.path().join("pods/uid-shared");
    let log = std::fs::read_to_string(folder.join("d/0.log")).unwrap();
    let said: Vec<&str> = log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).collect();
    assert_eq!(said, ["disk", "memory", "777", "tmpfs"]);
    assert!(whole_log(&world, "shared").await.contains(" 2048 "), "a limit of 2 MiB");
    // In the Pod's own namespace alone.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("uid-shared"), "{mounts}");
    world.api.delete_now("shared");
    world.vanished(&folder).await;
    world.end().await;
}

pub async fn parts_of_volumes_are_mounted_and_read_only_is_kept() {
    let world = World::start().await;
    let script = "echo x >/logs/here; touch /fixed/no 2>/dev/null || echo kept; ls /all; cat /all/parts/here; pwd; \
                  echo y >/all/deep/er/z; cat /all/deep/er/z";
    let mut spec = pod(script, json!({"name": "v", "emptyDir": {}}), json!({"name": "v", "mountPath": "/all"}));
    spec["containers"][0]["env"] = json!([{"name": "POD", "value": "parts"}]);
    spec["containers"][0]["workingDir"] = json!("/all/deep/er");
    spec["containers"][0]["volumeMounts"] = json!([
        {"name": "v", "mountPath": "/logs", "subPathExpr": "$(POD)"},
        {"name": "v", "mountPath": "/fixed", "subPath": "fixed", "readOnly": true},
        {"name": "v", "mountPath": "/all"},
        // A place inside of a volume is made in the volume.
        {"name": "v", "mountPath": "/all/deep/er", "subPath": "inner"}]);
    world.run("parts", spec, succeeded).await;
    assert_eq!(whole_log(&world, "parts").await, "kept\ndeep\nfixed\ninner\nparts\nx\n/all/deep/er\ny\n");

    let bad = json!({"name": "v", "mountPath": "/x", "subPathExpr": "$(NOBODY)"});
    let spec = pod("true", json!({"name": "v", "emptyDir": {}}), bad);
    let status = world.run("bad", spec, |s| reason(s) == "CreateContainerConfigError").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.contains("missing value for \"NOBODY\""), "{message}");
    world.end().await;
}

pub async fn missing_volume_keeps_the_pod_waiting_until_it_comes() {
    let world = World::start().await;
    let volume = json!({"name": "v", "configMap": {"name": "late"}});
    let spec = pod("cat /config/a", volume, json!({"name": "v", "mountPath": "/config"}));
    world.api.create_pod("waits", spec);
    let message = world.event("FailedMount").await;
    assert_eq!(message, "MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found");
    let status = world.status("waits", |s| reason(s) == "ContainerCreating").await;
    assert_eq!(status["phase"], "Pending");
    assert!(status["podIP"].is_null() && status["podIPs"].is_null(), "the sandbox comes after the volumes: {status}");
    let ready_to_start = |status: &Value| {
        let conditions = status["conditions"].as_array().unwrap();
        let found = conditions.iter().find(|condition| condition["type"] == "PodReadyToStartContainers");
        found.unwrap()["status"].clone()
    };
    assert_eq!(ready_to_start(&status), "False");
    world.config_map("late", json!({"a": "came"}));
    world.status("waits", succeeded).await;
    assert_eq!(whole_log(&world, "waits").await, "came\n");

    let optional = json!({"name": "v", "configMap": {"name": "never", "optional": true}});
    let spec = pod("ls /config", optional, json!({"name": "v", "mountPath": "/config"}));
    world.run("without", spec, succeeded).await;
    assert_eq!(whole_log(&world, "without").await, "");
    world.end().await;
}

pub async fn host_paths_are_checked() {
    let world = World::start().await;
    let folder = world.dir.path().join("host");
    let host = |path: &Path, type_: &str| json!({"name": "v", "hostPath": {"path": path, "type": type_}});
    let mount = json!({"name": "v", "mountPath": "/host"});
    world.api.create_pod("wrong", pod("true", host(&folder, "Directory"), mount.clone()));
    let message = world.event("FailedMount").await;
    assert!(
        message.ends_with(&format!("hostPath type check failed: {} is not a directory", folder.display())),
        "{message}"
    );
    let spec = pod("echo hello >/host/f", host(&folder, "DirectoryOrCreate"), mount);
    world.run("right", spec, succeeded).await;
    assert_eq!(std::fs::read_to_string(folder.join("f")).unwrap(), "hello\n");
    // The one that waited finds it now.
    world.status("wrong", succeeded).await;
    world.end().await;
}

pub async fn claim_is_a_folder_that_stays_until_it_is_deleted() {
    let world = World::start().await;
    let claim = |phase: &str| json!({"metadata": {"name": "disk", "namespace": "default", "uid": "disk-1"}, "status": {"phase": phase}});
    let volume = json!({"name": "data", "persistentVolumeClaim": {"claimName": "disk"}});
    let pod = |script: &str| pod(script, volume.clone(), json!({"name": "data", "mountPath": "/data"}));
    world.api.create_pod("writes", pod("echo kept >/data/f"));
    let message = world.event("FailedMount").await;
    assert!(message.ends_with("persistentvolumeclaim \"disk\" not found"), "{message}");
    world.api.writers.claims.apply(serde_json::from_value(claim("Pending")).unwrap());
    world.reported("MountVolume.SetUp failed for volume \"data\" : persistentvolumeclaim \"disk\" is not bound").await;
    world.api.writers.claims.apply(serde_json::from_value(claim("Bound")).unwrap());
    world.status("writes", succeeded).await;
    world.api.delete_now("writes");
    world.run("reads", pod("cat /data/f"), succeeded).await;
    assert_eq!(whole_log(&world, "reads").await, "kept\n");
    let folder = world.dir.path().join("volumes/pvc-disk-1");
    assert!(folder.join("f").exists());
    world.api.writers.claims.delete(&vipyard::cluster::ObjectKey::new("default", "disk"));
    world.vanished(&folder).await;
    world.end().await;
}

pub async fn volumes_of_other_types_are_refused_with_a_reason() {
    let world = World::start().await;
    let volume = json!({"name": "data", "nfs": {"server": "x", "path": "/"}});
    world.api.create_pod("nfs", pod("true", volume, json!({"name": "data", "mountPath": "/data"})));
    let message = world.event("FailedMount").await;
    for part in ["volume \"data\"", "volumes of type nfs are not supported", "emptyDir"] {
        assert!(message.contains(part), "{message}");
    }
    let status = world.status("nfs", |s| reason(s) == "ContainerCreating").await;
    assert_eq!(status["phase"], "Pending");
    world.api.delete_gracefully("nfs", 5);
    world.gone("nfs").await;
    world.end().await;
}
