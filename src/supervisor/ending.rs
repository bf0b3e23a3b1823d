//! What an exit means, in a sentence that a person can act on.

use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::{Ended, call_name};
use crate::sys::pidfd::Exit;

/// How much of QEMU's standard error is kept, in bytes.
pub(super) const STDERR_KEPT: usize = 16 << 10;

/// The longest part of standard error that stands in the rule itself.
const LINE_SHOWN: usize = 400;

/// What an exit looks like in the labeller's report.
#[must_use]
pub(super) fn ended(exit: Option<Exit>, reason: Option<String>, stderr: String) -> Ended {
    let (code, signal) = match exit {
        Some(Exit::Code(code)) => (Some(code), None),
        Some(Exit::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    Ended { code, signal, reason, stderr }
}

/// Why a device model that ended before its guest ran did so.
///
/// `refused` is what the gate refused until then, by system call number.
#[must_use]
pub(super) fn early_end(exit: Option<Exit>, stderr: &str, refused: &[(i32, u64)]) -> Refusal {
    let said = last_line(stderr);
    let how = how(exit);
    let rule = if said.is_empty() { how.clone() } else { format!("{how}; it said: {said}") };
    if exit == Some(Exit::Signal(libc::SIGSYS)) {
        return Refusal::new(
            Layer::Seccomp,
            "start",
            "the device model",
            rule,
            "the kernel log names the call (`journalctl -k | grep type=1326`, field syscall=); if this device needs it, add it \
             to the device's fragment in labels/seccomp",
        );
    }
    if !refused.is_empty() {
        return Refusal::new(
            Layer::Seccomp,
            "start",
            format!("the device model after the gate refused {}", calls(refused)),
            rule,
            "if the device model needs these calls while its guest runs, move them to the run class of its device's fragment in \
             labels/seccomp",
        );
    }
    Refusal::new(Layer::DeviceModel, "start", "the device model", rule, remedy(exit, said))
}

fn how(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(code)) => format!("QEMU exited with code {code}"),
        Some(Exit::Signal(libc::SIGSEGV)) => {
            "QEMU was killed by SIGSEGV, which is also what abort() looks like in the first process of a pid namespace".into()
        }
        Some(Exit::Signal(libc::SIGKILL)) => {
            "QEMU was killed by SIGKILL: by an administrator or for want of memory".into()
        }
        Some(Exit::Signal(number)) => {
            let name = nix::sys::signal::Signal::try_from(number).map_or("", nix::sys::signal::Signal::as_str);
            format!("QEMU was killed by signal {number} {name}").trim_end().to_owned()
        }
        None => "QEMU is gone".into(),
    }
}

fn remedy(exit: Option<Exit>, said: &str) -> &'static str {
    if said.contains("Permission denied") {
        return "QEMU could not open something by itself; svirt opens images and sockets for it, so look for a path that the \
                definition leaves to QEMU";
    }
    if said.contains("Operation not permitted") || said.contains("Function not implemented") {
        return "the seccomp filter answers so to calls that it does not allow; `svirt inspect` shows what the filter of a domain that runs allows";
    }
    if exit == Some(Exit::Signal(libc::SIGKILL)) {
        return "look at memory.events of the domain's cgroup and at the kernel log";
    }
    "change the part of the definition that the emulator complains about"
}

/// System calls by name with their counts, such as `execve (2 times)`.
#[must_use]
pub(super) fn calls(refused: &[(i32, u64)]) -> String {
    let words: Vec<String> =
        refused.iter().map(|(number, count)| format!("{} ({count} times)", call_name(*number))).collect();
    words.join(", ")
}

/// The line that says why: the last complaint of a program by its name, for QEMU may have hints follow it, or else
/// the last one.
fn last_line(stderr: &str) -> &str {
    let complains = |line: &&str| {
        line.split_once(": ").is_some_and(|(name, rest)| {
            !name.contains(char::is_whitespace)
                && !rest.starts_with("warning: ")
                && !rest.starts_with("info: ")
        })
    };
    let lines = || stderr.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(complains).or_else(|| lines().next_back()).unwrap_or("");
    let end = line.char_indices().nth(LINE_SHOWN).map_or(line.len(), |(at, _)| at);
    line.get(..end).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layer_is_named() {
        let refusal = early_end(Some(Exit::Signal(libc::SIGSYS)), "", &[]);
        assert_eq!(refusal.layer, Layer::Seccomp);
        let refusal = early_end(Some(Exit::Code(1)), "qemu: x\n", &[(59, 2)]);
        assert_eq!(refusal.layer, Layer::Seccomp);
        assert!(refusal.object.contains("execve (2 times)"), "{refusal}");
        let refusal =
            early_end(Some(Exit::Code(1)), "a\nqemu-system-x86_64: -device x: no such thing\n\n", &[]);
        assert_eq!(refusal.layer, Layer::DeviceModel);
        assert!(refusal.rule.contains("code 1; it said: qemu-system-x86_64: -device x"), "{refusal}");
        assert!(early_end(Some(Exit::Signal(libc::SIGSEGV)), "", &[]).rule.contains("abort()"));
        assert!(early_end(Some(Exit::Signal(libc::SIGBUS)), "", &[]).rule.contains("SIGBUS"));
    }

    #[test]
    fn a_hint_is_not_the_cause() {
        let said = "qemu-system-x86_64: warning: old\nqemu-system-x86_64: unsupported machine type\n\
                    Use -machine help to list supported machines\n";
        let refusal = early_end(Some(Exit::Code(1)), said, &[]);
        assert!(refusal.rule.ends_with("it said: qemu-system-x86_64: unsupported machine type"), "{refusal}");
    }

    #[test]
    fn a_hostile_last_line_is_cut() {
        let refusal = early_end(Some(Exit::Code(1)), &"\u{e9}".repeat(8000), &[(-1, 1)]);
        assert!(refusal.rule.chars().count() < 500);
        assert!(refusal.object.contains("other calls (1 times)"));
    }
}
