//! A project folder: `watershed.toml` and the definitions in `*.sql`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::{Environment, File, FileFormat};
use watershed_shared::config::Config;
use watershed_shared::definition::{Statement, parse_definitions};
use watershed_shared::plan::ViewPlan;
use watershed_shared::sink::{SinkDefinition, SinkFormat};
use watershed_shared::source::{Connector, SourceDefinition};

use crate::error::{Error, Result};
use crate::platform::check_definitions;

/// Variables that start so override settings: `WATERSHED__QUERY__TIMEOUT=5s` is `timeout` in `[query]`.
const ENVIRONMENT_PREFIX: &str = "WATERSHED";
const CONFIG_FILE: &str = "watershed.toml";

/// A project, read and parsed.
#[derive(Debug, Clone)]
pub struct Project {
    /// The project's folder.
    pub folder: PathBuf,
    /// Its settings, environment included.
    pub config: Config,
    /// Its definitions, by file name and then by place in the file.
    pub statements: Vec<Statement>,
}

impl Project {
    /// Reads a project folder.
    ///
    /// # Errors
    /// `Unreadable`, `Configuration` or `Definition`, with the file.
    pub fn read(folder: &Path) -> Result<Project> {
        let mut config = read_config(folder)?;
        if let Some(store) = config.store.as_mut().filter(|store| !store.contains("://")) {
            *store = folder.join(&store).to_string_lossy().into_owned();
        }
        let mut statements = Vec::new();
        for path in definition_files(folder)? {
            let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
            let parsed = parse_definitions(&text);
            let parsed = parsed.map_err(|error| Error::Definition { path: path.clone(), error })?;
            statements.extend(parsed.into_iter().map(|statement| below(folder, statement)));
        }
        if statements.is_empty() {
            return Err(Error::Project {
                reason: format!(
                    "there are no definitions in \"{}\"; write CREATE SOURCE and CREATE MATERIALIZED VIEW statements \
                     into a file that ends in .sql",
                    folder.display()
                ),
            });
        }
        Ok(Project { folder: folder.to_owned(), config, statements })
    }

    /// Where everything is stored: `config.data`, relative to the project.
    pub fn data(&self) -> PathBuf {
        self.folder.join(&self.config.data)
    }

    /// Compiles all views without opening anything.
    pub async fn check(&self) -> Result<Vec<ViewPlan>> {
        check_definitions(self.statements.clone()).await
    }
}

/// A statement whose files are named from where the process runs, not from the project's folder.
fn below(folder: &Path, mut statement: Statement) -> Statement {
    let (schema_file, registry) = match &mut statement {
        Statement::Source(SourceDefinition { connector: Connector::Kafka(options), .. }) => {
            let options = Arc::make_mut(options);
            (options.schema_file.as_mut(), options.registry.as_mut())
        }
        Statement::Sink(SinkDefinition { format: SinkFormat::Avro(registry), .. }) => (None, Some(registry)),
        _ => (None, None),
    };
    for file in schema_file.into_iter().chain(registry.and_then(|registry| registry.ca_file.as_mut())) {
        *file = folder.join(&file);
    }
    statement
}

fn read_config(folder: &Path) -> Result<Config> {
    let path = folder.join(CONFIG_FILE);
    if !path.is_file() {
        return Err(Error::Project {
            reason: format!(
                "\"{}\" is no project: it has no {CONFIG_FILE}; create one (it may be empty) beside your *.sql files",
                folder.display()
            ),
        });
    }
    let wrong = |error: config::ConfigError| Error::Configuration { reason: error.to_string() };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(&path, &error))?;
    // Alone first: merged with the environment, where all values are texts, 1.5 would count as a whole number.
    toml::from_str::<Config>(&text).map_err(|error| Error::Configuration {
        reason: format!("\"{}\": {}", path.display(), error.to_string().trim_end()),
    })?;
    let environment =
        Environment::with_prefix(ENVIRONMENT_PREFIX).prefix_separator("__").separator("__").try_parsing(true);
    let sources = config::Config::builder().add_source(File::from_str(&text, FileFormat::Toml)).add_source(environment);
    sources.build().and_then(config::Config::try_deserialize).map_err(wrong)
}

fn definition_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(|error| unreadable(folder, &error))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::Unreadable { path: path.to_owned(), reason: error.to_string() }
}
