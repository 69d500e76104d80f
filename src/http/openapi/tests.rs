//! The document is whole, and loses nothing of what it is made from.

use std::collections::BTreeSet;

use super::super::route::Route;
use super::*;

fn parsed() -> Value {
    serde_json::from_str(&openapi_json()).unwrap()
}

/// Every operation: path, method, the operation itself.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if operation.get("responses").is_some() {
                found.push((path.clone(), method.clone(), operation.clone()));
            }
        }
    }
    found
}

#[test]
fn every_route_of_every_router_is_described() {
    let document = parsed();
    assert_eq!(document["openapi"], "3.1.0");
    let described: BTreeSet<_> = operations(&document)
        .into_iter()
        .map(|(path, method, _)| format!("{method} {path}"))
        .collect();
    for route in Route::ALL.into_iter().filter(|route| *route != Route::Other) {
        let method = if route.is_write() { "post" } else { "get" };
        assert!(described.contains(&format!("{method} {}", route.template())), "{route:?}");
    }
    for (path, _) in super::super::ops::PATHS {
        assert!(described.contains(&format!("get {path}")), "{path}");
    }
    // The admin router names its paths in its answer to a wrong one.
    let named = super::super::admin::PATHS.split([' ', ',', '\n']);
    let named: Vec<_> =
        named.map(|word| word.trim_end_matches('.')).filter(|word| word.starts_with('/')).collect();
    assert!(named.len() >= 5, "{named:?}");
    for path in named {
        assert!(document["paths"].get(path).is_some(), "{path}");
    }
}

#[test]
fn every_problem_is_described_with_an_example() {
    let mut seen = BTreeSet::new();
    for (path, method, operation) in operations(&parsed()) {
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(response["description"].as_str().is_some_and(|text| !text.is_empty()));
            let Some(content) = response["content"].get(PROBLEM) else { continue };
            for (name, example) in content["examples"].as_object().unwrap() {
                assert_eq!(
                    example["value"]["status"].to_string(),
                    *status,
                    "{method} {path} {name}"
                );
                seen.insert(name.clone());
            }
        }
    }
    let all: BTreeSet<_> = problem::described().map(|kind| kind.name.to_owned()).collect();
    // A path that doesn't exist is none that could be described; the document's own text tells.
    let missing: Vec<_> = all.difference(&seen).filter(|name| *name != "not-found").collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn operations_have_ids_of_their_own_and_their_schemas_exist() {
    let text = openapi_json();
    let document = parsed();
    let operations = operations(&document);
    let ids: BTreeSet<_> =
        operations.iter().map(|(_, _, operation)| operation["operationId"].to_string()).collect();
    assert_eq!(ids.len(), operations.len());
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
}

#[test]
fn every_schema_is_there_as_it_is_written() {
    let document = parsed();
    for (name, written) in schemas::written() {
        assert_eq!(document["components"]["schemas"][name], written, "{name}");
    }
    assert!(document["components"]["schemas"]["Status"]["properties"].get("lanes").is_some());
}
