//! systemd as the holder of descriptors: its file descriptor store (sd_notify(3), `FDSTORE=1`), for a labeller that runs
//! as a unit. What the guard is to a labeller on demand, the service manager is to this one.
//!
//! systemd gives all of it to the next main process of the unit, whatever ended this one; names carry what each is. It
//! never answers: what it refuses it closes, and what it lets go of it closes when it likes. So nobody waits for it here
//! but for room in its socket, and that not for long.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

use super::store::{Held, Name};
use crate::base::{DomainUuid, Slot};
use crate::sys::{inherit, process, scm};

/// The longest name of a descriptor (`FDNAME=` in sd_notify(3)), in bytes.
const NAME_MAX: usize = 255;
/// How long systemd may keep its socket full, for everything that one call says.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a refusal is looked for.
const LOOKED_AT: Duration = Duration::from_secs(10);

/// The labeller's side.
#[derive(Debug)]
pub(super) struct ServiceManager {
    /// `NOTIFY_SOCKET`.
    socket: OsString,
    patience: Duration,
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Names of what systemd holds for each domain.
    held: BTreeMap<DomainUuid, BTreeSet<String>>,
    /// Names of what it is to let go of and has not been told yet.
    stale: BTreeSet<String>,
    /// The last descriptor of each domain is the end of a pipe. When that closes, there was no room for it, and perhaps
    /// not for those before it.
    canaries: Vec<(DomainUuid, Instant, OwnedFd)>,
}

impl ServiceManager {
    /// Where systemd keeps descriptors of this process's unit: itself, and what it kept for an earlier labeller.
    pub(super) fn find() -> io::Result<Option<(Self, Held)>> {
        let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(None) };
        let manager = Self::new(socket, PATIENCE);
        let mut held = Held::new();
        for (fd, name) in sd_notify::listen_fds_with_names()? {
            let fd = inherit::claim(fd)?;
            if let Some((uuid, what)) = manager.found(name) {
                held.entry(uuid).or_default().push((what, fd));
            }
        }
        Ok(Some((manager, held)))
    }

    fn new(socket: OsString, patience: Duration) -> Self {
        Self { socket, patience, state: RefCell::default() }
    }

    /// Notes what systemd holds under a name; what is of no use goes when something is said the next time.
    fn found(&self, name: String) -> Option<(DomainUuid, Name)> {
        let parsed = parse(&name);
        let mut state = self.state.borrow_mut();
        match &parsed {
            Some((uuid, _)) => drop(state.held.entry(*uuid).or_default().insert(name)),
            None => {
                if !name.ends_with(CANARY) {
                    tracing::warn!(name, "systemd kept something that is no labeller's");
                }
                state.stale.insert(name);
            }
        }
        parsed
    }

    /// Has systemd hold these for a domain, and nothing else. What it holds under a name already is the same
    /// descriptor: it came from there.
    pub(super) fn keep(&self, uuid: DomainUuid, fds: &[(Name, BorrowedFd<'_>)]) -> io::Result<()> {
        let mut wanted = BTreeMap::new();
        for (what, fd) in fds {
            match label(uuid, what) {
                Some(name) => drop(wanted.insert(name, *fd)),
                None => tracing::warn!(domain = %uuid, ?what, "systemd can hold nothing under such a name"),
            }
        }
        let mut state = self.state.borrow_mut();
        let (stay, go) = state
            .held
            .remove(&uuid)
            .unwrap_or_default()
            .into_iter()
            .partition(|name| wanted.contains_key(name));
        state.stale.extend::<BTreeSet<String>>(go);
        let canary = format!("{uuid}/{CANARY}");
        state.stale.insert(canary.clone());
        state.held.insert(uuid, stay);
        let line = Line::open(&self.socket, self.patience)?;
        // systemd is about to close the last one because it is told to; one that is closed by now it has refused.
        state.canaries.retain(|(of, _, canary)| *of != uuid || is_closed(canary));
        state.let_go(&line)?;
        for (name, fd) in wanted {
            let held = state.held.entry(uuid).or_default();
            if !held.contains(&name) {
                line.store(&name, fd)?;
                held.insert(name);
            }
        }
        let (ours, theirs) = io::pipe()?;
        line.store(&canary, theirs.as_fd())?;
        state.canaries.push((uuid, Instant::now(), ours.into()));
        Ok(())
    }

    /// Has systemd let go of what it holds for domains. What it cannot be told now it is told the next time.
    pub(super) fn forget(&self, uuids: &[DomainUuid]) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        for uuid in uuids {
            let names = state.held.remove(uuid).unwrap_or_default();
            state.stale.extend(names);
            state.canaries.retain(|(of, ..)| of != uuid);
            state.stale.insert(format!("{uuid}/{CANARY}"));
        }
        if state.stale.is_empty() {
            return Ok(());
        }
        state.let_go(&Line::open(&self.socket, self.patience)?)
    }

    /// Domains of which systemd has refused something since this was asked the last time.
    pub(super) fn refused(&self) -> Vec<DomainUuid> {
        let mut state = self.state.borrow_mut();
        let mut refused = Vec::new();
        state.canaries.retain(|(uuid, since, canary)| {
            let closed = is_closed(canary);
            if closed {
                refused.push(*uuid);
            }
            !closed && since.elapsed() < LOOKED_AT
        });
        refused
    }
}

