//! Asks a schema registry (the API of Confluent's, which others speak too) for the schemas of records.
//!
//! What an id or a version of a subject stands for never changes, so each is asked for once and kept. An id that the
//! registry does not know may be registered any moment; that is believed for some seconds only.
//!
//! Calls block the thread until the answer is there. They must not come from a thread of an async runtime, which could
//! not go on meanwhile. Several addresses are those of one registry: they are tried in their order.

mod options;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use tokio::runtime::Handle;

pub use self::options::RegistryOptions;
use self::transport::{Request, Transport};
use crate::error::Result;
use crate::time::instant;

/// For how long an id that the registry does not know is not asked for again.
const UNKNOWN_BELIEVED: Duration = Duration::from_secs(5);
/// Most unknown ids that are remembered; producers write any four bytes.
const UNKNOWN_MAX: usize = 10_000;

/// A schema registry and what it has said so far.
#[derive(Debug)]
pub struct SchemaRegistry {
    transport: Transport,
    by_id: Mutex<HashMap<u32, Arc<RegisteredSchema>>>,
    by_version: Mutex<HashMap<(String, u32), Arc<RegisteredSchema>>>,
    /// Ids that the registry did not know, and until when that is believed.
    unknown: Mutex<HashMap<u32, Instant>>,
}

/// How the registry knows that it is us.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum RegistryAuth {
    /// It does not ask.
    #[default]
    None,
    /// HTTP basic authentication; of Confluent Cloud, an API key and its secret.
    Basic {
        /// Who.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token in the `Authorization` header.
    Bearer(String),
}

/// The language of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SchemaType {
    /// An Avro schema, as JSON.
    Avro,
    /// A JSON Schema.
    Json,
    /// A `.proto` file.
    Protobuf,
    /// One that this version does not know.
    Other,
}

/// A schema as registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegisteredSchema {
    /// Its language.
    pub schema_type: SchemaType,
    /// Its text.
    pub text: String,
    /// The schemas of other subjects that it builds on.
    pub references: Vec<SchemaReference>,
}

/// A schema of another subject that a schema builds on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct SchemaReference {
    /// What the schema calls it: the path of an import in Protobuf, the full name of a type in Avro.
    pub name: String,
    /// The subject that it is registered under.
    pub subject: String,
    /// Its version there.
    pub version: u32,
}

/// The newest schema of a subject.
#[derive(Debug, Clone)]
pub struct LatestSchema {
    /// The id that records name it by.
    pub id: u32,
    /// Its version in the subject.
    pub version: u32,
    /// The schema itself.
    pub schema: Arc<RegisteredSchema>,
}

impl SchemaRegistry {
    /// A registry at `urls`, which is asked with the first record. `certificates` are PEM text with the authorities to
    /// trust besides the system's; `runtime` does the waiting and must live as long as the registry.
    ///
    /// # Errors
    /// [`RegistrySettings`](crate::error::Error::RegistrySettings) when there is no address, one is no HTTP address or holds a password, or the
    /// certificates cannot be read.
    pub fn new(
        urls: &[String],
        auth: RegistryAuth,
        certificates: Option<&[u8]>,
        runtime: Handle,
    ) -> Result<SchemaRegistry> {
        Ok(SchemaRegistry {
            transport: Transport::new(urls, auth, certificates, runtime)?,
            by_id: Mutex::default(),
            by_version: Mutex::default(),
            unknown: Mutex::default(),
        })
    }

    /// The schema that records name by `id`, or `None` when no such id is registered. Blocks while it is asked for.
    ///
    /// # Errors
    /// [`Registry`](crate::error::Error::Registry) when the registry cannot be reached, does not let us in, or does not answer as a registry.
    pub fn schema(&self, id: u32) -> Result<Option<Arc<RegisteredSchema>>> {
        if let Some(schema) = lock(&self.by_id).get(&id) {
            return Ok(Some(Arc::clone(schema)));
        }
        if lock(&self.unknown).get(&id).is_some_and(|until| *until > instant()) {
            return Ok(None);
        }
        let id_text = id.to_string();
        let request = Request::get(&["schemas", "ids", &id_text]);
        let Some(answer) = self.ask::<SchemaAnswer>("give a schema", &request)? else {
            self.remember_unknown(id);
            return Ok(None);
        };
        let schema = Arc::new(answer.into_schema());
        lock(&self.by_id).insert(id, Arc::clone(&schema));
        Ok(Some(schema))
    }

