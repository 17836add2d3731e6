//! A file that is there as a whole or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Puts a file with these contents in the place of what is at `path`, at once.
///
/// It is written beside `path` first, under a name that the next writer takes over: two at a time would be in each
/// other's way, which is why a run [locks its folder](crate::history::History::begin).
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".tmp");
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        // On the disk before it has the name: else a crash of the machine could leave the name without the contents.
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}
