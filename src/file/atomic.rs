//! Files that appear under their name only when they are whole.
//!
//! A path goes in, a file to write comes out, and [`AtomicFile::commit`] gives it the path's name. The one
//! idea: the bytes go to a hidden file in the same folder, which is renamed at the end. Whoever reads the
//! path meets what was there before or the finished file; an input that is also the output stays readable
//! (its map keeps the old file alive); and what is given up leaves nothing behind.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::human_size;
use crate::error::{Error, ErrorKind, Result};

/// How many links are followed, as Linux does, before they are taken for a circle.
const MAX_LINKS: usize = 40;

/// Bytes of the output's name that the hidden file's may take over; file systems allow 255 in all.
const MAX_STEM: usize = 200;

/// A file being written, invisible until it is committed, and removed if it is dropped before.
#[derive(Debug)]
pub struct AtomicFile {
    file: NamedTempFile,
    /// The path that was asked for.
    path: PathBuf,
    /// The path without the links: where the file will be.
    target: PathBuf,
}

impl AtomicFile {
    /// Begins a file that is to stand at `path`; if that is a link, where it points to.
    ///
    /// # Errors
    /// The folder is missing or can't be written to, or there is something at `path` that can't be replaced
    /// by a file.
    pub fn create(path: &Path) -> Result<Self> {
        Self::begin(path).map_err(|error| error.in_file(path))
    }

    fn begin(path: &Path) -> Result<Self> {
        let target = follow(path)?;
        let Some(name) = target.file_name() else {
            return Err(refused("this is not the name of a file"));
        };
        let folder = folder(&target);
        let replaced = replaced(&target)?;
        if replaced.is_none() && target.as_os_str().as_encoded_bytes().last().is_some_and(is_separator) {
            return Err(refused("this is the name of a folder, which does not exist; give a file's name"));
        }

        let mut hidden = OsString::from(".");
        if name.len() <= MAX_STEM {
            hidden.push(name);
        }
        hidden.push(".");
        let mut builder = tempfile::Builder::new();
        builder.prefix(&hidden).suffix(".tmp");
        // Not narrower, as temporary files usually are, and never wider than the file that is replaced.
        if let Some(permissions) = replaced.clone().or_else(ordinary_permissions) {
            builder.permissions(permissions);
        }
        let file = builder.tempfile_in(folder).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound if !folder.is_dir() => {
                refused(format!("the folder {} does not exist", folder.display()))
            }
            io::ErrorKind::NotADirectory => refused(format!("{} is not a folder", folder.display())),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                refused(format!("the folder {} can't be written to", folder.display()))
            }
            _ => refused(format!("can't create a file in {}: {error}", folder.display())),
        })?;
        if let Some(permissions) = replaced {
            // Creating the file took the umask away from them.
            let set = file.as_file().set_permissions(permissions);
            set.map_err(|error| refused(format!("can't set the permissions of the new file: {error}")))?;
        }
        Ok(Self { file, path: path.to_owned(), target })
    }

    /// Takes room on the disk for a file of `byte_len` bytes, where the file system can do that. Writing into it is
    /// several times faster, and a disk that is too small is known before the work.
    ///
    /// # Errors
    /// There isn't room.
    pub fn reserve(&self, byte_len: u64) -> Result<()> {
        match allocate(self.file.as_file(), byte_len) {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                let needed = human_size(byte_len);
                Err(refused(format!("there is no room for the {needed} of this file: {error}"))
                    .in_file(&self.path))
            }
            // What a file system can't reserve, it may still be able to write.
            _ => Ok(()),
        }
    }

    /// Puts the file under its name, once the disk has all of it.
    ///
    /// # Errors
    /// The disk or the folder refuses; then the path is as it was before.
    pub fn commit(self) -> Result<()> {
        let Self { mut file, path, target } = self;
        let written = file.flush().and_then(|()| file.as_file().sync_all());
        written.map_err(|error| Error::io(&error, "write", &path))?;
        file.persist(&target).map_err(|failed| Error::io(&failed.error, "write", &path))?;
        // So that the new name outlives a power cut, too. The file is whole and in place already, and some
        // file systems can't do this to folders, so a refusal is no failure.
        #[cfg(unix)]
        let _ = File::open(folder(&target)).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Read for AtomicFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.file.as_file_mut().read(into)
    }
}

impl Write for AtomicFile {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.file.as_file_mut().write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.as_file_mut().flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.as_file_mut().seek(to)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn allocate(file: &File, byte_len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, byte_len)?)
}

/// Other systems have no call for it, or write as fast without.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn allocate(_file: &File, _byte_len: u64) -> io::Result<()> {
    Ok(())
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Io, message)
}

fn is_separator(byte: &u8) -> bool {
    std::path::is_separator(char::from(*byte))
}

/// Where `path` leads when links are followed; unlike `canonicalize`, also if nothing is there yet.
fn follow(path: &Path) -> Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(to) => path = folder(&path).join(to),
            // Not a link, or nothing at all.
            Err(_) => return Ok(path),
        }
    }
    Err(refused("this link leads in a circle"))
}

