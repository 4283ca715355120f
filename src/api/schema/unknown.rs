//! Fields that a kind does not have.

use serde_json::Value;

use super::Type;

/// The paths of the fields of `value` that its type lacks, as strict decoding names them: `spec.containers[0].imagee`.
pub fn unknown_fields(of: Type<'_>, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk(of, value, &mut String::new(), &mut found);
    found
}

fn walk(of: Type<'_>, value: &Value, path: &mut String, found: &mut Vec<String>) {
    let end = path.len();
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if end > 0 {
                    path.push('.');
                }
                path.push_str(name);
                match of.field(name) {
                    Some(of) => walk(of, value, path, found),
                    None if of.is_object() => found.push(path.clone()),
                    None => {}
                }
                path.truncate(end);
            }
        }
        Value::Array(items) => {
            let Some(of) = of.item() else { return };
            for (i, item) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                walk(of, item, path, found);
                path.truncate(end);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::schema::builtin;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    #[test]
    fn misspelt_fields_are_named_by_their_path() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "y"}, "lables": {}},
            "spec": {"containers": [{"name": "c", "imagee": "x", "env": [{"nam": 1}]}], "nodeSelector": {"any": "thing"}},
        });
        let schema = builtin::schema::<Pod>();
        assert_eq!(
            unknown_fields(schema.root(), &pod),
            ["metadata.lables", "spec.containers[0].env[0].nam", "spec.containers[0].imagee"]
        );
    }
}
