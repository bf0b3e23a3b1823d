//! Changing this thread's own label without an exec.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{Mode, OFlags};

use super::apparmor;

/// The security module that labels processes here, and so how a label is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// A label names a profile; an unconfined process may change to any.
    Apparmor,
    /// A label is a context; the policy must give `dyntransition` (and `setcurrent`, to oneself).
    Selinux,
}

impl Module {
    /// The one that runs. Reads `/sys`, so it comes before any change of root.
    #[must_use]
    pub fn running() -> Self {
        if apparmor::running() { Self::Apparmor } else { Self::Selinux }
    }
}

/// Takes on a label, as procfs shows it of another process, at once and for good.
///
/// `proc` is a procfs opened before the caller went where there is none: `thread-self` in it still names the caller.
/// The file is opened here because the kernel wants it opened with the credentials that it is written with.
pub fn take_on(proc: BorrowedFd<'_>, module: Module, label: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let open = |name: &str| rustix::fs::openat(proc, name, flags, Mode::empty());
    let (file, text) = match module {
        Module::Apparmor => {
            // Before Linux 5.8 there is one directory for all modules.
            let file = match open("thread-self/attr/apparmor/current") {
                Err(rustix::io::Errno::NOENT) => open("thread-self/attr/current"),
                other => other,
            }?;
            (file, format!("changeprofile {}", profile(label)))
        }
        Module::Selinux => (open("thread-self/attr/current")?, label.to_owned()),
    };
    match rustix::io::write(file.as_fd(), text.as_bytes())? {
        count if count == text.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// The profile's name without the mode that procfs shows behind it.
fn profile(label: &str) -> &str {
    match label.rsplit_once(" (") {
        Some((name, mode)) if mode.ends_with(')') => name,
        _ => label,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_no_part_of_a_profile_s_name() {
        assert_eq!(profile("svirt-1 (enforce)"), "svirt-1");
        assert_eq!(profile("a (b) (complain)"), "a (b)");
        assert_eq!(profile("unconfined"), "unconfined");
        assert_eq!(profile("system_u:system_r:t:s0:c1,c2"), "system_u:system_r:t:s0:c1,c2");
    }
}
