//! Copies of what a later supervisor and passt need, held by the guard, or by systemd for a labeller that is a unit: a
//! labeller and a supervisor that are killed together then take nothing with them that another supervisor could not be
//! given.
//!
//! The guard holds descriptors and never uses one; it hears its own child and nobody else. A labeller inherits what its
//! guard holds by being forked from it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::fdstore::ServiceManager;
use crate::base::{DomainUuid, Slot};
use crate::sys::{listen, scm};

/// The longest message: names of as many descriptors as one can carry.
const WORD_MAX: usize = 64 << 10;

/// What a descriptor is to its domain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Name {
    /// The end of a channel that passt has, by alias.
    Channel(String),
    /// A descriptor of the supervisor's.
    Slot(Slot),
    /// The device model's standard error.
    Stderr,
}

/// What a labeller says to its guard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    /// Let go of what is held for a domain.
    Forget(DomainUuid),
    /// Hold these for a domain, in place of what is held for it.
    Keep(DomainUuid, Vec<Name>),
}

/// Descriptors by domain.
pub(super) type Held = BTreeMap<DomainUuid, Vec<(Name, OwnedFd)>>;

/// The guard's side.
pub(super) struct Keeper {
    socket: OwnedFd,
}

/// The labeller's side.
#[derive(Debug)]
pub struct Store {
    holder: Holder,
    inherited: Held,
}

/// Who holds the copies.
#[derive(Debug)]
enum Holder {
    Guard(Guard),
    ServiceManager(ServiceManager),
}

/// The guard, as its labeller reaches it.
#[derive(Debug)]
struct Guard(OwnedFd);

