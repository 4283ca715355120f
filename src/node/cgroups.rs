//! Limits of containers as control groups (version 2), where a tree may be written.
//!
//! Root has a group of its own below the root of the hierarchy; an ordinary user has one inside of the group that vipyard
//! was started in, if that is delegated (`systemd-run --user --scope -p Delegate=yes`). It is named by the process, and
//! what is left of one that was killed is removed by the next start.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::runtime::Handle;
use tracing::{debug, warn};

use super::environment::parse_quantity;

const CONTROLLERS: [&str; 2] = ["memory", "cpu"];
const PREFIX: &str = "vipyard-";
/// The files of limits, and what they say without one.
const LIMITS: [(&str, &str); 2] = [("memory.max", "max"), ("cpu.max", "max")];
/// The kernel's own period.
const CPU_PERIOD: f64 = 100_000.0;

/// Where containers' groups are made.
#[derive(Debug)]
pub struct Cgroups {
    tree: Result<PathBuf, String>,
}

/// What came of new limits for a container that runs.
#[derive(Debug, PartialEq, Eq)]
pub enum Resized {
    Done,
    /// It was started without a group, which it cannot be given later.
    WithNextRun,
    /// There are no groups, for this reason.
    Never(String),
}

/// One run of a container. Its group is removed when this is dropped, with the processes that are left in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroups {
    /// Makes the tree, or finds out why there can be none.
    pub fn open() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let tree = hierarchy(&read("/proc/self/mountinfo")).ok_or("this machine has no cgroup2 hierarchy".to_owned());
        let own = own_group(&read("/proc/self/cgroup")).to_owned();
        let tree = tree.and_then(|root| {
            let mut refusals = Vec::new();
            for base in [root.clone(), root.join(own.trim_start_matches('/'))] {
                match claim(&base) {
                    Ok(tree) => return Ok(tree),
                    Err(e) => refusals.push(format!("{}: {e}", base.display())),
                }
            }
            refusals.dedup();
            Err(refusals.join("; "))
        });
        if let Err(why) = &tree {
            debug!(why, "no control groups");
        }
        Self { tree }
    }

    /// Why limits can't be kept, if they can't.
    pub fn refusal(&self) -> Option<&str> {
        self.tree.as_ref().err().map(String::as_str)
    }

    /// A group for a run of a container; none where there is nothing to limit, or no tree.
    pub fn group(&self, name: &str, container: &Container) -> io::Result<Option<Cgroup>> {
        let (Ok(tree), settings) = (&self.tree, settings(container)) else { return Ok(None) };
        if settings.is_empty() {
            return Ok(None);
        }
        let group = Cgroup { path: tree.join(name) };
        fs::create_dir_all(&group.path)?;
        group.set(settings)?;
        Ok(Some(group))
    }

    /// Gives a running container the limits that it asks for now. `group` is that of its run.
    pub fn resize(&self, group: Option<&Cgroup>, container: &Container) -> io::Result<Resized> {
        match (&self.tree, group) {
            (_, Some(group)) => {
                let settings = settings(container);
                let lifted = LIMITS.into_iter().filter(|(file, _)| !settings.iter().any(|(known, _)| known == file));
                group.set(lifted.map(|(file, none)| (file, none.to_owned())).chain(settings.clone()))?;
                Ok(Resized::Done)
            }
            _ if !is_limited(container) => Ok(Resized::Done),
            (Ok(_), None) => Ok(Resized::WithNextRun),
            (Err(why), None) => Ok(Resized::Never(why.clone())),
        }
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        if let Ok(tree) = &self.tree {
            remove(tree);
        }
    }
}

impl Cgroup {
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn set(&self, settings: impl IntoIterator<Item = (&'static str, String)>) -> io::Result<()> {
        settings.into_iter().try_for_each(|(file, value)| fs::write(self.path.join(file), value))
    }

    /// Whether the kernel killed one of the processes for want of memory.
    pub fn ran_out_of_memory(&self) -> bool {
        let events = fs::read_to_string(self.path.join("memory.events")).unwrap_or_default();
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
        kills.is_some_and(|kills| kills > 0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        match Handle::try_current() {
            // A runtime's worker has others to serve while the last processes are on their way out.
            Ok(runtime) => drop(runtime.spawn_blocking(move || end(&path))),
            Err(_) => end(&path),
        }
    }
}

/// Kills what is left in a group, which the run's first process has left behind where all containers of a Pod share
/// their process ids, and removes the group.
fn end(group: &Path) {
    // A kernel before 5.14 has no such file.
    let _ = fs::write(group.join("cgroup.kill"), "1");
    for wait in [0, 10, 50, 200] {
        std::thread::sleep(Duration::from_millis(wait));
        match fs::remove_dir(group) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {}
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return warn!(group = %group.display(), error = %e, "control group not removed");
            }
            _ => return,
        }
    }
    warn!(group = %group.display(), "control group not removed, as it has processes");
}

/// Whether a container asks for limits.
pub fn is_limited(container: &Container) -> bool {
    !settings(container).is_empty()
}

