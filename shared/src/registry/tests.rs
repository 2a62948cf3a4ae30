//! What is asked of a registry and what its answers mean.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use serde_json::json;

use super::test_server::TestServer;
use super::*;
use crate::error::{Error, ErrorKind};
use crate::time::simulated::{SimulatedTime, advance_to};

#[test]
fn a_schema_is_asked_for_once() {
    let server = TestServer::start();
    server.add_schema_with(7, SchemaType::Protobuf, "message A {}", &[("b.proto", "b", 3)]);
    let registry = server.registry();
    let schema = registry.schema(7).unwrap().unwrap();
    assert_eq!((schema.schema_type, schema.text.as_str()), (SchemaType::Protobuf, "message A {}"));
    let reference = SchemaReference { name: "b.proto".to_owned(), subject: "b".to_owned(), version: 3 };
    assert_eq!(schema.references, [reference]);
    assert_eq!(registry.schema(7).unwrap(), Some(schema));
    assert_eq!(server.requests(), ["GET /schemas/ids/7"]);
}

#[test]
fn a_schema_without_a_type_is_avro_and_one_of_a_new_type_is_none_of_ours() {
    let server = TestServer::start();
    server.answer("GET /schemas/ids/1", 200, json!({ "schema": "\"int\"" }));
    server.answer("GET /schemas/ids/2", 200, json!({ "schema": "", "schemaType": "THRIFT" }));
    let schema_type = |id| server.registry().schema(id).unwrap().unwrap().schema_type;
    assert_eq!((schema_type(1), schema_type(2)), (SchemaType::Avro, SchemaType::Other));
}

#[test]
fn an_unknown_id_is_asked_for_again_after_some_seconds() {
    let _time = SimulatedTime::enter(0);
    let server = TestServer::start();
    let registry = server.registry();
    assert_eq!(registry.schema(1).unwrap(), None);
    server.add_schema(1, SchemaType::Avro, "\"int\"");
    advance_to(UNKNOWN_BELIEVED - Duration::from_millis(1));
    assert_eq!(registry.schema(1).unwrap(), None);
    assert_eq!(server.requests().len(), 1);
    advance_to(UNKNOWN_BELIEVED);
    assert!(registry.schema(1).unwrap().is_some());
}

#[test]
fn the_registry_is_told_who_asks() {
    let server = TestServer::start();
    let basic = RegistryAuth::Basic { user: "us".to_owned(), password: "secret".to_owned() };
    server.client(&[server.address()], basic.clone()).schema(1).unwrap();
    let bearer = RegistryAuth::Bearer("token".to_owned());
    server.client(&[server.address()], bearer.clone()).schema(1).unwrap();
    assert_eq!(server.requests(), ["GET /schemas/ids/1 Basic dXM6c2VjcmV0", "GET /schemas/ids/1 Bearer token"]);
    assert_eq!(format!("{basic:?} {bearer:?}"), "Basic Bearer", "secrets are not printed");
}

#[test]
fn no_answer_of_use_is_an_error_that_may_pass() {
    let server = TestServer::start();
    for (status, body, expected) in [
        (401, "{\"message\": \"who?\"}", "it does not accept our credentials (401): who?"),
        (403, "no", "it does not allow us to ask this (403): no"),
        (404, "<html>", "it answers 404 as a registry does not; the address may lack a path"),
        (500, "{\"error_code\": 50001, \"message\": \"broken\"}", "it answers 500: broken"),
        (200, "<html>", "its answer is no JSON: <html>"),
        (200, "{}", "its answer cannot be read: missing field `schema`"),
    ] {
        server.answer("GET /schemas/ids/1", status, body);
        let error = server.registry().schema(1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Retryable);
        let Error::Registry { reason, .. } = error else { panic!("{error:?}") };
        assert_eq!(reason, expected);
    }
}

