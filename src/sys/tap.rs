//! Attaching to a tap device that exists.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Opens `/dev/net/tun` and attaches to the named tap device with a virtio-net header, as QEMU expects it.
///
/// Attaching makes a device that is not there, so the caller's interface is looked for first; a device that
/// disappears in between is made and vanishes again with the descriptor.
pub fn attach(interface: &str) -> io::Result<OwnedFd> {
    let bytes = interface.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if !std::path::Path::new("/sys/class/net").join(interface).join("tun_flags").exists() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).unwrap_or(0);
    // SAFETY: the descriptor is open for the whole call and `request` is a valid, exclusively borrowed `ifreq`,
    // which is what TUNSETIFF reads and writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}
