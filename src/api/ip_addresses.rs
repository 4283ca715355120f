//! One IPAddress object for each address of a Service (rules SC5, SC6), written in the same commit as the Service.
//!
//! The Service itself holds the address; the object tells clients who has it. When one is deleted although its Service
//! is there, a controller brings it back (SC7).

use std::sync::OnceLock;

use serde_json::{Value, json};

use super::Api;
use super::alloc::{FAMILY, MANAGED_BY, MANAGER};
use super::kinds::{Info, Strategy};
use super::managed::{Managers, Writer};
use super::object::{self, meta_str};
use crate::store::{Key, Op};

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
    /// The writes of IPAddresses that go along with a Service's as it goes from `old` to `new`, either of which may be
    /// null. Of other kinds there are none.
    pub(super) fn address_writes(&self, info: &Info, old: &Value, new: &Value) -> Vec<(Key, Op)> {
        if !info.has_addresses() {
            return Vec::new();
        }
        let (before, after) = (addresses(old), addresses(new));
        if before == after {
            return Vec::new();
        }
        let Some(kind) = self.registry().find("networking.k8s.io", "v1", "ipaddresses") else { return Vec::new() };
        let gone = before.iter().filter(|address| !after.contains(address));
        let made = after.iter().filter(|address| !before.contains(address));
        let gone = gone.filter_map(|address| self.removal(kind.info(), address));
        gone.chain(made.map(|address| making(&*kind, address, new))).collect()
    }

    /// `None` when there is no such object, or when it is not ours.
    fn removal(&self, info: &Info, address: &str) -> Option<(Key, Op)> {
        let key = Key::new(RESOURCE, "", address);
        let entry = self.store().get(&key)?;
        let object: Value = serde_json::from_slice(&entry.value).ok()?;
        let ours = object["metadata"]["labels"][MANAGED_BY] == MANAGER;
        let encode = object::encode_again(info, object);
        ours.then_some((key, Op::Delete { expect: entry.revision, encode }))
    }
}

/// One that an earlier holder left behind is taken over.
fn making(kind: &dyn Strategy, address: &str, service: &Value) -> (Key, Op) {
    /// All these objects have the same fields, so who owns them is found out once.
    static MANAGERS: OnceLock<Value> = OnceLock::new();
    let mut object = of_service(address, service);
    let now = object::now_text();
    let managers = MANAGERS.get_or_init(|| {
        let api_version = kind.info().api_version();
        let writer =
            Writer { manager: FIELD_MANAGER, api_version: &api_version, subresource: "", now: &now, has_status: false };
        let mut first = object.clone();
        Managers::after_update(kind.schema(), &Value::Null, &object, None, &writer).write_to(&mut first);
        first["metadata"]["managedFields"].take()
    });
    let mut managers = managers.clone();
    managers[0]["time"] = now.into();
    object["metadata"]["managedFields"] = managers;
    (Key::new(RESOURCE, "", address), Op::Put { encode: object::encode_again(kind.info(), object) })
}
