//! Calls whose answers are the guest's word for itself: its processors, file systems, users, keys, addresses.
//!
//! All of it comes from the guest, which may be hostile: texts are cut and without control characters, lists have an end,
//! numbers are numbers, and nothing that is said of the host by it is believed.

use serde_json::{Value, json};

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::guest::{ask, nonsense};
use super::info;
use crate::manager::ManagerError;
use crate::privsep::ask::Ask;
use crate::rpc::{self, Encode, Encoder, List, ParamValue, Procedure, TypedParam, XdrError};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainAuthorizedSshKeysGet => keys,
        P::DomainAuthorizedSshKeysSet => set_keys,
        P::DomainGetFsinfo => file_systems,
        P::DomainGetGuestInfo => info::guest_info,
        P::DomainGetGuestVcpus => vcpus,
        P::DomainPmSuspendForDuration => suspend,
        P::DomainPmWakeup => wake,
        P::DomainSetGuestVcpus => set_vcpus,
        _ => return None,
    })
}

/// The longest text of a guest's that is passed on, in characters.
const TEXT_MAX: usize = 1024;
/// The most entries of one list of a guest's that are passed on.
pub(super) const ENTRIES_MAX: usize = 256;

/// A text of the guest's.
pub(super) fn text(value: Option<&Value>) -> Option<String> {
    let text = value?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect())
}

/// The entries of a list of the guest's.
pub(super) fn entries(value: Option<&Value>) -> &[Value] {
    let all = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    all.get(..ENTRIES_MAX.min(all.len())).unwrap_or_default()
}

/// One processor, as the guest counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Vcpu {
    number: u32,
    online: bool,
    offlinable: bool,
}

fn guests(target: &Target<'_>) -> Result<Vec<Vcpu>, Failure> {
    let answer = ask(target, "guest-get-vcpus", Value::Null)?;
    let one = |vcpu: &Value| {
        let number = vcpu.get("logical-id")?.as_u64()?;
        let flag = |name: &str| vcpu.get(name).and_then(Value::as_bool).unwrap_or(false);
        let number = u32::try_from(number).ok().filter(|number| *number < MAX_VCPU)?;
        Some(Vcpu { number, online: flag("online"), offlinable: flag("can-offline") })
    };
    let all = answer.as_array().map(|all| all.iter().take(MAX_VCPU as usize).map(one).collect());
    all.flatten().ok_or_else(nonsense)
}

/// No guest has a processor with a number beyond.
const MAX_VCPU: u32 = 4096;

