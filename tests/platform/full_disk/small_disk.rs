//! A file system of its own size, in memory.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use watershed_shared::disk::free_bytes;

/// A mounted file system; unmounted when it is dropped.
pub(super) struct SmallDisk {
    path: PathBuf,
    bytes: u64,
}

impl SmallDisk {
    /// Mounts one of `mebibytes`; `None` where this process may not mount.
    pub(super) fn mount(path: &Path, mebibytes: u64) -> Result<Option<SmallDisk>> {
        fs::create_dir(path)?;
        let size = format!("size={mebibytes}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "watershed-test"]).arg(path).stderr(Stdio::null());
        if !mount.status().is_ok_and(|status| status.success()) {
            println!("only root may mount a small disk; nothing was tested");
            return Ok(None);
        }
        Ok(Some(SmallDisk { path: path.to_owned(), bytes: mebibytes << 20 }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that files take.
    pub(super) fn used(&self) -> Result<u64> {
        Ok(self.bytes - free_bytes(&self.path)?)
    }

    /// Takes all room that is left.
    pub(super) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.ballast())?;
        let zeros = vec![0; 64 << 10];
        let full = loop {
            if let Err(error) = ballast.write_all(&zeros) {
                break error;
            }
        };
        ensure!(full.kind() == ErrorKind::StorageFull, "{full}");
        Ok(())
    }

    /// Gives back what `fill` took.
    pub(super) fn make_room(&self) -> Result<()> {
        Ok(fs::remove_file(self.ballast())?)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the process under test may still be ending.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
