//! ServiceAccount.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Info, NAME, age_cell, column, name_cell};

pub struct Kind;

impl super::Kind for Kind {
    type Object = ServiceAccount;
    const INFO: Info = Info {
        kind: "ServiceAccount",
        plural: "serviceaccounts",
        singular: "serviceaccount",
        short_names: &["sa"],
        returns_deleted: true,
        columns: &[
            NAME,
            column(
                "Secrets",
                "Secrets is a list of the secrets in the same namespace that pods running using this ServiceAccount are allowed to use.",
            ),
            AGE,
        ],
        ..Info::DEFAULT
    };

    fn cells(object: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        let secrets = object.secrets.as_ref().map_or(0, Vec::len);
        vec![name_cell(object), secrets.into(), age_cell(object, now)]
    }
}
