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
    quiet_for(channel, PAUSE)
}

fn quiet_for(channel: BorrowedFd<'_>, pause: Duration) -> io::Result<()> {
    let until = Instant::now() + QUIET_BY;
    let mut chunk = vec![0; 65_536];
    while process::readable(channel, pause)? {
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

/// What of the host keeps passt from running at all, and what to do; passt itself would end, and leave the guest with
/// a dead interface. What cannot be read is taken for being there.
pub(super) fn missing() -> Option<(&'static str, &'static str)> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let off = |path: &str| read(path).is_some_and(|text| text.trim() == "0");
    if off("/proc/sys/user/max_user_namespaces") || off("/proc/sys/kernel/unprivileged_userns_clone") {
        return Some((
            "user namespaces are switched off, in which passt empties its own root",
            "raise user.max_user_namespaces (or kernel.unprivileged_userns_clone), or use type='bridge'",
        ));
    }
    let none = read("/proc/net/route").is_some_and(|v4| {
        let v6 = read("/proc/net/ipv6_route").unwrap_or_default();
        !has_default_route(&v4, &v6)
    });
    none.then_some((
        "the host has no default route, and passt takes the guest's addresses from its interface",
        "give the host a default route, or use type='bridge'",
    ))
}

/// Whether the kernel's tables have a default route; an unreachable one of the kernel's own (`RTF_REJECT`) is none.
fn has_default_route(v4: &str, v6: &str) -> bool {
    let v4 = v4.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let v6 = v6.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let any4 =
        v4.into_iter().any(|words| words.get(1) == Some(&"00000000") && words.get(7) == Some(&"00000000"));
    let zero = |word: Option<&&str>| word.is_some_and(|word| word.bytes().all(|byte| byte == b'0'));
    let usable = |flags: Option<&&str>| {
        flags
            .and_then(|flags| u32::from_str_radix(flags, 16).ok())
            .is_some_and(|flags| flags & RTF_REJECT == 0)
    };
    let any6 = v6
        .into_iter()
        .any(|words| zero(words.first()) && words.get(1) == Some(&"00") && usable(words.get(8)));
    any4 || any6
}

/// linux/route.h
const RTF_REJECT: u32 = 0x200;

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
        // On a busy machine the flood itself pauses for longer than 10 ms.
        let error = quiet_for(ours.as_fd(), Duration::from_secs(60)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(ours);
        flood.join().unwrap();
    }

    #[test]
    fn a_default_route_is_found_in_either_table() {
        let head = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n";
        let local = "eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let default = "eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n";
        let zero = "0".repeat(32);
        let six = |flags: &str| format!("{zero} 00 {zero} 00 {zero} ffffffff 00000001 00000000 {flags} lo\n");
        assert!(!has_default_route(head, ""));
        assert!(!has_default_route(&format!("{head}{local}"), &six("00200200")));
        assert!(has_default_route(&format!("{head}{local}{default}"), ""));
        assert!(has_default_route(head, &six("00000003")));
    }

    #[test]
    fn the_hosts_own_services_are_out_of_reach_by_default() {
        assert!(argv(false).contains(&"--no-map-gw".to_owned()));
        assert!(!argv(true).contains(&"--no-map-gw".to_owned()));
    }
}
