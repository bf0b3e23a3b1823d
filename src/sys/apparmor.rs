//! AppArmor: whether the kernel runs it, which profile the next exec gives, and profiles in and out of the kernel.

use std::fs::OpenOptions;
use std::io::{self, Write};

/// Where securityfs shows it.
pub const ROOT: &str = "/sys/kernel/security/apparmor";

/// Whether the running kernel runs AppArmor.
#[must_use]
pub fn running() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.trim() == "Y")
}

/// Whether the kernel asks profiles for new user namespaces (Linux 6.7).
#[must_use]
pub fn mediates_userns() -> bool {
    std::fs::read_to_string(format!("{ROOT}/features/namespaces/mask"))
        .is_ok_and(|mask| mask.contains("userns_create"))
}

/// The profile of this process, or `unconfined`.
pub fn own() -> io::Result<String> {
    let read = |path| std::fs::read_to_string(path);
    let text = match read("/proc/self/attr/apparmor/current") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => read("/proc/self/attr/current"),
        other => other,
    }?;
    Ok(text.trim().to_owned())
}

/// Asks for `profile` at this thread's next exec. Needs `/proc`, so it comes before the change of root.
pub fn set_exec_profile(profile: &str) -> io::Result<()> {
    let text = format!("exec {profile}");
    let own = "/proc/thread-self/attr/apparmor/exec";
    // Before Linux 5.8 there is one directory for all modules.
    match write_once(own, text.as_bytes()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write_once("/proc/thread-self/attr/exec", text.as_bytes())
        }
        other => other,
    }
}

/// Gives a compiled profile to the kernel, in place of one of its name.
pub fn load(compiled: &[u8]) -> io::Result<()> {
    write_once(&format!("{ROOT}/.replace"), compiled)
}

/// Takes a profile out of the kernel; none being there is no error.
pub fn remove(profile: &str) -> io::Result<()> {
    // Who may not look has loaded none either.
    let Ok(all) = std::fs::read_to_string(format!("{ROOT}/profiles")) else { return Ok(()) };
    if !all.lines().any(|line| line.strip_prefix(profile).is_some_and(|rest| rest.starts_with(' '))) {
        return Ok(());
    }
    write_once(&format!("{ROOT}/.remove"), profile.as_bytes())
}

/// The kernel takes each of these as one write or not at all.
fn write_once(path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    match file.write(bytes)? {
        count if count == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}
