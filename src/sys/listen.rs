//! Listening sockets and who is at the other end of a connection.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, UnixAddr,
    setsockopt, sockopt,
};

use super::namespace::{Namespaces, made_inside};

/// Binds a unix stream socket in an open directory and listens. The name must be free.
///
/// The name goes through `/proc/self/fd`, so that the directory is the one that was checked, and so that a long
/// path fits a socket address.
pub fn unix(directory: impl AsFd, name: &str, mode: u32) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd());
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // On Linux the mode of the descriptor becomes the mode of the name that bind makes.
    rustix::fs::fchmod(&fd, rustix::fs::Mode::from_raw_mode(mode))?;
    socket::bind(fd.as_raw_fd(), &UnixAddr::new(Path::new(&path))?)?;
    socket::listen(&fd, Backlog::new(128)?)?;
    Ok(fd)
}

/// Connects to a unix stream socket without waiting, where too many already wait an error; nor does what is made wait.
pub fn connect(path: &str) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    socket::connect(fd.as_raw_fd(), &UnixAddr::new(Path::new(path))?)?;
    Ok(fd.into())
}

/// Binds the first free TCP port of a range; port 0 lets the kernel choose.
pub fn tcp(address: IpAddr, first: u16, last: u16) -> io::Result<(OwnedFd, SocketAddr)> {
    let mut error = io::Error::from_raw_os_error(libc::EADDRINUSE);
    for port in first..=last.max(first) {
        let at = SocketAddr::new(address, port);
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        let done = socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(at))
            .and_then(|()| socket::listen(&fd, Backlog::new(16)?));
        match done {
            Ok(()) => {
                let listener = TcpListener::from(fd);
                let at = listener.local_addr()?;
                return Ok((listener.into(), at));
            }
            Err(nix::Error::EADDRINUSE) => {}
            Err(other) => {
                error = other.into();
                break;
            }
        }
    }
    Err(error)
}

/// Ends a TCP listener for everybody who has a copy of it, so that its port is free at once. Whatever else it is, it is
/// left alone.
pub fn stop(fd: impl AsFd) {
    let fd = fd.as_fd();
    let listens = socket::getsockopt(&fd, sockopt::AcceptConn).unwrap_or(false);
    let family = socket::getsockname::<SockaddrStorage>(fd.as_raw_fd()).ok().and_then(|name| name.family());
    if listens && matches!(family, Some(AddressFamily::Inet | AddressFamily::Inet6)) {
        // It listens, so there is nothing that could be wrong with it.
        let _cannot_fail = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

/// The uid and pid that the kernel recorded when the peer connected.
pub fn peer(stream: &UnixStream) -> io::Result<(u32, i32)> {
    let credentials = socket::getsockopt(stream, sockopt::PeerCredentials)?;
    Ok((credentials.uid(), credentials.pid()))
}

/// The gid and the supplementary groups that the kernel recorded when the peer connected.
pub fn peer_groups(stream: impl AsFd) -> io::Result<(u32, Vec<u32>)> {
    let stream = stream.as_fd();
    let gid = socket::getsockopt(&stream, sockopt::PeerCredentials)?.gid();
    // Enough for nearly everybody; whoever has more is asked about again, with the room that the kernel names. What is
    // kept for each client is no larger than its groups.
    let mut groups = vec![0_u32; 32];
    loop {
        let room = groups.len() * size_of::<u32>();
        let mut length = libc::socklen_t::try_from(room).unwrap_or(0);
        // SAFETY: the descriptor is open for the whole call, and `length` tells the kernel how many bytes `groups` has.
        let done = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        if done == 0 {
            groups.truncate(count);
            groups.shrink_to_fit();
            return Ok((gid, groups));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Turns a bound descriptor into a listener that does not block.
pub fn nonblocking(fd: OwnedFd) -> io::Result<UnixListener> {
    let listener = UnixListener::from(fd);
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A listening socket and a connection that waits in it. It is bound in a network namespace that nobody else is in,
/// so it has no name on this host, and nobody else can connect.
pub fn meeting() -> io::Result<(OwnedFd, OwnedFd)> {
    let made = made_inside(Namespaces { net: true, ..Namespaces::default() }, || {
        let (listener, connected) = bound_pair()?;
        Ok(vec![listener, connected])
    })?;
    let both: [OwnedFd; 2] = made.try_into().map_err(|_| io::Error::other("two sockets were to be made"))?;
    Ok(both.into())
}

fn bound_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let make = || socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    let (listener, connected) = (make()?, make()?);
    socket::bind(listener.as_raw_fd(), &UnixAddr::new_unnamed())?;
    socket::listen(&listener, Backlog::new(1)?)?;
    let address: UnixAddr = socket::getsockname(listener.as_raw_fd())?;
    socket::connect(connected.as_raw_fd(), &address)?;
    Ok((listener, connected))
}

/// A connected pair of stream sockets.
pub fn channel() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socket::socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_free_whoever_has_a_copy_of_its_listener() {
        let local = IpAddr::from([127, 0, 0, 1]);
        let (listener, at) = tcp(local, 0, 0).unwrap();
        let copy = listener.try_clone().unwrap();
        let again = || tcp(local, at.port(), at.port());
        assert_eq!(again().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        stop(&listener);
        drop(listener);
        again().unwrap();
        drop(copy);
    }

    #[test]
    fn what_is_no_listener_is_left_alone() {
        let (mut one, mut other) = UnixStream::pair().unwrap();
        stop(&one);
        io::Write::write_all(&mut one, b"x").unwrap();
        io::Read::read_exact(&mut other, &mut [0]).unwrap();
    }

    /// The groups that a peer with so many has, as its other end is told; `None` where this process may not have them.
    fn told(count: u32) -> Option<Vec<u32>> {
        std::thread::spawn(move || {
            let groups: Vec<libc::gid_t> = (0..count).map(|group| 1000 + group).collect();
            // SAFETY: the list is as long as is said; the bare system call changes this thread alone, which ends here.
            let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
            let pair = (set == 0).then(|| UnixStream::pair().unwrap());
            pair.map(|(one, _other)| peer_groups(&one).unwrap().1)
        })
        .join()
        .unwrap()
    }

    #[test]
    fn every_group_of_a_peer_is_told_however_many_there_are() {
        for count in [0, 1, 32, 33, 4000] {
            let Some(groups) = told(count) else { return println!("skipped: needs root") };
            assert_eq!(groups, (1000..1000 + count).collect::<Vec<_>>());
            assert_eq!(groups.capacity(), groups.len(), "nothing more is kept for a client");
        }
    }
}
