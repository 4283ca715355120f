//! The router beside the kernel: the same programs talk through a Service VIP, once over TUN devices and this
//! crate's router, once over veth pairs and nftables as kube-proxy writes them, once over plain loopback.
//!
//! Runs as any user: it makes its own network and mount namespaces first (and a user namespace, unless root runs it), so
//! no packet leaves the machine. The kernel takes half a minute to load the rules of 10,000 Services (`--others 9999`), and
//! in a user namespace it cannot: a socket's buffer is bounded by `net.core.wmem_max` there.
//! Prints a table and one JSON line per figure. `cargo bench --bench dataplane -- --seconds 5 --rounds 3`.

mod load;
mod micro;
mod world;

use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use load::Figures;
use vipyard::config::FLOW_LOG;
use vipyard::router::RouterConfig;
use world::{Kernel, Loopback, Ours, Path};

const INNER: &str = "VIPYARD_BENCH_INNER";

struct Options {
    seconds: Duration,
    rounds: usize,
    /// Runs only paths whose name contains this.
    only: Option<String>,
    /// Runs only loads whose figure's name contains this.
    load: String,
    /// How many Services there are beside the measured one, one run each.
    others: Vec<u32>,
    threads: usize,
    /// How long the router's threads stay awake, in microseconds.
    linger: u64,
    /// Records that the flow log keeps, one router each: `--flow-log 16384,0 --only vipyard` shows what the log costs.
    flow_log: Vec<usize>,
}

fn main() -> ExitCode {
    let result = if std::env::var_os(INNER).is_some() { run() } else { enter() };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("dataplane bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts itself again in namespaces of its own.
fn enter() -> Result<ExitCode> {
    let user: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--user", "--map-root-user"] };
    let status = Command::new("unshare")
        .args(user)
        .args(["--net", "--mount", "--propagation", "private", "--"])
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .env(INNER, "1")
        .status()
        .context("cannot run unshare (package util-linux)")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run() -> Result<ExitCode> {
    let options = options()?;
    world::prepare()?;
    let mut paths: Vec<Box<dyn Path>> = Vec::new();
    for (index, flow_log) in options.flow_log.iter().enumerate() {
        paths.push(Box::new(Ours::new(index, options.threads, Duration::from_micros(options.linger), *flow_log)?));
    }
    match Kernel::new(1500) {
        Ok(kernel) => paths.push(Box::new(kernel)),
        Err(e) => println!("kernel path left out: {e:#}"),
    }
    paths.push(Box::new(Loopback::new()?));
    if let Some(only) = &options.only {
        paths.retain(|path| path.name().contains(only.as_str()));
    }
    for others in options.others.iter().copied() {
        println!("\n{} Services", others + 1);
        paths.retain(|path| match path.fill(others) {
            Ok(()) => true,
            Err(e) => {
                println!("{} left out: {e:#}", path.name());
                false
            }
        });
        let mut all: Vec<Figures> = paths.iter().map(|_| Figures::default()).collect();
        for _ in 0..options.rounds {
            // Interleaved, so that what else the machine does hits all paths alike.
            for (path, figures) in paths.iter().zip(&mut all) {
                load::measure(&**path, options.seconds, &options.load, figures)
                    .with_context(|| path.name().to_owned())?;
            }
        }
        report(&paths, &all, others + 1);
    }
    if options.only.is_none() && options.load.is_empty() {
        micro::measure()?;
    }
    Ok(ExitCode::SUCCESS)
}

fn options() -> Result<Options> {
    let mut options = Options {
        seconds: Duration::from_secs(2),
        rounds: 3,
        only: None,
        load: String::new(),
        others: vec![0],
        threads: RouterConfig::THREADS,
        linger: 50,
        flow_log: vec![FLOW_LOG],
    };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        let value = args.next().with_context(|| format!("{arg} wants a value"))?;
        match arg.as_str() {
            "--seconds" => options.seconds = Duration::from_secs_f64(value.parse()?),
            "--rounds" => options.rounds = value.parse()?,
            "--others" => options.others = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--threads" => options.threads = value.parse()?,
            "--linger" => options.linger = value.parse()?,
            "--flow-log" => options.flow_log = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--only" => options.only = Some(value),
            "--load" => options.load = value,
            _ => {
                bail!(
                    "unknown option {arg}; known: --seconds, --rounds, --only, --load, --others, --threads, --linger, --flow-log"
                )
            }
        }
    }
    Ok(options)
}

/// Medians, and the ratio of the first path to the second.
fn report(paths: &[Box<dyn Path>], all: &[Figures], services: u32) {
    print!("{:<28}", "");
    for path in paths {
        print!("{:>22}", path.name());
    }
    println!("{:>10}", if paths.len() > 1 { "ratio" } else { "" });
    for row in 0..Figures::ROWS.len() {
        let (label, higher_is_better) = Figures::ROWS[row];
        if all.iter().all(|figures| figures.samples(row).is_empty()) {
            continue;
        }
        print!("{label:<28}");
        let values: Vec<f64> = all.iter().map(|figures| figures.median(row)).collect();
        for value in &values {
            print!("{value:>22.1}");
        }
        if let [first, second, ..] = values[..] {
            let ratio = if higher_is_better { first / second } else { second / first };
            print!("{ratio:>10.2}");
        }
        println!();
    }
    for (path, figures) in paths.iter().zip(all) {
        for (row, (label, _)) in Figures::ROWS.iter().enumerate() {
            if figures.samples(row).is_empty() {
                continue;
            }
            let line = serde_json::json!({
                "bench": "dataplane", "path": path.name(), "figure": label, "services": services,
                "median": figures.median(row), "samples": figures.samples(row),
            });
            println!("{line}");
        }
    }
    for path in paths {
        if let Some(note) = path.note() {
            println!("{}: {note}", path.name());
        }
    }
}
