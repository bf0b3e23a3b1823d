//! A person at a guest's console: bytes both ways, until the guest, the person or a signal ends it.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::output;
use super::terminal::Raw;

/// `^]`, which leaves a console, as in virsh and telnet.
const ESCAPE: u8 = 0x1d;
/// `^C`, which in raw mode arrives as a byte.
const CTRL_C: u8 = 0x03;
/// Bytes that are moved at once.
const CHUNK: usize = 16 << 10;

/// Why nobody is attached any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detached {
    /// The person typed `^]`.
    Escape,
    /// The console ended: the guest is gone, or another client took it.
    Closed,
    /// SIGINT, or `^C` where that is meant for svirt.
    Interrupt,
    /// SIGTERM or SIGHUP.
    Terminate,
}

/// Signals as a descriptor, blocked for as long as the process lives.
///
/// To be made before any thread is started, so that each thread inherits the mask.
pub(super) fn signals() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        set.add(signal);
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The signal that came, if one did.
pub(super) fn pending(signals: &SignalFd) -> Option<Detached> {
    let info = signals.read_signal().ok().flatten()?;
    let interrupt = i32::try_from(info.ssi_signo).ok() == Some(Signal::SIGINT as i32);
    Some(if interrupt { Detached::Interrupt } else { Detached::Terminate })
}

/// Moves bytes until something ends it; `ended` becomes readable when the domain is gone. With `ctrl_c` the byte `^C` ends it, instead of going to the guest.
///
/// `greeting` (or nothing) is said once keys count as they are typed, so that whoever answers it at once is heard.
pub(super) fn attach(
    console: &UnixStream,
    greeting: &str,
    early: &[u8],
    signals: &SignalFd,
    ended: Option<BorrowedFd<'_>>,
    ctrl_c: bool,
) -> io::Result<Detached> {
    let raw = Raw::enter()?;
    if raw.is_terminal() && !greeting.is_empty() {
        output::note(greeting);
        // A raw terminal goes down on a line feed, but not back to its left edge.
        io::stderr().write_all(b"\r")?;
    }
    let stdin = io::stdin();
    let mut out = io::stdout().lock();
    out.write_all(early)?;
    out.flush()?;
    // Without a terminal an end of input is no wish to leave: the guest's output is still wanted.
    let mut reading = true;
    loop {
        let input = if reading { PollFlags::POLLIN } else { PollFlags::empty() };
        let mut fds = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(console.as_fd(), PollFlags::POLLIN),
            PollFd::new(stdin.as_fd(), input),
            // Polled for nothing where there is none: no other descriptor would do as well.
            PollFd::new(
                ended.unwrap_or(console.as_fd()),
                if ended.is_some() { PollFlags::POLLIN } else { PollFlags::empty() },
            ),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let [signal, guest, person, gone] = fds.map(|fd| fd.any().unwrap_or(false));
        if signal && let Some(end) = pending(signals) {
            return Ok(end);
        }
        if guest && !copy_out(console, &mut out)? {
            return Ok(Detached::Closed);
        }
        if gone && ended.is_some() && !guest {
            return Ok(Detached::Closed);
        }
        if person && reading {
            match copy_in(stdin.as_fd(), console, raw.is_terminal(), ctrl_c)? {
                Input::Some => {}
                Input::End => reading = false,
                Input::Detach(end) => return Ok(end),
            }
        }
    }
}

/// False at the end of the console.
fn copy_out(console: &UnixStream, out: &mut impl io::Write) -> io::Result<bool> {
    let mut chunk = [0; CHUNK];
    let read = match nix::unistd::read(console, &mut chunk) {
        Err(Errno::EINTR) => return Ok(true),
        Err(Errno::ECONNRESET) | Ok(0) => return Ok(false),
        other => other?,
    };
    out.write_all(chunk.get(..read).unwrap_or_default())?;
    out.flush()?;
    Ok(true)
}

/// What the person typed.
enum Input {
    Some,
    End,
    Detach(Detached),
}

fn copy_in(
    stdin: BorrowedFd<'_>,
    mut console: &UnixStream,
    terminal: bool,
    ctrl_c: bool,
) -> io::Result<Input> {
    let mut chunk = [0; CHUNK];
    let read = match nix::unistd::read(stdin, &mut chunk) {
        Err(Errno::EINTR) => return Ok(Input::Some),
        Ok(0) | Err(Errno::EIO) => return Ok(Input::End),
        other => other?,
    };
    let typed = chunk.get(..read).unwrap_or_default();
    let end = if terminal { leaving(typed, ctrl_c) } else { None };
    let sent = typed.get(..end.map_or(read, |(at, _)| at)).unwrap_or_default();
    match console.write_all(sent) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(Input::Detach(Detached::Closed));
        }
        other => other?,
    }
    Ok(end.map_or(Input::Some, |(_, why)| Input::Detach(why)))
}

/// Where the person asked to leave, and how.
fn leaving(typed: &[u8], ctrl_c: bool) -> Option<(usize, Detached)> {
    typed.iter().enumerate().find_map(|(at, byte)| match *byte {
        ESCAPE => Some((at, Detached::Escape)),
        CTRL_C if ctrl_c => Some((at, Detached::Interrupt)),
        _ => None,
    })
}

/// Whether a person sits there, to whom the way out should be told.
pub(super) fn interactive() -> bool {
    io::stdin().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_wish_to_leave_counts() {
        assert_eq!(leaving(b"ls\r", true), None);
        assert_eq!(leaving(b"ab\x1dcd", true), Some((2, Detached::Escape)));
        assert_eq!(leaving(b"\x03\x1d", true), Some((0, Detached::Interrupt)));
        assert_eq!(leaving(b"\x03\x1d", false), Some((1, Detached::Escape)));
    }
}
