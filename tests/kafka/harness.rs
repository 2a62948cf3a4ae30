//! The parts of the platform's tests that these need too.

#[expect(dead_code, reason = "other tests have oracles for a part of the events")]
#[path = "../platform/oracles/answer.rs"]
pub(crate) mod answer;
#[expect(dead_code, reason = "it has data sets for other tests too")]
#[path = "../platform/oracles/data_set.rs"]
pub(crate) mod data_set;
#[expect(dead_code, reason = "other tests send events over HTTP")]
#[path = "../platform/oracles/platform.rs"]
pub(crate) mod platform;
