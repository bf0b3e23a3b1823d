//! The host's end of a guest's vsock (vhost-vsock).

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// The device.
pub const DEVICE: &str = "/dev/vhost-vsock";
/// `VHOST_VSOCK_SET_GUEST_CID` of linux/vhost.h: `_IOW(0xAF, 0x60, __u64)`.
const SET_GUEST_CID: libc::Ioctl = 0x4008_af60;

/// Opens the device and takes a context id for it; `EADDRINUSE` where another guest of the host has it.
///
/// The kernel gives it back with the last descriptor.
pub fn open(cid: u32) -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE)?;
    let number = u64::from(cid);
    // SAFETY: the descriptor is open for the whole call, and the request reads eight bytes behind a pointer to a
    // value that outlives it.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), SET_GUEST_CID, std::ptr::from_ref(&number)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file.into()) }
}
