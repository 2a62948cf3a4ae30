//! The SQL syntax that definitions may use: what DataFusion's default dialect shares with Postgres, nothing exotic.
//!
//! The permissive generic dialect would let a dozen databases' special forms through (pipe operators, hints in
//! comments, ClickHouse types), each a case that the checks of a view's query would have to know.

use std::cell::Cell;

use datafusion::sql::sqlparser::ast::Expr;
use datafusion::sql::sqlparser::dialect::Dialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};

/// The dialect of one statement; it also bounds the work that the parser may put into it.
///
/// The parser reads `trim(trim(trim(` twice at each level when the inside is wrong, so a line of text could keep it
/// busy for years. Each operand costs one unit of `fuel`; a statement that parses needs about one for each token.
#[derive(Debug)]
pub(super) struct DefinitionDialect {
    fuel: Cell<usize>,
}

impl DefinitionDialect {
    /// The dialect for a statement of `token_count` tokens.
    pub(super) fn new(token_count: usize) -> DefinitionDialect {
        DefinitionDialect { fuel: Cell::new(token_count.saturating_mul(64).saturating_add(4096)) }
    }
}

impl Dialect for DefinitionDialect {
    /// Not a change of the syntax, only the one hook that the parser calls for each operand.
    fn parse_prefix(&self, _parser: &mut Parser<'_>) -> Option<Result<Expr, ParserError>> {
        match self.fuel.get().checked_sub(1) {
            Some(rest) => {
                self.fuel.set(rest);
                None
            }
            // The only error that the parser does not take as a reason to try something else.
            None => Some(Err(ParserError::RecursionLimitExceeded)),
        }
    }

    fn is_identifier_start(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch == '_'
    }

    fn is_identifier_part(&self, ch: char) -> bool {
        ch.is_alphabetic() || ch.is_ascii_digit() || ch == '_' || ch == '$'
    }

    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        ch == '"'
    }

    fn identifier_quote_style(&self, _identifier: &str) -> Option<char> {
        Some('"')
    }

    fn supports_nested_comments(&self) -> bool {
        true
    }

    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }

    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }

    fn supports_struct_literal(&self) -> bool {
        true
    }

    fn supports_dictionary_syntax(&self) -> bool {
        true
    }

    fn support_map_literal_syntax(&self) -> bool {
        true
    }

    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }

    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }

    fn supports_window_function_null_treatment_arg(&self) -> bool {
        true
    }

    fn supports_comma_separated_trim(&self) -> bool {
        true
    }

    fn allow_extract_custom(&self) -> bool {
        true
    }

    fn allow_extract_single_quotes(&self) -> bool {
        true
    }

    /// Accepted so that GROUPING SETS, CUBE and ROLLUP are refused by name instead of as a syntax error.
    fn supports_group_by_expr(&self) -> bool {
        true
    }

    /// As `supports_group_by_expr`, for `WITH ROLLUP` and `WITH CUBE`.
    fn supports_group_by_with_modifier(&self) -> bool {
        true
    }
}
