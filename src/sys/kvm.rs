//! Whether KVM works: the device opens, speaks the one API version, and makes a machine.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `KVM_GET_API_VERSION` of linux/kvm.h: `_IO(0xAE, 0x00)`.
const KVM_GET_API_VERSION: libc::c_ulong = 0xae00;
/// `KVM_CREATE_VM` of linux/kvm.h: `_IO(0xAE, 0x01)`.
const KVM_CREATE_VM: libc::c_ulong = 0xae01;
/// The version that linux/kvm.h says will never change.
const API_VERSION: libc::c_int = 12;

/// Makes an empty machine and throws it away; an error says what does not work.
pub fn check() -> io::Result<()> {
    let kvm = OpenOptions::new().read(true).write(true).open("/dev/kvm")?;
    // SAFETY: the descriptor is open for the whole call, and this request reads and writes no memory of ours.
    let version = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_GET_API_VERSION, 0) };
    if version < 0 {
        return Err(io::Error::last_os_error());
    }
    if version != API_VERSION {
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("/dev/kvm speaks version {version}, not 12"),
        ));
    }
    // SAFETY: as above; the third argument is the machine type 0, a plain number.
    let machine = unsafe { libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM, 0) };
    if machine < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this new descriptor, and nobody else knows its number.
    drop(unsafe { OwnedFd::from_raw_fd(machine) });
    Ok(())
}

#[cfg(test)]
mod tests {
    /// Whatever the host has, the answer is an answer: no machine without a device.
    #[test]
    fn no_device_is_an_error() {
        if !std::path::Path::new("/dev/kvm").exists() {
            assert!(super::check().is_err());
        }
    }
}