/// Whether systemd has closed its end of a canary.
fn is_closed(canary: &OwnedFd) -> bool {
    process::readable(canary.as_fd(), Duration::ZERO).unwrap_or(false)
}

impl State {
    fn let_go(&mut self, line: &Line) -> io::Result<()> {
        while let Some(name) = self.stale.first() {
            line.remove(name)?;
            self.stale.pop_first();
        }
        Ok(())
    }
}

/// A connection to systemd, with one deadline for all that is said over it.
struct Line {
    socket: UnixDatagram,
    until: Instant,
}

impl Line {
    fn open(name: &OsStr, patience: Duration) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        match name.as_bytes().strip_prefix(b"@") {
            Some(name) => {
                let address = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name)?;
                socket.connect_addr(&address)?;
            }
            None => socket.connect(name)?,
        }
        Ok(Self { socket, until: Instant::now() + patience })
    }

    fn store(&self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        // Without FDPOLL=0 systemd would let go of a pipe whose other end has closed.
        self.say(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}\n"), &[fd])
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.say(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), &[])
    }

    /// A full socket is waited for by the kernel, which is told how long.
    fn say(&self, words: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let left = self.until.saturating_duration_since(Instant::now());
        self.socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match scm::send(self.socket.as_fd(), words.as_bytes(), fds) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "systemd does not read its notification socket"))
            }
            Err(error) => Err(error),
        }
    }
}

/// The last part of a canary's name.
const CANARY: &str = "canary";

/// A name that systemd takes: printable ASCII without a colon, which slots have and which becomes `%`.
fn label(uuid: DomainUuid, what: &Name) -> Option<String> {
    let what_text = match what {
        Name::Stderr => "stderr".to_owned(),
        Name::Channel(alias) => format!("channel/{alias}"),
        Name::Slot(slot) => format!("slot/{}", slot.as_str()),
    };
    let name = format!("{uuid}/{}", what_text.replace(':', "%"));
    let same = parse(&name).is_some_and(|(_, parsed)| parsed == *what);
    (same && name.len() <= NAME_MAX && name.bytes().all(|byte| byte.is_ascii_graphic())).then_some(name)
}

