//! What is in a projected volume (`k8s.io/kubernetes/pkg/volume/projected`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource,
    SecretProjection, ServiceAccount, ServiceAccountTokenProjection, Volume, VolumeProjection,
};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use parking_lot::Mutex;
use rand::Rng;

use super::atomic_writer::{Files, VolumeFile};
use crate::node::context::NodeContext;
use crate::node::environment::{EnvError, Sources, field_value, resource_value};

const DEFAULT_MODE: i32 = 0o644;
/// A token lasts this long if its volume does not say.
const DEFAULT_SECONDS: i64 = 3600;
/// A token is renewed when a fifth of its time is left, and each day at the latest.
const MOST_AGE: Duration = Duration::from_secs(24 * 3600);
/// Renewals are early by up to this, so that Pods that started together do not all ask at once.
const JITTER: Duration = Duration::from_secs(10);

/// Why a volume could not be filled. The messages are the kubelet's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("failed to fetch token: {}", said(.0))]
    Token(kube::Error),
    #[error(transparent)]
    Field(#[from] EnvError),
    #[error("container {0:?} not found")]
    NoContainer(String),
    #[error(
        "volumes of type {0} are not supported: use emptyDir, hostPath, persistentVolumeClaim, configMap, secret, downwardAPI, or projected"
    )]
    Unsupported(String),
    #[error("{0}")]
    HostPath(String),
    #[error("persistentvolumeclaim {0:?} is not bound")]
    Unbound(String),
    #[error(transparent)]
    Write(std::io::Error),
}

/// The server's own words.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// What is to be written, and when to collect it anew.
#[derive(Debug, Default)]
pub struct Payload {
    pub files: Files,
    /// Unset when nothing in it expires.
    pub renew_after: Option<Duration>,
}

/// The volume as a projected one: of that type, or of one whose sources a projected volume may have.
pub fn source(volume: &Volume) -> Option<ProjectedVolumeSource> {
    let one = |projection, default_mode| ProjectedVolumeSource { default_mode, sources: Some(vec![projection]) };
    if let Some(map) = volume.config_map.clone() {
        let (name, mode) = (map.name, map.default_mode);
        let config_map = Some(ConfigMapProjection { items: map.items, name, optional: map.optional });
        return Some(one(VolumeProjection { config_map, ..VolumeProjection::default() }, mode));
    }
    if let Some(secret) = volume.secret.clone() {
        let (name, mode) = (secret.secret_name.unwrap_or_default(), secret.default_mode);
        let secret = Some(SecretProjection { items: secret.items, name, optional: secret.optional });
        return Some(one(VolumeProjection { secret, ..VolumeProjection::default() }, mode));
    }
    if let Some(downward) = volume.downward_api.clone() {
        let downward_api = Some(DownwardAPIProjection { items: downward.items });
        return Some(one(VolumeProjection { downward_api, ..VolumeProjection::default() }, downward.default_mode));
    }
    volume.projected.clone()
}

/// A projected volume of a Pod.
pub struct Projection {
    node: Arc<NodeContext>,
    /// The object changes, and with it what the downward API shows.
    pod: Arc<Mutex<Arc<Pod>>>,
    pod_ips: Vec<String>,
    source: ProjectedVolumeSource,
}

impl Projection {
    pub fn new(
        node: Arc<NodeContext>,
        pod: Arc<Mutex<Arc<Pod>>>,
        pod_ips: Vec<String>,
        source: ProjectedVolumeSource,
    ) -> Self {
        Self { node, pod, pod_ips, source }
    }

    /// Whether it shows anything that may change.
    pub fn follows(&self) -> bool {
        let changes = |source: &VolumeProjection| {
            source.config_map.is_some() || source.secret.is_some() || source.downward_api.is_some()
        };
        self.source.sources.iter().flatten().any(changes)
    }

    fn pod(&self) -> Arc<Pod> {
        Arc::clone(&self.pod.lock())
    }

    /// Brings together what all sources have to say now. Of two with one path, the later counts.
    pub async fn collect(&self) -> Result<Payload, Error> {
        let (mut payload, pod) = (Payload::default(), self.pod());
        for source in self.source.sources.iter().flatten() {
            self.add(&pod, source, &mut payload).await?;
        }
        Ok(payload)
    }

    async fn add(&self, pod: &Pod, source: &VolumeProjection, payload: &mut Payload) -> Result<(), Error> {
        let cluster = &self.node.shared.cluster;
        let namespace = pod.namespace().unwrap_or_default();
        if let Some(token) = &source.service_account_token {
            let (text, renew_after) = self.token(pod, token).await?;
            self.put(payload, token.path.clone(), text.into_bytes(), None);
            payload.renew_after = payload.renew_after.into_iter().chain([renew_after]).min();
        }
        if let Some(map) = &source.config_map {
            cluster.config_maps.wait_synced().await;
            let found = cluster.config_maps.get(&namespace, &map.name);
            let data = found.as_ref().map(|map| {
                let text = map.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
                let binary = map.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
                text.chain(binary).collect()
            });
            self.put_keys(payload, "config", &map.name, data, map.items.as_deref(), map.optional == Some(true))?;
        }
        if let Some(secret) = &source.secret {
            cluster.secrets.wait_synced().await;
            let found = cluster.secrets.get(&namespace, &secret.name);
            let data = found.as_ref().map(|secret| {
                secret.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
            });
            let optional = secret.optional == Some(true);
            self.put_keys(payload, "secret", &secret.name, data, secret.items.as_deref(), optional)?;
        }
        for item in source.downward_api.iter().flat_map(|downward| downward.items.iter().flatten()) {
            self.put(payload, item.path.clone(), self.downward(pod, item)?.into_bytes(), item.mode);
        }
        if source.cluster_trust_bundle.is_some() {
            return Err(Error::Unsupported("clusterTrustBundle".to_owned()));
        }
        if source.pod_certificate.is_some() {
            return Err(Error::Unsupported("podCertificate".to_owned()));
        }
        Ok(())
    }