/// Numbers as libvirt writes them: `0-2,5`.
fn ranges(numbers: impl Iterator<Item = u32>) -> String {
    let numbers: std::collections::BTreeSet<u32> = numbers.collect();
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let run = |(first, last): (u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.into_iter().map(run).collect::<Vec<_>>().join(",")
}

fn vcpus(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let all = guests(&target)?;
    let list = |keep: fn(&Vcpu) -> bool| ranges(all.iter().filter(|it| keep(it)).map(|it| it.number));
    let lists = [
        ("vcpus", list(|_| true)),
        ("online", list(|vcpu| vcpu.online)),
        ("offlinable", list(|vcpu| vcpu.offlinable)),
    ];
    let params = lists.iter().map(|(field, text)| TypedParam { field, value: ParamValue::Text(text) });
    call.answer(&List::<_, 64>(params.collect()))
}

fn invalid(text: impl AsRef<str>) -> Failure {
    Failure::new(Code::InvalidArgument, From::Domain, text)
}

/// Sets which of them run. A guest may do the first few only, and is asked for the rest again.
fn put_online(target: &Target<'_>, wanted: &[(u32, bool)]) -> Result<(), Failure> {
    let mut rest = wanted;
    while !rest.is_empty() {
        let list: Vec<Value> =
            rest.iter().map(|(number, online)| json!({ "logical-id": number, "online": online })).collect();
        let done = ask(target, "guest-set-vcpus", json!({ "vcpus": list }))?.as_u64().ok_or_else(nonsense)?;
        let done = usize::try_from(done).ok().filter(|done| (1..=rest.len()).contains(done));
        rest = done.and_then(|done| rest.get(done..)).ok_or_else(nonsense)?;
    }
    Ok(())
}

fn set_vcpus(call: &Call<'_>) -> Answer {
    let (reference, map, state, flags): (rpc::Domain<'_>, &str, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let online = match state {
        0 => false,
        1 => true,
        _ => return Err(invalid("unsupported state value")),
    };
    let wanted = crate::conf::definition::TypedCpus::parse(map).map(|cpus| cpus.below(MAX_VCPU));
    let wanted = wanted.ok_or_else(|| invalid(format!("Failed to parse bitmap '{map:.80}'")))?;
    let all = guests(&target)?;
    for number in &wanted {
        let vcpu = all.iter().find(|vcpu| vcpu.number == *number);
        let vcpu = vcpu.ok_or_else(|| invalid(format!("vcpu '{number}' is not present in the guest")))?;
        if !online && !vcpu.offlinable {
            return Err(invalid(format!("vcpu '{number}' can't be offlined")));
        }
    }
    let wanted: Vec<(u32, bool)> = wanted.into_iter().map(|number| (number, online)).collect();
    put_online(&target, &wanted)?;
    call.answer(&())
}

/// How many of its processors the guest uses, or has.
pub(super) fn online_vcpus(target: &Target<'_>, all: bool) -> Result<usize, Failure> {
    Ok(guests(target)?.iter().filter(|vcpu| vcpu.online || all).count())
}

/// Has the guest use so many of its processors, the first ones.
pub(super) fn use_vcpus(target: &Target<'_>, count: u32) -> Result<(), Failure> {
    let all = guests(target)?;
    let mut online = all.iter().filter(|vcpu| vcpu.online).count();
    let count = count as usize;
    let mut change = Vec::new();
    for vcpu in all.iter().filter(|vcpu| !vcpu.online) {
        if online < count {
            change.push((vcpu.number, true));
            online += 1;
        }
    }
    for vcpu in all.iter().rev().filter(|vcpu| vcpu.online && vcpu.offlinable) {
        if online > count {
            change.push((vcpu.number, false));
            online -= 1;
        }
    }
    if online != count {
        let text = "failed to set guest vcpu count: the guest has no such many that it can switch on or off";
        return Err(Failure::new(Code::OperationFailed, From::Qemu, text));
    }
    put_online(target, &change)
}

fn keys(call: &Call<'_>) -> Answer {
    let (reference, user, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let answer = ask(&target, "guest-ssh-get-authorized-keys", json!({ "username": user }))?;
    let keys = entries(answer.get("keys")).iter();
    // A key is longer than other texts, and one that was cut is none.
    let key =
        |key: &Value| key.as_str().map(|key| key.chars().filter(|c| !c.is_control()).collect::<String>());
    call.answer(&List::<String, 2048>(keys.filter_map(key).collect()))
}

/// virDomainAuthorizedSSHKeysSetFlags
const KEYS_APPEND: u32 = 1;
const KEYS_REMOVE: u32 = 2;

fn set_keys(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, &'a str, List<&'a str, 2048>, u32);
    let (reference, user, keys, flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, KEYS_APPEND | KEYS_REMOVE)?;
    let arguments = json!({ "username": user, "keys": keys.0 });
    match flags {
        KEYS_REMOVE => ask(&target, "guest-ssh-remove-authorized-keys", arguments)?,
        0 | KEYS_APPEND => {
            let mut arguments = arguments;
            if let Some(arguments) = arguments.as_object_mut() {
                arguments.insert("reset".into(), (flags & KEYS_APPEND == 0).into());
            }
            ask(&target, "guest-ssh-add-authorized-keys", arguments)?
        }
        _ => return Err(invalid("keys are either appended or removed")),
    };
    call.answer(&())
}

/// One file system of the guest's.
pub(super) struct FileSystem {
    pub(super) mountpoint: String,
    pub(super) name: String,
    pub(super) kind: String,
    /// Bytes of it, and those in use, where the guest tells.
    pub(super) sizes: [Option<u64>; 2],
    pub(super) disks: Vec<FileSystemDisk>,
}

/// A disk that one is on.
pub(super) struct FileSystemDisk {
    /// The target in the definition, where it is known.
    pub(super) alias: Option<String>,
    pub(super) serial: Option<String>,
    pub(super) device: Option<String>,
}

impl Encode for FileSystem {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&(&self.mountpoint, &self.name, &self.kind))?;
        let aliases = self.disks.iter().filter_map(|disk| disk.alias.as_deref()).collect();
        to.put(&List::<&str, 256>(aliases))
    }
}

/// What the guest has mounted.
pub(super) fn mounted(call: &Call<'_>, target: &Target<'_>) -> Result<Vec<FileSystem>, Failure> {
    let answer = ask(target, "guest-get-fsinfo", Value::Null)?;
    let tree = call.manager().tree(&target.domain, false)?;
    let disk = |disk: &Value| {
        let number =
            |of: &Value, name: &str| of.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        let at = disk.get("pci-controller").and_then(|at| {
            Some([number(at, "domain")?, number(at, "bus")?, number(at, "slot")?, number(at, "function")?])
        });
        let place =
            [number(disk, "bus"), number(disk, "target"), number(disk, "unit")].map(|n| n.unwrap_or(0));
        let bus = disk.get("bus-type").and_then(Value::as_str).unwrap_or_default();
        FileSystemDisk {
            alias: tree.disk_at(bus, at, place).map(str::to_owned),
            serial: text(disk.get("serial")),
            device: text(disk.get("dev")),
        }
    };
    let one = |all: &Value| {
        Some(FileSystem {
            mountpoint: text(all.get("mountpoint"))?,
            name: text(all.get("name"))?,
            kind: text(all.get("type"))?,
            sizes: ["total-bytes", "used-bytes"].map(|name| all.get(name).and_then(Value::as_u64)),
            disks: entries(all.get("disk")).iter().map(disk).collect(),
        })
    };
    entries(Some(&answer)).iter().map(one).collect::<Option<_>>().ok_or_else(nonsense)
}

