//! The identity of a view's definition: what decides whether stored states can be used.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::Schema;
use datafusion::sql::sqlparser::ast::Query;
use sha2::{Digest, Sha256};

use super::text::shorten;
use super::types::{quote_identifier, sql_type_name};
use crate::error::{Error, Result};

/// Length of an id in bytes: 128 bits of the hash make a collision of two definitions of one view unthinkable.
const ID_BYTES: usize = 16;

/// Changes when the meaning of equal definitions changes, so that their states are rebuilt.
const MEANING_VERSION: u32 = 1;

/// Hash of everything that a view's states depend on: the source's declared columns and the view's normalized query.
///
/// Spaces, comments, the case of keywords and the WITH options do not change it. Its text is 32 lower case
/// hexadecimal digits, fit for paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DefinitionId(String);

impl DefinitionId {
    /// The id of `query` over a source with these columns.
    pub(super) fn of(columns: &Schema, query: &Query) -> DefinitionId {
        let mut hash = Sha256::new();
        hash.update(format!("watershed definition {MEANING_VERSION}\n"));
        for column in columns.fields() {
            let null = if column.is_nullable() { "" } else { " NOT NULL" };
            hash.update(format!("{} {}{null}\n", quote_identifier(column.name()), sql_type_name(column.data_type())));
        }
        hash.update(query.to_string());
        let digest = hash.finalize();
        DefinitionId(digest.iter().take(ID_BYTES).map(|byte| format!("{byte:02x}")).collect())
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DefinitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the text of an id back, as the catalog and the folders of views hold it.
impl FromStr for DefinitionId {
    type Err = Error;

    fn from_str(text: &str) -> Result<DefinitionId> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if text.len() == 2 * ID_BYTES && text.bytes().all(is_digit) {
            return Ok(DefinitionId(text.to_owned()));
        }
        let reason = format!("it is not {} lower case hexadecimal digits", 2 * ID_BYTES);
        Err(Error::Corrupt { what: format!("definition id \"{}\"", shorten(text)), reason })
    }
}
