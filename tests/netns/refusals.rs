//! Bad places and bad usage: one clear line with the way out, the right exit code, and nothing half-made.

use std::net::{IpAddr, TcpListener};

use sqlx::{Connection, SqliteConnection};
use tokio::process::Command;
use vipyard::node::netif;
use vipyard::sys::netns::NetNs;

use crate::cluster::{Cluster, Home, VIPYARD, refused_up, run, vipyard};

/// The one line that a refusal is. Log lines of what happened before are not part of it.
#[track_caller]
fn one_line(text: &str) -> &str {
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("vipyard: ")).collect();
    assert_eq!(said.len(), 1, "one line for the person in:\n{text}");
    assert_eq!(text.lines().last(), Some(said[0]), "it is the last word of:\n{text}");
    said[0]
}

pub async fn second_cluster_of_a_data_directory_is_refused() {
    let cluster = Cluster::start().await;
    let more = ["--api-listen", "127.0.0.1:0", "--ui-listen", "127.0.0.1:0"];
    let (code, err) = refused_up(&cluster.home.data(), &more).await;
    assert_eq!(code, 1);
    let line = one_line(&err);
    assert!(line.contains(&format!("is in use by process {}", cluster.pid())), "{line}");
    assert!(line.contains("vipyard down --data-dir"), "{line}");
    let (code, err) = refused_up(&cluster.home.data(), &[&more[..], &["--in-memory"]].concat()).await;
    assert_eq!((code, one_line(&err)), (1, line));
    // The first one did not notice.
    cluster.whoami("web", &["web-1"]).await;
    cluster.stop().await;
}

pub async fn port_in_use_is_named_with_its_flag() {
    let home = Home::new();
    let _api = TcpListener::bind("127.0.0.1:6443").unwrap();
    let (code, err) = refused_up(&home.data(), &[]).await;
    assert_eq!(code, 1);
    let line = one_line(&err);
    assert!(line.contains("127.0.0.1:6443") && line.contains("--api-listen"), "{line}");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap().to_string();
    let (code, err) = refused_up(&home.data(), &["--api-listen", "127.0.0.1:0", "--ui-listen", &address]).await;
    assert_eq!(code, 1);
    let line = one_line(&err);
    assert!(line.contains(&address) && line.contains("--ui-listen"), "{line}");
    assert!(!home.data().join("kubeconfig").exists(), "nothing half-made");
}

pub async fn range_of_the_host_is_named_with_the_flag_that_moves_ours() {
    let here = NetNs::current().expect("the scenario's namespace");
    let taken: IpAddr = "10.244.7.7".parse().unwrap();
    let device = netif::create(&here, "vpn0", &[taken], 1500).expect("a device with an address of the Pods' range");
    let home = Home::new();
    let (code, err) = refused_up(&home.data(), &[]).await;
    assert_eq!(code, 1);
    let line = one_line(&err);
    assert!(line.contains("10.244.0.0/16") && line.contains("10.244.7.7") && line.contains("--pod-cidr"), "{line}");
    assert!(!home.data().exists(), "nothing half-made");

    // The flag helps.
    let mut command = Command::new(VIPYARD);
    command.args(["up", "--pod-cidr", "10.140.0.0/16", "--data-dir"]).arg(home.data());
    let cluster = Cluster::start_with(home, command).await;
    cluster.whoami("web", &["web-1"]).await;
    assert!(cluster.pod_ip("web-1").await.starts_with("10.140."), "{}", cluster.pod_ip("web-1").await);
    cluster.stop().await;
    drop(device);
}

pub async fn kubeconfig_of_other_clusters_is_left_alone() {
    let home = Home::new();
    let other = home.path("config");
    let text = "apiVersion: v1\nkind: Config\nclusters: [{name: work, cluster: {server: 'https://work'}}]\n";
    std::fs::write(&other, text).unwrap();
    let (code, err) = refused_up(&home.data(), &["--kubeconfig", other.to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert!(one_line(&err).contains("--kubeconfig"), "{err}");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), text);
}

pub async fn bad_usage_exits_64() {
    for (arguments, part) in [
        (&["up", "--nodse", "3"][..], "--nodse"),
        (&["up", "--nodes", "0"], "--nodes"),
        (&["up", "--nodes", "three"], "--nodes"),
        (&["up", "--api-listen", "nonsense"], "--api-listen"),
        (&["up", "--pod-cidr", "10.0.0.0/33"], "--pod-cidr"),
        (&["up", "--pod-cidr", "10.244.0.0/24"], "--pod-cidr"),
        (&["fly"], "fly"),
    ] {
        let (code, out, err) = vipyard(arguments).await;
        assert_eq!((code, out.as_str()), (64, ""), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    for arguments in [&["--help"][..], &["up", "--help"], &["--version"], &["version"]] {
        let (code, out, err) = vipyard(arguments).await;
        assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}");
        assert!(!out.is_empty(), "{arguments:?}");
    }
    let home = Home::new();
    let (code, _, err) = vipyard(&["kubeconfig", "--data-dir", home.data().to_str().unwrap()]).await;
    assert_eq!(code, 1);
    assert!(one_line(&err).contains("vipyard up"), "{err}");
}

pub async fn newer_database_is_left_alone() {
    let cluster = Cluster::start().await;
    let home = cluster.stop().await;
    let database = home.data().join("vipyard.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&database);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let newer = "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) \
                 VALUES (99999999999999, 'from the future', CURRENT_TIMESTAMP, TRUE, x'00', 0)";
    sqlx::query(newer).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let before = std::fs::read(&database).unwrap();

    let (code, err) = refused_up(&home.data(), &[]).await;
    assert_eq!(code, 1);
    let line = one_line(&err);
    assert!(line.contains("was written by a newer vipyard") && line.contains("--data-dir"), "{line}");
    assert!(std::fs::read(&database).unwrap() == before, "not a byte is changed");
}

pub async fn missing_tun_device_is_one_clear_line() {
    let home = Home::new();
    // A mount of our own over /dev/net, seen by this one process.
    let script = format!("mount -t tmpfs none /dev/net && exec {VIPYARD} up --data-dir {}", home.data().display());
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", &script]);
    let (code, out, err) = run(command).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    let line = one_line(&err);
    assert!(line.contains("/dev/net/tun") && line.contains("vipyard doctor"), "{line}");
    assert!(!home.data().join("kubeconfig").exists(), "nothing half-made");

    let script = format!("mount -t tmpfs none /dev/net && exec {VIPYARD} doctor");
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", &script]);
    let (code, out, _) = run(command).await;
    assert_eq!(code, 1);
    let wrong: Vec<&str> = out.lines().filter(|line| line.starts_with("wrong")).collect();
    assert_eq!(wrong.len(), 1, "{out}");
    assert!(wrong[0].contains("TUN device") && wrong[0].contains("modprobe tun"), "{out}");
    // What works all the same, or does not, and by which way.
    let line = |name: &str| out.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}: {out}"));
    let root = rustix::process::geteuid().is_root();
    assert_eq!(line("this host:").contains("127.0.0.1"), !root, "{out}");
    assert!(line("limits of containers:").contains("control groups"), "{out}");
}
