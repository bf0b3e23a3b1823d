//! Paths, resolved once: a walk that follows no link an unprivileged user could have planted, and says which
//! directories it went through.
//!
//! Owns the walk and the reopening of what it found. Knows nothing of places or policy: the caller judges the
//! directories by device and inode, so that a rename during the walk cannot fool it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{self, Mode, OFlags, ResolveFlags};

/// Links that one walk follows at most, as the kernel does.
const LINKS_MAX: usize = 40;
/// Components of one walk, links included; `PATH_MAX` holds no more in a plain path.
const PARTS_MAX: usize = 4096;

/// What `fstat` says of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Device number of the file system.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Number of hard links.
    pub links: u64,
    /// Number of the device that a device node stands for.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
}

impl Found {
    /// Reads the state of an open object.
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = fs::fstat(fd)?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: stat.st_nlink,
            rdev: stat.st_rdev,
            size: u64::try_from(stat.st_size).unwrap_or(0),
        })
    }

    /// Device and inode.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it is of the given `S_IFMT` type.
    #[must_use]
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }

    /// Whether only root can change which names a directory holds.
    #[must_use]
    pub fn only_root_writes(&self) -> bool {
        self.uid == 0 && self.mode & 0o022 == 0
    }
}

/// Finds an object in one step: an `O_PATH` descriptor and what it is.
///
/// Follows no symbolic link: `ELOOP` is the answer where one is on the way. Which directories lead to the object is not
/// told, so it is for what is known by its identity and for what is only compared by it; [`resolve`] is for all else.
pub fn find_known(path: &str) -> io::Result<(OwnedFd, Found)> {
    let how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
    let fd = fs::openat2(fs::CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)?;
    let found = Found::of(&fd)?;
    Ok((fd, found))
}

/// The end of a walk.
#[derive(Debug)]
pub struct Resolved {
    /// An `O_PATH` descriptor of the object itself.
    pub fd: OwnedFd,
    /// What it is.
    pub found: Found,
    /// The directories that lead to it, the root first and its own last.
    pub directories: Vec<Found>,
    /// Device and inode of each directory on the way to a link that was followed.
    pub before_links: Vec<(u64, u64)>,
    /// Its last component.
    pub name: OsString,
    /// Its directory.
    pub parent: OwnedFd,
}

/// Why a walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// A component is a link that somebody else than root could have planted.
    #[error("{0} is a symbolic link of /proc, or one that others than root could have made")]
    ForeignLink(String),
    /// The kernel refused.
    #[error("{0}: {1}")]
    Kernel(String, #[source] io::Error),
    /// The path is not absolute, has `..`, a NUL or no last component.
    #[error("{0:?} is no plain absolute path")]
    NotPlain(String),
    /// More links or components than a sane path has.
    #[error("{0} leads through too many links")]
    TooLong(String),
}

/// One directory on the way.
struct Step {
    fd: OwnedFd,
    found: Found,
}

/// Whether a path is absolute and without `.`, `..`, NUL or a closing slash.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.starts_with('/')
        && path.len() > 1
        && path.len() < 4096
        && !path.contains('\0')
        && path.split('/').skip(1).all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Resolves an absolute path once. Links are followed only where link and directory belong to root and nobody
