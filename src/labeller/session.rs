//! A labeller of an ordinary user's: root in a user namespace of its own, where the user's subordinate uids are.
//!
//! There it does what root's does. The user is uid 0; each domain, supervisor and helper has one of the numbers that
//! `/etc/subuid` gives the user, so none of them is the user. What the user may not do, it may not do either.

use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::Command;

use super::{journal, run};
use crate::settings::SUBORDINATE;
use crate::sys::{cred, namespace, pidfd, process};

/// Which file gives the numbers, and which program maps them: shadow's, set-uid or with a capability.
const UIDS: (&str, &str) = ("/etc/subuid", "/usr/bin/newuidmap");
const GIDS: (&str, &str) = ("/etc/subgid", "/usr/bin/newgidmap");

/// Why there can be no session.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// A step failed.
    #[error("cannot {0}: {1}")]
    Step(&'static str, #[source] io::Error),
    /// A program that maps the numbers is not there.
    #[error("a session needs {0}: install the package uidmap (shadow-utils)")]
    NoMapper(&'static str),
    /// Neither the user's name nor its uid has numbers enough.
    #[error("a session needs {SUBORDINATE} numbers in {file}: usermod --add-sub{kind}s 100000-165535 {user}")]
    NoNumbers {
        /// Which file.
        file: &'static str,
        /// `uid` or `gid`.
        kind: &'static str,
        /// Whose.
        user: String,
    },
    /// A program that maps the numbers failed.
    #[error("{UIDS:?} or {GIDS:?} failed with {0}; what it said stands above")]
    Mapper(i32),
    /// Root has the system's labeller.
    #[error("--session is for ordinary users")]
    Root,
}

/// Enters the namespace and becomes root there. This process must have one thread.
///
/// It is the one of what an earlier labeller of this configuration has left running, for from a new one nobody has power
/// over that; or else a new one.
pub fn enter(config: Option<&str>) -> Result<(), SessionError> {
    let uid = cred::effective_uid();
    if uid == 0 {
        return Err(SessionError::Root);
    }
    let gid = rustix::process::getegid().as_raw();
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    let uids = numbers(UIDS.0, "uid", user.as_deref(), uid)?;
    let gids = numbers(GIDS.0, "gid", user.as_deref(), uid)?;
    let missing = [UIDS.1, GIDS.1].into_iter().find(|program| !std::path::Path::new(program).is_file());
    if let Some(program) = missing {
        return Err(SessionError::NoMapper(program));
    }
    let step = |what| move |error| SessionError::Step(what, error);
    if joins_what_runs(config) {
        return cred::become_mapped_root().map_err(step("become root in its namespace"));
    }
    let (mut reading, writing) = io::pipe().map_err(step("make a pipe"))?;
    let pid = process::own_pid();
    // The mappers work from outside only, so somebody must have stayed there.
    let outside = process::fork(|| {
        process::close_inherited(std::os::fd::AsFd::as_fd(&writing));
        // A parent that died maps nothing.
        if reading.read_exact(&mut [0]).is_err() {
            return 1;
        }
        let map = |program: &str, own: u32, first: u32| {
            let words =
                [pid.cast_unsigned(), 0, own, 1, 1, first, SUBORDINATE - 1].map(|word| word.to_string());
            Command::new(program).args(words).status().is_ok_and(|status| status.success())
        };
        i32::from(!(map(UIDS.1, uid, uids) && map(GIDS.1, gid, gids)))
    });
    let outside = outside.map_err(step("fork"))?;
    namespace::unshare_user().map_err(step("make a user namespace"))?;
    nix::unistd::write(&writing, b"\n").map_err(|error| step("speak to its child")(error.into()))?;
    while !pidfd::wait_ended(&outside.pidfd, u16::MAX).map_err(step("wait for its child"))? {}
    match pidfd::reap(&outside.pidfd) {
        Some(pidfd::Exit::Code(0)) => {}
        Some(pidfd::Exit::Code(code)) => return Err(SessionError::Mapper(code)),
        _ => return Err(SessionError::Mapper(-1)),
    }
    cred::become_mapped_root().map_err(step("become root in its namespace"))
}

/// Joins the namespace of a process that a journal tells of. Whatever keeps it from that, a journal that cannot be read
/// too, is told when what is left is taken over.
fn joins_what_runs(config: Option<&str>) -> bool {
    let left = || {
        let settings = run::settings(config, true).ok()?;
        let left = journal::left(&Path::new(&settings.paths.state).join(run::JOURNALS)).ok()?;
        Some((pidfd::boot_id().ok()?, left))
    };
    let Some((boot, left)) = left() else { return false };
    let left = left.iter().filter(|left| left.begin.as_ref().is_some_and(|(of, _)| *of == boot));
    left.flat_map(journal::Left::processes).any(|id| {
        // Held by its pidfd, so that it is this very process. The kernel lets nobody join but who owns the namespace, or one
        // that it is in.
        id.open().ok().flatten().is_some_and(|process| namespace::join_user(process.as_fd()).is_ok())
    })
}

/// The first of the numbers that a file gives a user.
fn numbers(
    file: &'static str,
    kind: &'static str,
    user: Option<&str>,
    uid: u32,
) -> Result<u32, SessionError> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    first(&text, user, uid).ok_or_else(|| SessionError::NoNumbers {
        file,
        kind,
        user: user.map_or_else(|| uid.to_string(), ToOwned::to_owned),
    })
}

fn first(text: &str, user: Option<&str>, uid: u32) -> Option<u32> {
    let uid = uid.to_string();
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let (who, first, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (first, count): (u32, u32) = (first.parse().ok()?, count.parse().ok()?);
        ((user == Some(who) || who == uid) && count >= SUBORDINATE).then_some(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_users_own_and_enough() {
        let text = "# comment\nother:100000:65536\nuser:1:10\nuser:200000:65536\n1007:300000:65536\n";
        assert_eq!(first(text, Some("user"), 1006), Some(200_000));
        assert_eq!(first(text, Some("nobody"), 1007), Some(300_000));
        assert_eq!(first(text, None, 1008), None);
        assert_eq!(first("user:1:10\nuser:x:65536", Some("user"), 1), None);
    }
}
