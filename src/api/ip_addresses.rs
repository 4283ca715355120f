//! One IPAddress object for each address of a Service (rules SC5, SC6), written in the same commit as the Service.
//!
//! The Service itself holds the address; the object tells clients who has it. When one is deleted although its Service
//! is there, a controller brings it back (SC7).

use serde_json::{Value, json};

use super::Api;
use super::alloc::{MANAGED_BY, MANAGER};
use super::kinds::Strategy;
use super::managed::{Managers, Writer};
use super::object::{self, meta_str};
use crate::store::{CommitError, Key, Op};

const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
const RESOURCE: &str = "ipaddresses.networking.k8s.io";
/// Whose fields these objects are.
const FIELD_MANAGER: &str = "kube-apiserver";

fn addresses(service: &Value) -> Vec<&str> {
    let all = service["spec"]["clusterIPs"].as_array().into_iter().flatten();
    all.filter_map(Value::as_str).filter(|address| !address.is_empty() && *address != "None").collect()
}

fn of_service(address: &str, service: &Value) -> Value {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    json!({
        "metadata": {
            "name": address, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": object::now_text(),
            "labels": {FAMILY: family, MANAGED_BY: MANAGER},
        },
        "spec": {"parentRef": {
            "resource": "services", "namespace": meta_str(service, "namespace"), "name": meta_str(service, "name"),
        }},
    })
}

impl Api {
    /// Makes and removes IPAddresses as a Service goes from `old` to `new`, either of which may be null.
    pub(super) async fn move_addresses(&self, old: &Value, new: &Value) {
        let (before, after) = (addresses(old), addresses(new));
        if before == after {
            return;
        }
        let Some(kind) = self.registry().find("networking.k8s.io", "v1", "ipaddresses") else { return };
        let gone = before.iter().filter(|address| !after.contains(address)).map(|address| self.remove(address));
        let made =
            after.iter().filter(|address| !before.contains(address)).map(|address| self.make(&*kind, address, new));
        futures::future::join(futures::future::join_all(gone), futures::future::join_all(made)).await;
    }

    async fn make(&self, kind: &dyn Strategy, address: &str, service: &Value) {
        let mut object = of_service(address, service);
        let now = object::now_text();
        let api_version = kind.info().api_version();
        let writer =
            Writer { manager: FIELD_MANAGER, api_version: &api_version, subresource: "", now: &now, has_status: false };
        Managers::after_update(kind.schema(), &Value::Null, &object, None, &writer).write_to(&mut object);
        let key = Key::new(RESOURCE, "", address);
        let made =
            self.store().commit(key.clone(), Op::Create { encode: object::encode_again(kind.info(), object.clone()) });
        // One that an earlier holder left behind is taken over.
        if let Err(CommitError::Exists(left)) = made.await {
            let encode = object::encode_again(kind.info(), object);
            let _ = self.store().commit(key, Op::Update { expect: left.revision, encode }).await;
        }
    }

    async fn remove(&self, address: &str) {
        let key = Key::new(RESOURCE, "", address);
        let Some(entry) = self.store().get(&key) else { return };
        let ours = |object: &Value| object["metadata"]["labels"][MANAGED_BY] == MANAGER;
        let Ok(object) = serde_json::from_slice::<Value>(&entry.value) else { return };
        if let (true, Some(kind)) = (ours(&object), self.registry().find("networking.k8s.io", "v1", "ipaddresses")) {
            let encode = object::encode_again(kind.info(), object);
            // Somebody else's write means that it is gone, or not ours any more.
            let _ = self.store().commit(key, Op::Delete { expect: entry.revision, encode }).await;
        }
    }
}