fn file_systems(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let all = mounted(call, &target)?;
    let count = u32::try_from(all.len()).unwrap_or(0);
    call.answer(&(List::<_, 256>(all), count))
}

/// One interface of the guest's, with the addresses that it says it has.
struct Interface {
    name: String,
    hardware: Option<String>,
    addresses: Vec<(i32, String, u32)>,
}

impl Encode for Interface {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&(&self.name, self.hardware.as_deref()))?;
        to.put(&u32::try_from(self.addresses.len()).unwrap_or(0))?;
        self.addresses.iter().try_for_each(|(kind, address, prefix)| to.put(&(kind, address, prefix)))
    }
}

/// The addresses of the guest's interfaces, as it says itself.
pub(super) fn addresses(call: &Call<'_>, target: &Target<'_>) -> Answer {
    let answer = ask(target, "guest-network-get-interfaces", Value::Null)?;
    let address = |one: &Value| {
        // virIPAddrType
        let kind = match one.get("ip-address-type")?.as_str()? {
            "ipv4" => 0,
            "ipv6" => 1,
            _ => return None,
        };
        let prefix = u32::try_from(one.get("prefix")?.as_u64()?).ok()?;
        Some((kind, text(one.get("ip-address"))?, prefix))
    };
    let one = |one: &Value| {
        Some(Interface {
            name: text(one.get("name"))?,
            hardware: text(one.get("hardware-address")),
            addresses: entries(one.get("ip-addresses")).iter().filter_map(address).collect(),
        })
    };
    let all: Option<Vec<Interface>> = entries(Some(&answer)).iter().map(one).collect();
    call.answer(&List::<Interface, 2048>(all.ok_or_else(nonsense)?))
}

/// virNodeSuspendTarget, by the agent's commands.
const SLEEPS: [&str; 3] = ["guest-suspend-ram", "guest-suspend-disk", "guest-suspend-hybrid"];

/// A guest that falls asleep says nothing; one that cannot says why.
fn suspend(call: &Call<'_>) -> Answer {
    let (reference, how, duration, flags): (rpc::Domain<'_>, u32, u64, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let unsupported = |text: &str| Failure::new(Code::ArgumentUnsupported, From::Qemu, text);
    if duration != 0 {
        return Err(unsupported("Duration not supported. Use 0 for now"));
    }
    let command = usize::try_from(how).ok().and_then(|how| SLEEPS.get(how));
    let command = command.ok_or_else(|| invalid(format!("Unknown suspend target: {how}")))?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    let (manager, uuid) = target.parts();
    let asked = manager.agent(uuid, &json!({ "execute": command }), super::guest::FALLING_ASLEEP, true);
    match asked {
        Ok(_) => {}
        Err(ManagerError::AgentSilent(_)) if sleeps(&target) => {}
        Err(error) => return Err(error.into()),
    }
    call.answer(&())
}

/// Whether it sleeps, or has ended for that.
fn sleeps(target: &Target<'_>) -> bool {
    let (manager, uuid) = target.parts();
    let query = Ask::Monitor { execute: "query-status".into(), arguments: Value::Null };
    match manager.ask(uuid, query) {
        Ok(status) => status.get("status").and_then(Value::as_str) == Some("suspended"),
        Err(_) => manager.by_uuid(uuid).is_ok_and(|domain| !domain.is_active()),
    }
}

fn wake(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    manager.ask(uuid, Ask::WakeUp)?;
    call.answer(&())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_runs() {
        assert_eq!(ranges([3, 0, 1, 2, 7, 5].into_iter()), "0-3,5,7");
        assert_eq!(ranges(std::iter::empty()), "");
    }

    #[test]
    fn what_a_guest_says_is_bounded() {
        let long = json!("a\u{1b}".repeat(5000));
        assert_eq!(text(Some(&long)), Some("a".repeat(TEXT_MAX)));
        let many = json!(vec![0; 1000]);
        assert_eq!((entries(Some(&many)).len(), entries(None).len()), (ENTRIES_MAX, 0));
    }
}
