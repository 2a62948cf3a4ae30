//! Compiles `.proto` files from memory.

use std::collections::HashMap;

use prost_reflect::{FileDescriptor, MessageDescriptor};
use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

use super::super::framing::Referenced;
use crate::format::row::quoted;
use crate::panics::catch_panic;

/// What the file with the records' message is called. No import can mean it: those are paths without a space.
const MAIN: &str = "schema of the records.proto";

/// The descriptor of the file with `text`, whose imports are found among `imports` and Google's well-known types.
///
/// # Errors
/// It does not compile; where and why.
pub(super) fn compile(text: &str, imports: Vec<Referenced>) -> Result<FileDescriptor, String> {
    let mut texts: HashMap<String, String> = imports.into_iter().map(|import| (import.name, import.text)).collect();
    texts.insert(MAIN.to_owned(), text.to_owned());
    let mut files = ChainFileResolver::new();
    files.add(InMemory { texts });
    files.add(GoogleFileResolver::new());
    let compiled = catch_panic(|| {
        let mut compiler = Compiler::with_file_resolver(files);
        compiler.open_file(MAIN)?;
        Ok(compiler.descriptor_pool())
    });
    let compiled: Result<_, protox::Error> = compiled?;
    let pool = compiled.map_err(|error| error.to_string())?;
    pool.get_file_by_name(MAIN).ok_or_else(|| "its compiled form is not there".to_owned())
}

/// The message called `name`, or the only one of the file.
///
/// # Errors
/// There is no such message, or no name where one is needed.
pub(super) fn only_message(file: &FileDescriptor, name: Option<&str>) -> Result<MessageDescriptor, String> {
    let names = || file.messages().map(|message| message.full_name().to_owned()).collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let message = file.parent_pool().get_message_by_name(name);
        return message.ok_or_else(|| format!("it has no message {}; it has: {}", quoted(name), names()));
    }
    let mut messages = file.messages();
    match (messages.next(), messages.next()) {
        (Some(message), None) => Ok(message),
        (None, _) => Err("it has no message".to_owned()),
        (Some(_), Some(_)) => Err(format!("it has several messages; say which one the records are: {}", names())),
    }
}

struct InMemory {
    texts: HashMap<String, String>,
}

impl FileResolver for InMemory {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let text = self.texts.get(name).ok_or_else(|| protox::Error::file_not_found(name))?;
        File::from_source(name, text)
    }
}
