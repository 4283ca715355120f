//! A client for the cluster of a data directory.

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::DataDir;

/// For commands that ask a running cluster: one thread is enough.
pub(super) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

impl DataDir {
    /// A client with the rights of the cluster's owner.
    pub(super) async fn client(&self) -> anyhow::Result<Client> {
        let path = crate::app::kubeconfig_path(&self.data_dir);
        let file = Kubeconfig::read_from(&path).with_context(|| {
            format!("no kubeconfig at {}: start the cluster with `vipyard up`, or name its --data-dir", path.display())
        })?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        Ok(Client::try_from(config)?)
    }
}