#[test]
fn addresses_are_tried_in_their_order() {
    let (first, second) = (TestServer::start(), TestServer::start());
    let path = format!("{}/registry/", second.address());
    first.answer("GET /schemas/ids/1", 503, "busy");
    second.answer("GET /registry/schemas/ids/1", 200, json!({ "schema": "\"int\"" }));
    let registry = second.client(&[first.address(), &path], RegistryAuth::None);
    assert!(registry.schema(1).unwrap().is_some());
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));

    second.answer("GET /registry/schemas/ids/2", 500, "broken");
    first.answer("GET /schemas/ids/2", 503, "busy");
    let error = registry.schema(2).unwrap_err().to_string();
    assert!(error.contains(first.address()) && error.contains(&path), "{error}");
    assert!(error.contains("it answers 503: busy; then it answers 500: broken"), "{error}");
}

#[test]
fn an_address_where_nobody_answers_is_an_error_without_secrets() {
    let server = TestServer::start();
    let password = RegistryAuth::Basic { user: "us".to_owned(), password: "secret".to_owned() };
    // Port 1 is nobody's.
    let error = server.client(&["http://127.0.0.1:1"], password).schema(1).unwrap_err().to_string();
    assert!(error.contains("the schema registry at http://127.0.0.1:1/ gives no answer"), "{error}");
    assert!(!error.contains("secret"), "{error}");
}

#[test]
fn addresses_that_cannot_be_right_are_refused_at_once() {
    let server = TestServer::start();
    for (urls, expected) in [
        (vec![], "no address is given"),
        (vec!["registry:8081"], "an address looks like \"http://registry:8081\""),
        (vec!["http://"], "this is no address"),
        (vec!["http://us:secret@registry"], "an address holds no user and password"),
    ] {
        let urls: Vec<String> = urls.into_iter().map(str::to_owned).collect();
        let error = SchemaRegistry::new(&urls, RegistryAuth::None, None, server.runtime_handle()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains("secret"), "{error}");
    }
    let urls = [server.address().to_owned()];
    let error = SchemaRegistry::new(
        &urls,
        RegistryAuth::None,
        Some(b"-----BEGIN CERTIFICATE-----\n!"),
        server.runtime_handle(),
    );
    assert!(error.unwrap_err().to_string().contains("the certificates to trust cannot be read"));
}

#[test]
fn a_subject_gives_its_versions_and_takes_new_ones() {
    let server = TestServer::start();
    let registry = server.registry();
    assert!(registry.latest("a/b").unwrap().is_none());
    let latest = json!({ "subject": "a/b", "id": 9, "version": 2, "schema": "{}", "schemaType": "JSON" });
    server.answer("GET /subjects/a%2Fb/versions/latest", 200, latest);
    let latest = registry.latest("a/b").unwrap().unwrap();
    assert_eq!((latest.id, latest.version, latest.schema.schema_type), (9, 2, SchemaType::Json));

    server.add_version("a%2Fb", 1, SchemaType::Json, "true", &[]);
    assert_eq!(registry.version("a/b", 1).unwrap().unwrap().text, "true");
    assert_eq!(registry.version("a/b", 5).unwrap(), None);

    server.answer("POST /subjects/a%2Fb/versions", 200, json!({ "id": 10 }));
    assert_eq!(registry.register("a/b", SchemaType::Avro, "\"int\"").unwrap(), 10);
    let sent = server.requests().pop().unwrap();
    assert_eq!(sent, "POST /subjects/a%2Fb/versions {\"schema\":\"\\\"int\\\"\",\"schemaType\":\"AVRO\"}");

    let incompatible = json!({ "error_code": 409, "message": "incompatible with version 2" });
    server.answer("POST /subjects/a%2Fb/versions", 409, incompatible);
    let error = registry.register("a/b", SchemaType::Avro, "\"int\"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    let expected = "refuses to register a schema of subject \"a/b\": incompatible with version 2 (409)";
    assert!(error.to_string().ends_with(expected), "{error}");
}
