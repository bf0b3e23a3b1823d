//! `svirt stop`: asks the guest to power off and waits, or ends the device model.

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::args::Stop;
use super::domain::Host;
use super::exit::Failure;
use super::labeller::failure;
use super::output;
use crate::driver::{Control, Labeller};
use crate::privsep::supervisor::{Ended, Verb};

/// How long a domain that cannot be asked any more may take to be gone.
const ENDING: Duration = Duration::from_secs(2);

/// Runs `svirt stop`.
pub(super) fn run(stop: &Stop, config: &Path, quiet: bool) -> Result<(), Failure> {
    let mut host = Host::open(config, &format!("svirt stop {}", stop.domain))?;
    let (labeller, status) = host.find(&stop.domain)?;
    let name = status.domain.name.to_string();
    if stop.force {
        labeller.kill(status.domain.uuid).map_err(|error| failure(&error))?;
        say(quiet, &format!("{name} is ended and undone"));
        return Ok(());
    }
    // Asking is part of what is waited for: a supervisor may be stopped, or not be there.
    let until = Instant::now() + Duration::from_secs(stop.timeout);
    let left = || until.saturating_duration_since(Instant::now());
    let asked = Control::connect_by(&status.control, until)
        .and_then(|mut control| control.order(&Verb::Shutdown))
        .map_err(|error| failure(&error));
    let labeller = host.labeller.take().ok_or_else(|| Failure::no_domain(&stop.domain))?;
    if let Err(error) = asked {
        // It may just be ending by itself, which is what was wanted.
        let ended = wait(labeller, status.domain.uuid, ENDING.min(left()))?.ok_or(error)?;
        tell(quiet, &name, &ended);
        return Ok(());
    }
    say(quiet, &format!("asked {name} to power off; waiting up to {} s", stop.timeout));
    let ended = wait(labeller, status.domain.uuid, left())?.ok_or_else(|| {
        Failure::plain(
            format!("{name} still runs after {} s: the guest did not power off", stop.timeout),
            format!("wait longer with --timeout, or end it with `svirt stop --force {name}`"),
        )
    })?;
    tell(quiet, &name, &ended);
    Ok(())
}

/// How it ended, and what tells more of that.
fn tell(quiet: bool, name: &str, ended: &Ended) {
    say(quiet, &format!("{name} {}", describe(ended)));
    let more = remedy(ended);
    if !more.is_empty() {
        say(quiet, more);
    }
}

/// The end of a domain, or `None` when it takes longer than `patience`.
fn wait(
    mut labeller: Labeller,
    uuid: crate::base::DomainUuid,
    patience: Duration,
) -> Result<Option<Ended>, Failure> {
    let (sender, receiver) = mpsc::channel();
    // The reply may never come; the thread ends with the process.
    std::thread::spawn(move || sender.send(labeller.wait(uuid)));
    match receiver.recv_timeout(patience) {
        Ok(Ok(ended)) => Ok(Some(ended)),
        Ok(Err(error)) => Err(failure(&error)),
        Err(_) => Ok(None),
    }
}

fn say(quiet: bool, text: &str) {
    if !quiet {
        output::note(text);
    }
}

/// How a domain ended, as one clause.
#[must_use]
pub(super) fn describe(ended: &Ended) -> String {
    match (ended.signal, ended.code, ended.reason.as_deref()) {
        (Some(signal), _, _) => format!("was killed by {}", signal_name(signal)),
        (None, Some(0) | None, Some("guest-shutdown")) => "powered off".into(),
        (None, Some(0) | None, Some(reason)) => format!("ended ({reason})"),
        (None, Some(0) | None, None) => "ended".into(),
        (None, Some(code), _) => format!("failed: the device model ended with exit code {code}"),
    }
}

/// What tells more of an end, or nothing.
#[must_use]
pub(super) fn remedy(ended: &Ended) -> &'static str {
    if ended.signal != Some(libc::SIGSYS) {
        return "";
    }
    "the kernel log has the call's number (`journalctl -k | grep type=1326`, or dmesg, field syscall=), and `ausyscall NUMBER` \
     its name; if the device model needs it, add it to its device's fragment in labels/seccomp, and report that"
}

/// The signal's name, such as `SIGSEGV`, or its number.
fn signal_name(signal: i32) -> String {
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(nix::sys::signal::Signal::SIGSYS) => {
            "SIGSYS: it made a system call that its filter refuses".into()
        }
        Ok(signal) => signal.as_str().into(),
        Err(_) => format!("signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_is_told_with_where_to_look() {
        let ended = |signal| Ended { code: None, signal: Some(signal), reason: None, stderr: String::new() };
        assert!(remedy(&ended(31)).contains("journalctl -k") && remedy(&ended(31)).contains("ausyscall"));
        assert_eq!(remedy(&ended(9)), "");
    }

    #[test]
    fn ends_are_told_in_words() {
        let ended = |code, signal, reason: Option<&str>| {
            describe(&Ended { code, signal, reason: reason.map(str::to_owned), stderr: String::new() })
        };
        assert_eq!(ended(Some(0), None, Some("guest-shutdown")), "powered off");
        assert_eq!(ended(Some(0), None, Some("host-qmp-quit")), "ended (host-qmp-quit)");
        assert_eq!(ended(None, Some(11), None), "was killed by SIGSEGV");
        assert!(ended(None, Some(31), None).contains("SIGSYS"));
        assert_eq!(ended(None, Some(40), None), "was killed by signal 40");
        assert_eq!(ended(Some(1), None, None), "failed: the device model ended with exit code 1");
    }
}
