//! What must hold for every input, one function for each kind of bytes that comes from outside or from a disk.
//!
//! Each is a target for libFuzzer (`scripts/fuzz`) and, over the inputs kept in `corpus/`, an ordinary test. A target panics
//! when its rule is broken. Rules are stronger than "it does not panic": what is accepted must come out again the same, rows
//! must not depend on their neighbours, layers must agree.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod arrays;
mod definitions;
mod events;
mod law;
mod query;
mod records;
mod states;
mod stored;
mod texts;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{LazyLock, Mutex, Once, PoisonError};

/// A rule about all inputs of one kind.
pub type Target = fn(&[u8]);

/// Every target with its name, which is also that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 13] = [
    ("definitions", definitions::definitions),
    ("query", query::query),
    ("events_ndjson", events::ndjson),
    ("events_json", events::json_array),
    ("events_csv", events::csv),
    ("events_arrow", events::arrow),
    ("records", records::records),
    ("record_schemas", records::schemas),
    ("states", states::states),
    ("log_block", stored::log_block),
    ("stored_json", stored::stored_json),
    ("texts", texts::texts),
    ("settings", texts::settings),
];

/// Checks one input of the target `name`.
///
/// # Panics
/// When the target's rule is broken, after the message of the panic that shows it was printed. Panics that the code under
/// test catches itself stay silent, and are not failures.
pub fn run(name: &str, data: &[u8]) {
    static QUIET: Once = Once::new();
    static LAST_PANIC: Mutex<String> = Mutex::new(String::new());
    // libFuzzer's own hook ends the process at every panic, also at those of arrow-ipc on damaged streams, which are caught.
    QUIET.call_once(|| {
        std::panic::set_hook(Box::new(|panic| {
            *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = panic.to_string();
        }));
    });
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else { panic!("no target {name}") };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(data))) {
        eprintln!("{name}: {}", LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        resume_unwind(panic);
    }
}

/// Runs the asynchronous parts of targets, on the calling thread.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: LazyLock<tokio::runtime::Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    RUNTIME.block_on(work)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// Checks every input of a target's corpus; a failing one is named.
    fn check_corpus(name: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
        let mut inputs = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            assert!(catch_unwind(|| run(name, &data)).is_ok(), "{}", path.display());
            inputs += 1;
        }
        assert!(inputs > 0, "there are no inputs in {}", folder.display());
    }

    macro_rules! corpora {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                check_corpus(stringify!($name));
            }
        )*

        #[test]
        fn every_target_has_a_corpus() {
            assert_eq!(TARGETS.map(|(name, _)| name), [$(stringify!($name)),*]);
        }
    };
    }

    corpora! {
        definitions query events_ndjson events_json events_csv events_arrow records record_schemas states log_block stored_json texts settings
    }
}
