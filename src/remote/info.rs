//! What a guest tells of itself in one call (`guestinfo`), by its agent; its words are bounded in `agent`.

use serde_json::Value;

use super::agent::{FileSystem, entries, mounted, text};
use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::guest::ask;
use crate::rpc::{self, List, ParamValue, TypedParam};

/// The most parameters of one answer.
const PARAMS_MAX: usize = 2048;

/// virDomainGuestInfoTypes
const USERS: u32 = 1;
const OS: u32 = 2;
const TIMEZONE: u32 = 4;
const HOSTNAME: u32 = 8;
const FILESYSTEM: u32 = 16;
const DISKS: u32 = 32;
const INTERFACES: u32 = 64;
const KNOWN: u32 = USERS | OS | TIMEZONE | HOSTNAME | FILESYSTEM | DISKS | INTERFACES;

/// A value that outlives the answer that it came in.
enum Told {
    Flag(bool),
    Count(u32),
    Long(u64),
    Signed(i32),
    Text(String),
}

impl Told {
    fn value(&self) -> ParamValue<'_> {
        match self {
            Self::Flag(value) => ParamValue::Boolean(*value),
            Self::Count(value) => ParamValue::Uint(*value),
            Self::Long(value) => ParamValue::Ullong(*value),
            Self::Signed(value) => ParamValue::Int(*value),
            Self::Text(value) => ParamValue::Text(value),
        }
    }
}

/// What was told so far, by names.
#[derive(Default)]
struct Params(Vec<(String, Told)>);

impl Params {
    fn put(&mut self, name: impl Into<String>, told: Told) {
        self.0.push((name.into(), told));
    }

    fn text(&mut self, name: impl Into<String>, value: Option<String>) {
        if let Some(value) = value {
            self.put(name, Told::Text(value));
        }
    }

    fn count(&mut self, name: impl Into<String>, count: usize) {
        self.put(name, Told::Count(u32::try_from(count).unwrap_or(0)));
    }
}

type Read = fn(&Call<'_>, &Target<'_>, &mut Params) -> Result<(), Failure>;

const READERS: &[(u32, Read)] = &[
    (USERS, users),
    (OS, system),
    (TIMEZONE, timezone),
    (HOSTNAME, hostname),
    (FILESYSTEM, file_systems),
    (DISKS, disks),
    (INTERFACES, interfaces),
];

