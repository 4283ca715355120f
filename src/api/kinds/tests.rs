//! Kinds, asked as the verbs ask them: tables of objects and what is said of them.

mod config;
mod networking;
mod policy;
mod storage;
mod workloads;

use serde_json::{Value, json};

use super::*;
use crate::config::StoreConfig;

/// Creates and changes objects of one kind without storing them.
struct Desk {
    ctx: Context,
    kind: Arc<dyn Strategy>,
}

impl Desk {
    async fn of<K: Kind>() -> Self {
        let network = Network::default();
        let allocators = Arc::new(Allocators::new(&network));
        let store = Store::open(&StoreConfig::in_memory()).await.expect("the store opens");
        Self {
            ctx: Context { network, node_times: crate::config::NodeTimes::default(), allocators, store },
            kind: Typed::<K>::boxed(),
        }
    }

    /// The object as it would be stored, or the causes of its refusal as `field: message`.
    fn create(&self, object: Value) -> Result<Value, Vec<String>> {
        self.kind.create(&self.ctx, object, Causes::default()).map(|admitted| admitted.value).map_err(causes)
    }

    fn update(&self, new: Value, old: Value, part: Part) -> Result<Value, Vec<String>> {
        let admitted = self.kind.update(&self.ctx, new, old, part, Causes::default());
        admitted.map(|admitted| admitted.value).map_err(causes)
    }

    /// Each case is what differs from `base`, and how the only cause begins; `None` for an object that is fine.
    #[track_caller]
    fn assert_creates(&self, base: &Value, cases: &[(Value, Option<&str>)]) {
        for (overlay, wanted) in cases {
            let mut object = base.clone();
            json_patch::merge(&mut object, overlay);
            assert_cause(self.create(object), *wanted, overlay);
        }
    }

    /// Each case is a merge patch on the stored form of `base`, and how the only cause begins.
    #[track_caller]
    fn assert_updates(&self, base: &Value, part: Part, cases: &[(Value, Option<&str>)]) {
        let old = self.create(base.clone()).expect("the base is valid");
        for (overlay, wanted) in cases {
            let mut new = old.clone();
            json_patch::merge(&mut new, overlay);
            assert_cause(self.update(new, old.clone(), part), *wanted, overlay);
        }
    }

    fn cells(&self, object: &Value) -> Vec<Value> {
        let now = "2024-01-01T01:00:00Z".parse().unwrap();
        self.kind.cells(object.to_string().as_bytes(), now)
    }
}

fn causes(error: ApiError) -> Vec<String> {
    let causes = error.details.as_ref().and_then(|details| details["causes"].as_array().cloned()).unwrap_or_default();
    let text = |cause: &Value, field: &str| cause[field].as_str().unwrap_or_default().to_owned();
    match causes.is_empty() {
        true => vec![error.message],
        false => causes.iter().map(|cause| format!("{}: {}", text(cause, "field"), text(cause, "message"))).collect(),
    }
}

#[track_caller]
fn assert_cause(result: Result<Value, Vec<String>>, wanted: Option<&str>, case: &Value) {
    match (result, wanted) {
        (Ok(_), None) => {}
        (Ok(_), Some(wanted)) => panic!("{case} is accepted, not refused with {wanted}"),
        (Err(found), None) => panic!("{case} is refused: {found:?}"),
        (Err(found), Some(wanted)) => {
            assert!(found.len() == 1 && found[0].starts_with(wanted), "{case}: {found:?}, wanted {wanted}");
        }
    }
}

#[tokio::test]
async fn quantity_that_is_none_is_refused_when_it_is_read() {
    let desk = Desk::of::<deployment::Kind>().await;
    let object = json!({"spec": {"template": {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}}}});
    let wanted = format!("Deployment in version \"v1\" cannot be handled as a Deployment: {}", quantity::SYNTAX);
    assert_eq!(desk.create(object), Err(vec![wanted]));
}
