use super::*;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;

fn compile(schema: Value) -> (Structural, Causes) {
    let schema: JSONSchemaProps = serde_json::from_value(schema).unwrap();
    let mut causes = Causes::default();
    let structural = Structural::compile(&schema, "schema", &mut causes);
    (structural, causes)
}

fn messages(causes: &Causes) -> Vec<String> {
    causes.0.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
}

fn refused(spec: Value, value: Value, old: Option<Value>) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"x": spec}}}});
    let (structural, causes) = compile(schema);
    assert!(causes.is_empty(), "{:?}", messages(&causes));
    let mut found = Causes::default();
    let old = old.map(|old| json!({"spec": {"x": old}}));
    validate::check(&structural, &json!({"spec": {"x": value}}), old.as_ref(), &mut found);
    messages(&found)
}

#[test]
fn values_that_break_rules_are_refused_as_the_reference_does() {
    for (schema, value, expected) in [
        (
            json!({"type": "integer"}),
            json!("a"),
            "Invalid value: \"string\": spec.x in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "integer", "minimum": 1}),
            json!(0),
            "Invalid value: 0: spec.x in body should be greater than or equal to 1",
        ),
        (
            json!({"type": "integer", "maximum": 5}),
            json!(6),
            "Invalid value: 6: spec.x in body should be less than or equal to 5",
        ),
        (
            json!({"type": "number", "multipleOf": 5}),
            json!(6),
            "Invalid value: 6: spec.x in body should be a multiple of 5",
        ),
        (
            json!({"type": "string", "pattern": "^[a-z]+$"}),
            json!("A"),
            "Invalid value: \"A\": spec.x in body should match '^[a-z]+$'",
        ),
        (
            json!({"type": "string", "minLength": 2}),
            json!("a"),
            "Invalid value: \"a\": spec.x in body should be at least 2 chars long",
        ),
        (json!({"type": "string", "maxLength": 2}), json!("abc"), "Too long: may not be more than 2 bytes"),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "string", "format": "date-time"}),
            json!("now"),
            "Invalid value: \"now\": spec.x in body must be of type date-time: \"now\"",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "Too many: 2: must have at most 1 items",
        ),
        (
            json!({"type": "object", "maxProperties": 0, "additionalProperties": {"type": "string"}}),
            json!({"a": "b"}),
            "Too many: 1: must have at most 0 items",
        ),
        (
            json!({"type": "string", "oneOf": [{"pattern": "a"}, {"pattern": "b"}]}),
            json!("ab"),
            "Invalid value: \"ab\": \"spec.x\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
        ),
        (
            json!({"type": "string", "anyOf": [{"pattern": "a"}, {"pattern": "b"}]}),
            json!("c"),
            "Invalid value: \"c\": \"spec.x\" must validate at least one schema (anyOf)",
        ),
        (
            json!({"type": "string", "not": {"enum": ["c"]}}),
            json!("c"),
            "Invalid value: \"c\": \"spec.x\" must not validate the schema (not)",
        ),
    ] {
        assert_eq!(refused(schema, value, None), [format!("spec.x: {expected}")]);
    }
}

#[test]
fn decimals_are_multiples_of_decimals() {
    for (unit, value, right) in [
        (0.1, 0.3, true),
        (0.1, 0.7, true),
        (0.1, -12.7, true),
        (0.01, 4.35, true),
        (0.1, 0.35, false),
        (0.1, 0.0, true),
        (2.5, 7.5, true),
        (2.5, 7.0, false),
        (3.0, 9_007_199_254_740_991.0, true),
    ] {
        let found = refused(json!({"type": "number", "multipleOf": unit}), json!(value), None);
        assert_eq!(found.is_empty(), right, "{value} of {unit}: {found:?}");
    }
}

