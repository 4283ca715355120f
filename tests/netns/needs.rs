//! What the tests need of the machine, and why it is missing where it is.

use std::fs::File;
use std::path::PathBuf;

use crate::harness;

/// Makes the namespaces in which everything happens. Called before any thread starts.
pub fn enter() -> Result<(), String> {
    harness::enter_namespaces()?;
    File::options().read(true).write(true).open("/dev/net/tun").map_err(|e| {
        format!("/dev/net/tun cannot be opened ({e}): `sudo modprobe tun; sudo chmod 0666 /dev/net/tun` mends it")
    })?;
    Ok(())
}

/// A program on the PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn installed(name: &str) -> Result<(), String> {
    program(name).map(drop).ok_or_else(|| format!("{name} is not installed"))
}

pub fn kubectl() -> Result<(), String> {
    installed("kubectl")
}

pub fn curl() -> Result<(), String> {
    installed("curl")
}

pub fn dig() -> Result<(), String> {
    installed("dig")
}

pub fn musl() -> Result<(), String> {
    installed("musl-gcc")
}

pub fn cc() -> Result<(), String> {
    installed("cc")
}

pub fn busybox() -> Result<(), String> {
    installed("busybox")
}

pub fn redis() -> Result<(), String> {
    installed("redis-server").and_then(|()| installed("redis-cli"))
}

pub fn guestbook() -> Result<(), String> {
    redis().and_then(|()| installed("python3")).and_then(|()| curl())
}

pub fn lighttpd() -> Result<(), String> {
    installed("lighttpd").and_then(|()| curl())
}

pub fn unshare() -> Result<(), String> {
    installed("unshare")
}

pub fn ip() -> Result<(), String> {
    installed("ip")
}
