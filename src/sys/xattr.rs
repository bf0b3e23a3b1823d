//! The SELinux label of an open object, and what it was before, as its extended attributes. The names are all
//! that svirt ever reads or writes.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

const NAME: &str = "security.selinux";
/// The kernel's own limit on a context is a page.
const LABEL_MAX: usize = 4096;

/// What libvirt and svirt write on an object whose label they change; see `labeller::remember`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// When the host booted.
    Boot,
    /// How many users there are.
    Count,
    /// The label before the first user.
    Label,
    /// Whether svirt is one of the users.
    Mark,
}

impl Remembered {
    fn name(self) -> &'static str {
        match self {
            Self::Boot => "trusted.libvirt.security.timestamp_selinux",
            Self::Count => "trusted.libvirt.security.ref_selinux",
            Self::Label => "trusted.libvirt.security.selinux",
            Self::Mark => "trusted.svirt.security.selinux",
        }
    }
}

/// Which attribute says whose a file is.
pub const OWNER: &str = "trusted.svirt.domain";

/// The uuid of the domain whose file it is, as it was written; `None` where it is no domain's in particular.
pub fn owner(fd: impl AsFd) -> io::Result<Option<String>> {
    text(fd, OWNER)
}

/// Says whose a file is.
pub fn set_owner(fd: impl AsFd, uuid: &str) -> io::Result<()> {
    Ok(fsetxattr(fd, OWNER, uuid.as_bytes(), XattrFlags::empty())?)
}

/// Which attribute says who had a file written.
const USER: &str = "trusted.svirt.user";

/// The uid that had it written; `None` where that is nobody in particular.
pub fn user(fd: impl AsFd) -> io::Result<Option<u32>> {
    Ok(text(fd, USER)?.and_then(|uid| uid.parse().ok()))
}

/// Says who had it written.
pub fn set_user(fd: impl AsFd, uid: u32) -> io::Result<()> {
    Ok(fsetxattr(fd, USER, uid.to_string().as_bytes(), XattrFlags::empty())?)
}

/// One attribute; `None` where it is not there, or the file system has none.
pub fn remembered(fd: impl AsFd, which: Remembered) -> io::Result<Option<String>> {
    text(fd, which.name())
}

fn text(fd: impl AsFd, name: &str) -> io::Result<Option<String>> {
    let mut buffer = [0_u8; LABEL_MAX];
    match fgetxattr(fd, name, &mut buffer[..]) {
        // What is no text was written by nobody who takes part.
        Ok(length) => {
            Ok(buffer.get(..length).and_then(|bytes| std::str::from_utf8(bytes).ok()).map(str::to_owned))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets one attribute, or removes it.
pub fn set_remembered(fd: impl AsFd, which: Remembered, value: Option<&str>) -> io::Result<()> {
    let done = match value {
        Some(value) => fsetxattr(fd, which.name(), value.as_bytes(), XattrFlags::empty()),
        None => fremovexattr(fd, which.name()),
    };
    match done {
        Err(Errno::NODATA) if value.is_none() => Ok(()),
        other => Ok(other?),
    }
}

/// The label that an object has now; `None` where it has none.
pub fn selinux_label(fd: impl AsFd) -> io::Result<Option<String>> {
    let mut buffer = [0_u8; LABEL_MAX];
    match fgetxattr(fd, NAME, &mut buffer[..]) {
        Ok(length) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
            let text = std::str::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            Ok(Some(text.to_owned()))
        }
        Err(Errno::NODATA) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Sets the label; `None` removes it. libselinux writes the closing NUL, so this does.
pub fn set_selinux_label(fd: impl AsFd, label: Option<&str>) -> io::Result<()> {
    match label {
        Some(label) => {
            let mut bytes = label.as_bytes().to_vec();
            bytes.push(0);
            fsetxattr(fd, NAME, &bytes, XattrFlags::empty())?;
        }
        None => match fremovexattr(fd, NAME) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        },
    }
    Ok(())
}
