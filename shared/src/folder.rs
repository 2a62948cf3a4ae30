//! Folders that are still there after a power cut.
//!
//! A file that was synced is lost all the same if the name of a folder above it was not: names are part of the folder
//! that holds them, and each folder is synced by itself.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes a folder and those above it where they are not, each with a durable name. Blocks.
///
/// # Errors
/// When the file system refuses; some of the folders may be there then.
pub fn create_folder(folder: &Path) -> io::Result<()> {
    match (std::fs::create_dir(folder), folder.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            create_folder(parent)?;
            create_folder(folder)
        }
        (Err(_), _) if folder.is_dir() => Ok(()),
        (Err(error), _) => Err(error),
        (Ok(()), _) => sync_name(folder),
    }
}

/// Makes the name of a file or folder durable.
///
/// # Errors
/// When the file system refuses.
pub fn sync_name(path: &Path) -> io::Result<()> {
    let holder = path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
    holder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_those_above_and_may_be_there() -> io::Result<()> {
        let root = std::env::temp_dir().join(format!("watershed-folder-{}", std::process::id()));
        let deep = root.join("a/b");
        create_folder(&deep)?;
        create_folder(&deep)?;
        assert!(deep.is_dir());
        std::fs::write(deep.join("file"), "")?;
        assert!(create_folder(&deep.join("file")).is_err(), "a file is no folder");
        assert!(create_folder(&deep.join("file/below")).is_err());
        std::fs::remove_dir_all(root)
    }
}
