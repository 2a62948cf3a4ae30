//! A schema registry of a few lines, for tests.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{RegistryAuth, SchemaRegistry, SchemaType};

/// Answers requests by their method and path until it is dropped; says 404 as a registry does to all others.
pub(crate) struct TestServer {
    runtime: Runtime,
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, (u16, String)>,
    requests: Vec<String>,
}

impl TestServer {
    pub(crate) fn start() -> TestServer {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let served = Arc::clone(&state);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served)));
            }
        });
        TestServer { runtime, address, state }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A client of this server alone.
    pub(crate) fn registry(&self) -> Arc<SchemaRegistry> {
        Arc::new(self.client(&[&self.address], RegistryAuth::None))
    }

    pub(crate) fn client(&self, urls: &[&str], auth: RegistryAuth) -> SchemaRegistry {
        let urls: Vec<String> = urls.iter().map(|url| url.to_string()).collect();
        SchemaRegistry::new(&urls, auth, None, self.runtime_handle()).unwrap()
    }

    pub(crate) fn runtime_handle(&self) -> Handle {
        self.runtime.handle().clone()
    }

    /// Answers `request`, such as "GET /subjects", from now on.
    pub(crate) fn answer(&self, request: &str, status: u16, body: impl ToString) {
        self.state.lock().unwrap().answers.insert(request.to_owned(), (status, body.to_string()));
    }

    pub(crate) fn add_schema(&self, id: u32, schema_type: SchemaType, text: &str) {
        self.add_schema_with(id, schema_type, text, &[]);
    }

    /// Adds a schema that builds on others, each a name, a subject and a version.
    pub(crate) fn add_schema_with(
        &self,
        id: u32,
        schema_type: SchemaType,
        text: &str,
        references: &[(&str, &str, u32)],
    ) {
        self.answer(&format!("GET /schemas/ids/{id}"), 200, schema_json(schema_type, text, references));
    }

    pub(crate) fn add_version(
        &self,
        subject: &str,
        version: u32,
        schema_type: SchemaType,
        text: &str,
        references: &[(&str, &str, u32)],
    ) {
        let request = format!("GET /subjects/{subject}/versions/{version}?deleted=true");
        self.answer(&request, 200, schema_json(schema_type, text, references));
    }

    /// The requests so far: method and path, then the authorization and the body if there are any.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }
}

fn schema_json(schema_type: SchemaType, text: &str, references: &[(&str, &str, u32)]) -> Value {
    let reference =
        |(name, subject, version): &(&str, &str, u32)| json!({ "name": name, "subject": subject, "version": version });
    let references: Vec<Value> = references.iter().map(reference).collect();
    let mut schema = json!({ "schema": text, "references": references });
    if schema_type != SchemaType::Avro {
        schema["schemaType"] = json!(schema_type.name());
    }
    schema
}

async fn serve(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut received = Vec::new();
    let (head, body) = loop {
        if stream.read_buf(&mut received).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&received).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() >= length {
            break (head.to_owned(), body.to_owned());
        }
    };
    let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
    let parts = [Some(request.as_str()), header(&head, "authorization"), Some(body.as_str())];
    let recorded = parts.into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let answer = {
        let mut state = state.lock().unwrap();
        state.requests.push(recorded);
        state.answers.get(&request).cloned()
    };
    let unknown = || (404, json!({ "error_code": 40403, "message": "Schema not found" }).to_string());
    let (status, body) = answer.unwrap_or_else(unknown);
    let length = body.len();
    let answer = format!("HTTP/1.1 {status} -\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    // Who asked may have gone.
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut headers = head.lines().filter_map(|line| line.split_once(": "));
    headers.find(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
