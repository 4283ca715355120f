//! The command line: one file per subcommand. Exit codes: 0 fine, 1 failed, 64 bad usage or configuration.

mod backup;
mod client;
mod demo;
mod dns;
mod doctor;
mod down;
mod explain;
mod flows;
mod images;
mod kubeconfig;
mod node;
mod paths;
mod reach;
mod restore;
mod up;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Bad usage or configuration (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;

/// A Kubernetes Service network in one process.
#[derive(Parser)]
#[command(name = "vipyard", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster and keep it running until Ctrl-C
    Up(Box<up::Args>),
    /// Stop the cluster of a data directory
    Down(down::Args),
    /// Start a cluster of its own, show requests being spread over Pods, and stay
    Demo(demo::Args),
    /// Print the kubeconfig of a cluster
    Kubeconfig(kubeconfig::Args),
    /// Print how to reach a Service from this host, from a Pod and from a browser
    Reach(reach::Args),
    /// List the images that can be run: those built in and those of the map file
    Images(images::Args),
    /// Print why a Service or a packet fares as it does
    Explain(Box<explain::Args>),
    /// Print what flows through the router, and what it refuses
    Flows(flows::Args),
    /// Stop and start virtual nodes, as when a machine loses power
    Node(node::Args),
    /// Look a name up as a Pod does, and show each step and the objects behind the answer
    Dns(dns::Args),
    /// Return when what was written is in the packets
    Wait(wait::Args),
    /// Copy a cluster into one file, also while it runs
    Backup(backup::Args),
    /// Make a new data directory from a backup
    Restore(restore::Args),
    /// Check what this machine allows, and say what mends the rest
    Doctor,
    /// Print the version
    Version,
}

/// Where a cluster keeps its things.
#[derive(clap::Args, Clone)]
struct DataDir {
    /// Where the cluster keeps its database, keys, logs and kubeconfig
    #[arg(long, value_name = "DIR", env = "VIPYARD_DATA_DIR", default_value_os_t = paths::default_data_dir())]
    data_dir: PathBuf,
}

/// How an answer is printed.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
enum Output {
    #[default]
    Text,
    Json,
}

/// What an answer is about, and how it is printed.
#[derive(clap::Args)]
struct View {
    /// The namespace of what is named without one
    #[arg(short, long, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    data_dir: DataDir,
}

/// Why a command failed, with the exit code that says so.
pub(crate) enum Failure {
    /// The person has to change the command or the configuration.
    Usage(anyhow::Error),
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Arguments of our own making, which are text.
fn strings(args: impl Iterator<Item = OsString>) -> Vec<String> {
    args.filter_map(|arg| arg.into_string().ok()).collect()
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Hidden entries: the binary re-executes itself as a container's first process and as the built-in images.
    match args.next().as_deref().and_then(|first| first.to_str()) {
        Some(crate::node::init::SUBCOMMAND) => return crate::node::init::container_init(&strings(args)),
        Some(crate::images::SUBCOMMAND) => {
            let args = strings(args);
            let (name, rest) = args.split_first().map_or(("", &args[..]), |(name, rest)| (name.as_str(), rest));
            return crate::images::main(name, rest);
        }
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            let asked = !e.use_stderr();
            let _ = e.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(EXIT_USAGE) };
        }
    };
    let result = match cli.command {
        Command::Up(args) => up::run(*args),
        Command::Down(args) => down::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Kubeconfig(args) => kubeconfig::run(args),
        Command::Reach(args) => reach::run(args),
        Command::Images(args) => images::run(&args),
        Command::Explain(args) => match explain::run(*args) {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Flows(args) => flows::run(&args),
        Command::Node(args) => node::run(args),
        Command::Dns(args) => dns::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Backup(args) => backup::run(args),
        Command::Restore(args) => restore::run(args),
        Command::Doctor => doctor::run(),
        Command::Version => {
            println!("vipyard {} (Kubernetes {})", env!("CARGO_PKG_VERSION"), crate::api::KUBERNETES_VERSION);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(e)) => {
            eprintln!("vipyard: {e:#}");
            ExitCode::from(EXIT_USAGE)
        }
        Err(Failure::Failed(e)) => {
            eprintln!("vipyard: {e:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    /// The arguments of a command and of those below it that its help says nothing of, or an empty default.
    fn unexplained(command: &clap::Command) -> Vec<String> {
        let lacks = |argument: &&clap::Arg| {
            let empty = argument.get_default_values().iter().any(|value| value.is_empty());
            argument.get_help().is_none() || empty && !argument.is_hide_default_value_set()
        };
        let own = command.get_arguments().filter(lacks).map(|argument| format!("{} {argument}", command.get_name()));
        own.chain(command.get_subcommands().flat_map(unexplained)).collect()
    }

    #[test]
    fn help_explains_every_argument() {
        Cli::command().debug_assert();
        assert_eq!(unexplained(&Cli::command()), Vec::<String>::new());
    }
}
