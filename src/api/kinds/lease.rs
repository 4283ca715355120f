//! Lease (coordination.k8s.io/v1).

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Info, NAME, age_cell, column, name_cell};

pub struct Kind;

impl super::Kind for Kind {
    type Object = Lease;
    const INFO: Info = Info {
        group: "coordination.k8s.io",
        kind: "Lease",
        plural: "leases",
        singular: "lease",
        create_on_update: true,
        columns: &[NAME, column("Holder", "Current holder of the lease"), AGE],
        conditional_update: true,
        ..Info::DEFAULT
    };
    const ASSIGNS: bool = false;

    fn cells(object: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = object.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        vec![name_cell(object), holder.into(), age_cell(object, now)]
    }
}
