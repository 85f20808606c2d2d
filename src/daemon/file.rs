//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes a file that must not be there yet, down to the disk.
///
/// # Errors
/// As the system reports; a file that could not be written whole is left behind.
pub fn write_new(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut handle = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    handle.write_all(bytes)?;
    handle.sync_all()
}

/// Puts a whole file in the place of another or of none: never half of it, whatever happens.
///
/// # Errors
/// As the system reports; what was there before is still there.
pub fn replace(file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = file.with_file_name(name);
    // Left behind by a process of the same number that was killed in between.
    let _ = fs::remove_file(&fresh);
    let done = write_new(&fresh, bytes, mode).and_then(|()| fs::rename(&fresh, file));
    if done.is_err() {
        let _ = fs::remove_file(&fresh);
        return done;
    }
    // The name is on the disk only when the directory is.
    match file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_failed_replacement_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        replace(&file, b"one", 0o600).unwrap();
        replace(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        // A directory cannot be replaced by a file.
        let taken = dir.path().join("b");
        fs::create_dir(&taken).unwrap();
        assert!(replace(&taken, b"x", 0o600).is_err());
        let names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    }
}
