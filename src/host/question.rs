//! Asks an emulator what it can do: starts it confined, without a machine, and speaks its machine protocol over
//! two pipes. What it answers is bounded, and a guest was never near it.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io::Read as _;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::cpu::{self, HostFlags};
use crate::conf::capabilities::Machine;
use crate::conf::emulator::{CpuDefinition, CpuFeatures, EmulatorFacts};
use crate::profile::{self, Part};
use crate::settings::Settings;
use crate::sys::asked::{self, Answering, Asked};
use crate::sys::landlock::Allow;
use crate::sys::pidfd::{self, Exit};
use crate::sys::process;

/// How long all answers may take together.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to be gone once its output is closed, in milliseconds.
const ENDING: u16 = 2000;
/// The most bytes of all answers.
const ANSWER_MAX: usize = 32 << 20;
/// The most of anything in one list of an answer.
const LIST_MAX: usize = 4096;
/// The longest name that is kept, in bytes.
const NAME_MAX: usize = 128;

/// What is asked first, and under which id.
const FIRST: [(&str, &str); 8] = [
    ("version", "query-version"),
    ("target", "query-target"),
    ("kvm", "query-kvm"),
    ("machines", "query-machines"),
    ("commands", "query-commands"),
    ("chardevs", "query-chardev-backends"),
    ("tpms", "query-tpm-types"),
    ("cpus", "query-cpu-definitions"),
];

/// Asks; an error is a sentence for the log and for `svirt capabilities`.
pub(super) fn ask(path: &str, flags: &HostFlags, settings: &Settings) -> Result<EmulatorFacts, String> {
    const WORDS: [&CStr; 9] = [
        c"-S",
        c"-no-user-config",
        c"-nodefaults",
        c"-display",
        c"none",
        c"-machine",
        c"none,accel=tcg",
        c"-qmp",
        c"stdio",
    ];
    converse(path, &WORDS, settings, |conversation| conversation.facts(path, flags))
}

/// Its version alone, from what it prints of itself: that needs no memory that is both written and executed, which a
/// security module may deny to the one who asks though not to the guests that it starts.
pub(super) fn version(path: &str, settings: &Settings) -> Result<(u32, u32, u32), String> {
    converse(path, &[c"--version"], settings, |conversation| {
        let line = conversation.raw_line()?.ok_or("it ended without a word")?;
        parse(&String::from_utf8_lossy(&line)).ok_or_else(|| "it tells no version".into())
    })
}

/// The version in `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn parse(text: &str) -> Option<(u32, u32, u32)> {
    let rest = text.split_once(" version ")?.1;
    let number = rest.split(|c: char| c != '.' && !c.is_ascii_digit()).next()?;
    let mut parts = number.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next().flatten().unwrap_or(0)))
}

fn converse<T>(
    path: &str,
    words: &[&CStr],
    settings: &Settings,
    talk: impl FnOnce(&mut Conversation) -> Result<T, String>,
) -> Result<T, String> {
    let answering = start(path, words, settings).map_err(|error| format!("it does not start: {error}"))?;
    let mut conversation = Conversation {
        deadline: Instant::now() + PATIENCE,
        output: std::fs::File::from(answering.output),
        input: std::fs::File::from(answering.input),
        buffer: Vec::new(),
        read: 0,
        ended: false,
    };
    let result = talk(&mut conversation);
    let result = match result {
        // Its output is closed: how it ended says more than what it did not say.
        Err(why) if conversation.ended => Err(ending(&answering.child).unwrap_or(why)),
        result => result,
    };
    // Whatever it does now, it has nothing more to say; but it must not stay.
    answering.child.end().map_err(|error| format!("it could not be ended: {error}"))?;
    result
}

/// How it ended by itself, where it failed.
fn ending(child: &process::Child) -> Option<String> {
    if !pidfd::wait_ended(&child.pidfd, ENDING).ok()? {
        return None;
    }
    match pidfd::reap(&child.pidfd)? {
        Exit::Code(0) => None,
        Exit::Code(asked::UNPREPARED) => {
            Some("it cannot be executed: it or its interpreter is no program of this host".into())
        }
        exit => Some(format!("it {exit} when it was asked")),
    }
}

