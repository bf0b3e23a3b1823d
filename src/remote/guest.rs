//! Calls that the guest's agent answers, and those that a person writes for QEMU by hand.

use std::time::Duration;

use serde_json::{Value, json};

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use crate::manager::{AGENT_PATIENCE_MAX, Manager, ManagerError, State};
use crate::privsep::ask::{Ask, may_be_asked};
use crate::rpc::{self, List, Procedure, QemuProcedure};

type Handler = fn(&Call<'_>) -> Answer;

pub(super) fn handler(procedure: Procedure) -> Option<Handler> {
    use Procedure as P;
    Some(match procedure {
        P::DomainAgentSetResponseTimeout => set_timeout,
        P::DomainFsfreeze => |call| freeze(call, "guest-fsfreeze-freeze"),
        P::DomainFsthaw => |call| freeze(call, "guest-fsfreeze-thaw"),
        P::DomainFstrim => trim,
        P::DomainGetHostname => hostname,
        P::DomainGetTime => time,
        P::DomainReboot => |call| power(call, &Ask::Reboot),
        P::DomainSetTime => set_time,
        P::DomainSetUserPassword => password,
        P::DomainShutdownFlags => shutdown,
        _ => return None,
    })
}

/// What the QEMU program has, each with the call whose permissions it needs: `domain:write`, as in libvirt.
pub(super) fn qemu_handler(procedure: QemuProcedure) -> Option<(Handler, Procedure)> {
    match procedure {
        QemuProcedure::DomainMonitorCommand => Some((monitor, Procedure::DomainSetMemory)),
        QemuProcedure::DomainAgentCommand => Some((agent, Procedure::DomainSetMemory)),
        _ => None,
    }
}

/// virDomainShutdownFlagValues and virDomainRebootFlagValues
const ACPI: u32 = 1;
const AGENT: u32 = 2;
/// virDomainQemuMonitorCommandFlags
const HMP: u32 = 1;
/// The longest command that a person may write, in bytes; the supervisor takes no longer line.
const COMMAND_MAX: usize = 3072;

/// Has the guest's agent do one thing. However many things a call asks, they have one time together: a guest that answers
/// each at the last moment holds nobody up for longer.
pub(super) fn ask(target: &Target<'_>, execute: &str, arguments: Value) -> Result<Value, Failure> {
    let mut command = json!({ "execute": execute });
    if let (Some(command), false) = (command.as_object_mut(), arguments.is_null()) {
        command.insert("arguments".into(), arguments);
    }
    let (manager, uuid) = target.parts();
    let left = patience(target).checked_sub(target.since.elapsed()).filter(|left| !left.is_zero());
    let late = || ManagerError::AgentSilent("the agent took too long for what was asked in one call".into());
    Ok(manager.agent(uuid, &command, left.ok_or_else(late)?, true)?)
}

/// How long an agent may take to say that it cannot suspend its guest.
pub(super) const FALLING_ASLEEP: Duration = Duration::from_secs(5);
/// How long an agent may take for all that one call asks it, where nobody has said; freezing file systems may mean writing
/// a lot.
const PATIENCE: Duration = Duration::from_secs(60);

/// virDomainAgentResponseTimeoutValues: the smallest is as long as it takes, then what is usual, then no time at all.
const BLOCK: i32 = -2;
const USUAL: i32 = -1;

/// How long an agent may take by a word of libvirt's for that. As long as it wants is as long as anybody waits for one:
/// the guest may be hostile, and a call has a thread.
fn timeout(seconds: i32) -> Result<Duration, Failure> {
    match seconds {
        BLOCK => Ok(AGENT_PATIENCE_MAX),
        USUAL => Ok(Duration::from_secs(5)),
        seconds => {
            let least = || format!("guest agent timeout '{seconds}' is less than the minimum '{BLOCK}'");
            let seconds = u64::try_from(seconds).map_err(|_| invalid(least()))?;
            Ok(Duration::from_secs(seconds.max(1)).min(AGENT_PATIENCE_MAX))
        }
    }
}

/// How long the agent of a domain may take for all that one call asks it.
fn patience(target: &Target<'_>) -> Duration {
    target.domain.agent_timeout.and_then(|seconds| timeout(seconds).ok()).unwrap_or(PATIENCE)
}

fn set_timeout(call: &Call<'_>) -> Answer {
    let (reference, seconds, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    timeout(seconds)?;
    let (manager, uuid) = target.parts();
    manager.set_agent_timeout(uuid, seconds)?;
    call.answer(&0_i32)
}

/// By the agent where that is asked for, else by the power button.
fn power(call: &Call<'_>, button: &Ask) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, ACPI | AGENT)?;
    if flags & AGENT != 0 && by_agent(&target, "reboot", flags & ACPI != 0)? {
        return call.answer(&());
    }
    let (manager, uuid) = target.parts();
    manager.ask(uuid, button.clone())?;
    call.answer(&())
}

fn shutdown(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, ACPI | AGENT)?;
    let stands = target.domain.running().is_none_or(|live| !matches!(live.state, State::Running(_)));
    if flags & AGENT == 0 || stands || !by_agent(&target, "powerdown", flags & ACPI != 0)? {
        let (manager, uuid) = target.parts();
        Manager::shutdown(manager, uuid)?;
    }
    call.answer(&())
}

/// Has the agent end the guest. `false` where it does not answer and there is another way.
fn by_agent(target: &Target<'_>, mode: &str, otherwise: bool) -> Result<bool, Failure> {
    let (manager, uuid) = target.parts();
    let command = json!({ "execute": "guest-shutdown", "arguments": { "mode": mode } });
    match manager.agent(uuid, &command, patience(target), false) {
        Ok(_) => Ok(true),
        Err(ManagerError::AgentSilent(_) | ManagerError::NoAgent(_)) if otherwise => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn freeze(call: &Call<'_>, execute: &str) -> Answer {
    let (reference, mounts, flags): (rpc::Domain<'_>, List<&str, 256>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let some = !mounts.0.is_empty() && execute == "guest-fsfreeze-freeze";
    let answer = if some {
        ask(&target, "guest-fsfreeze-freeze-list", json!({ "mountpoints": mounts.0 }))?
    } else {
        ask(&target, execute, Value::Null)?
    };
    let count = answer.as_i64().and_then(|count| i32::try_from(count).ok());
    call.answer(&count.ok_or_else(nonsense)?)
}

pub(super) fn nonsense() -> Failure {
    Failure::new(Code::AgentUnresponsive, From::Qemu, "its answer makes no sense")
}

fn trim(call: &Call<'_>) -> Answer {
    let (reference, mount, minimum, flags): (rpc::Domain<'_>, Option<&str>, u64, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    if mount.is_some() {
        let text = "Specifying mount point is not supported for now";
        return Err(Failure::new(Code::ArgumentUnsupported, From::Domain, text));
    }
    ask(&target, "guest-fstrim", json!({ "minimum": minimum }))?;
    call.answer(&())
}

/// virDomainGetHostnameFlags: leases are not known here, so only the agent can tell.
const HOSTNAME_AGENT: u32 = 2;

fn hostname(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, HOSTNAME_AGENT)?;
    let answer = ask(&target, "guest-get-host-name", Value::Null)?;
    let name = answer.get("host-name").and_then(Value::as_str).ok_or_else(nonsense)?;
    let name: String = name.chars().filter(|c| !c.is_control()).take(255).collect();
    call.answer(&name)
}

fn time(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let nanoseconds = ask(&target, "guest-get-time", Value::Null)?.as_i64().ok_or_else(nonsense)?;
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    let rest = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or(0);
    call.answer(&(seconds, rest))
}

/// virDomainSetTimeFlags: by the guest's own clock.
const TIME_SYNC: u32 = 1;

fn set_time(call: &Call<'_>) -> Answer {
    let (reference, seconds, rest, flags): (rpc::Domain<'_>, i64, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, TIME_SYNC)?;
    let nanoseconds = seconds.checked_mul(1_000_000_000).and_then(|all| all.checked_add(rest.into()));
    let wrong = || Failure::new(Code::InvalidArgument, From::Domain, "the time is out of its bounds");
    let nanoseconds = nanoseconds.ok_or_else(wrong)?;
    let arguments = if flags & TIME_SYNC != 0 { Value::Null } else { json!({ "time": nanoseconds }) };
    ask(&target, "guest-set-time", arguments)?;
    call.answer(&())
}

/// virDomainSetUserPasswordFlags
const PASSWORD_ENCRYPTED: u32 = 1;

fn password(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, Option<&'a str>, Option<&'a str>, u32);
    let (reference, user, password, flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, PASSWORD_ENCRYPTED)?;
    let (user, password) = (user.unwrap_or_default(), password.unwrap_or_default());
    let arguments = json!({
        "username": user, "password": base64(password.as_bytes()), "crypted": flags & PASSWORD_ENCRYPTED != 0,
    });
    ask(&target, "guest-set-user-password", arguments)?;
    call.answer(&())
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let letter = (word >> (18 - 6 * place)) & 63;
            let letter = LETTERS.get(letter as usize).copied().unwrap_or(b'=');
            text.push(char::from(if place <= chunk.len() { letter } else { b'=' }));
        }
    }
    text
}

fn invalid(text: impl AsRef<str>) -> Failure {
    Failure::new(Code::InvalidArgument, From::Domain, text)
}

fn agent(call: &Call<'_>) -> Answer {
    let (reference, text, seconds, flags): (rpc::Domain<'_>, &str, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    // virDomainQemuAgentCommandTimeoutValues are the same.
    let patience = timeout(seconds)?;
    let command: Value =
        serde_json::from_str(text).map_err(|error| invalid(format!("the command is no JSON: {error}")))?;
    let (manager, uuid) = target.parts();
    let answer = manager.agent(uuid, &command, patience, true)?;
    call.answer(&Some(json!({ "return": answer }).to_string()))
}

fn monitor(call: &Call<'_>) -> Answer {
    let (reference, text, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, HMP)?;
    if text.len() > COMMAND_MAX {
        return Err(invalid(format!("a command has at most {COMMAND_MAX} bytes")));
    }
    let (execute, arguments, id) = if flags & HMP != 0 {
        ("human-monitor-command".to_owned(), json!({ "command-line": text }), None)
    } else {
        let command: Value = serde_json::from_str(text)
            .map_err(|error| invalid(format!("the command is no JSON: {error}")))?;
        let execute =
            command.get("execute").and_then(Value::as_str).ok_or_else(|| invalid("it executes nothing"))?;
        let arguments = command.get("arguments").cloned().unwrap_or(Value::Null);
        (execute.to_owned(), arguments, command.get("id").cloned())
    };
    if !may_be_asked(&execute, &arguments) {
        return Err(Failure::new(
            Code::OperationDenied,
            From::Qemu,
            format!(
                "{execute} by hand: only query-*, qom-get, qom-list and `info` are, since labels, leases and the gate \
                 would know nothing of what else is done; libvirt's own calls do the rest"
            ),
        ));
    }
    let (manager, uuid) = target.parts();
    let value = manager.ask_by_hand(uuid, Ask::Monitor { execute, arguments })?;
    let text = match value {
        Value::String(text) if flags & HMP != 0 => text,
        value => json!({ "return": value, "id": id.unwrap_or_else(|| "libvirt-1".into()) }).to_string(),
    };
    call.answer(&text)
}

#[cfg(test)]
mod tests {
    use super::{AGENT_PATIENCE_MAX, BLOCK, Duration, USUAL, base64, timeout};

    #[test]
    fn no_word_lets_an_agent_take_longer_than_any_may() {
        let seconds = |word| timeout(word).ok().map(|time| time.as_secs());
        let most = AGENT_PATIENCE_MAX.as_secs();
        assert_eq!([BLOCK, i32::MAX].map(seconds), [Some(most); 2]);
        assert_eq!([USUAL, 0, 7, -3].map(seconds), [Some(5), Some(1), Some(7), None]);
        assert!(AGENT_PATIENCE_MAX < Duration::from_secs(600));
    }

    #[test]
    fn passwords_travel_as_base64() {
        let pairs = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in pairs {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
