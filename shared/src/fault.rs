//! Named places at which tests stop the process, and named defects that tests put into it.
//!
//! A test cannot kill a process between two given instructions from outside, and a check that has never failed proves
//! nothing. Both are switched on by the environment, only in builds with debug assertions; in others this module is
//! empty functions that compile to nothing.
//!
//! | variable | value | effect |
//! |---|---|---|
//! | `WATERSHED_FAULT_POINT` | `name` or `name:n` | the process kills itself at the first or n-th time it is at that point |
//! | `WATERSHED_DEFECT` | `name` | the named defect is in force |

/// Marks the step `name`: here the process dies, as by SIGKILL, when a test asks for it.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(debug_assertions)]
    enabled::point(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

/// Whether a test has put the defect `name` into the process.
#[inline]
pub fn has_defect(name: &'static str) -> bool {
    #[cfg(debug_assertions)]
    return enabled::has_defect(name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(debug_assertions)]
mod enabled {
    use std::env;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    struct Point {
        name: String,
        passes_left: AtomicU64,
    }

    static POINT: LazyLock<Option<Point>> = LazyLock::new(|| {
        let text = env::var("WATERSHED_FAULT_POINT").ok()?;
        let (name, pass) = match text.split_once(':') {
            Some((name, pass)) => (name, pass.parse().unwrap_or(1)),
            None => (text.as_str(), 1),
        };
        Some(Point { name: name.to_owned(), passes_left: AtomicU64::new(pass) })
    });

    static DEFECT: LazyLock<Option<String>> = LazyLock::new(|| env::var("WATERSHED_DEFECT").ok());

    pub(super) fn point(name: &str) {
        let Some(point) = POINT.as_ref().filter(|point| point.name == name) else { return };
        if point.passes_left.fetch_sub(1, Ordering::SeqCst) == 1 {
            eprintln!("stopped at fault point {name}");
            // No destructor, no flush, no handler runs: what the process has given to the system is what stays.
            std::process::abort();
        }
    }

    pub(super) fn has_defect(name: &str) -> bool {
        DEFECT.as_deref() == Some(name)
    }
}
