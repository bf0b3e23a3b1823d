//! Messages that carry descriptors over unix sockets.
//!
//! What arrives is owned and close-on-exec from its first moment, also of a message that was cut.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socketpair,
};

/// The most descriptors in one message (the kernel's own limit).
pub const FDS_MAX: usize = 253;

/// Makes a connected pair that keeps message boundaries, close-on-exec.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Makes a connected pair of byte streams, close-on-exec.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message with descriptors; returns how many of the bytes went out. Never raises `SIGPIPE`.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(bytes)],
            control,
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        match sent {
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

/// One message.
#[derive(Debug)]
pub struct Received {
    /// How many bytes came.
    pub bytes: usize,
    /// The descriptors that came.
    pub fds: Vec<OwnedFd>,
    /// Whether bytes or descriptors of it are lost.
    pub cut: bool,
}

/// Receives one message; 0 bytes and no descriptor is the end of the connection.
pub fn recv(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let received = receive(socket, buffer, FDS_MAX)?;
    if received.cut {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was longer than its buffer"));
    }
    Ok((received.bytes, received.fds))
}

/// Receives one message with so many descriptors at most. The kernel drops the others, and then says that it cut; they
/// have never been this process's, so nothing of theirs is waited for.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], most: usize) -> io::Result<Received> {
    // Of `u64`: a header must be aligned as one.
    let mut control = [0_u64; CONTROL];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: a `msghdr` is numbers and pointers, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    loop {
        let most = most.min(FDS_MAX);
        if most > 0 {
            message.msg_control = control.as_mut_ptr().cast();
            // Not the padded length: that would have room for one more.
            message.msg_controllen = HEADER + most * size_of::<RawFd>();
        }
        // SAFETY: the message points to one part and to `control`, which live until this returns, with their lengths.
        let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        if let Ok(bytes) = usize::try_from(bytes) {
            let fds = owned(&control, message.msg_controllen);
            let cut = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
            return Ok(Received { bytes, fds, cut });
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Bytes before a control message's content.
const HEADER: usize = size_of::<libc::cmsghdr>();
/// Words of room for one control message with as many descriptors as there may be.
const CONTROL: usize = (HEADER + FDS_MAX * size_of::<RawFd>()).div_ceil(size_of::<u64>());

/// Owns what the kernel wrote into a control buffer, whole message or cut: a descriptor that it made and that nobody owns
/// would stay open for ever.
fn owned(control: &[u64; CONTROL], length: usize) -> Vec<OwnedFd> {
    let bytes: Vec<u8> = control.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect();
    let mut rest = bytes.as_slice();
    let mut fds = Vec::new();
    // `cmsghdr`: its length (itself included), its level and its type.
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let word =
            |at: usize| header.get(at..at + 4).and_then(|word| word.try_into().ok()).map(i32::from_ne_bytes);
        let length = header.get(..8).and_then(|word| word.try_into().ok()).map(usize::from_ne_bytes);
        let (Some(length), Some(level), Some(kind)) = (length, word(8), word(12)) else { break };
        let Some(content) = rest.get(HEADER..length.min(rest.len())) else { break };
        if (level, kind) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            let numbers = content.chunks_exact(4).filter_map(|number| number.try_into().ok());
            // SAFETY: the kernel made these descriptors for this message, and each is wrapped exactly once here.
            fds.extend(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(i32::from_ne_bytes(number)) }));
        }
        rest = rest.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or_default();
    }
    fds
}

/// Makes a pipe, close-on-exec: reading end, writing end.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::os::fd::AsFd;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    use super::*;

    fn numbers(fds: &[OwnedFd]) -> Vec<RawFd> {
        fds.iter().map(AsRawFd::as_raw_fd).collect()
    }

    /// Descriptors of this process, without the one that this counts by.
    fn open() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count() - 1
    }

    #[test]
    fn bytes_and_descriptors_arrive_and_an_end_is_seen() {
        let (one, other) = stream_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let mut buffer = [0; 8];
        send(one.as_fd(), b"abc", &[null.as_fd(), null.as_fd()]).unwrap();
        let (length, fds) = recv(other.as_fd(), &mut buffer).unwrap();
        assert_eq!((&buffer[..length], fds.len()), (&b"abc"[..], 2));
        for fd in &fds {
            assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        }
        assert_ne!(numbers(&fds)[0], numbers(&fds)[1]);
        send(one.as_fd(), b"x", &[null.as_fd(); FDS_MAX]).unwrap();
        assert_eq!(recv(other.as_fd(), &mut buffer).unwrap().1.len(), FDS_MAX);
        drop(one);
        assert!(matches!(recv(other.as_fd(), &mut buffer), Ok((0, fds)) if fds.is_empty()));
    }

    #[test]
    fn no_more_descriptors_arrive_than_there_is_room_for() {
        let (one, other) = stream_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        for (sent, most) in [(1, 0), (2, 1), (3, 1), (200, 2), (253, 252)] {
            send(one.as_fd(), b"x", &vec![null.as_fd(); sent]).unwrap();
            let received = receive(other.as_fd(), &mut [0; 8], most).unwrap();
            assert_eq!((received.bytes, received.fds.len(), received.cut), (1, most, true));
        }
        send(one.as_fd(), b"x", &[]).unwrap();
        assert!(!receive(other.as_fd(), &mut [0; 8], 0).unwrap().cut);
    }

    /// Where descriptors are too few, those that did come are closed. In a process of its own, for its limit is one of the
    /// whole process.
    #[test]
    fn a_message_that_was_cut_leaves_nothing_open() {
        if std::env::var_os("SVIRT_SCM_ALONE").is_none() {
            let name = "sys::scm::tests::a_message_that_was_cut_leaves_nothing_open";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            alone.args([name, "--exact", "--test-threads=1"]).env("SVIRT_SCM_ALONE", "1");
            let output = alone.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let (one, other) = seqpacket_pair().unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        let before = open();
        let lowest = null.try_clone().map(|free| free.as_raw_fd()).unwrap() as u64;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        send(one.as_fd(), b"x", &[null.as_fd(); 100]).unwrap();
        send(one.as_fd(), b"x", &[null.as_fd(); 100]).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, lowest + 3, hard).unwrap();
        let received = receive(other.as_fd(), &mut [0; 8], FDS_MAX).unwrap();
        let refused = recv(other.as_fd(), &mut [0; 8]);
        // With these still open the second message had no room at all: then it brought nothing.
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert!(received.cut && (1..=3).contains(&received.fds.len()), "{received:?}");
        assert!(refused.is_err());
        drop(received);
        assert_eq!(open(), before);
        send(one.as_fd(), b"x", &[null.as_fd(); 100]).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, lowest + 3, hard).unwrap();
        assert!(recv(other.as_fd(), &mut [0; 8]).is_err());
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
        assert_eq!(open(), before);
    }
}
