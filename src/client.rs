//! Speaks the platform's HTTP API for the command line.
//!
//! Every refusal becomes a [`ClientError`] that says what the platform knows of the request, because that decides what
//! may follow: a request that was never taken may be sent again; one whose answer was lost may have taken effect, so
//! it is repeated only when it changes nothing or the platform recognizes it: events are sent under a [`RequestName`].
//! [`Retry`] holds the three rules; nothing else in the command retries.

pub(crate) mod answer;
mod error;
#[cfg(test)]
pub(crate) mod fake;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use reqwest::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::watch;
use watershed_serving_layer::Replayed;

use self::answer::{
    BatchRun, BatchRuns, Ingested, ResumedPartition, ResumedPartitions, Sinks, Source, Sources, SqlAnswer, Views,
};
pub(crate) use self::error::{ClientError, Problem};

/// How long making a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is probed, so that a dead platform is noticed during a long batch run.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long an unused connection is kept: shorter than servers do, so that a request seldom meets a closing one.
const IDLE_CONNECTION: Duration = Duration::from_secs(3);
/// How long the acknowledgement of events may take before it counts as lost: hundreds of times what it should.
const EVENTS_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a listing may take.
const LISTING_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a person waits for a busy platform before being told.
const READ_PATIENCE: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(5);

/// A connection to one platform.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: Url,
}

/// Names a request that changes something, so that the platform takes it once however often it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestName {
    /// Whose requests are numbered.
    pub(crate) producer: String,
    /// Number of the request, from 0 without gaps.
    pub(crate) sequence: u64,
}

/// When a request may be sent again, and for how long.
pub(crate) struct Retry<'a> {
    /// Time after the first failure during which the request is tried again.
    pub(crate) patience: Duration,
    /// Whether a refused connection is tried again: right amid a long job, wrong for a mistyped address.
    pub(crate) reconnect: bool,
    /// Whether the request changes nothing, or has a name, so that it may be repeated when its answer was lost.
    pub(crate) repeatable: bool,
    /// Called before each pause with what went wrong and how long the pause is.
    pub(crate) on_pause: &'a (dyn Fn(&ClientError, Duration) + Sync),
    /// Ends a pause with the last error as soon as it counts above zero.
    pub(crate) give_up: Option<watch::Receiver<u32>>,
}

impl Retry<'_> {
    /// For requests that change nothing.
    fn reading() -> Retry<'static> {
        Retry { patience: READ_PATIENCE, reconnect: false, repeatable: true, on_pause: &|_, _| {}, give_up: None }
    }

    /// For requests that change something, when a person waits for the answer.
    fn changing() -> Retry<'static> {
        Retry { repeatable: false, ..Retry::reading() }
    }

    fn allows(&self, error: &ClientError) -> bool {
        match error {
            ClientError::Unreachable { .. } => self.reconnect,
            ClientError::Lost { .. } => self.repeatable,
            ClientError::Refused(problem) => problem.says_try_later(),
            ClientError::Unreadable { .. } => false,
        }
    }

    async fn pause(&mut self, delay: Duration) -> Paused {
        let Some(give_up) = &mut self.give_up else {
            tokio::time::sleep(delay).await;
            return Paused::Over;
        };
        tokio::select! {
            () = tokio::time::sleep(delay) => Paused::Over,
            () = raised(give_up, 1) => Paused::GaveUp,
        }
    }
}

enum Paused {
    Over,
    GaveUp,
}