/// The folder that `path` is in.
fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The permissions of the file that stands at `target`, if one does and may be replaced.
fn replaced(target: &Path) -> Result<Option<Permissions>> {
    // What can't be looked at can't be created either, and creating it says better why.
    let Ok(found) = fs::metadata(target) else { return Ok(None) };
    if found.is_dir() {
        return Err(refused("this is a folder; give the name of a file in it"));
    }
    if !found.is_file() {
        return Err(refused("this is not a regular file, and can't be replaced by one"));
    }
    if found.permissions().readonly() {
        return Err(refused("this file is write-protected"));
    }
    Ok(Some(found.permissions()))
}

/// What new files get, before the user's umask.
#[cfg(unix)]
fn ordinary_permissions() -> Option<Permissions> {
    use std::os::unix::fs::PermissionsExt;
    Some(Permissions::from_mode(0o666))
}

/// Other systems take them from the folder.
#[cfg(not(unix))]
fn ordinary_permissions() -> Option<Permissions> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) -> Result<()> {
        let mut file = AtomicFile::create(path)?;
        file.write_all(text.as_bytes()).unwrap();
        file.commit()
    }

    fn names(folder: &Path) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_hidden_until_it_is_committed_and_gone_if_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.bin");
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        let hidden = names(folder.path()).pop().unwrap().into_string().unwrap();
        assert!(hidden.starts_with(".out.bin.") && hidden.ends_with(".tmp"), "{hidden}");
        drop(file);
        assert!(names(folder.path()).is_empty());

        write(&path, "whole").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(names(folder.path()), ["out.bin"]);
    }

    #[test]
    fn what_was_written_can_be_read_back_before_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = AtomicFile::create(&folder.path().join("out")).unwrap();
        file.write_all(b"abcdef").unwrap();
        file.seek(SeekFrom::Start(2)).unwrap();
        let mut back = [0; 3];
        file.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"cde");
    }

    #[test]
    fn an_input_that_is_the_output_stays_readable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.safetensors");
        let bytes = |x: u8| {
            let header = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
            [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[x]].concat()
        };
        fs::write(&path, bytes(1)).unwrap();
        let input = crate::file::Container::open(&path).unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(&bytes(2)).unwrap();
        file.commit().unwrap();
        assert_eq!(input.get("a").unwrap().data, [1]);
        assert_eq!(crate::file::Container::open(&path).unwrap().get("a").unwrap().data, [2]);
    }

    #[test]
    fn the_longest_names_work() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["x".repeat(255), "ü".repeat(127)] {
            write(&folder.path().join(name), "").unwrap();
        }
    }

    #[test]
    fn a_place_where_no_file_can_be_is_named_in_the_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for (path, message) in [
            (folder.path().join("none/out"), "does not exist"),
            (folder.path().join("file/out"), "is not a folder"),
            (folder.path().to_owned(), "this is a folder"),
            (folder.path().join("none/.."), "not the name of a file"),
            (PathBuf::new(), "not the name of a file"),
        ] {
            let error = AtomicFile::create(&path).unwrap_err();
            assert_eq!((error.kind(), error.file()), (ErrorKind::Io, Some(path.as_path())));
            assert!(error.message().contains(message), "{error}");
        }
        assert_eq!(names(folder.path()), ["file"]);
    }

    #[cfg(unix)]
    mod unix {
        use std::os::unix::fs::{PermissionsExt, symlink};

        use super::*;

        fn mode(path: &Path) -> u32 {
            fs::metadata(path).unwrap().permissions().mode() & 0o7777
        }

        #[test]
        fn permissions_are_those_of_any_new_file_or_of_the_one_replaced() {
            let folder = tempfile::tempdir().unwrap();
            let (plain, ours) = (folder.path().join("plain"), folder.path().join("ours"));
            fs::write(&plain, "").unwrap();
            write(&ours, "").unwrap();
            assert_eq!(mode(&ours), mode(&plain));
            for bits in [0o600, 0o666, 0o640] {
                fs::set_permissions(&ours, Permissions::from_mode(bits)).unwrap();
                write(&ours, "").unwrap();
                assert_eq!(mode(&ours), bits);
            }
        }

        #[test]
        fn what_is_protected_or_no_file_is_left_alone() {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("protected");
            fs::write(&path, "kept").unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o444)).unwrap();
            assert!(AtomicFile::create(&path).unwrap_err().message().contains("write-protected"));
            assert!(AtomicFile::create(Path::new("/dev/null")).unwrap_err().message().contains("regular"));
        }

        #[test]
        fn a_link_stays_and_what_it_points_to_is_replaced() {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            fs::create_dir(at("deep")).unwrap();
            symlink("deep/second", at("first")).unwrap();
            symlink("third", at("deep/second")).unwrap();
            // Once with nothing at the end of the links, once with a file there.
            for text in ["new", "newer"] {
                write(&at("first"), text).unwrap();
                assert_eq!(fs::read_to_string(at("deep/third")).unwrap(), text);
            }
            assert!(at("first").is_symlink() && at("deep/second").is_symlink());
            assert_eq!(names(&at("deep")), ["second", "third"]);

            symlink("circle", at("circle")).unwrap();
            assert!(AtomicFile::create(&at("circle")).unwrap_err().message().contains("circle"));
        }
    }
}
