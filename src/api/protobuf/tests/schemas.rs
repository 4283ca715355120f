//! Schemas of custom resources: messages that contain themselves, and parts whose JSON is one of two things.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 as crd;
use prost::Message;
use serde_json::{Value, json};

use super::super::Error;
use super::super::decode::DEPTH_LIMIT;
use super::{b, fields};

/// The schema of a definition with one version.
fn schema(schema: crd::JsonSchemaProps) -> Result<Value, Error> {
    let version = crd::CustomResourceDefinitionVersion {
        schema: Some(crd::CustomResourceValidation { open_apiv3_schema: Some(schema) }),
        ..Default::default()
    };
    let spec = crd::CustomResourceDefinitionSpec { versions: vec![version], ..Default::default() };
    let definition = crd::CustomResourceDefinition { spec: Some(spec), ..Default::default() };
    fields("apiextensions.k8s.io/v1", "CustomResourceDefinition", &definition.encode_to_vec())
        .map(|mut object| object["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
}

fn of_type(name: &str) -> crd::JsonSchemaProps {
    crd::JsonSchemaProps { r#type: Some(name.into()), ..Default::default() }
}

fn raw(json: &str) -> crd::Json {
    crd::Json { raw: Some(json.into()) }
}

#[test]
fn a_schema_has_its_json_form() {
    let mut number = of_type("number");
    number.minimum = Some(0.0);
    number.maximum = Some(10.0);
    number.multiple_of = Some(0.25);
    number.exclusive_maximum = Some(false);
    number.min_length = Some(0);
    let mut list = of_type("array");
    list.items = Some(Box::new(crd::JsonSchemaPropsOrArray {
        schema: Some(Box::new(of_type("string"))),
        j_son_schemas: Vec::new(),
    }));
    let mut root = of_type("object");
    root.schema = Some("http://json-schema.org/draft-04/schema#".into());
    root.r#ref = Some(String::new());
    root.default = Some(raw(r#"{"size":0}"#));
    root.r#enum = vec![raw("1"), raw("null"), raw(r#""x""#)];
    root.properties = [("size".to_owned(), number), ("list".to_owned(), list)].into();
    root.x_kubernetes_preserve_unknown_fields = Some(false);
    root.x_kubernetes_int_or_string = Some(false);
    let expected = json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "object",
        "default": {"size": 0},
        "enum": [1, null, "x"],
        "properties": {
            "size": {"type": "number", "minimum": 0, "maximum": 10, "multipleOf": 0.25, "minLength": 0},
            "list": {"type": "array", "items": {"type": "string"}},
        },
        "x-kubernetes-preserve-unknown-fields": false,
    });
    assert_eq!(schema(root), Ok(expected));
}

#[test]
fn a_schema_may_stand_for_a_boolean() {
    let additional = |allows, inner: Option<&str>| {
        let either = crd::JsonSchemaPropsOrBool { allows, schema: inner.map(|name| Box::new(of_type(name))) };
        schema(crd::JsonSchemaProps { additional_properties: Some(Box::new(either)), ..Default::default() })
    };
    assert_eq!(additional(Some(true), None), Ok(json!({"additionalProperties": true})));
    assert_eq!(additional(Some(false), None), Ok(json!({"additionalProperties": false})));
    assert_eq!(additional(None, None), Ok(json!({"additionalProperties": false})));
    assert_eq!(additional(Some(true), Some("string")), Ok(json!({"additionalProperties": {"type": "string"}})));
}

#[test]
fn a_list_may_stand_for_a_schema() {
    let both = crd::JsonSchemaPropsOrArray { schema: None, j_son_schemas: vec![of_type("string"), of_type("object")] };
    assert_eq!(
        schema(crd::JsonSchemaProps { items: Some(Box::new(both)), ..Default::default() }),
        Ok(json!({"items": [{"type": "string"}, {"type": "object"}]}))
    );
    let names = crd::JsonSchemaPropsOrStringArray { schema: None, property: vec!["a".into()] };
    let other = crd::JsonSchemaPropsOrStringArray { schema: Some(of_type("object")), property: Vec::new() };
    let dependencies = [("names".to_owned(), names), ("schema".to_owned(), other)].into();
    assert_eq!(
        schema(crd::JsonSchemaProps { dependencies, ..Default::default() }),
        Ok(json!({"dependencies": {"names": ["a"], "schema": {"type": "object"}}}))
    );
}

#[test]
fn numbers_that_json_cannot_say_are_refused() {
    for bound in [f64::NAN, f64::INFINITY] {
        let unbounded = crd::JsonSchemaProps { maximum: Some(bound), ..Default::default() };
        assert_eq!(schema(unbounded), Err(Error::NotFinite));
    }
    let large = crd::JsonSchemaProps { maximum: Some(1e300), ..Default::default() };
    assert_eq!(schema(large), Ok(json!({"maximum": 1e300})));
}

/// However deep a body is, reading it takes bounded stack, here and in what reads the JSON.
#[test]
fn schemas_may_be_so_deep_and_no_deeper() {
    let nested = |depth: usize| {
        let mut inner = of_type("object");
        for _ in 0..depth {
            inner = crd::JsonSchemaProps { properties: [("p".to_owned(), inner)].into(), ..Default::default() };
        }
        schema(inner)
    };
    // The definition, its spec, version and validation, and the innermost schema count too.
    let deepest = nested(DEPTH_LIMIT - 5).unwrap();
    assert!(serde_json::from_str::<JSONSchemaProps>(&deepest.to_string()).is_ok());
    assert_eq!(nested(DEPTH_LIMIT - 4), Err(Error::TooDeep(DEPTH_LIMIT)));

    let mut hostile = Vec::new();
    for _ in 0..2_000 {
        hostile = b(28, hostile);
    }
    let version = b(4, b(1, hostile));
    let refused = fields("apiextensions.k8s.io/v1", "CustomResourceDefinition", &b(2, b(7, version)));
    assert_eq!(refused, Err(Error::TooDeep(DEPTH_LIMIT)));
}
