//! Asking a program something: one confined process, whose standard output is the answer.
//!
//! It reaches nothing but what the question names, and is gone with the answer.

use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use super::helper::{Helper, helper};
use super::report::SpawnError;
use crate::sys::landlock::Allow;
use crate::sys::namespace::Namespaces;
use crate::sys::{process, scm};

/// A question to a program.
#[derive(Debug)]
pub struct Question<'a> {
    /// Who is asked; an absolute path.
    pub program: &'a Path,
    /// The question, the program's name first.
    pub argv: &'a [String],
    /// A uid that has nothing.
    pub uid: u32,
    /// The context that SELinux gives at exec, where the labeller's own may not execute the program.
    pub selinux_exec: Option<&'a str>,
    /// What it may reach beyond itself and the libraries.
    pub reach: &'a [(&'a Path, Allow)],
    /// Whether what it says on standard error belongs to the answer.
    pub errors_too: bool,
    /// The longest answer, in bytes; what comes after it is not read.
    pub most: usize,
    /// How long the exec and the answer may take together.
    pub timeout: Duration,
}

/// Asks, and ends who was asked, whatever it does by then. What is no UTF-8 comes back as U+FFFD.
pub fn ask(question: &Question<'_>) -> Result<String, SpawnError> {
    let Question { program, argv, uid, selinux_exec, reach, errors_too, most, timeout } = *question;
    let until = Instant::now() + timeout;
    let (reading, writing) = scm::pipe().map_err(SpawnError::own("make a pipe for", program))?;
    let out = [(writing.as_fd(), 1), (writing.as_fd(), 2)];
    let child = helper(&Helper {
        program,
        argv,
        env: &[],
        uid,
        fds: if errors_too { &out } else { out.split_at(1).0 },
        reach: Some(reach),
        cgroup: None,
        rlimits: &[],
        namespaces: Namespaces::default(),
        selinux_exec,
        apparmor_exec: None,
        seccomp: None,
        die_with_labeller: true,
        timeout,
    })?;
    drop(writing);
    let answer = process::read_to_end_by(reading.as_fd(), most, until);
    let ended = child.end();
    let answer = answer.map_err(SpawnError::own("hear from", program))?;
    ended.map_err(SpawnError::own("end", program))?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const UID: u32 = 1_915_000_021;

    fn asked(argv: &[&str], reach: &[(&Path, Allow)], timeout: Duration) -> Result<String, SpawnError> {
        let argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        let program = Path::new("/bin/sh");
        ask(&Question {
            program,
            argv: &argv,
            uid: UID,
            selinux_exec: None,
            reach,
            errors_too: false,
            most: 8,
            timeout,
        })
    }

    #[test]
    fn an_answer_has_an_end_and_a_length() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let patient = Duration::from_secs(60);
        assert_eq!(asked(&["sh", "-c", "echo out; echo err >&2"], &[], patient).unwrap(), "out\n");
        assert_eq!(asked(&["sh", "-c", "echo much more than that"], &[], patient).unwrap(), "much mor");
        let error = asked(&["sh", "-c", "echo half; while :; do :; done"], &[], Duration::from_secs(2));
        let refusal = error.unwrap_err().refusal().to_string();
        assert!(refusal.contains("/bin/sh") && refusal.contains("timed out"), "{refusal}");
        let left = crate::sys::pidfd::of_uid(UID).unwrap();
        assert!(left.is_empty(), "{left:?} is still there");
    }
}
