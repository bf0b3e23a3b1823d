//! systemd as the holder of descriptors: its file descriptor store (sd_notify(3), `FDSTORE=1`), for a labeller that runs
//! as a unit. What the guard is to a labeller on demand, the service manager is to this one.
//!
//! systemd gives all of it to the next main process of the unit, whatever ended this one; names carry what each is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use sd_notify::NotifyState;

use super::store::{Held, Name};
use crate::base::{DomainUuid, Slot};
use crate::sys::{inherit, process};

/// The longest name of a descriptor (`FDNAME=` in sd_notify(3)), in bytes.
const NAME_MAX: usize = 255;
/// How long systemd may take until it has let go of something.
const PATIENCE: Duration = Duration::from_secs(5);

/// The labeller's side.
#[derive(Debug, Default)]
pub(super) struct ServiceManager {
    names: RefCell<BTreeMap<DomainUuid, Vec<String>>>,
}

impl ServiceManager {
    /// Where systemd keeps descriptors of this process's unit: itself, and what it kept for an earlier labeller.
    pub(super) fn find() -> io::Result<Option<(Self, Held)>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let manager = Self::default();
        let mut held = Held::new();
        for (fd, name) in sd_notify::listen_fds_with_names()? {
            let fd = inherit::claim(fd)?;
            match parse(&name) {
                Some((uuid, what)) => {
                    manager.names.borrow_mut().entry(uuid).or_default().push(name);
                    held.entry(uuid).or_default().push((what, fd));
                }
                None => tracing::warn!(name, "systemd kept something that is no labeller's"),
            }
        }
        Ok(Some((manager, held)))
    }

    /// Has systemd hold these for a domain, in place of what it holds for it.
    pub(super) fn keep(&self, uuid: DomainUuid, fds: &[(Name, BorrowedFd<'_>)]) -> io::Result<()> {
        self.remove(uuid)?;
        for (what, fd) in fds {
            let name = label(uuid, what).ok_or(io::ErrorKind::InvalidInput)?;
            let said = [NotifyState::FdStore, NotifyState::Custom("FDPOLL=0"), NotifyState::FdName(&name)];
            sd_notify::notify_with_fds(&said, &[*fd])?;
            self.names.borrow_mut().entry(uuid).or_default().push(name);
        }
        Ok(())
    }

    /// Has systemd let go of what it holds for a domain, and waits for that.
    pub(super) fn forget(&self, uuid: DomainUuid) -> io::Result<()> {
        self.remove(uuid)?;
        // systemd closes its end of a barrier once it has done all that was said before.
        let (ours, theirs) = io::pipe()?;
        sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[theirs.as_fd()])?;
        drop(theirs);
        if process::readable(ours.as_fd(), PATIENCE)? { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }

    fn remove(&self, uuid: DomainUuid) -> io::Result<()> {
        for name in self.names.borrow_mut().remove(&uuid).unwrap_or_default() {
            sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)])?;
        }
        Ok(())
    }
}

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

    #[test]
    fn names_carry_what_a_descriptor_is() {
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
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
        let uuid = DomainUuid(uuid::Uuid::from_u128(7));
        for alias in ["a%b", "a b", "a\nFDSTORE=1", "\u{e4}", &"x".repeat(300)] {
            assert_eq!(label(uuid, &Name::Channel(alias.into())), None, "{alias:?}");
        }
        for name in ["", "stored", "no-uuid/stderr", "00000000-0000-0000-0000-000000000007/else/x"] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
