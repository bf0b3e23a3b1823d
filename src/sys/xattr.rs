//! The SELinux label of an open object, as its extended attribute.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};
use rustix::io::Errno;

const NAME: &str = "security.selinux";
/// The kernel's own limit on a context is a page.
const LABEL_MAX: usize = 4096;

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
