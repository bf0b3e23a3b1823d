//! The daemon's listening sockets: made here, or handed over by whoever started it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};

use crate::settings::Settings;
use crate::sys::{inherit, listen, path};

/// Below the run directory; the sockets' names below it are links to here.
const DIRECTORY: &str = "daemon";
const NAME: &str = "svirt-sock";
const NAME_READ_ONLY: &str = "svirt-sock-ro";

/// Where clients connect.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) read_write: UnixListener,
    pub(super) read_only: Option<UnixListener>,
    /// Held for as long as the daemon runs, so that there is only one.
    _lock: OwnedFd,
}

/// Whose daemon it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Root's, for root and the members of a group.
    Root(Option<u32>),
    /// An ordinary user's, for nobody else.
    User(u32),
}

impl Owner {
    /// The modes of the run directory, of the sockets' directory, and of a socket.
    fn modes(self) -> [u32; 3] {
        match self {
            // The first as the labeller would make it itself.
            Self::Root(None) => [0o711, 0o750, 0o600],
            Self::Root(Some(_)) => [0o711, 0o750, 0o660],
            // The session's labeller has the first one too; what lies above is the user's alone.
            Self::User(_) => [0o711, 0o700, 0o600],
        }
    }

    fn uid(self) -> u32 {
        match self {
            Self::Root(_) => 0,
            Self::User(uid) => uid,
        }
    }

    /// Gives what was made to the group; an ordinary user's has the user's.
    fn give(self, directory: &OwnedFd, name: &str, flags: AtFlags) -> io::Result<()> {
        match self {
            Self::Root(group) => {
                let gid = Some(Gid::from_raw(group.unwrap_or(0)));
                Ok(rustix::fs::chownat(directory, name, None, gid, flags)?)
            }
            Self::User(_) => Ok(()),
        }
    }
}

/// Takes the sockets over that systemd made, else makes them.
pub(super) fn open(settings: &Settings, owner: Owner) -> io::Result<Sockets> {
    let run = Path::new(&settings.paths.run);
    if let Some(parent) = run.parent() {
        std::fs::create_dir_all(parent)?;
    }
    let [run_mode, directory_mode, _] = owner.modes();
    path::directory_of(&settings.paths.run, run_mode, owner.uid())?;
    let lock = only_one(run)?;
    let mut handed = handed_over()?.into_iter();
    if let Some(read_write) = handed.next() {
        let read_write = listen::nonblocking(read_write)?;
        let read_only = handed.next().map(listen::nonblocking).transpose()?;
        return Ok(Sockets {
            read_write,
            read_only: read_only.filter(|_| settings.daemon.read_only),
            _lock: lock,
        });
    }
    let directory = run.join(DIRECTORY);
    path::directory_of(&directory.to_string_lossy(), directory_mode, owner.uid())?;
    let directory = path::directory(&directory.to_string_lossy())?;
    owner.give(&directory, "", AtFlags::EMPTY_PATH)?;
    let read_only = if settings.daemon.read_only {
        Some(bind(run, &directory, NAME_READ_ONLY, owner)?)
    } else {
        remove(&directory, NAME_READ_ONLY)?;
        None
    };
    Ok(Sockets { read_write: bind(run, &directory, NAME, owner)?, read_only, _lock: lock })
}

fn only_one(run: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::open(run.join("svirtd.lock"), flags, Mode::from_raw_mode(0o600))?;
    match crate::sys::lock::whole_file(&file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another svirtd serves {}", run.display())))
        }
        Err(error) => Err(error),
        Ok(()) => Ok(file),
    }
}

/// Binds a socket that only root and the group may connect to, and links the name that clients know to it.
fn bind(run: &Path, directory: &OwnedFd, name: &str, owner: Owner) -> io::Result<UnixListener> {
    remove(directory, name)?;
    let [.., mode] = owner.modes();
    let socket = listen::unix(directory.as_fd(), name, 0o600)?;
    owner.give(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    // Only now, and whatever the umask: nobody else can have put another name here.
    rustix::fs::chmodat(directory, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
    let link = run.join(name);
    match std::fs::remove_file(&link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => std::os::unix::fs::symlink(Path::new(DIRECTORY).join(name), &link)?,
    }
    listen::nonblocking(socket)
}

/// Removes the socket of an earlier daemon, and nothing else.
fn remove(directory: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Socket => {
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is no socket"))),
    }
}

/// Sockets handed over in systemd's way: `LISTEN_PID` is this process and `LISTEN_FDS` their number, from 3 on.
///
/// The first is the read-write one, the second, if there is one, the read-only one.
fn handed_over() -> io::Result<Vec<OwnedFd>> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    match number("LISTEN_FDS") {
        Some(count @ 0..=2) => (3..3 + count).map(inherit::claim).collect(),
        Some(count) => {
            let text = format!("{count} sockets were handed over; there are two at most");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
        None => Ok(Vec::new()),
    }
}
