//! Which registry a statement names.

use std::path::PathBuf;

/// A schema registry with Confluent's HTTP API. Texts may name variables of the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Its addresses, separated by commas.
    pub url: String,
    /// User and password of HTTP basic authentication.
    pub login: Option<(String, String)>,
    /// Bearer token.
    pub token: Option<String>,
    /// File with the certificates of authorities to trust, in PEM.
    pub ca_file: Option<PathBuf>,
}

impl RegistryOptions {
    /// What nobody who asks for definitions may see.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &String> {
        self.login.iter().map(|(_, password)| password).chain(&self.token)
    }
}
