//! The DataFusion settings under which every plan of the platform is made.
//!
//! Both layers must see the same types: a string that is `Utf8View` in one and `Utf8` in the other hashes differently,
//! so a sketch over both would count it twice. Hence no view types anywhere, and one time zone.

use std::sync::Arc;

use datafusion::execution::SessionStateBuilder;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::registry::FunctionRegistry;
use datafusion::prelude::SessionConfig;

use super::bounded::{LengthBound, bounded_length};
use super::date_trunc::date_trunc_of_any_year;
use crate::definition::tumble_function;

/// The settings of every session: canonical types, UTC, `target_partitions` ways of parallelism.
pub fn session_config(target_partitions: usize) -> SessionConfig {
    let mut config = SessionConfig::new().with_target_partitions(target_partitions.max(1));
    let options = config.options_mut();
    options.execution.parquet.schema_force_view_types = false;
    options.sql_parser.map_string_types_to_utf8view = false;
    options.execution.time_zone = Some("UTC".to_owned());
    // A partial aggregation that gives up grouping would fill the realtime view with a row for each event.
    options.execution.skip_partial_aggregation_probe_ratio_threshold = 1.1;
    config
}

/// Functions that make lists of any length from numbers. No allocation of theirs can be refused before the process is killed.
const UNBOUNDED: [&str; 4] = ["array_repeat", "array_resize", "generate_series", "range"];

/// Most characters that `lpad`, `repeat` and `rpad` make of an event: a micro-batch of such texts is a gigabyte.
const VIEW_LENGTH_MAX: i64 = 16 << 10;

/// A session for planning and running plans, with those of DataFusion's functions that no value makes fail for its size.
pub fn plan_session(target_partitions: usize, runtime: Arc<RuntimeEnv>) -> SessionState {
    let mut session = SessionStateBuilder::new()
        .with_config(session_config(target_partitions))
        .with_runtime_env(runtime)
        .with_default_features()
        .build();
    if let Err(error) = session.register_udf(Arc::new(tumble_function())) {
        unreachable!("registering a function only replaces one of its name: {error}");
    }
    if let Ok(function) = session.udf("date_trunc") {
        // Registering it under its own name and aliases replaces it.
        let _ = session.register_udf(Arc::new(date_trunc_of_any_year(function)));
    }
    for name in UNBOUNDED {
        // Unknown names are fine: then there is nothing to remove.
        let _ = session.deregister_udf(name);
    }
    for name in ["lpad", "repeat", "rpad"] {
        if let Ok(function) = session.udf(name) {
            let _ = session.register_udf(Arc::new(bounded_length(function, LengthBound::EachRow(VIEW_LENGTH_MAX))));
        }
    }
    session
}
