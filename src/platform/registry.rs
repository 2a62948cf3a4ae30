//! Clients of the schema registries that statements name.

use tokio::runtime::Handle;
use watershed_shared::environment::with_environment;
use watershed_shared::registry::{RegistryAuth, RegistryOptions, SchemaRegistry};

use super::topics::read_file;
use crate::error::Result;

/// A client for a registry; nothing is asked yet.
///
/// # Errors
/// A variable or a file that is not there, or an address that is none.
pub(super) fn schema_registry(options: &RegistryOptions) -> Result<SchemaRegistry> {
    let urls = with_environment(&options.url)?;
    let urls: Vec<String> = urls.split(',').map(|url| url.trim().to_owned()).collect();
    let auth = match (&options.login, &options.token) {
        (Some((user, password)), _) => {
            RegistryAuth::Basic { user: with_environment(user)?, password: with_environment(password)? }
        }
        (None, Some(token)) => RegistryAuth::Bearer(with_environment(token)?),
        (None, None) => RegistryAuth::None,
    };
    let certificates = options.ca_file.as_ref().map(|path| read_file(path)).transpose()?;
    Ok(SchemaRegistry::new(&urls, auth, certificates.as_deref().map(str::as_bytes), Handle::current())?)
}
