//! One question to a registry over HTTP: tries its addresses in order and sorts the answers by what they mean.

use std::time::Duration;

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Certificate, Client, Method, StatusCode};
use serde_json::Value;
use tokio::runtime::Handle;
use url::{Host, Url};

use super::RegistryAuth;
use crate::error::{Error, Result, with_causes};

/// Longest time for one answer. Records wait behind it, and then the next address is tried.
const TIMEOUT: Duration = Duration::from_secs(10);
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// Longest piece of an answer that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 300;

/// The way to a registry.
#[derive(Debug)]
pub(super) struct Transport {
    urls: Vec<Url>,
    auth: RegistryAuth,
    http: Client,
    runtime: Handle,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    /// The path below the registry's address; what is special in URLs is escaped when it is sent.
    pub(super) path: Vec<&'a str>,
    pub(super) query: Option<(&'a str, &'a str)>,
    pub(super) body: Option<Value>,
}

/// What an address did not do.
enum Failure {
    /// It said no, and so would the others.
    Refused(String),
    /// It gave no answer of use.
    Unusable(String),
}

impl<'a> Request<'a> {
    pub(super) fn get(path: &[&'a str]) -> Request<'a> {
        Request { method: Method::GET, path: path.to_vec(), query: None, body: None }
    }

    pub(super) fn with(self, name: &'a str, value: &'a str) -> Request<'a> {
        Request { query: Some((name, value)), ..self }
    }
}

impl Transport {
    pub(super) fn new(
        urls: &[String],
        auth: RegistryAuth,
        certificates: Option<&[u8]>,
        runtime: Handle,
    ) -> Result<Transport> {
        let urls = urls.iter().map(|url| parse_url(url)).collect::<Result<Vec<_>>>()?;
        let Some(first) = urls.first() else {
            return Err(Error::RegistrySettings { url: "-".to_owned(), reason: "no address is given".to_owned() });
        };
        let unusable = |what: &str, error: reqwest::Error| Error::RegistrySettings {
            url: first.to_string(),
            reason: format!("{what}: {}", with_causes(&error)),
        };
        let mut builder =
            Client::builder().timeout(TIMEOUT).user_agent(concat!("watershed/", env!("CARGO_PKG_VERSION")));
        if let Some(pem) = certificates {
            let certificates = Certificate::from_pem_bundle(pem);
            builder = builder.tls_certs_merge(
                certificates.map_err(|error| unusable("the certificates to trust cannot be read", error))?,
            );
        }
        if urls.iter().all(is_this_machine) {
            // A proxy from the environment would look for the registry on its own machine.
            builder = builder.no_proxy();
        }
        let http = builder.build().map_err(|error| unusable("cannot set up the HTTP client", error))?;
        Ok(Transport { urls, auth, http, runtime })
    }

    /// The answer of the first address that has one; `None` if that is that there is no such thing.
    pub(super) fn ask(&self, action: &str, request: &Request<'_>) -> Result<Option<Value>> {
        let mut reasons: Vec<String> = Vec::new();
        for url in &self.urls {
            match self.runtime.block_on(self.ask_one(url, request)) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Refused(reason)) => {
                    return Err(Error::RegistryRefused { url: url.to_string(), action: action.to_owned(), reason });
                }
                Err(Failure::Unusable(reason)) => reasons.push(reason),
            }
        }
        reasons.dedup();
        Err(self.unusable(reasons.join("; then ")))
    }

    /// The error that no address gives an answer of use.
    pub(super) fn unusable(&self, reason: impl Into<String>) -> Error {
        let urls: Vec<&str> = self.urls.iter().map(Url::as_str).collect();
        Error::Registry { url: urls.join(", "), reason: reason.into() }
    }

    async fn ask_one(&self, base: &Url, request: &Request<'_>) -> Result<Option<Value>, Failure> {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&request.path);
        }
        let mut sent = self.http.request(request.method.clone(), url).header(ACCEPT, MEDIA_TYPE);
        if let Some(query) = request.query {
            sent = sent.query(&[query]);
        }
        if let Some(body) = &request.body {
            sent = sent.header(CONTENT_TYPE, MEDIA_TYPE).body(body.to_string());
        }
        sent = match &self.auth {
            RegistryAuth::None => sent,
            RegistryAuth::Basic { user, password } => sent.basic_auth(user, Some(password)),
            RegistryAuth::Bearer(token) => sent.bearer_auth(token),
        };
        let answered = async {
            let response = sent.send().await?;
            Ok((response.status(), response.bytes().await?))
        };
        // The address is named by the error around it.
        let failed = |error: reqwest::Error| Failure::Unusable(with_causes(&error.without_url()));
        let (status, body) = answered.await.map_err(failed)?;
        judge(status, &body)
    }
}

/// What an answer means. Only an answer that a registry could have written says that there is no such thing: a wrong
/// address answers 404 too, and then every record would be refused.
fn judge(status: StatusCode, body: &[u8]) -> Result<Option<Value>, Failure> {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let code = value.as_ref().and_then(|value| value.get("error_code")).and_then(Value::as_u64);
    let message = value.as_ref().and_then(|value| value.get("message")).and_then(Value::as_str);
    let words = match message {
        Some(message) => shortened(message),
        None => shortened(&String::from_utf8_lossy(body)),
    };
    match status {
        StatusCode::OK => value.map(Some).ok_or_else(|| Failure::Unusable(format!("its answer is no JSON: {}", words))),
        StatusCode::NOT_FOUND if code.is_some() => Ok(None),
        StatusCode::NOT_FOUND => {
            Err(Failure::Unusable("it answers 404 as a registry does not; the address may lack a path".to_owned()))
        }
        StatusCode::UNAUTHORIZED => {
            Err(Failure::Unusable(format!("it does not accept our credentials (401): {}", words)))
        }
        StatusCode::FORBIDDEN => Err(Failure::Unusable(format!("it does not allow us to ask this (403): {}", words))),
        StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY => {
            Err(Failure::Refused(format!("{} ({})", words, status.as_u16())))
        }
        _ => Err(Failure::Unusable(format!("it answers {}: {}", status.as_u16(), words))),
    }
}

fn shortened(text: &str) -> String {
    text.trim().chars().take(SHOWN_CHARS_MAX).collect()
}

fn parse_url(text: &str) -> Result<Url> {
    let refused = |reason: &str| Error::RegistrySettings { url: text.to_owned(), reason: reason.to_owned() };
    let url = Url::parse(text.trim()).map_err(|error| refused(&format!("this is no address: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(refused("an address looks like \"http://registry:8081\""));
    }
    if !url.username().is_empty() || url.password().is_some() {
        // Messages name addresses.
        let reason = "an address holds no user and password; give those by themselves".to_owned();
        return Err(Error::RegistrySettings { url: url.host_str().unwrap_or_default().to_owned(), reason });
    }
    Ok(url)
}

fn is_this_machine(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}
