//! Facts about the machine that nodes report as theirs.

use std::fs;

/// Total memory in bytes, 0 where /proc doesn't tell.
pub fn memory_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        })
        .map_or(0, |kib: u64| kib * 1024)
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
