//! Images of a map file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vipyard::images::Images;

use super::containers::all_ids;
use super::pods::whole_log;
use super::world::World;

async fn world(folder: &Path, map: &str) -> World {
    let file = folder.join("images.yaml");
    fs::write(&file, map).unwrap();
    let images = Images::open(Some(file)).unwrap();
    tokio::spawn(images.clone().follow());
    World::with_images(images, |_| ()).await
}

fn succeeded(status: &Value) -> bool {
    status["phase"] == "Succeeded"
}

fn waiting(status: &Value) -> &Value {
    &status["containerStatuses"][0]["state"]["waiting"]["reason"]
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c"});
    json_patch::merge(&mut container, &more);
    json!({"restartPolicy": "Never", "containers": [container]})
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A root file system of some programs of this machine and what they need to run.
fn root(folder: &Path, programs: &[&str]) {
    for name in ["bin", "etc", "tmp", "var/run"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    for program in programs {
        let path = format!("/bin/{program}");
        fs::copy(&path, folder.join("bin").join(program)).unwrap();
        let needed = Command::new("ldd").arg(&path).output().unwrap();
        for library in String::from_utf8(needed.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/')) {
            let place = folder.join(&library[1..]);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::copy(library, place).unwrap();
        }
    }
}

pub async fn program_of_the_map_runs_as_the_image_says() {
    let folder = tempfile::tempdir().unwrap();
    script(&folder.path().join("app"), "echo \"$0 $* $GREETING $(pwd)\"");
    let world = world(
        folder.path(),
        "images:\n  myapp:dev: ./app\n  full:\n    entrypoint: [./app, run]\n    cmd: [by, default]\n    \
         env: {GREETING: hi}\n    workingDir: /usr\n",
    )
    .await;
    let app = folder.path().join("app").display().to_string();
    for (name, more, said) in [
        ("plain", json!({"image": "docker.io/library/myapp:dev", "args": ["x"]}), format!("{app} x  /\n")),
        ("default", json!({"image": "full:1"}), format!("{app} run by default hi /usr\n")),
        ("args", json!({"image": "full", "args": ["$(GREETING)"]}), format!("{app} run hi hi /usr\n")),
        ("command", json!({"image": "full", "command": ["/bin/echo", "own"], "workingDir": "/"}), "own\n".to_owned()),
    ] {
        let status = world.run(name, container(more), succeeded).await;
        assert_eq!(whole_log(&world, name).await, said);
        assert!(status["containerStatuses"][0]["imageID"].as_str().unwrap().starts_with("vipyard://"));
    }
    world.end().await;
}

pub async fn root_file_system_is_the_images_own_and_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root");
    root(&image, &["sh", "cat", "ls", "touch", "mkdir"]);
    fs::write(image.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:0:0::/srv/web:/bin/sh\n").unwrap();
    fs::write(image.join("etc/os-release"), "an image of its own\n").unwrap();
    let world = world(
        folder.path(),
        "images:\n  small:\n    rootfs: root\n    entrypoint: [sh, -c]\n    env: {PATH: /bin}\n    workingDir: /work\n    \
         user: web\n",
    )
    .await;
    let script = "cat /etc/os-release /etc/hostname; echo $HOME; cat /proc/self/comm; for d in null zero random urandom tty shm \
                  pts ptmx; do [ -e /dev/$d ] || echo no $d; done; ls /sys | while read x; do echo sys; break; done; \
                  touch /sys/x 2>/dev/null || echo fixed; ls /; echo more >/etc/os-release; cat /etc/os-release; \
                  cat /etc/hosts | while read x; do echo \"$x\"; break; done; echo in >/data/deep/f; cat /data/deep/f";
    let mut spec = container(json!({"image": "small", "args": [script]}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/data/deep"}]);
    for name in ["first", "second"] {
        world.run(name, spec.clone(), succeeded).await;
        let log = whole_log(&world, name).await;
        let listed = "bin\ndata\ndev\netc\nlib\nlib64\nproc\nsys\ntmp\nusr\nvar\nwork\n".split_inclusive('\n');
        let image_has = |entry: &&str| {
            matches!(entry.trim(), "data" | "dev" | "proc" | "sys" | "work") || image.join(entry.trim()).exists()
        };
        let listed: String = listed.filter(image_has).collect();
        // An ordinary user has no other, which is told.
        let home = if all_ids() { "/srv/web" } else { "/root" };
        assert_eq!(
            log,
            format!(
                "an image of its own\n{name}\n{home}\ncat\nsys\nfixed\n{listed}more\n# Kubernetes-managed hosts file.\nin\n"
            )
        );
    }
    assert_eq!(fs::read_to_string(image.join("etc/os-release")).unwrap(), "an image of its own\n");
    assert!(!image.join("work").exists() && !image.join("data").exists());

    let mut spec =
        container(json!({"image": "small", "args": ["touch /x 2>&1 || echo kept; touch /data/x && echo mine"]}));
    spec["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"}]);
    spec["containers"][0]["securityContext"] = json!({"readOnlyRootFilesystem": true});
    world.run("fixed", spec, succeeded).await;
    let log = whole_log(&world, "fixed").await;
    assert!(log.contains("Read-only file system") && log.ends_with("kept\nmine\n"), "{log}");
    world.end().await;
}

pub async fn unknown_image_starts_when_the_map_has_it() {
    let folder = tempfile::tempdir().unwrap();
    script(&folder.path().join("app"), "echo here");
    let world = world(folder.path(), "images: {}\n").await;
    world.api.create_pod("late", container(json!({"image": "team/app:v2"})));
    world.status("late", |s| waiting(s) == "ErrImagePull").await;
    let status = world.status("late", |s| waiting(s) == "ImagePullBackOff").await;
    let message = status["containerStatuses"][0]["state"]["waiting"]["message"].as_str().unwrap();
    assert!(message.starts_with("Back-off pulling image \"team/app:v2\": ErrImagePull: "), "{message}");
    assert!(message.contains("images.yaml"), "the file to change is named: {message}");
    assert_eq!(world.event("BackOff").await, "Back-off pulling image \"team/app:v2\"");
    for said in ["Error: ErrImagePull", "Error: ImagePullBackOff"] {
        assert!(
            world.api.events.lock().iter().any(|(reason, message)| reason == "Failed" && message == said),
            "{said}"
        );
    }
    fs::write(folder.path().join("images.yaml"), "images: {team/app: ./app}\n").unwrap();
    world.status("late", succeeded).await;
    assert_eq!(whole_log(&world, "late").await, "here\n");
    world.end().await;
}

pub async fn image_that_may_not_be_pulled_says_so() {
    let world = World::start().await;
    let spec = container(json!({"image": "team/app", "imagePullPolicy": "Never"}));
    let status = world.run("never", spec, |s| waiting(s) == "ErrImageNeverPull").await;
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["message"],
        "Container image \"team/app\" is not present with pull policy of Never"
    );
    assert!(world.api.reported("ErrImageNeverPull"));
    world.end().await;
}