/// Both sides. What the guard holds already is the labeller's once it is forked, see [`Store::inherit`].
pub(super) fn pair() -> io::Result<(Keeper, Store)> {
    let (guard, labeller) = scm::seqpacket_pair()?;
    // Neither waits for the other without an end.
    for socket in [&guard, &labeller] {
        let flags = rustix::fs::fcntl_getfl(socket)?;
        rustix::fs::fcntl_setfl(socket, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok((Keeper { socket: guard }, Store { holder: Holder::Guard(Guard(labeller)), inherited: Held::new() }))
}

impl AsFd for Keeper {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Keeper {
    /// Does everything that was asked so far. `false` once the labeller is gone.
    pub(super) fn hear(&self, held: &RefCell<Held>) -> bool {
        let mut buffer = vec![0; WORD_MAX];
        loop {
            let (length, fds) = match scm::recv(self.socket.as_fd(), &mut buffer) {
                Ok((0, _)) => return false,
                Ok(heard) => heard,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            };
            match buffer.get(..length).and_then(|bytes| serde_json::from_slice(bytes).ok()) {
                Some(Word::Keep(uuid, names)) if names.len() == fds.len() => {
                    held.borrow_mut().insert(uuid, names.into_iter().zip(fds).collect());
                }
                Some(Word::Forget(uuid)) => drop(held.borrow_mut().remove(&uuid)),
                _ => return false,
            }
        }
    }
}

impl Store {
    /// systemd's, where this process is a unit of it.
    pub(super) fn of_service_manager() -> io::Result<Option<Self>> {
        let found = ServiceManager::find()?;
        Ok(found.map(|(manager, inherited)| Self { holder: Holder::ServiceManager(manager), inherited }))
    }

    /// Takes over what the guard holds. Only in the forked child: the guard's own copy is another memory.
    pub(super) fn inherit(&mut self, held: &RefCell<Held>) {
        self.inherited = held.take();
    }

    /// What an earlier labeller gave to the guard for a domain.
    pub(super) fn take(&mut self, uuid: DomainUuid) -> Vec<(Name, OwnedFd)> {
        self.inherited.remove(&uuid).unwrap_or_default()
    }

    /// Lets go of everything that nobody has taken: its domains are gone.
    pub(super) fn forget_rest(&mut self) {
        let rest = std::mem::take(&mut self.inherited);
        for (_, fd) in rest.values().flatten() {
            listen::stop(fd);
        }
        let uuids: Vec<DomainUuid> = rest.into_keys().collect();
        self.forget(&uuids);
    }

    /// Has these held for a domain, which can do without.
    pub(super) fn keep(&self, uuid: DomainUuid, fds: &[(Name, BorrowedFd<'_>)]) {
        let kept = match &self.holder {
            Holder::Guard(guard) => guard.keep(uuid, fds),
            Holder::ServiceManager(manager) => manager.keep(uuid, fds),
        };
        if let Err(error) = kept {
            tracing::warn!(domain = %uuid, %error, "nobody holds copies of this domain's descriptors");
        }
    }

    /// Has let go of what is held for domains, and does not wait for that: whatever must be free by then is not to
    /// depend on who else has a copy.
    pub(super) fn forget(&self, uuids: &[DomainUuid]) {
        let done = match &self.holder {
            Holder::Guard(guard) => uuids.iter().try_for_each(|uuid| guard.say(&Word::Forget(*uuid), &[])),
            Holder::ServiceManager(manager) => manager.forget(uuids),
        };
        if let Err(error) = done {
            tracing::warn!(domains = ?uuids, %error, "somebody may still hold descriptors of these domains");
        }
    }

    /// Names those whose copies were refused.
    pub(super) fn complain(&self) {
        let Holder::ServiceManager(manager) = &self.holder else { return };
        for uuid in manager.refused() {
            tracing::warn!(domain = %uuid, "systemd refuses copies of this domain's descriptors: raise FileDescriptorStoreMax= of the labeller's unit");
        }
    }
}

impl Guard {
    fn keep(&self, uuid: DomainUuid, fds: &[(Name, BorrowedFd<'_>)]) -> io::Result<()> {
        let (names, fds): (Vec<Name>, Vec<BorrowedFd<'_>>) = fds.iter().cloned().unzip();
        self.say(&Word::Keep(uuid, names), &fds)
    }

    fn say(&self, word: &Word, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(word)?;
        if bytes.len() > WORD_MAX || fds.len() > scm::FDS_MAX {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        scm::send(self.0.as_fd(), &bytes, fds).map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::process;

    fn uuid(number: u128) -> DomainUuid {
        DomainUuid(uuid::Uuid::from_u128(number))
    }

    #[test]
    fn what_is_kept_is_there_for_the_next_labeller_until_it_is_forgotten() {
        let (keeper, store) = pair().unwrap();
        let held = RefCell::new(Held::new());
        let (reading, writing) = std::io::pipe().unwrap();
        let names = [(Name::Stderr, writing.as_fd()), (Name::Channel("net0".into()), writing.as_fd())];
        store.keep(uuid(1), &names);
        store.keep(uuid(2), &names);
        drop(writing);
        assert!(keeper.hear(&held));
        assert_eq!(held.borrow().keys().copied().collect::<Vec<_>>(), [uuid(1), uuid(2)]);
        assert!(
            !process::readable(reading.as_fd(), Duration::ZERO).unwrap(),
            "the guard's copies keep it open"
        );

        let Holder::Guard(guard) = &store.holder else { panic!("it is the guard's") };
        guard.say(&Word::Forget(uuid(1)), &[]).unwrap();
        assert!(keeper.hear(&held));
        let mut next = pair().unwrap().1;
        next.inherit(&held);
        assert_eq!(next.take(uuid(2)).len(), 2);
        assert!(next.take(uuid(1)).is_empty());
        assert!(process::readable(reading.as_fd(), Duration::ZERO).unwrap(), "every copy is closed");
    }

    #[test]
    fn a_labeller_that_is_gone_or_talks_nonsense_is_heard_no_more() {
        let held = RefCell::new(Held::new());
        let (keeper, store) = pair().unwrap();
        let Holder::Guard(guard) = &store.holder else { panic!("it is the guard's") };
        scm::send(guard.0.as_fd(), b"nonsense", &[]).unwrap();
        assert!(!keeper.hear(&held));
        let (keeper, store) = pair().unwrap();
        drop(store);
        assert!(!keeper.hear(&held));
    }
}
