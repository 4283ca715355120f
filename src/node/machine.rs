//! Facts about the machine that nodes report as theirs.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

/// Total memory in bytes, 0 where /proc doesn't tell.
pub fn memory_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        })
        .map_or(0, |kib: u64| kib * 1024)
}

/// Bytes of the file system that a folder is on, 0 where it doesn't tell.
pub fn storage_bytes(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The kernel's release, as `uname -r` tells it.
pub fn kernel_version() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The distribution's name, as /etc/os-release tells it.
pub fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The machine's id, its boot id.
pub fn ids() -> (String, String) {
    let read = |path| fs::read_to_string(path).map(|s| s.trim().to_owned()).unwrap_or_default();
    (read("/etc/machine-id"), read("/proc/sys/kernel/random/boot_id"))
}

/// The architecture in Go's words, which node labels use.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The users and groups that this process may become or give files to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    uids: Vec<(u32, u32)>,
    gids: Vec<(u32, u32)>,
    /// Lists of groups can be set.
    pub groups: bool,
}

impl Ids {
    fn read() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            uids: ranges(&read("/proc/self/uid_map")),
            gids: ranges(&read("/proc/self/gid_map")),
            groups: read("/proc/self/setgroups").trim() != "deny",
        }
    }

    /// All ids, as root has them.
    #[cfg(test)]
    pub fn whole() -> Self {
        Self { uids: vec![(0, u32::MAX)], gids: vec![(0, u32::MAX)], groups: true }
    }

    /// What an ordinary user has in a user namespace.
    #[cfg(test)]
    pub fn single() -> Self {
        Self { uids: vec![(0, 1)], gids: vec![(0, 1)], groups: false }
    }

    pub fn uid(&self, uid: u32) -> bool {
        within(&self.uids, uid)
    }

    pub fn gid(&self, gid: u32) -> bool {
        within(&self.gids, gid)
    }

    /// Whether these are all ids of the machine, as outside of user namespaces.
    pub fn is_whole(&self) -> bool {
        self.uids == [(0, u32::MAX)]
    }
}

/// The ids of this process, which do not change once it has threads.
pub fn ids_mapped() -> &'static Ids {
    static IDS: LazyLock<Ids> = LazyLock::new(Ids::read);
    &IDS
}

/// First id and count of each line of a map.
fn ranges(map: &str) -> Vec<(u32, u32)> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().filter_map(|number| number.parse().ok());
        Some((numbers.next()?, numbers.nth(1)?))
    };
    map.lines().filter_map(line).collect()
}

fn within(ranges: &[(u32, u32)], id: u32) -> bool {
    ranges.iter().any(|(first, count)| id.checked_sub(*first).is_some_and(|at| at < *count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_map() {
        let uids = ranges("         0       1000          1\n         1     100000      65536\n");
        assert_eq!(uids, [(0, 1), (1, 65536)]);
        assert!([0, 1, 65536].iter().all(|uid| within(&uids, *uid)) && !within(&uids, 65537));
        assert_eq!(ranges("0 0 4294967295"), Ids::whole().uids);
        assert!(Ids::whole().is_whole() && Ids::whole().gid(1000) && !Ids::single().is_whole());
    }
}