/// Waits until a counter stands at `count` or above; forever if nobody counts any more.
pub(crate) async fn raised(counter: &mut watch::Receiver<u32>, count: u32) {
    if counter.wait_for(|counted| *counted >= count).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl Client {
    /// A client of the platform at `url`; connects with the first request. Without a scheme, `http://` is meant.
    ///
    /// # Errors
    /// When `url` is no HTTP address.
    pub(crate) fn new(url: &str) -> Result<Client> {
        let url = parse_url(url)?;
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("watershed/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_keepalive(KEEPALIVE)
            .pool_idle_timeout(IDLE_CONNECTION);
        if is_this_machine(&url) {
            // A proxy from the environment would look for the platform on its own machine.
            builder = builder.no_proxy();
        }
        Ok(Client { http: builder.build().context("cannot set up the HTTP client")?, url })
    }

    /// The platform's address, with a `/` at the end.
    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// Runs one SQL query and holds its whole answer. With `position`, the platform answers once it has applied that.
    pub(crate) async fn sql(&self, sql: &str, position: Option<&str>) -> Result<SqlAnswer> {
        Ok(self.fetch(self.query(sql, position, "application/json")?, Retry::reading()).await?)
    }

    /// Runs one SQL query whose rows arrive as CSV with a header line, to be read piece by piece.
    pub(crate) async fn sql_as_csv(&self, sql: &str, position: Option<&str>) -> Result<CsvAnswer> {
        let request = self.query(sql, position, "text/csv")?;
        let response = retrying(Retry::reading(), async || self.attempt(&request).await).await?;
        let complete = response.headers().get("watershed-complete").is_none_or(|value| value == "true");
        Ok(CsvAnswer { response, complete, url: self.url.to_string() })
    }

    /// Sends one body of events under a name. Refused rows are part of the answer, also when all of them are.
    pub(crate) async fn send_events(
        &self,
        source: &str,
        content_type: &'static str,
        body: Vec<u8>,
        name: &RequestName,
        retry: Retry<'_>,
    ) -> Result<Ingested> {
        let url = self.endpoint(&["v1", "sources", source, "events"])?;
        let request = self.http.post(url).timeout(EVENTS_TIMEOUT).header(CONTENT_TYPE, content_type).body(body);
        let request = request.header("producer-id", &name.producer).header("producer-sequence", name.sequence);
        match self.fetch(request, retry).await {
            Err(ClientError::Refused(problem)) if problem.status == StatusCode::UNPROCESSABLE_ENTITY.as_u16() => {
                serde_json::from_slice(&problem.body).map_err(|_| ClientError::Refused(problem).into())
            }
            answer => Ok(answer?),
        }
    }

    /// All sinks, each as the status that it is, or as the platform's own text.
    pub(crate) async fn sinks<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        Ok(self.get::<Sinks<T>>(&["v1", "sinks"], &[]).await?.sinks)
    }

    /// All sources, each as a [`Source`] or as the platform's own text.
    pub(crate) async fn sources<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        Ok(self.get::<Sources<T>>(&["v1", "sources"], &[]).await?.sources)
    }

    /// One source; when there is none of that name, the error lists those that exist.
    pub(crate) async fn source<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        let mut known = Vec::new();
        for text in self.sources::<Box<RawValue>>().await? {
            let source: Source = self.understood(text.get().as_bytes())?;
            if source.name == name {
                return Ok(self.understood(text.get().as_bytes())?);
            }
            known.push(source.name);
        }
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        bail!("there is no source \"{name}\" at {}; there are: {known}", self.url)
    }

    /// All views, each as a [`answer::View`] or as the platform's own text.
    pub(crate) async fn views<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        Ok(self.get::<Views<T>>(&["v1", "views"], &[]).await?.views)
    }

    /// One view.
    pub(crate) async fn view<T: DeserializeOwned>(&self, name: &str) -> Result<T> {
        self.get(&["v1", "views", name], &[]).await
    }

    /// Batch runs, newest first, of one view if named; each as a [`BatchRun`] or as the platform's own text.
    pub(crate) async fn batch_runs<T: DeserializeOwned>(&self, view: Option<&str>) -> Result<Vec<T>> {
        let filter: Vec<(&str, &str)> = view.map(|view| ("view", view)).into_iter().collect();
        Ok(self.get::<BatchRuns<T>>(&["v1", "batch-runs"], &filter).await?.batch_runs)
    }

    /// Lets partitions of a source that have stopped go on; with `skip` also without offsets that the topic has lost, with
    /// `from_history` without those whose events the history has.
    pub(crate) async fn resume_source(
        &self,
        source: &str,
        skip: bool,
        from_history: bool,
    ) -> Result<Vec<ResumedPartition>> {
        let url = self.endpoint(&["v1", "sources", source, "resume"])?;
        let request = self.http.post(url).json(&json!({ "skip": skip, "from_history": from_history }));
        Ok(self.fetch::<ResumedPartitions>(request, Retry::changing()).await?.resumed)
    }

    /// Writes a source's dead letters to its topic again; with `dry_run` only counts them.
    pub(crate) async fn replay_dead_letters(&self, source: &str, dry_run: bool) -> Result<Replayed> {
        let url = self.endpoint(&["v1", "sources", source, "dead-letters", "replay"])?;
        self.fetch(self.http.post(url).json(&json!({ "dry_run": dry_run })), Retry::changing())
            .await
            .map_err(Into::into)
    }

    /// Starts a batch run; with `wait`, returns after its end and fails when it failed.
    pub(crate) async fn start_batch_run(&self, view: &str, kind: &str, wait: bool) -> Result<BatchRun> {
        let url = self.endpoint(&["v1", "views", view, "batch-runs"])?;
        let mut request = self.http.post(url).json(&json!({ "kind": kind }));
        if wait {
            request = request.query(&[("wait", "true")]);
        }
        Ok(self.fetch(request, Retry::changing()).await?)
    }

    async fn get<T: DeserializeOwned>(&self, path: &[&str], query: &[(&str, &str)]) -> Result<T> {
        let mut request = self.http.get(self.endpoint(path)?).timeout(LISTING_TIMEOUT);
        if !query.is_empty() {
            request = request.query(query);
        }
        Ok(self.fetch(request, Retry::reading()).await?)
    }

    fn query(&self, sql: &str, position: Option<&str>, accept: &'static str) -> Result<RequestBuilder> {
        let mut body = json!({ "sql": sql });
        if let Some(position) = position {
            body["position"] = position.into();
        }
        Ok(self.http.post(self.endpoint(&["v1", "sql"])?).header(ACCEPT, accept).json(&body))
    }

    fn endpoint(&self, path: &[&str]) -> Result<Url> {
        let mut url = self.url.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => bail!("\"{}\" cannot be an address of an HTTP API", self.url),
        };
        Ok(url)
    }

    /// Sends a request, again if need be and `retry` allows, and reads the whole answer.
    async fn fetch<T: DeserializeOwned>(&self, request: RequestBuilder, retry: Retry<'_>) -> Result<T, ClientError> {
        let body = retrying(retry, async || {
            let response = self.attempt(&request).await?;
            let lost = |error| (ClientError::from_transport(&self.url, &error), None);
            response.bytes().await.map_err(lost)
        });
        self.understood(&body.await?)
    }

    fn understood<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body)
            .map_err(|error| ClientError::Unreadable { url: self.url.to_string(), reason: error.to_string() })
    }

    /// Sends a request once. A refusal comes with the pause that the platform asks for, if it does.
    async fn attempt(&self, request: &RequestBuilder) -> Result<Response, Failure> {
        let Some(request) = request.try_clone() else {
            let reason = "the request cannot be sent twice".to_owned();
            return Err((ClientError::Unreachable { url: self.url.to_string(), reason }, None));
        };
        let response = request.send().await.map_err(|error| (ClientError::from_transport(&self.url, &error), None))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let asked = response.headers().get(RETRY_AFTER).and_then(|value| parse_retry_after(value.to_str().ok()?));
        let status = response.status();
        let body = response.bytes().await.map(|bytes| bytes.to_vec()).unwrap_or_default();
        Err((ClientError::Refused(Problem::read(status, body)), asked))
    }
}