/// else may write the directory.
pub fn resolve(path: &str) -> Result<Resolved, WalkError> {
    if !is_plain(path) {
        return Err(WalkError::NotPlain(path.to_owned()));
    }
    let kernel = |error: io::Error| WalkError::Kernel(path.to_owned(), error);
    let mut steps = vec![root().map_err(kernel)?];
    let mut todo: VecDeque<OsString> = parts(path.as_bytes());
    let mut links = 0;
    let mut before_links = Vec::new();
    let mut count = 0;
    while let Some(part) = todo.pop_front() {
        count += 1;
        if count > PARTS_MAX {
            return Err(WalkError::TooLong(path.to_owned()));
        }
        if part == ".." {
            if steps.len() > 1 {
                steps.pop();
            }
            continue;
        }
        let Some(top) = steps.last() else { return Err(WalkError::NotPlain(path.to_owned())) };
        let fd = child(top.fd.as_fd(), Path::new(&part)).map_err(kernel)?;
        let found = Found::of(&fd).map_err(kernel)?;
        if found.is(libc::S_IFLNK) {
            links += 1;
            // A link of /proc leads to an object, not to a name: what stands behind it is the asker's to choose.
            let magic = fs::fstatfs(&fd).map_err(|e| kernel(e.into()))?.f_type == fs::PROC_SUPER_MAGIC;
            if magic || found.uid != 0 || !top.found.only_root_writes() {
                return Err(WalkError::ForeignLink(format!("{path} ({})", part.to_string_lossy())));
            }
            if links > LINKS_MAX {
                return Err(WalkError::TooLong(path.to_owned()));
            }
            before_links.extend(steps.iter().map(|step| step.found.id()));
            let target = fs::readlinkat(&fd, "", Vec::new()).map_err(|e| kernel(e.into()))?.into_bytes();
            if target.first() == Some(&b'/') {
                steps.truncate(1);
            }
            for part in parts(&target).into_iter().rev() {
                todo.push_front(part);
            }
            continue;
        }
        if todo.is_empty() {
            let directories = steps.iter().map(|step| step.found).collect();
            let Some(last) = steps.pop() else { return Err(WalkError::NotPlain(path.to_owned())) };
            return Ok(Resolved { fd, found, directories, before_links, name: part, parent: last.fd });
        }
        if !found.is(libc::S_IFDIR) {
            return Err(kernel(io::Error::from_raw_os_error(libc::ENOTDIR)));
        }
        steps.push(Step { fd, found });
    }
    // The walk ended on the root or on `..`: a directory, which no caller wants by that name.
    Err(WalkError::NotPlain(path.to_owned()))
}

fn root() -> io::Result<Step> {
    let fd = fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let found = Found::of(&fd)?;
    Ok(Step { fd, found })
}

fn parts(path: &[u8]) -> VecDeque<OsString> {
    path.split(|b| *b == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect()
}

/// Opens one component, never a link's target, never through a magic link.
fn child(directory: BorrowedFd<'_>, name: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::BENEATH;
    let mut tries = 0;
    loop {
        match fs::openat2(directory, name, flags, Mode::empty(), how) {
            // The kernel asks to try again when a rename ran meanwhile; a hostile one must not keep us here.
            Err(rustix::io::Errno::AGAIN) if tries < 16 => tries += 1,
            other => return Ok(other?),
        }
    }
}

/// Opens for real what an `O_PATH` descriptor holds, without looking at any name again.
///
/// `flags` are `open`'s; close-on-exec, no controlling terminal and non-blocking are added, and non-blocking is
/// taken off again once the object is open, because a device model inherits the flags.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> io::Result<OwnedFd> {
    let name = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    let all = flags | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
    let opened = fs::open(name.as_str(), all, Mode::empty())?;
    let now = fs::fcntl_getfl(&opened)?;
    fs::fcntl_setfl(&opened, now.difference(OFlags::NONBLOCK))?;
    Ok(opened)
}

/// Makes a new file in an open directory; it must not exist.
pub fn create(directory: impl AsFd, name: &std::ffi::OsStr, mode: u32, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(directory, Path::new(name), flags, Mode::from_raw_mode(mode))?)
}

/// Makes a file that has no name yet in an open directory.
pub fn nameless(directory: impl AsFd, mode: u32, flags: OFlags) -> io::Result<OwnedFd> {
    // An O_PATH descriptor cannot be opened from with O_TMPFILE and an empty path, but with `.` it can.
    let flags = flags | OFlags::TMPFILE | OFlags::CLOEXEC;
    Ok(fs::openat(directory, ".", flags, Mode::from_raw_mode(mode))?)
}

/// Gives an open file a name, which must be free.
pub fn link(file: impl AsFd, directory: impl AsFd, name: &std::ffi::OsStr) -> io::Result<()> {
    let from = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(fs::linkat(fs::CWD, from.as_str(), directory, Path::new(name), fs::AtFlags::SYMLINK_FOLLOW)?)
}

