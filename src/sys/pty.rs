//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// Opens a new pseudo terminal: the controlling side, and the path of the other side.
///
/// The other side belongs to root with mode 0620: who may attach to it is the administrator's choice.
pub fn open() -> io::Result<(OwnedFd, String)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let name = ptsname(&controller, Vec::new())?;
    let name = name.into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((controller, name))
}
