//! Where the tables of a store are: every path below a store's root is made here.
//!
//! Names are chosen by users and may hold anything (`"a/b"`, `".."`, `"Ä"`), so each becomes one segment of lower case
//! letters, digits, `_` and escapes `-xx`, one for each other byte. No segment can leave its folder, two names never
//! share one, and neither file systems that ignore case nor object stores that escape `%` and `~` can confuse them.

use object_store::path::Path;

use crate::error::{Error, Result};

/// File systems allow 255 bytes in a name; the rest is room for suffixes.
const SEGMENT_BYTES_MAX: usize = 240;

/// Folder of a source's history, relative to the store's root.
pub fn history(source: &str) -> Result<Path> {
    Ok(Path::from_iter(["history".to_owned(), segment("source", source)?]))
}

/// The file that says which definition of each view answers, relative to the store's root.
pub fn catalog() -> Path {
    Path::from_iter(["catalog", "views.json"])
}

/// Folder of all definitions of a view, relative to the store's root.
pub fn view(view: &str) -> Result<Path> {
    Ok(Path::from_iter(["views".to_owned(), segment("view", view)?]))
}

/// Folder of one definition of a view, relative to the store's root.
pub fn view_definition(name: &str, definition_id: &str) -> Result<Path> {
    Ok(view(name)?.join(segment("definition", definition_id)?))
}

fn segment(what: &'static str, name: &str) -> Result<String> {
    let invalid = |reason| Error::InvalidName { what, name: name.chars().take(100).collect(), reason };
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'_' => segment.push(byte.into()),
            _ => segment.push_str(&format!("-{byte:02x}")),
        }
    }
    match segment.len() {
        0 => Err(invalid("it is empty")),
        1..=SEGMENT_BYTES_MAX => Ok(segment),
        _ => Err(invalid("it is too long (every byte but a-z, 0-9 and _ counts three)")),
    }
}

/// The name that a folder's name stands for; `None` when no name has that folder.
pub fn name_of(segment: &str) -> Option<String> {
    let mut name = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'-' => {
                let (digits, after) = rest.split_at_checked(2)?;
                name.push(u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?);
                rest = after;
            }
            byte => name.push(*byte),
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_becomes_one_safe_segment_of_its_own() -> Result<()> {
        for (name, expected) in [
            ("edits_2", "history/edits_2"),
            ("a/b", "history/a-2fb"),
            ("..", "history/-2e-2e"),
            ("My Source", "history/-4dy-20-53ource"),
            ("a-2fb", "history/a-2d2fb"),
            ("ä%", "history/-c3-a4-25"),
        ] {
            assert_eq!(history(name)?.as_ref(), expected, "{name:?}");
            assert_eq!(name_of(expected.trim_start_matches("history/")).as_deref(), Some(name));
        }
        assert_eq!(view_definition("per hour", "1f")?.as_ref(), "views/per-20hour/1f");
        Ok(())
    }

    #[test]
    fn empty_and_endless_names_are_refused() {
        assert!(history("").is_err());
        assert!(history(&"x".repeat(241)).is_err());
        assert!(history(&"x".repeat(240)).is_ok());
    }
}
