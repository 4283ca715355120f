//! OpenAPI v2 (Swagger) from v3: older clients and tools read it.

use serde_json::{Map, Value, json};

/// The v2 document that says the same as the v3 document.
pub(super) fn document(v3: &Value) -> Value {
    let schemas = v3["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let definitions: Map<String, Value> =
        schemas.into_iter().map(|(name, schema)| (name, downgraded(schema))).collect();
    let paths = v3["paths"].as_object().cloned().unwrap_or_default();
    let paths: Map<String, Value> = paths.into_iter().map(|(path, item)| (path, path_item(item))).collect();
    json!({"swagger": "2.0", "info": v3["info"], "paths": paths, "definitions": definitions})
}

fn path_item(item: Value) -> Value {
    let Value::Object(members) = item else { return item };
    let members = members.into_iter().map(|(name, member)| {
        let member = if name == "parameters" { parameters(member) } else { operation(member) };
        (name, member)
    });
    Value::Object(members.collect())
}

fn operation(mut operation: Value) -> Value {
    let body = operation.as_object_mut().and_then(|operation| operation.remove("requestBody"));
    let mut all = parameters(operation["parameters"].take());
    if let Some(body) = body
        && let Some(content) = body["content"].as_object()
        && let Some(list) = all.as_array_mut()
    {
        let schema = content.values().next().map(|media| downgraded(media["schema"].clone())).unwrap_or_default();
        let required = body["required"].as_bool().unwrap_or(false);
        list.push(json!({"name": "body", "in": "body", "required": required, "schema": schema}));
        operation["consumes"] = content.keys().cloned().collect();
    }
    operation["parameters"] = all;
    operation["produces"] = json!(["application/json"]);
    for response in operation["responses"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let Some(response) = response.as_object_mut() else { continue };
        if let Some(content) = response.remove("content") {
            response.insert("schema".into(), downgraded(content["application/json"]["schema"].clone()));
        }
    }
    operation
}

/// In v2 the type of a parameter stands in the parameter itself.
fn parameters(list: Value) -> Value {
    let Value::Array(list) = list else { return json!([]) };
    list.into_iter()
        .map(|mut parameter| {
            if let Some(parameter) = parameter.as_object_mut()
                && let Some(Value::Object(schema)) = parameter.remove("schema")
            {
                parameter.extend(schema);
            }
            parameter
        })
        .collect()
}

/// References lead to `definitions`, and stand alone rather than in `allOf`.
fn downgraded(schema: Value) -> Value {
    match schema {
        Value::Object(mut fields) => {
            if let Some([only]) = fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
                && let Some(target) = only.get("$ref").cloned()
            {
                fields.remove("allOf");
                fields.insert("$ref".into(), target);
            }
            if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                let target = target.replace("#/components/schemas/", "#/definitions/");
                fields.insert("$ref".into(), target.into());
            }
            Value::Object(fields.into_iter().map(|(name, value)| (name, downgraded(value))).collect())
        }
        Value::Array(items) => items.into_iter().map(downgraded).collect(),
        other => other,
    }
}
