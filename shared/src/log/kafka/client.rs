//! Clients of librdkafka: how they are configured, and what they report.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::ProducerContext;
use serde::Deserialize;

use crate::environment::with_environment;
use crate::error::{Error, Result};
use crate::position::{Offset, PartitionId};
use crate::source::KafkaOptions;

/// Records that librdkafka fetches ahead of us, over all partitions.
const FETCHED_KIB_MAX: u32 = 64 << 10;
/// Fewest that a partition needs to be fetched in batches.
const FETCHED_KIB_MIN: u32 = 1 << 10;

/// What every client has, of a source or a sink.
///
/// # Errors
/// `MissingVariable` when the brokers name what the environment does not have.
pub(crate) fn client_config(name: &str, brokers: &str) -> Result<ClientConfig> {
    // OpenSSL, unless it is told otherwise before anybody else uses it, frees its state when the process exits, and the threads of a
    // client that is there until then crash in their handshakes (https://github.com/openssl/openssl/issues/6214).
    openssl_sys::init();
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", with_environment(brokers)?);
    config.set("client.id", format!("watershed-{name}"));
    config.set_log_level(RDKafkaLogLevel::Warning);
    Ok(config)
}

/// Adds the user's properties; to be called last.
///
/// # Errors
/// `MissingVariable` when one names what the environment does not have.
pub(crate) fn set_properties(config: &mut ClientConfig, properties: &BTreeMap<String, String>) -> Result<()> {
    for (name, value) in properties {
        config.set(name, with_environment(value)?);
    }
    Ok(())
}

/// A consumer that reads what it is told to, commits nothing by itself and never jumps.
///
/// # Errors
/// As [`client_config`].
pub(super) fn consumer_config(source: &str, options: &KafkaOptions, partitions: u32) -> Result<ClientConfig> {
    let mut config = client_config(source, &options.brokers)?;
    let fetched_kib = (FETCHED_KIB_MAX / partitions.max(1)).max(FETCHED_KIB_MIN);
    for (name, value) in [
        ("group.id", options.group.as_str()),
        ("enable.auto.commit", "false"),
        ("enable.auto.offset.store", "false"),
        ("auto.offset.reset", "error"),
        ("enable.partition.eof", "true"),
        ("isolation.level", "read_committed"),
        // Damage is an error here and nowhere else.
        ("check.crcs", "true"),
        ("statistics.interval.ms", "1000"),
        // How long fetching rests when enough is fetched; the default of a second would make us wait for it.
        ("fetch.queue.backoff.ms", "5"),
        ("queued.min.messages", "1000000"),
        // Of each partition, because each has its own queue.
        ("queued.max.messages.kbytes", fetched_kib.to_string().as_str()),
    ] {
        config.set(name, value);
    }
    set_properties(&mut config, &options.properties)?;
    Ok(config)
}

/// An error of librdkafka as one of a source's log.
pub(super) fn log_error(source: &str, action: &'static str, error: &KafkaError) -> Error {
    Error::Log { action, name: source.to_owned(), reason: reason_of(error) }
}

/// An error's words, without the values of properties, which may be secrets.
pub(crate) fn reason_of(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, reason, name, _) => {
            format!("the property {name} is refused: {}", without_value(reason))
        }
        error => error.to_string(),
    }
}

/// librdkafka repeats refused values in quotes, after the property's own name.
fn without_value(reason: &str) -> &str {
    reason.split_once('"').map_or(reason, |(before, _)| before.trim_end())
}

/// What clients report besides records.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// Why brokers cannot be reached, or refuse us; while they do.
    broker: Mutex<Option<String>>,
    /// What the last broker has said that could not be reached; others may be there.
    last_error: Mutex<Option<String>>,
    /// The end of each partition as the last answer of the brokers had it.
    ends: Mutex<BTreeMap<PartitionId, Offset>>,
}

impl Reports {
    /// Why brokers cannot be reached, or refuse us.
    pub(super) fn broker_trouble(&self) -> Option<String> {
        self.broker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Brokers have answered, or not.
    pub(super) fn set_broker_trouble(&self, trouble: Option<String>) {
        *self.broker.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// The partitions' ends, as far as they are known.
    pub(super) fn ends(&self) -> BTreeMap<PartitionId, Offset> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Receives what librdkafka has to say.
#[derive(Debug, Clone)]
pub(super) struct Context {
    pub(super) source: String,
    pub(super) topic: String,
    pub(super) reports: Arc<Reports>,
}

/// What of librdkafka's statistics is of use; its STATISTICS.md says what they mean.
#[derive(Debug, Deserialize)]
struct Statistics {
    topics: BTreeMap<String, TopicStatistics>,
}

#[derive(Debug, Deserialize)]
struct TopicStatistics {
    partitions: BTreeMap<i32, PartitionStatistics>,
}

#[derive(Debug, Deserialize)]
struct PartitionStatistics {
    ls_offset: i64,
}

/// A line of librdkafka's own log. What goes wrong in it is tried again; what does not pass is told by who asks.
fn log(client: &str, level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Debug | RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => {
            tracing::debug!(client, facility, "librdkafka: {message}");
        }
        _ => tracing::warn!(client, facility, "librdkafka: {message}"),
    }
}

/// Receives what librdkafka says to clients whose callers hear of every failure themselves.
#[derive(Debug, Clone)]
pub(crate) struct Named {
    /// Name of the source or the sink.
    pub(crate) name: String,
}

impl ClientContext for Named {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.name, level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = self.name, %error, "librdkafka: {reason}");
    }
}

impl ConsumerContext for Named {}

impl ProducerContext for Named {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(&self.source, level, facility, message);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(Statistics { mut topics }) = serde_json::from_slice(statistics) else { return };
        let Some(topic) = topics.remove(&self.topic) else { return };
        let known = topic.partitions.into_iter().filter_map(|(partition, statistics)| {
            Some((PartitionId(partition.try_into().ok()?), Offset(statistics.ls_offset.try_into().ok()?)))
        });
        self.reports.ends.lock().unwrap_or_else(PoisonError::into_inner).extend(known);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::debug!(source = self.source, %error, "librdkafka: {reason}");
        let mut last = self.reports.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        match error.rdkafka_error_code() {
            // That says less than what one of them has said before.
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                let cause = last.as_ref().map(|cause| format!("; {cause}")).unwrap_or_default();
                self.reports.set_broker_trouble(Some(format!("{reason}{cause}")));
            }
            Some(
                RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed | RDKafkaErrorCode::SSL,
            ) => {
                self.reports.set_broker_trouble(Some(reason.to_owned()));
                *last = Some(reason.to_owned());
            }
            // Others may be there.
            _ => *last = Some(reason.to_owned()),
        }
    }
}

impl ConsumerContext for Context {}
