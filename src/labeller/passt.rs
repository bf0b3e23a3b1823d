//! How passt is started: one channel to QEMU, no ports open on the host, no way to the host's own services unless
//! the configuration gives it. passt itself then moves into an empty root under a filter of its own.
//!
//! QEMU can connect to no other one later: its network is the one descriptor that it was started with. So the labeller
//! keeps a copy of the other end, which lets QEMU see no end when passt dies, and starts another passt on it.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use crate::sys::process;

/// The descriptor of the channel in passt.
pub(super) const CHANNEL: i32 = 3;

/// passt's arguments.
pub(super) fn argv(host_loopback: bool) -> Vec<String> {
    let mut argv: Vec<String> = ["passt", "--foreground", "--quiet", "--fd"].map(ToOwned::to_owned).into();
    argv.push(CHANNEL.to_string());
    // No port of the host leads into the guest; later versions of passt may have other defaults.
    argv.extend(["--tcp-ports", "none", "--udp-ports", "none"].map(ToOwned::to_owned));
    if !host_loopback {
        // By default passt makes the gateway's address lead to the host's loopback, where services trust
        // whoever reaches them.
        argv.push("--no-map-gw".to_owned());
    }
    argv
}

/// How long QEMU may say nothing before what it says next counts as the start of a frame. What it has begun to send it
/// ends as soon as there is room.
const PAUSE: Duration = Duration::from_millis(10);
/// How long that may take; nobody else is served meanwhile.
const QUIET_BY: Duration = Duration::from_millis(300);

/// Takes what QEMU has sent to a passt that is gone out of the channel, so that another one begins with a whole frame.
///
/// An error where QEMU has closed its end, or a guest sends without a pause.
pub(super) fn quiet(channel: BorrowedFd<'_>) -> io::Result<()> {
    let until = Instant::now() + QUIET_BY;
    let mut chunk = vec![0; 65_536];
    while process::readable(channel, PAUSE)? {
        match rustix::io::read(channel, &mut chunk[..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU has closed its end")),
            _ if Instant::now() >= until => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the guest sends without a pause"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_was_sent_to_the_last_one_is_not_for_the_next_one() {
        let (mut qemu, ours) = UnixStream::pair().unwrap();
        qemu.write_all(&[7; 100_000]).unwrap();
        quiet(ours.as_fd()).unwrap();
        assert!(!process::readable(ours.as_fd(), Duration::ZERO).unwrap());
        quiet(ours.as_fd()).unwrap();
        drop(qemu);
        assert_eq!(quiet(ours.as_fd()).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_guest_that_never_pauses_holds_nobody_up() {
        let (mut qemu, ours) = UnixStream::pair().unwrap();
        let flood = std::thread::spawn(move || while qemu.write_all(&[7; 65_536]).is_ok() {});
        let error = quiet(ours.as_fd()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(ours);
        flood.join().unwrap();
    }

    #[test]
    fn the_hosts_own_services_are_out_of_reach_by_default() {
        assert!(argv(false).contains(&"--no-map-gw".to_owned()));
        assert!(!argv(true).contains(&"--no-map-gw".to_owned()));
    }
}