    /// A version of a subject, also if it has been deleted since: what refers to it needs it still. Blocks while it is
    /// asked for.
    ///
    /// # Errors
    /// As [`SchemaRegistry::schema`].
    pub fn version(&self, subject: &str, version: u32) -> Result<Option<Arc<RegisteredSchema>>> {
        let key = (subject.to_owned(), version);
        if let Some(schema) = lock(&self.by_version).get(&key) {
            return Ok(Some(Arc::clone(schema)));
        }
        let version = version.to_string();
        let request = Request::get(&["subjects", subject, "versions", &version]).with("deleted", "true");
        let Some(answer) = self.ask::<SchemaAnswer>("give a schema", &request)? else { return Ok(None) };
        let schema = Arc::new(answer.into_schema());
        lock(&self.by_version).insert(key, Arc::clone(&schema));
        Ok(Some(schema))
    }

    /// The newest schema of a subject as of now, or `None` when it has none. Blocks.
    ///
    /// # Errors
    /// As [`SchemaRegistry::schema`].
    pub fn latest(&self, subject: &str) -> Result<Option<LatestSchema>> {
        let request = Request::get(&["subjects", subject, "versions", "latest"]);
        let Some(answer) = self.ask::<LatestAnswer>("give a schema", &request)? else { return Ok(None) };
        let LatestAnswer { id, version, schema } = answer;
        Ok(Some(LatestSchema { id, version, schema: Arc::new(schema.into_schema()) }))
    }

    /// Registers a schema under a subject and gives the id that records name it by; that of an equal schema if the
    /// subject has one already. Blocks.
    ///
    /// # Errors
    /// [`RegistryRefused`](crate::error::Error::RegistryRefused) when the schema is wrong or not compatible with the subject's others; otherwise as
    /// [`SchemaRegistry::schema`].
    pub fn register(&self, subject: &str, schema_type: SchemaType, text: &str) -> Result<u32> {
        let body = json!({ "schema": text, "schemaType": schema_type.name() });
        let request =
            Request { method: Method::POST, body: Some(body), ..Request::get(&["subjects", subject, "versions"]) };
        let action = format!("register a schema of subject \"{subject}\"");
        match self.ask::<IdAnswer>(&action, &request)? {
            Some(answer) => Ok(answer.id),
            None => Err(self.transport.unusable("it answers a registration with 404")),
        }
    }

    fn ask<T: for<'de> Deserialize<'de>>(&self, action: &str, request: &Request<'_>) -> Result<Option<T>> {
        let Some(answer) = self.transport.ask(action, request)? else { return Ok(None) };
        let answer = serde_json::from_value(answer);
        answer.map(Some).map_err(|error| self.transport.unusable(format!("its answer cannot be read: {error}")))
    }

    fn remember_unknown(&self, id: u32) {
        let now = instant();
        let mut unknown = lock(&self.unknown);
        if unknown.len() >= UNKNOWN_MAX {
            unknown.retain(|_, until| *until > now);
        }
        if unknown.len() < UNKNOWN_MAX {
            unknown.insert(id, now + UNKNOWN_BELIEVED);
        }
    }
}

impl SchemaType {
    /// The registry's name for it.
    pub fn name(self) -> &'static str {
        match self {
            SchemaType::Avro => "AVRO",
            SchemaType::Json => "JSON",
            SchemaType::Protobuf => "PROTOBUF",
            SchemaType::Other => "of a type that is not known here",
        }
    }
}

impl fmt::Debug for RegistryAuth {
    /// Without secrets: what is printed ends in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RegistryAuth::None => "None",
            RegistryAuth::Basic { .. } => "Basic",
            RegistryAuth::Bearer(_) => "Bearer",
        })
    }
}

/// A schema as the registry's API spells it. A type that is not named is Avro, which was there first.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SchemaAnswer {
    schema: String,
    #[serde(default)]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<SchemaReference>>,
}

#[derive(Debug, Deserialize)]
struct LatestAnswer {
    id: u32,
    version: u32,
    #[serde(flatten)]
    schema: SchemaAnswer,
}

#[derive(Debug, Deserialize)]
struct IdAnswer {
    id: u32,
}

impl SchemaAnswer {
    fn into_schema(self) -> RegisteredSchema {
        let schema_type = match self.schema_type.as_deref() {
            None | Some("AVRO") => SchemaType::Avro,
            Some("JSON") => SchemaType::Json,
            Some("PROTOBUF") => SchemaType::Protobuf,
            Some(_) => SchemaType::Other,
        };
        RegisteredSchema { schema_type, text: self.schema, references: self.references.unwrap_or_default() }
    }
}

/// The locks are held over single calls of a map, after whose panic nothing is half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
