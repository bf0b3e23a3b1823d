//! Tap devices: attaching to one that exists, making one, and plugging it into a bridge.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// What is set on a tap device before it is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The device's own address on the host.
    pub mac: [u8; 6],
    /// The largest frame in bytes, without its header.
    pub mtu: u32,
}

/// Opens `/dev/net/tun` and attaches to the named tap device with a virtio-net header, as QEMU expects it.
///
/// Attaching makes a device that is not there, so the caller's interface is looked for first; a device that
/// disappears in between is made and vanishes again with the descriptor.
pub fn attach(interface: &str) -> io::Result<OwnedFd> {
    let mut request = named(interface)?;
    if !class(interface).join("tun_flags").exists() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    open(&mut request, 0)
}

/// Makes a tap device with a virtio-net header, and tells its name; `%d` in `pattern` is the first free number.
///
/// It is never one that exists, and it vanishes with the last descriptor.
pub fn make(pattern: &str) -> io::Result<(OwnedFd, String)> {
    let mut request = named(pattern)?;
    let fd = open(&mut request, libc::IFF_TUN_EXCL)?;
    let name = request.ifr_name.iter().take_while(|byte| **byte != 0).map(|byte| byte.cast_unsigned());
    String::from_utf8(name.collect()).map(|name| (fd, name)).map_err(io::Error::other)
}

/// The number of an interface, which no later one of this boot has; `None` where there is none of this name.
pub fn index(interface: &str) -> io::Result<Option<u32>> {
    match std::fs::read_to_string(class(interface).join("ifindex")) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The MTU of a bridge; an error where there is none of this name.
pub fn bridge_mtu(bridge: &str) -> io::Result<u32> {
    if !class(bridge).join("bridge").exists() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    std::fs::read_to_string(class(bridge).join("mtu"))?.trim().parse().map_err(io::Error::other)
}

/// Sets what `settings` says, plugs an interface into a bridge and lets it carry packets.
pub fn plug(interface: &str, bridge: &str, settings: Settings) -> io::Result<()> {
    let index = index(interface)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    let socket = control()?;
    let mut request = named(interface)?;
    request.ifr_ifru.ifru_hwaddr.sa_family = libc::ARPHRD_ETHER;
    // SAFETY: the family was written through the same member, and every bit pattern is a valid `sockaddr`.
    let data = unsafe { &mut request.ifr_ifru.ifru_hwaddr.sa_data };
    for (to, from) in data.iter_mut().zip(settings.mac) {
        *to = from.cast_signed();
    }
    call(&socket, libc::SIOCSIFHWADDR, &mut request)?;
    let mut request = named(interface)?;
    request.ifr_ifru.ifru_mtu = i32::try_from(settings.mtu).unwrap_or(i32::MAX);
    call(&socket, libc::SIOCSIFMTU, &mut request)?;
    let mut request = named(bridge)?;
    request.ifr_ifru.ifru_ifindex = index.cast_signed();
    call(&socket, SIOCBRADDIF, &mut request)?;
    set_up(&socket, interface, true)
}

/// Takes an interface off its bridge and lets it carry nothing any more, if it still is the one of that number.
pub fn unplug(interface: &str, bridge: &str, number: u32) -> io::Result<()> {
    if index(interface)? != Some(number) {
        return Ok(());
    }
    let socket = control()?;
    set_up(&socket, interface, false)?;
    let mut request = named(bridge)?;
    request.ifr_ifru.ifru_ifindex = number.cast_signed();
    match call(&socket, SIOCBRDELIF, &mut request) {
        // It is on no bridge, or not on this one.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENODEV)) => Ok(()),
        done => done,
    }
}

/// linux/sockios.h
const SIOCBRADDIF: libc::Ioctl = 0x89a2;
/// linux/sockios.h
const SIOCBRDELIF: libc::Ioctl = 0x89a3;

fn class(interface: &str) -> PathBuf {
    Path::new("/sys/class/net").join(interface)
}

/// A request about one interface.
fn named(interface: &str) -> io::Result<libc::ifreq> {
    let bytes = interface.as_bytes();
    if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&b'/') || bytes.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: `ifreq` is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
        *to = from.cast_signed();
    }
    Ok(request)
}

fn open(request: &mut libc::ifreq, more: libc::c_int) -> io::Result<OwnedFd> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open("/dev/net/tun")?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | more;
    request.ifr_ifru.ifru_flags = u16::try_from(flags).unwrap_or(0).cast_signed();
    call(&file, libc::TUNSETIFF, request)?;
    Ok(file.into())
}

/// A socket to ask about interfaces through; its family does not matter for that.
fn control() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn set_up(socket: &OwnedFd, interface: &str, up: bool) -> io::Result<()> {
    let mut request = named(interface)?;
    call(socket, libc::SIOCGIFFLAGS, &mut request)?;
    let bit = i16::try_from(libc::IFF_UP).unwrap_or(0);
    // SAFETY: the kernel has just written this member.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
    call(socket, libc::SIOCSIFFLAGS, &mut request)
}

fn call(fd: &impl AsRawFd, number: libc::Ioctl, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the descriptor is open for the whole call and `request` is a valid, exclusively borrowed `ifreq`,
    // which is what each number that this module passes reads and writes.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), number, std::ptr::from_mut(request)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
