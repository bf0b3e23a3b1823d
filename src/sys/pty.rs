//! Pseudo terminals.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};

/// Opens a new pseudo terminal in raw mode: the controlling side, the terminal itself, and the terminal's path.
///
/// The other side belongs to root with mode 0620: who may attach to it is the administrator's choice.
pub fn open() -> io::Result<(OwnedFd, OwnedFd, String)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let terminal =
        ioctl_tiocgptpeer(&controller, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    let mut mode = tcgetattr(&terminal)?;
    cfmakeraw(&mut mode);
    tcsetattr(&terminal, SetArg::TCSANOW, &mode)?;
    let name = ptsname(&controller, Vec::new())?;
    let name = name.into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok((controller, terminal, name))
}
