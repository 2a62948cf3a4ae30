//! Values of the environment in options, so that no secret has to be in a definition.

use crate::error::{Error, Result};

/// `text` with each `${NAME}` replaced by the value of the environment's variable of this name.
///
/// # Errors
/// [`Error::MissingVariable`].
pub fn with_environment(text: &str) -> Result<String> {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        replaced.push_str(before);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let named = after.split_once('}').filter(|(name, _)| !name.is_empty() && name.chars().all(is_word));
        let Some((name, after)) = named else {
            replaced.push_str("${");
            rest = after;
            continue;
        };
        replaced.push_str(&std::env::var(name).map_err(|_| Error::MissingVariable { name: name.to_owned() })?);
        rest = after;
    }
    Ok(replaced + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_nothing_else() -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        assert_eq!(with_environment("a ${PATH} b${PATH}")?, format!("a {path} b{path}"));
        assert_eq!(with_environment("$PATH ${ {} ${}")?, "$PATH ${ {} ${}");
        let refused = with_environment("x${NO_SUCH_VARIABLE_HERE}").map_err(|error| error.to_string());
        assert!(refused.is_err_and(|reason| reason.contains("NO_SUCH_VARIABLE_HERE is not set")));
        Ok(())
    }
}