    fn put(&self, payload: &mut Payload, path: String, content: Vec<u8>, mode: Option<i32>) {
        let mode = mode.or(self.source.default_mode).unwrap_or(DEFAULT_MODE);
        let mode = u32::try_from(mode).unwrap_or_default() & 0o777;
        payload.files.insert(PathBuf::from(path), VolumeFile { content, mode });
    }

    /// The keys of a ConfigMap or Secret: all of them, or those that `items` gives a path.
    fn put_keys(
        &self,
        payload: &mut Payload,
        kind: &'static str,
        name: &str,
        data: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[KeyToPath]>,
        optional: bool,
    ) -> Result<(), Error> {
        let Some(mut data) = data else {
            let kind = if kind == "config" { "configmap" } else { kind };
            return if optional { Ok(()) } else { Err(Error::NoObject { kind, name: name.to_owned() }) };
        };
        let Some(items) = items.filter(|items| !items.is_empty()) else {
            for (key, content) in data {
                self.put(payload, key, content, None);
            }
            return Ok(());
        };
        for item in items {
            match data.remove(&item.key) {
                Some(content) => self.put(payload, item.path.clone(), content, item.mode),
                None if optional => {}
                None => return Err(Error::NoKey { kind, key: item.key.clone() }),
            }
        }
        Ok(())
    }

    fn downward(&self, pod: &Pod, item: &DownwardAPIVolumeFile) -> Result<String, Error> {
        if let Some(resource) = &item.resource_field_ref {
            let name = resource.container_name.as_deref().unwrap_or_default();
            let spec = pod.spec.as_ref();
            let mut containers =
                spec.into_iter().flat_map(|s| s.containers.iter().chain(s.init_containers.iter().flatten()));
            let container = containers.find(|c| c.name == name).ok_or_else(|| Error::NoContainer(name.to_owned()))?;
            let divisor = resource.divisor.as_ref().map(|divisor| divisor.0.as_str());
            return Ok(resource_value(&resource.resource, divisor, container, self.node.shared.storage));
        }
        let path = item.field_ref.as_ref().map(|field| field.field_path.as_str()).unwrap_or_default();
        match path {
            "metadata.labels" => Ok(lines(pod.labels())),
            "metadata.annotations" => Ok(lines(pod.annotations())),
            path => {
                let sources = Sources {
                    pod,
                    pod_ips: &self.pod_ips,
                    host_ips: &self.node.address_texts(),
                    storage: self.node.shared.storage,
                    config_map: &|_| None,
                    secret: &|_| None,
                };
                Ok(field_value(path, &sources)?)
            }
        }
    }

    /// A new token for the Pod, and after which time to ask for the next.
    async fn token(&self, pod: &Pod, wanted: &ServiceAccountTokenProjection) -> Result<(String, Duration), Error> {
        let spec = pod.spec.as_ref();
        let account = spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wanted.audience.clone().filter(|audience| !audience.is_empty()).map(|one| vec![one]),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name_any()),
                    uid: pod.uid(),
                }),
                expiration_seconds: Some(wanted.expiration_seconds.unwrap_or(DEFAULT_SECONDS)),
            }),
            ..TokenRequest::default()
        };
        let namespace = pod.namespace().unwrap_or_default();
        let api: Api<ServiceAccount> = Api::namespaced(self.node.shared.client.clone(), &namespace);
        let made = api.create_token_request(&account, &PostParams::default(), &request).await.map_err(Error::Token)?;
        let status = made.status.unwrap_or_default();
        let lasts = status.expiration_timestamp.map_or(0, |end| end.0.as_second() - Timestamp::now().as_second());
        let lasts = Duration::from_secs(u64::try_from(lasts).unwrap_or_default());
        Ok((status.token.unwrap_or_default(), renewal(lasts)))
    }
}

/// When a token that lasts this long is renewed, from now.
fn renewal(lasts: Duration) -> Duration {
    let latest = (lasts * 4 / 5).min(MOST_AGE);
    let early = JITTER.min(latest / 10).mul_f64(rand::rng().random());
    latest.saturating_sub(early)
}

/// Labels or annotations as the downward API has them in a file.
fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(key, value)| format!("{key}={value:?}")).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_renewed_well_before_its_end_and_each_day() {
        for _ in 0..100 {
            let hour = renewal(Duration::from_secs(3607)).as_secs();
            assert!((2875..=2886).contains(&hour), "{hour}");
            let week = renewal(Duration::from_secs(7 * 24 * 3600));
            assert!(week <= MOST_AGE && week >= MOST_AGE - JITTER, "{week:?}");
        }
    }

    #[test]
    fn labels_are_quoted_lines() {
        let labels = BTreeMap::from([("b".to_owned(), "x \"y\"".to_owned()), ("a".to_owned(), "1".to_owned())]);
        assert_eq!(lines(&labels), "a=\"1\"\nb=\"x \\\"y\\\"\"");
    }
}