fn start(path: &str, words: &[&CStr], settings: &Settings) -> std::io::Result<Answering> {
    let parts = [Part::Base, Part::AccelTcg, Part::Launcher].into_iter().collect();
    let filter = profile::compose(&parts)
        .map_err(std::io::Error::other)
        .and_then(|filter| crate::filter::compile(&filter.ungated()).map_err(std::io::Error::other))?;
    let filter: Vec<_> = filter.0.iter().map(|i| (i.0, i.1, i.2, i.3)).collect();
    let program = CString::new(path)?;
    let argv: Vec<&CStr> = std::iter::once(program.as_c_str()).chain(words.iter().copied()).collect();
    // Its modules and data lie beside it: /opt/qemu/bin/qemu-system-x86_64 has /opt/qemu/share and /opt/qemu/lib.
    let prefix = Path::new(path).parent().and_then(Path::parent).filter(|prefix| *prefix != Path::new("/"));
    let program_files = Allow { read_dir: true, ..Allow::PROGRAM };
    let read = Allow { read_file: true, read_dir: true, ..Allow::default() };
    let write = Allow { read_file: true, write_file: true, ..Allow::default() };
    let mut reach = vec![
        (Path::new("/usr"), program_files),
        (Path::new("/lib"), program_files),
        (Path::new("/lib64"), program_files),
        (Path::new("/etc/ld.so.cache"), read),
        (Path::new("/sys/devices/system"), read),
        (Path::new("/proc"), read),
        (Path::new("/dev/null"), write),
        (Path::new(path), program_files),
    ];
    reach.extend(prefix.map(|prefix| (prefix, program_files)));
    asked::start(&Asked {
        program: &program,
        argv: &argv,
        uid: settings.uids.hostprobe,
        reach: &reach,
        filter: &filter,
    })
}

struct Conversation {
    deadline: Instant,
    input: std::fs::File,
    output: std::fs::File,
    buffer: Vec<u8>,
    read: usize,
    /// Whether its output was closed.
    ended: bool,
}

/// One line of the emulator.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<Value>,
    #[serde(default)]
    id: String,
}

impl Conversation {
    fn facts(&mut self, path: &str, flags: &HostFlags) -> Result<EmulatorFacts, String> {
        let hello = self.line()?.ok_or("it ended without a word")?;
        if hello.greeting.is_none() {
            return Err("it does not speak the machine protocol".into());
        }
        let mut text = command("hello", "qmp_capabilities", &Value::Null);
        for (id, execute) in FIRST {
            text.push_str(&command(id, execute, &Value::Null));
        }
        for (id, implements) in [("devices", "device"), ("objects", "user-creatable")] {
            let arguments = json!({ "implements": implements, "abstract": false });
            text.push_str(&command(id, "qom-list-types", &arguments));
        }
        self.say(&text)?;
        let mut answers = self.answers("objects")?;
        let mut facts = first(path, &answers)?;
        let definitions = list(answers.remove("cpus"));
        let names = cpu::classic(definitions.iter().filter_map(|one| word(one, "name")));
        if !names.is_empty() {
            let mut text = String::new();
            for name in names.iter().map(String::as_str).chain([cpu::BEST]) {
                let arguments = json!({ "type": "static", "model": { "name": name } });
                text.push_str(&command(name, "query-cpu-model-expansion", &arguments));
            }
            self.say(&text)?;
            let expanded = self.answers(cpu::BEST)?;
            let models = cpu::models(&names, &expanded);
            (facts.cpus, facts.host) = cpus(&definitions, &models, flags);
            facts.cpu_features = cpu::features(&expanded, flags);
            for model in &mut facts.cpus {
                model.features = cpu::has(&facts.cpu_features, expanded.get(&model.name));
            }
        }
        Ok(facts)
    }

    fn say(&mut self, text: &str) -> Result<(), String> {
        process::write_all_by(self.input.as_fd(), text.as_bytes(), self.deadline)
            .map_err(|error| format!("it does not listen: {error}"))
    }

    /// The answers up to the one with id `last`; what was refused is left out.
    fn answers(&mut self, last: &str) -> Result<BTreeMap<String, Value>, String> {
        let mut answers = BTreeMap::new();
        loop {
            let line = self.line()?.ok_or("it ended before it had answered")?;
            let id = line.id;
            if line.error.is_none()
                && let Some(value) = line.returned
            {
                answers.insert(id.clone(), value);
            }
            if id == last {
                return Ok(answers);
            }
        }
    }

    fn line(&mut self) -> Result<Option<Line>, String> {
        let Some(line) = self.raw_line()? else { return Ok(None) };
        let parsed = serde_json::from_slice(&line);
        parsed.map(Some).map_err(|error| format!("what it says is no answer: {error}"))
    }

    fn raw_line(&mut self) -> Result<Option<Vec<u8>>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.drain(..=end).collect()));
            }
            let left = self.deadline.saturating_duration_since(Instant::now());
            let ready = process::readable(self.output.as_fd(), left).map_err(|error| error.to_string())?;
            if !ready {
                return Err(format!("it took more than {} s", PATIENCE.as_secs()));
            }
            let mut chunk = [0; 65_536];
            let count = self.output.read(&mut chunk).map_err(|error| error.to_string())?;
            self.read += count;
            if self.read > ANSWER_MAX {
                return Err(format!("it said more than {ANSWER_MAX} bytes"));
            }
            if count == 0 {
                self.ended = true;
                return Ok(None);
            }
            self.buffer.extend(chunk.iter().take(count));
        }
    }
}

fn command(id: &str, execute: &str, arguments: &Value) -> String {
    let mut line = json!({ "execute": execute, "id": id });
    if let (Some(object), false) = (line.as_object_mut(), arguments.is_null()) {
        object.insert("arguments".into(), arguments.clone());
    }
    format!("{line}\n")
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(mut all)) => {
            all.truncate(LIST_MAX);
            all
        }
        _ => Vec::new(),
    }
}

