//! Finds where statements end, without understanding them: at each `;` outside quotes and comments.

/// The statements of a text, without their `;` and surrounding space. Empty ones are left out.
pub(super) fn split_statements(text: &str) -> Vec<&str> {
    let mut statements = Vec::new();
    let mut rest = text;
    while let Some(end) = statement_end(rest) {
        statements.push(&rest[..end]);
        rest = &rest[end + 1..];
    }
    statements.push(rest);
    statements.into_iter().map(str::trim).filter(|statement| has_words(statement)).collect()
}

/// Whether nothing but space and comments follows the last `;`, so that the prompt need not wait for more.
pub(super) fn is_complete(text: &str) -> bool {
    let mut rest = text;
    while let Some(end) = statement_end(rest) {
        rest = &rest[end + 1..];
    }
    rest.len() < text.len() && !has_words(rest)
}

/// Place of the first `;` that ends a statement.
fn statement_end(text: &str) -> Option<usize> {
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        if byte == b';' {
            return Some(at);
        }
        at += token_len(&text[at..])?;
    }
    None
}

/// Whether a text holds anything besides space and comments.
fn has_words(text: &str) -> bool {
    let mut rest = text.trim_start();
    while rest.starts_with("--") || rest.starts_with("/*") {
        match token_len(rest) {
            Some(len) => rest = rest[len..].trim_start(),
            None => return rest.starts_with("/*"),
        }
    }
    !rest.is_empty()
}

/// Length of the quoted text, comment or single character that a text starts with; `None` when it is not closed.
fn token_len(text: &str) -> Option<usize> {
    let after = |open: usize, close: &str| text[open..].find(close).map(|at| open + at + close.len());
    match text.as_bytes() {
        // A doubled quote is two quoted texts side by side, which changes nothing here.
        [b'\'', ..] => after(1, "'"),
        [b'"', ..] => after(1, "\""),
        [b'-', b'-', ..] => after(2, "\n"),
        [b'/', b'*', ..] => block_comment_len(text),
        _ => text.chars().next().map(char::len_utf8),
    }
}

/// Block comments nest.
fn block_comment_len(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match text.as_bytes().get(at..at + 2)? {
            b"/*" => {
                depth += 1;
                at += 2;
            }
            b"*/" => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_quotes_and_comments_end_nothing() {
        let text = "select ';' as \"a;b\", 'it''s;' -- one; two\n; /* x; /* y; */ ; */ select 2;\n -- the end;";
        assert_eq!(
            split_statements(text),
            ["select ';' as \"a;b\", 'it''s;' -- one; two", "/* x; /* y; */ ; */ select 2"]
        );
    }

    #[test]
    fn last_semicolon_may_be_missing_and_empty_statements_vanish() {
        assert_eq!(split_statements(";; select 1 ; select 'ü' "), ["select 1", "select 'ü'"]);
        assert!(split_statements(" -- nothing\n ; ").is_empty());
        assert!(split_statements(" -- nothing").is_empty());
    }

    #[test]
    fn unclosed_quote_belongs_to_the_last_statement() {
        assert_eq!(split_statements("select 1; select 'a; b"), ["select 1", "select 'a; b"]);
    }

    #[test]
    fn prompt_waits_until_the_last_statement_is_closed() {
        for complete in ["select 1;", "select 1; -- done", "select 1;\nselect 2;  ", "select 1; /* done */\n"] {
            assert!(is_complete(complete), "{complete}");
        }
        for open in ["select 1", "select ';", "select 1; select 2", "select 1 -- ;", "select 1; /* not", "", "/* ; "] {
            assert!(!is_complete(open), "{open}");
        }
    }
}