fn parse(name: &str) -> Option<(DomainUuid, Name)> {
    let (uuid, what) = name.split_once('/')?;
    let what = match what.replace('%', ":").split_once('/') {
        None if what == "stderr" => Name::Stderr,
        Some(("channel", alias)) => Name::Channel(alias.to_owned()),
        Some(("slot", slot)) => Name::Slot(Slot::new(slot).ok()?),
        _ => return None,
    };
    Some((DomainUuid(uuid.parse().ok()?), what))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uuid(number: u128) -> DomainUuid {
        DomainUuid(uuid::Uuid::from_u128(number))
    }

    fn slot(name: &str) -> Name {
        Name::Slot(Slot::new(name).unwrap())
    }

    /// systemd, as far as it matters.
    struct Systemd {
        dir: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Systemd {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
            socket.set_nonblocking(true).unwrap();
            Self { dir, socket }
        }

        fn manager(&self, patience: Duration) -> ServiceManager {
            ServiceManager::new(self.dir.path().join("notify").into(), patience)
        }

        /// What it was told since, `+` for what it is to hold, and the descriptors.
        fn hear(&self) -> (Vec<String>, Vec<OwnedFd>) {
            let (mut said, mut all) = (Vec::new(), Vec::new());
            let mut buffer = [0; 1024];
            while let Ok((length, fds)) = scm::recv(self.socket.as_fd(), &mut buffer) {
                let text = std::str::from_utf8(buffer.get(..length).unwrap()).unwrap();
                let name = text.split("FDNAME=").nth(1).unwrap().trim();
                assert_eq!(text.starts_with("FDSTORE=1\nFDPOLL=0\n"), fds.len() == 1, "{text}");
                let name = name.strip_prefix("00000000-0000-0000-0000-").unwrap_or(name);
                said.push(format!("{}{name}", if fds.is_empty() { '-' } else { '+' }));
                all.extend(fds);
            }
            (said, all)
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn one_bad_name_takes_nothing_else_with_it_and_nothing_is_dropped_to_be_stored_again() {
        let systemd = Systemd::new();
        let manager = systemd.manager(LONG);
        let (_, writing) = io::pipe().unwrap();
        let fds = |names: &[Name]| -> Vec<(Name, BorrowedFd<'_>)> {
            names.iter().map(|name| (name.clone(), writing.as_fd())).collect()
        };
        // What an earlier labeller left, two of it of no use.
        for name in [
            "stored",
            "00000000-0000-0000-0000-000000000007/stderr",
            "00000000-0000-0000-0000-000000000007/slot/old",
        ] {
            manager.found(name.to_owned());
        }
        manager
            .keep(uuid(7), &fds(&[Name::Stderr, Name::Channel("a b".into()), slot("monitor.peer")]))
            .unwrap();
        let (said, _fds) = systemd.hear();
        assert_eq!(
            said,
            [
                "-000000000007/canary",
                "-000000000007/slot/old",
                "-stored",
                "+000000000007/slot/monitor.peer",
                "+000000000007/canary"
            ]
        );
        manager.forget(&[uuid(7), uuid(8)]).unwrap();
        let (said, _) = systemd.hear();
        let gone = ["7/canary", "7/slot/monitor.peer", "7/stderr", "8/canary"];
        assert_eq!(said, gone.map(|name| format!("-00000000000{name}")));
    }

    #[test]
    fn a_systemd_that_reads_nothing_is_not_waited_for_and_hears_it_later() {
        let systemd = Systemd::new();
        let manager = systemd.manager(Duration::from_millis(50));
        let (_, writing) = io::pipe().unwrap();
        manager.keep(uuid(1), &[(Name::Stderr, writing.as_fd())]).unwrap();
        let room = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").unwrap();
        let many: Vec<DomainUuid> =
            (0..room.trim().parse::<u128>().unwrap() + 10).map(|n| uuid(100 + n)).collect();
        assert_eq!(manager.forget(&many).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(manager.forget(&[uuid(1)]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(manager.keep(uuid(1), &[]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut said = systemd.hear().0;
        while manager.forget(&[]).is_err() {
            said.extend(systemd.hear().0);
        }
        said.extend(systemd.hear().0);
        let last = said.iter().rfind(|word| word.contains("000000000001/stderr")).unwrap();
        assert_eq!(last, "-000000000001/stderr");
    }

    #[test]
    fn a_refusal_shows() {
        let systemd = Systemd::new();
        let manager = systemd.manager(LONG);
        let (_, writing) = io::pipe().unwrap();
        for number in [1, 2] {
            manager.keep(uuid(number), &[(Name::Stderr, writing.as_fd())]).unwrap();
        }
        assert!(manager.refused().is_empty(), "not heard yet");
        let (_, mut fds) = systemd.hear();
        assert!(manager.refused().is_empty(), "all stored");
        // The last one, the canary of the second domain.
        drop(fds.pop());
        assert_eq!(manager.refused(), [uuid(2)]);
        assert!(manager.refused().is_empty(), "told once");
    }

    #[test]
    fn what_is_told_to_be_closed_is_not_refused() {
        let systemd = Systemd::new();
        let manager = systemd.manager(LONG);
        let (_, writing) = io::pipe().unwrap();
        let keep = || manager.keep(uuid(1), &[(Name::Stderr, writing.as_fd())]).unwrap();
        keep();
        let (_, mut first) = systemd.hear();
        // A device came: all that lasts is kept once more, and the first canary is let go of.
        keep();
        drop(first.pop());
        let (_, second) = systemd.hear();
        assert!(manager.refused().is_empty());
        // One that was refused before is told all the same.
        drop(second);
        keep();
        assert_eq!(manager.refused(), [uuid(1)]);
    }

    #[test]
    fn names_carry_what_a_descriptor_is() {
        let uuid = uuid(7);
        for what in [
            Name::Stderr,
            Name::Channel("net0".into()),
            Name::Slot(Slot::new("monitor.peer").unwrap()),
            Name::Slot(Slot::new("vnc:0.x").unwrap()),
        ] {
            let name = label(uuid, &what).unwrap();
            assert!(!name.contains(':'), "{name}");
            assert_eq!(parse(&name), Some((uuid, what)));
        }
    }

    #[test]
    fn what_would_come_back_as_something_else_is_not_kept() {
        let uuid = uuid(7);
        for alias in ["a%b", "a b", "a\nFDSTORE=1", "\u{e4}", &"x".repeat(300)] {
            assert_eq!(label(uuid, &Name::Channel(alias.into())), None, "{alias:?}");
        }
        for name in ["", "stored", "no-uuid/stderr", "00000000-0000-0000-0000-000000000007/else/x"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