/// An agent that lacks a command for something is an error only where that was asked for by name.
pub(super) fn guest_info(call: &Call<'_>) -> Answer {
    let (reference, types, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    if types & !KNOWN != 0 {
        let text = format!("unsupported guest information types '0x{:x}'", types & !KNOWN);
        return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
    }
    let all = types == 0;
    let mut params = Params::default();
    for (kind, read) in READERS {
        if !all && types & kind == 0 {
            continue;
        }
        match read(call, &target, &mut params) {
            // What an agent says that it lacks or cannot.
            Err(failure) if all && failure.code == Code::OperationFailed => {}
            done => done?,
        }
    }
    params.0.truncate(PARAMS_MAX);
    let params = params.0.iter().map(|(field, told)| TypedParam { field, value: told.value() });
    call.answer(&List::<_, PARAMS_MAX>(params.collect()))
}

fn users(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-get-users", Value::Null)?;
    let users = entries(Some(&answer));
    params.count("user.count", users.len());
    for (number, user) in users.iter().enumerate() {
        params.text(format!("user.{number}.name"), text(user.get("user")));
        params.text(format!("user.{number}.domain"), text(user.get("domain")));
        if let Some(seconds) = user.get("login-time").and_then(Value::as_f64)
            && (0.0..1e12).contains(&seconds)
        {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is in bounds")]
            let milliseconds = (seconds * 1000.0) as u64;
            params.put(format!("user.{number}.login-time"), Told::Long(milliseconds));
        }
    }
    Ok(())
}

fn system(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-get-osinfo", Value::Null)?;
    for name in [
        "id",
        "name",
        "pretty-name",
        "version",
        "version-id",
        "machine",
        "variant",
        "variant-id",
        "kernel-release",
        "kernel-version",
    ] {
        params.text(format!("os.{name}"), text(answer.get(name)));
    }
    Ok(())
}

fn timezone(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-get-timezone", Value::Null)?;
    params.text("timezone.name", text(answer.get("zone")));
    let offset = answer.get("offset").and_then(Value::as_i64).and_then(|it| i32::try_from(it).ok());
    if let Some(offset) = offset {
        params.put("timezone.offset", Told::Signed(offset));
    }
    Ok(())
}

fn hostname(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-get-host-name", Value::Null)?;
    params.text("hostname", text(answer.get("host-name")));
    Ok(())
}

fn file_systems(call: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let all = mounted(call, target)?;
    params.count("fs.count", all.len());
    for (number, one) in all.into_iter().enumerate() {
        let FileSystem { mountpoint, name, kind, sizes: [total, used], disks } = one;
        let field = |name: &str| format!("fs.{number}.{name}");
        params.text(field("mountpoint"), Some(mountpoint));
        params.text(field("name"), Some(name));
        params.text(field("fstype"), Some(kind));
        for (name, bytes) in [("total-bytes", total), ("used-bytes", used)] {
            if let Some(bytes) = bytes {
                params.put(field(name), Told::Long(bytes));
            }
        }
        params.count(field("disk.count"), disks.len());
        for (place, disk) in disks.into_iter().enumerate() {
            let field = |name: &str| format!("fs.{number}.disk.{place}.{name}");
            params.text(field("alias"), disk.alias);
            params.text(field("serial"), disk.serial);
            params.text(field("device"), disk.device);
        }
    }
    Ok(())
}

fn disks(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-get-disks", Value::Null)?;
    let disks = entries(Some(&answer));
    params.count("disk.count", disks.len());
    for (number, disk) in disks.iter().enumerate() {
        let field = |name: &str| format!("disk.{number}.{name}");
        params.text(field("name"), text(disk.get("name")));
        let partition = disk.get("partition").and_then(Value::as_bool).unwrap_or(false);
        params.put(field("partition"), Told::Flag(partition));
        let below = entries(disk.get("dependencies"));
        if !below.is_empty() {
            params.count(field("dependency.count"), below.len());
        }
        for (place, name) in below.iter().enumerate() {
            params.text(format!("disk.{number}.dependency.{place}.name"), text(Some(name)));
        }
        params.text(field("serial"), disk.get("address").and_then(|address| text(address.get("serial"))));
        params.text(field("guest_alias"), text(disk.get("alias")));
    }
    Ok(())
}

fn interfaces(_: &Call<'_>, target: &Target<'_>, params: &mut Params) -> Result<(), Failure> {
    let answer = ask(target, "guest-network-get-interfaces", Value::Null)?;
    let all = entries(Some(&answer));
    params.count("if.count", all.len());
    for (number, one) in all.iter().enumerate() {
        let field = |name: &str| format!("if.{number}.{name}");
        params.text(field("name"), text(one.get("name")));
        params.text(field("hwaddr"), text(one.get("hardware-address")));
        let addresses = entries(one.get("ip-addresses"));
        params.count(field("addr.count"), addresses.len());
        for (place, address) in addresses.iter().enumerate() {
            let field = |name: &str| format!("if.{number}.addr.{place}.{name}");
            params.text(field("type"), text(address.get("ip-address-type")));
            params.text(field("addr"), text(address.get("ip-address")));
            let prefix = address.get("prefix").and_then(Value::as_u64).and_then(|it| u32::try_from(it).ok());
            if let Some(prefix) = prefix {
                params.put(field("prefix"), Told::Count(prefix));
            }
        }
    }
    Ok(())
}
