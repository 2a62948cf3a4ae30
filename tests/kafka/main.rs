//! Sources and sinks over a real Kafka broker, which `deploy/kafka/kafka` starts; `make test-kafka` runs these. What needs no broker
//! is shown on librdkafka's mock cluster, by the log's own tests.

mod broker;
mod gateway;
mod harness;
mod kcat;
mod offsets;
mod records;
mod registry;
#[path = "../platform/running.rs"]
mod running;
mod schemas;
mod security;
mod sinks;
mod situations;
