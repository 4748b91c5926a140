//! Small files that others may have made: read whole within bounds, replaced whole or not at all. What is in them is the
//! caller's business.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;

/// Whether a file had to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    Written,
    AsItWas,
}

/// Reads a regular file of at most `max` bytes. A link is not followed and a pipe not waited for: the directory may
/// belong to somebody with fewer rights than ours.
///
/// # Errors
/// `InvalidInput` for what is no regular file, `FileTooLarge` over the bound.
pub fn read(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {max} bytes"),
        ));
    }
    Ok(bytes)
}

/// Puts `bytes` in the file's place at once and durably, unless they are there already. The group is the directory's.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Replaced> {
    let same = read(path, bytes.len() as u64).is_ok_and(|old| old == bytes);
    if same && fs::metadata(path)?.permissions().mode() & 0o777 == mode {
        return Ok(Replaced::AsItWas);
    }
    let draft = draft_of(path);
    // Left by one that was killed, or laid there by another; `create_new` follows no link.
    let _ = fs::remove_file(&draft);
    let written = (|| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(mode & 0o700).open(&draft)?;
        file.write_all(bytes)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        if mode & 0o070 != 0 {
            // Not every file system has owners.
            let _ = chown(&draft, None, Some(fs::metadata(dir)?.gid()));
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        sync_entry(path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.map(|()| Replaced::Written)
}

/// Writes a file where it stands, for FAT, which has neither rights nor a safe way to replace: if that fails there is no
/// file, rather than half of one.
pub fn write_in_place(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let write = || {
        let mut out = File::create(path)?;
        out.write_all(bytes)?;
        out.sync_all()
    };
    write().inspect_err(|_| drop(fs::remove_file(path)))
}

/// Makes it last that `path` was put into its directory, or taken out: a file's own flush says nothing of its name, and after
/// a loss of power the one from before would be there again.
pub fn sync_entry(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

/// Takes a file away, durably; that there is none is fine.
pub fn remove(path: &Path) -> io::Result<Replaced> {
    match fs::remove_file(path) {
        Ok(()) => sync_entry(path).map(|()| Replaced::Written),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Replaced::AsItWas),
        Err(e) => Err(e),
    }
}

fn draft_of(path: &Path) -> std::path::PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".draft");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_only_when_they_differ() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert_eq!(replace(&path, b"one", 0o600).unwrap(), Replaced::Written);
        assert_eq!(replace(&path, b"one", 0o600).unwrap(), Replaced::AsItWas);
        assert_eq!(replace(&path, b"one", 0o640).unwrap(), Replaced::Written);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(replace(&path, b"", 0o640).unwrap(), Replaced::Written);
        assert_eq!(read(&path, 10).unwrap(), b"");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_entry_is_made_to_last_wherever_it_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        replace(&path, b"one", 0o600).unwrap();
        sync_entry(&path).unwrap();
        sync_entry(Path::new("beside-us")).unwrap();
        assert!(sync_entry(&dir.path().join("nowhere/a")).is_err());
        assert_eq!(remove(&path).unwrap(), Replaced::Written);
        assert_eq!(remove(&path).unwrap(), Replaced::AsItWas);
    }

    #[test]
    fn links_folders_and_floods_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, [b'x'; 100]).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert!(read(&link, 1000).is_err());
        assert_eq!(read(&real, 99).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(&real, 100).unwrap().len(), 100);
        assert_eq!(read(dir.path(), 1000).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        // What a link points to is not touched when the link is replaced.
        replace(&link, b"new", 0o600).unwrap();
        assert_eq!(fs::read(&real).unwrap().len(), 100);
        assert_eq!(read(&link, 10).unwrap(), b"new");
    }
}