/// The files of a group and what they say.
fn settings(container: &Container) -> Vec<(&'static str, String)> {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let number = |list: Option<&BTreeMap<String, Quantity>>, name: &str| {
        list.and_then(|list| list.get(name)).and_then(|quantity| parse_quantity(&quantity.0)).filter(|n| *n > 0.0)
    };
    let mut all = Vec::new();
    if let Some(bytes) = number(limits, "memory") {
        all.push(("memory.max", format!("{bytes:.0}")));
        // As a kubelet does: a container is killed as a whole.
        all.push(("memory.oom.group", "1".to_owned()));
    }
    if let Some(cores) = number(limits, "cpu") {
        all.push(("cpu.max", format!("{:.0} {CPU_PERIOD:.0}", (cores * CPU_PERIOD).max(1000.0))));
    }
    all
}

/// The mount point of the hierarchy.
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split_whitespace().nth(4).map(PathBuf::from)
}

/// The group that this process is in.
fn own_group(text: &str) -> &str {
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/")
}

/// Makes this process's tree below `base`, with the controllers that limits need.
fn claim(base: &Path) -> io::Result<PathBuf> {
    let known = fs::read_to_string(base.join("cgroup.controllers"))?;
    let missing = CONTROLLERS.iter().find(|name| !known.split_whitespace().any(|known| known == **name));
    if let Some(name) = missing {
        return Err(io::Error::other(format!("the {name} controller is not in this hierarchy")));
    }
    for entry in fs::read_dir(base)?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&entry.path());
        }
    }
    let tree = base.join(format!("{PREFIX}{}", std::process::id()));
    fs::create_dir(&tree)?;
    let controllers = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
    let enable = |group: &Path| fs::write(group.join("cgroup.subtree_control"), &controllers);
    // A group with processes can't hand controllers on: its own ones go into a group beside the containers'.
    let agent = tree.join("agent");
    let made = enable(base)
        .or_else(|_| {
            fs::create_dir(&agent)?;
            fs::write(agent.join("cgroup.procs"), "0")?;
            enable(base)
        })
        .and_then(|()| enable(&tree));
    if let Err(e) = made {
        let _ = fs::write(base.join("cgroup.procs"), "0");
        remove(&tree);
        return Err(e);
    }
    Ok(tree)
}

/// Removes a group and those below it. One with processes stays.
fn remove(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container(resources: serde_json::Value) -> Container {
        serde_json::from_value(json!({"name": "c", "resources": resources})).unwrap()
    }

    #[test]
    fn limits_become_what_the_kernel_reads() {
        let found =
            settings(&container(json!({"limits": {"memory": "64Mi", "cpu": "250m"}, "requests": {"cpu": "1"}})));
        assert_eq!(
            found,
            [
                ("memory.max", "67108864".to_owned()),
                ("memory.oom.group", "1".to_owned()),
                ("cpu.max", "25000 100000".to_owned())
            ]
        );
        assert!(!is_limited(&container(json!({"requests": {"memory": "1Gi"}}))));
    }

    #[test]
    fn group_is_made_and_removed_with_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Cgroups { tree: Ok(folder.path().to_owned()) };
        let group = groups.group("uid-c-0", &container(json!({"limits": {"memory": "1Ki"}}))).unwrap().unwrap();
        assert_eq!(fs::read_to_string(group.path().join("memory.max")).unwrap(), "1024");
        assert!(!group.ran_out_of_memory());
        fs::write(group.path().join("memory.events"), "low 0\noom 3\noom_kill 1\noom_group_kill 1\n").unwrap();
        assert!(group.ran_out_of_memory());
        assert!(groups.group("uid-c-1", &container(json!({}))).unwrap().is_none());
        let read = |file: &str| fs::read_to_string(group.path().join(file)).unwrap();
        let (more, none) = (container(json!({"limits": {"memory": "2Ki"}})), container(json!({})));
        assert_eq!(groups.resize(Some(&group), &more).unwrap(), Resized::Done);
        assert_eq!((read("memory.max").as_str(), read("cpu.max").as_str()), ("2048", "max"));
        groups.resize(Some(&group), &none).unwrap();
        assert_eq!(read("memory.max"), "max");
        assert_eq!(groups.resize(None, &more).unwrap(), Resized::WithNextRun);
        assert_eq!(groups.resize(None, &none).unwrap(), Resized::Done);
        let nowhere = Cgroups { tree: Err("none here".to_owned()) };
        assert_eq!(nowhere.resize(None, &more).unwrap(), Resized::Never("none here".to_owned()));
        std::mem::forget(groups);
    }

    #[test]
    fn hierarchy_and_own_group_are_found() {
        let mounts = "28 21 0:24 / /sys/fs/cgroup ro shared:4 - tmpfs tmpfs ro\n\
                      30 28 0:26 / /sys/fs/cgroup/unified rw,nosuid shared:6 - cgroup2 cgroup2 rw\n";
        assert_eq!(hierarchy(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(own_group("12:pids:/x\n0::/user.slice/session-1.scope\n"), "/user.slice/session-1.scope");
        let empty = tempfile::tempdir().unwrap();
        fs::write(empty.path().join("cgroup.controllers"), "cpu pids\n").unwrap();
        assert!(claim(empty.path()).unwrap_err().to_string().contains("memory controller"));
    }
}
