//! The API server under load, from outside: a `vipyard up` process with its data on disk, asked over TLS with a client
//! certificate by 32 connections in another process.
//!
//! Connections speak HTTP/2, as client-go's do (kubectl, Helm, every controller written in Go): each of the 32 is one
//! client with one request under way. `--http1` asks as the Python client and kube-rs do, with keep-alive.
//! `--binary` may be given several times: each binary is measured in the same run.
//!
//! Everything happens in a network namespace of its own, so no packet to a cluster address leaves the machine. Prints a
//! table and one line of JSON per figure: `cargo bench --bench api -- --binary target/release/vipyard`.

mod client;
#[path = "../../tests/common/kubeconfig.rs"]
mod kubeconfig;
mod load;
mod report;
mod server;

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use report::Column;
use server::Server;

const INNER: &str = "VIPYARD_BENCH_INNER";

struct Options {
    binaries: Vec<PathBuf>,
    /// Where the data directories are made: it must be a disk.
    dir: PathBuf,
    http1: bool,
    /// Runs only loads whose name contains this.
    only: String,
    /// How long a load that has no natural end goes on.
    seconds: f64,
}

fn main() -> ExitCode {
    let result = if std::env::var_os(INNER).is_some() { run() } else { enter() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("api bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Goes on in a network namespace of its own. Root stays root: the user who runs the cluster is a user who can.
fn enter() -> Result<()> {
    let flags = if rustix::process::geteuid().is_root() { "-n" } else { "-Urn" };
    let mut command = Command::new("unshare");
    command.arg(flags).arg("--").arg(std::env::current_exe()?).args(std::env::args_os().skip(1)).env(INNER, "1");
    Err(command.exec()).context("cannot run unshare (package util-linux)")
}

fn run() -> Result<()> {
    let options = options()?;
    let up =
        Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip (package iproute2)")?;
    anyhow::ensure!(up.success(), "the loopback device cannot be set up");
    server::must_be_a_disk(&options.dir)?;
    // One thread asks, so that two cores are not fought over by more threads than they can run.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut columns = Vec::new();
    for binary in &options.binaries {
        let figures = runtime.block_on(async {
            let server = Server::start(binary, &options.dir).await?;
            let figures = load::measure(&server, &options).await;
            server.stop().await?;
            figures
        });
        let figures = figures.with_context(|| binary.display().to_string())?;
        columns.push(Column { name: binary.display().to_string(), figures });
    }
    report::print(&columns, if options.http1 { "HTTP/1.1" } else { "HTTP/2" });
    Ok(())
}

fn options() -> Result<Options> {
    let mut options = Options {
        binaries: Vec::new(),
        dir: env!("CARGO_TARGET_TMPDIR").into(),
        http1: false,
        only: String::new(),
        seconds: 3.0,
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--http1" => options.http1 = true,
            "--binary" => options.binaries.push(value()?.into()),
            "--dir" => options.dir = value()?.into(),
            "--only" => options.only = value()?,
            "--seconds" => options.seconds = value()?.parse()?,
            _ => bail!("unknown option {arg}; known: --binary, --dir, --http1, --only, --seconds"),
        }
    }
    if options.binaries.is_empty() {
        options.binaries.push(env!("CARGO_BIN_EXE_vipyard").into());
    }
    Ok(options)
}