/// A name that can stand in XML and on a terminal, or nothing.
fn word<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let text = value.get(key)?.as_str()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+:,()~ ".contains(&b);
    (text.len() <= NAME_MAX && text.bytes().all(plain)).then_some(text)
}

fn first(path: &str, answers: &BTreeMap<String, Value>) -> Result<EmulatorFacts, String> {
    let version = answers.get("version").ok_or("it tells no version")?;
    let number = |name: &str| {
        let number = version.get("qemu").and_then(|v| v.get(name)).and_then(Value::as_u64);
        number.and_then(|number| u32::try_from(number).ok()).ok_or("it tells no version")
    };
    let mut has: Vec<String> = Vec::new();
    for (id, kind) in
        [("devices", "device"), ("objects", "object"), ("commands", "command"), ("chardevs", "chardev")]
    {
        let all = list(answers.get(id).cloned());
        has.extend(all.iter().filter_map(|one| Some(format!("{kind}:{}", word(one, "name")?))));
    }
    let tpms = list(answers.get("tpms").cloned());
    has.extend(tpms.iter().filter_map(|one| Some(format!("tpm:{}", one.as_str()?))));
    has.sort_unstable();
    has.dedup();
    let kvm = answers.get("kvm").and_then(|kvm| kvm.get("present")).and_then(Value::as_bool);
    Ok(EmulatorFacts {
        path: path.to_owned(),
        version: (number("major")?, number("minor")?, number("micro")?),
        package: word(version, "package").unwrap_or_default().to_owned(),
        arch: answers.get("target").and_then(|t| word(t, "arch")).unwrap_or_default().to_owned(),
        kvm: kvm.unwrap_or(false),
        machines: machines(&list(answers.get("machines").cloned())),
        has,
        cpus: Vec::new(),
        cpu_features: CpuFeatures::default(),
        host: None,
    })
}

/// Newest first, as libvirt lists them; `none` and what is only for Xen are left out.
fn machines(answers: &[Value]) -> Vec<Machine> {
    let mut machines: Vec<Machine> = answers
        .iter()
        .filter_map(|one| {
            Some(Machine {
                name: word(one, "name")?.to_owned(),
                alias: word(one, "alias").map(ToOwned::to_owned),
                cpus: one.get("cpu-max").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok())?,
                deprecated: one.get("deprecated").and_then(Value::as_bool).unwrap_or(false),
            })
        })
        .filter(|machine| machine.name != "none")
        .collect();
    machines.sort_by_cached_key(|machine| {
        let (family, version) = machine.name.rsplit_once('-').unwrap_or((&machine.name, ""));
        let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        (family.to_owned(), std::cmp::Reverse(numbers))
    });
    machines
}

fn cpus(
    definitions: &[Value],
    models: &[cpu::Model],
    flags: &HostFlags,
) -> (Vec<CpuDefinition>, Option<crate::conf::emulator::HostModel>) {
    let described = models.iter().map(|model| {
        let definition = definitions.iter().find(|one| word(one, "name") == Some(&model.name));
        let unavailable = definition.and_then(|one| one.get("unavailable-features"));
        CpuDefinition {
            name: model.name.clone(),
            vendor: cpu::vendor(&model.vendor),
            deprecated: definition.and_then(|one| one.get("deprecated")).and_then(Value::as_bool)
                == Some(true),
            emulated: unavailable.and_then(Value::as_array).is_some_and(Vec::is_empty),
            host: cpu::missing(model, flags).next().is_none(),
            features: Vec::new(),
        }
    });
    let mut described: Vec<CpuDefinition> = described.collect();
    described.sort_by(|a, b| a.name.cmp(&b.name));
    (described, cpu::closest(models, flags))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\n"), Some((7, 2, 22)));
        assert_eq!(parse("QEMU emulator version 9.1\n"), Some((9, 1, 0)));
        for text in ["", "version", "x version y", "QEMU emulator version 7"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn one_that_does_not_listen_is_left() {
        let (heard, input) = std::io::pipe().unwrap();
        let (output, _said) = std::io::pipe().unwrap();
        let file = |fd: std::os::fd::OwnedFd| std::fs::File::from(fd);
        let mut conversation = Conversation {
            deadline: Instant::now() + Duration::from_millis(50),
            input: file(input.into()),
            output: file(output.into()),
            buffer: Vec::new(),
            read: 0,
            ended: false,
        };
        // More than a pipe holds, and nobody reads.
        assert!(conversation.say(&"x".repeat(1 << 20)).is_err());
        drop(heard);
    }

    #[test]
    fn a_version_is_read_where_nothing_else_is_said() {
        let program = "/usr/bin/qemu-system-x86_64";
        if !Path::new(program).exists() {
            println!("skipped: needs {program}");
            return;
        }
        let settings = Settings::default();
        assert!(version(program, &settings).unwrap() > (5, 0, 0));
        assert!(version("/bin/true", &settings).is_err());
    }
}