/// An answer in CSV that is still arriving.
#[derive(Debug)]
pub(crate) struct CsvAnswer {
    response: Response,
    url: String,
    /// Whether the platform vouches for the whole answer.
    pub(crate) complete: bool,
}

impl CsvAnswer {
    /// The next piece of the answer's bytes; `None` at its end.
    ///
    /// # Errors
    /// When the connection breaks before the end: what has been read is then only a part of the answer.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        match self.response.chunk().await {
            Ok(piece) => Ok(piece.map(|bytes| bytes.to_vec())),
            Err(error) => {
                Err(error).context(format!("the answer of {} broke off; what was printed is a part", self.url))
            }
        }
    }
}

/// Why an attempt failed, and the pause before the next one if the platform asked for one.
type Failure = (ClientError, Option<Duration>);

/// Makes attempts until one succeeds or `retry` forbids another; the error is that of the last attempt.
async fn retrying<T>(mut retry: Retry<'_>, attempt: impl AsyncFn() -> Result<T, Failure>) -> Result<T, ClientError> {
    let mut failing_since: Option<Instant> = None;
    let mut lost = None;
    let mut backoff = BACKOFF_FIRST;
    loop {
        let (error, asked) = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        let delay = asked.unwrap_or_else(|| jittered(backoff));
        let waited = failing_since.get_or_insert_with(Instant::now).elapsed();
        if !retry.allows(&error) || waited + delay > retry.patience {
            return Err(error.after(lost));
        }
        (retry.on_pause)(&error, delay);
        if let Paused::GaveUp = retry.pause(delay).await {
            return Err(error.after(lost));
        }
        if let ClientError::Lost { url, reason } = error {
            lost = Some((url, reason));
        }
        backoff = (backoff * 2).min(BACKOFF_LAST);
    }
}