#[test]
fn defaults_keep_to_their_schema() {
    let spec = |property: Value| compile(json!({"type": "object", "properties": {"a": property}})).1;
    for (property, expected) in [
        (json!({"type": "string", "default": "x", "enum": ["x"]}), None),
        (json!({"type": "object", "default": {}, "properties": {"b": {"type": "string", "default": "y"}}}), None),
        (json!({"type": "string", "nullable": true, "default": null}), None),
        (
            json!({"type": "string", "default": "z", "enum": ["x"]}),
            Some("schema.properties[a].default: Unsupported value: \"z\": supported values: \"x\""),
        ),
        (
            json!({"type": "integer", "default": "z"}),
            Some(
                "schema.properties[a].default: Invalid value: \"string\":  in body must be of type integer: \"string\"",
            ),
        ),
        (
            json!({"type": "integer", "default": 0, "minimum": 1}),
            Some("schema.properties[a].default: Invalid value: 0:  in body should be greater than or equal to 1"),
        ),
        (
            json!({"type": "object", "default": {"b": 0}, "properties": {"b": {"type": "string"}}}),
            Some(
                "schema.properties[a].default.b: Invalid value: \"integer\": .b in body must be of type string: \"integer\"",
            ),
        ),
        (
            json!({"type": "object", "default": {"c": 0}, "properties": {"b": {"type": "string"}}}),
            Some("schema.properties[a].default: Invalid value: {\"c\":0}: must not have unknown fields"),
        ),
        (
            json!({"type": "string", "anyOf": [{"default": "x"}]}),
            Some("schema.properties[a].anyOf[0].default: Forbidden: must be undefined to be structural"),
        ),
    ] {
        let found = messages(&spec(property.clone()));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{property}");
    }
}

#[test]
fn required_fields_and_duplicates_are_named_by_their_place() {
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "items": {"type": "object", "required": ["name", "port"],
                  "properties": {"name": {"type": "string"}, "port": {"type": "integer"}}}});
    let found = refused(list, json!([{"name": "a", "port": 1}, {"name": "a"}]), None);
    assert_eq!(found, ["spec.x[1].port: Required value", "spec.x[1]: Duplicate value: {\"name\":\"a\"}"]);
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
    assert_eq!(refused(set, json!(["a", "b", "a"]), None), ["spec.x[2]: Duplicate value: \"a\""]);
}

#[test]
fn what_was_there_before_a_stricter_schema_stays_valid_until_it_changes() {
    let schema = json!({"type": "integer", "minimum": 10});
    assert_eq!(refused(schema.clone(), json!(1), Some(json!(1))), Vec::<String>::new());
    assert_eq!(refused(schema, json!(2), Some(json!(1))).len(), 1);
}

#[test]
fn numbers_and_strings_pass_where_both_are_allowed() {
    let schema = json!({"x-kubernetes-int-or-string": true});
    assert!(refused(schema.clone(), json!(80), None).is_empty());
    assert!(refused(schema.clone(), json!("50%"), None).is_empty());
    assert_eq!(refused(schema, json!(true), None).len(), 1);
}

#[test]
fn unknown_fields_go_and_defaults_come() {
    let (structural, _) = compile(json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer", "default": 3},
        "inner": {"type": "object", "default": {}, "properties": {"mode": {"type": "string", "default": "a"}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"y": {"type": "string"}}}},
    }}}}));
    let mut value = json!({"apiVersion": "x", "kind": "X", "metadata": {"name": "n"}, "other": 1,
        "spec": {"free": {"any": 1}, "gone": 1, "size": null, "map": {"k": {"y": "1", "z": "2"}}}});
    structural.prune(&mut value);
    structural.fill_in(&mut value);
    assert_eq!(
        value,
        json!({"apiVersion": "x", "kind": "X", "metadata": {"name": "n"},
            "spec": {"free": {"any": 1}, "size": 3, "inner": {"mode": "a"}, "map": {"k": {"y": "1"}}}})
    );
}

#[test]
fn schemas_that_are_not_structural_are_refused() {
    for (schema, expected) in [
        (json!({"type": "string"}), "schema.type: Invalid value: \"string\": must be object at the root"),
        (
            json!({"type": "object", "properties": {"a": {}}}),
            "schema.properties[a].type: Required value: must not be empty for specified object fields",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            "schema.properties[a].items: Required value: must be specified",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            "schema.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
            "schema.additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
    ] {
        let (_, causes) = compile(schema);
        let found = messages(&causes);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{found:?}");
    }
}