/// Exchanges what two names of an open directory hold, at once.
pub fn exchange(directory: impl AsFd, one: &std::ffi::OsStr, other: &std::ffi::OsStr) -> io::Result<()> {
    let directory = directory.as_fd();
    let flags = fs::RenameFlags::EXCHANGE;
    Ok(fs::renameat_with(directory, Path::new(one), directory, Path::new(other), flags)?)
}

/// What a name in an open directory holds; a link is itself.
pub fn look(directory: impl AsFd, name: &std::ffi::OsStr) -> io::Result<Found> {
    Found::of(child(directory.as_fd(), Path::new(name))?)
}

/// Opens a file in an open directory, never through a link.
pub fn open_in(directory: impl AsFd, name: &std::ffi::OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    reopen(child(directory.as_fd(), Path::new(name))?, flags)
}

/// Opens a directory by a path that is svirt's own or the administrator's.
pub fn directory(path: &str) -> io::Result<OwnedFd> {
    Ok(fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes a directory of svirt's own with the given mode, root's, or checks that what is there is such a one.
pub fn own_directory(path: &str, mode: u32) -> io::Result<()> {
    directory_of(path, mode, 0)
}

/// The same for a directory of the user `uid`.
pub fn directory_of(path: &str, mode: u32, uid: u32) -> io::Result<()> {
    match fs::mkdir(path, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = fs::open(path, flags, Mode::empty())?;
    let found = Found::of(&fd)?;
    if found.uid != uid || found.mode & 0o022 != 0 {
        let who = if uid == 0 { "root".to_owned() } else { format!("uid {uid}") };
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{path} must belong to {who} and be writable by nobody else"),
        ));
    }
    // The umask may have taken bits that the socket's clients need.
    fs::fchmod(&fd, Mode::from_raw_mode(mode))?;
    Ok(())
}

/// Removes a name if it still holds the object that was meant. Says whether it did.
pub fn unlink_if(parent: impl AsFd, name: &std::ffi::OsStr, id: (u64, u64)) -> io::Result<bool> {
    let parent = parent.as_fd();
    match child(parent, Path::new(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(fd) if Found::of(&fd)?.id() == id => {
            fs::unlinkat(parent, Path::new(name), fs::AtFlags::empty())?;
            Ok(true)
        }
        Ok(_) => Ok(false),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn plain_paths() {
        for good in ["/a", "/a/b.c", "/ä"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "/", "a", "/a/", "//a", "/a/../b", "/./a", "/a\0"] {
            assert!(!is_plain(bad), "{bad}");
        }
    }

    #[test]
    fn a_walk_ends_at_the_object_and_lists_its_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let resolved = resolve(path.to_str().unwrap()).unwrap();
        assert_eq!(resolved.found.size, 1);
        let parent = Found::of(std::fs::File::open(dir.path()).unwrap()).unwrap();
        assert_eq!(resolved.directories.last().unwrap().id(), parent.id());
        assert_eq!(resolved.name, "f");
    }

    #[test]
    fn links_count_only_where_root_alone_writes() {
        let dir = tempfile::tempdir().unwrap();
        let me = Found::of(std::fs::File::open(dir.path()).unwrap()).unwrap().uid;
        std::fs::write(dir.path().join("f"), "x").unwrap();
        symlink("f", dir.path().join("l")).unwrap();
        symlink("../../../../../../../../etc/passwd", dir.path().join("up")).unwrap();
        let link = dir.path().join("l");
        let walked = resolve(link.to_str().unwrap());
        if me == 0 {
            assert_eq!(walked.unwrap().name, "f");
            assert_eq!(resolve(dir.path().join("up").to_str().unwrap()).unwrap().name, "passwd");
        }
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(matches!(resolve(link.to_str().unwrap()), Err(WalkError::ForeignLink(_))));
    }

    #[test]
    fn loops_and_magic_links_end_in_an_error() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(resolve(dir.path().join("a").to_str().unwrap()).is_err());
        assert!(resolve("/proc/self/fd/0").is_err());
        assert!(resolve("/proc/self/exe").is_err());
    }
}