fn parse_url(text: &str) -> Result<Url> {
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = Url::parse(&with_scheme)
        .with_context(|| format!("\"{text}\" is no address of a platform; one looks like http://127.0.0.1:8080"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        bail!("\"{text}\" is no address of a platform; one looks like http://127.0.0.1:8080");
    }
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    Ok(url)
}

fn is_this_machine(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// `Retry-After` is a number of seconds or an HTTP date.
fn parse_retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    Some(date.signed_duration_since(chrono::Utc::now()).to_std().unwrap_or_default())
}

/// Between half and all of `delay`, so that clients that were refused together don't come back together.
fn jittered(delay: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    delay.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::fake::{Fake, problem, reply};
    use super::*;

    fn patient() -> Retry<'static> {
        Retry {
            patience: Duration::from_secs(60),
            reconnect: true,
            repeatable: true,
            on_pause: &|_, _| {},
            give_up: None,
        }
    }

    const ACCEPTED: &str = r#"{"accepted":2,"rejected":0,"errors":[],"position":"edits=2"}"#;

    fn name() -> RequestName {
        RequestName { producer: "mill".to_owned(), sequence: 7 }
    }

    #[tokio::test]
    async fn events_are_sent_again_under_the_same_name_when_their_answer_was_lost_or_the_platform_is_busy() {
        let busy = problem(503, "busy", "the log is full").with_header("retry-after", "0");
        let overloaded = problem(429, "overload", "too many requests").with_header("retry-after", "0");
        let fake = Fake::start([reply(200, ACCEPTED).cut_off(), busy, overloaded, reply(200, ACCEPTED)]).await;
        let client = Client::new(&fake.url).unwrap();
        let body = b"{}\n{}\n".to_vec();
        let answer = client.send_events("edits", "application/x-ndjson", body, &name(), patient()).await.unwrap();
        assert_eq!((answer.accepted, answer.position.as_deref()), (2, Some("edits=2")));
        for request in fake.requests() {
            assert_eq!(request.target, "/v1/sources/edits/events");
            assert_eq!(request.headers["content-type"], "application/x-ndjson");
            assert_eq!(request.headers["producer-id"], "mill");
            assert_eq!(request.headers["producer-sequence"], "7");
            assert_eq!(request.body, b"{}\n{}\n");
        }
        assert_eq!(fake.requests().len(), 4);
    }

    #[tokio::test]
    async fn whoever_gives_up_after_a_lost_answer_does_not_claim_that_nothing_was_done() {
        let busy = problem(503, "busy", "the log is full").with_header("retry-after", "0");
        let refused = problem(503, "busy", "the log is full").with_header("retry-after", "3600");
        for replies in [vec![reply(200, ACCEPTED).cut_off(), busy.clone(), refused.clone()], vec![busy, refused]] {
            let was_lost = replies.len() == 3;
            let fake = Fake::start(replies).await;
            let client = Client::new(&fake.url).unwrap();
            let sent = client.send_events("edits", "text/csv", b"a\n1\n".to_vec(), &name(), patient()).await;
            let error = sent.unwrap_err();
            let error: &ClientError = error.downcast_ref().unwrap();
            assert_eq!(error.changed_nothing(), !was_lost, "{error}");
            assert!(error.to_string().contains("the log is full"), "{error}");
        }
    }

    #[tokio::test]
    async fn request_without_a_name_is_not_sent_again_when_its_answer_was_lost() {
        let fake = Fake::start([reply(202, "{}").cut_off(), reply(202, "{}")]).await;
        let error = Client::new(&fake.url).unwrap().start_batch_run("counts", "full", false).await.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(ClientError::Lost { .. })), "{error:#}");
        assert_eq!(fake.requests().len(), 1);
    }

    #[tokio::test]
    async fn query_whose_answer_was_lost_is_sent_again() {
        let answer = r#"{"columns":[],"rows":[],"as_of":{},"complete":true}"#;
        let fake = Fake::start([reply(200, answer).cut_off(), reply(200, answer)]).await;
        assert!(Client::new(&fake.url).unwrap().sql("select 1", None).await.unwrap().complete);
        assert_eq!(fake.requests().len(), 2);
    }

    #[tokio::test]
    async fn refusal_reads_as_the_platform_worded_it() {
        let fake = Fake::start([problem(400, "bad SQL", "there is no view \"edit\"; there are: edits")]).await;
        let error = Client::new(&fake.url).unwrap().sql("select * from edit", Some("edits=3")).await.unwrap_err();
        assert_eq!(error.to_string(), "there is no view \"edit\"; there are: edits (HTTP 400)");
        let sent: serde_json::Value = serde_json::from_slice(&fake.requests()[0].body).unwrap();
        assert_eq!(sent, json!({"sql": "select * from edit", "position": "edits=3"}));
    }

    #[tokio::test]
    async fn all_rows_refused_is_an_answer_not_a_failure() {
        let body = r#"{"type":"about:blank","title":"all rows refused","status":422,"accepted":0,"rejected":1,
            "errors":[{"row":0,"column":"time","reason":"no time"}],"position":"edits=0"}"#;
        let fake = Fake::start([reply(422, body)]).await;
        let client = Client::new(&fake.url).unwrap();
        let answer = client.send_events("edits", "text/csv", Vec::new(), &name(), patient()).await.unwrap();
        assert_eq!((answer.accepted, answer.rejected, answer.errors[0].row), (0, 1, 0));
    }

    #[tokio::test]
    async fn refused_connection_says_what_to_start() {
        let fake = Fake::start([]).await;
        let url = fake.url.clone();
        fake.stop().await;
        let error = Client::new(&url).unwrap().views::<answer::View>().await.unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains(&url) && text.contains("watershed run"), "{text}");
    }

    #[test]
    fn names_are_escaped_in_paths_and_a_path_before_the_api_is_kept() {
        let client = Client::new("https://data.example/watershed").unwrap();
        let url = client.endpoint(&["v1", "views", "a/b c", "batch-runs"]).unwrap();
        assert_eq!(url.as_str(), "https://data.example/watershed/v1/views/a%2Fb%20c/batch-runs");
        assert_eq!(Client::new("localhost:8080").unwrap().url(), "http://localhost:8080/");
        assert!(Client::new("ftp://data.example").is_err());
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after("7"), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert_eq!(parse_retry_after("soon"), None);
    }
}
