//! What svirt's own processes hold, read back from the kernel while a domain with every kind of console runs; the
//! supervisor under its own filter with each refusal turned into a kill.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

mod labeller_rig;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use labeller_rig::{Rig, eventually, possible};
use svirt::base::Files;
use svirt::driver::{self, Control, Labeller, LabellerProber};
use svirt::privsep::op::{LaunchPlan, Op};
use svirt::privsep::request::Started;
use svirt::privsep::supervisor::Verb;

/// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID, SETPCAP, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, SYS_NICE, MAC_ADMIN:
/// the numbers of linux/capability.h, not the program's own list.
const LABELLER: u64 =
    1 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 12 | 1 << 19 | 1 << 21 | 1 << 23 | 1 << 33;

/// `SECCOMP_RET_ERRNO` with EPERM, and `SECCOMP_RET_KILL_PROCESS`.
const EPERM: u32 = 0x0005_0001;
const KILL: u32 = 0x8000_0000;

fn status(pid: i32) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.into(), value.trim().into()))
        .collect()
}

fn sets(status: &BTreeMap<String, String>) -> [u64; 5] {
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
        .map(|set| u64::from_str_radix(&status[set], 16).unwrap())
}

fn xml(rig: &Rig, user_network: bool) -> Vec<u8> {
    let at = |name: &str| rig.text(name);
    let network =
        if user_network { "<interface type='user'><backend type='passt'/></interface>" } else { "" };
    format!(
        "<domain type='qemu'><name>own</name><memory>65536</memory><os><type machine='q35'>hvm</type></os>
         <features><acpi/></features><devices>
           <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{}'/>
             <target dev='vda' bus='virtio'/></disk>{network}
           <serial type='pty'><log file='{}' append='off'/></serial>
           <serial type='file'><source path='{}'/></serial>
           <console type='pty'><target type='serial' port='0'/></console>
           <console type='unix'><source mode='bind' path='{}'/><target type='virtio' port='1'/></console>
           <graphics type='vnc' autoport='yes' listen='127.0.0.1'/>
         </devices></domain>",
        at("images/a.raw"),
        at("log/serial.log"),
        at("log/second"),
        at("sockets/hvc"),
    )
    .into_bytes()
}

/// A plan of that definition whose supervisor is killed by any call that its filter refuses.
fn plan(rig: &Rig, labeller: &mut Labeller) -> LaunchPlan {
    let host = svirt::host::read(&rig.settings);
    let domain = svirt::conf::domain_xml::parse(&xml(rig, Path::new("/usr/bin/passt").exists())).unwrap();
    let prepared =
        driver::prepare(domain, &Files::ALL, &rig.settings, &mut LabellerProber::new(labeller)).unwrap();
    let survey = labeller.survey().unwrap();
    let mut plan =
        prepared.plan(&host, &rig.settings, &survey, driver::draw(), driver::Begin::default()).unwrap();
    let mut changed = 0;
    for op in &mut plan.ops {
        if let Op::Spawn(spawn) = op {
            for insn in spawn.supervisor.seccomp.0.iter_mut().filter(|i| i.0 == 6 && i.3 == EPERM) {
                insn.3 = KILL;
                changed += 1;
            }
        }
    }
    assert!(changed > 0);
    plan
}

fn address<'a>(started: &'a Started, word: &str) -> &'a str {
    let found = started.listening.iter().find(|(slot, _)| slot.contains(word));
    &found.unwrap_or_else(|| panic!("no {word} in {:?}", started.listening)).1
}

/// Everything that a client can have of a supervisor.
fn use_it_all(rig: &Rig, started: &Started) {
    let control = || Control::connect(&started.control).unwrap();
    assert!(control().status().unwrap().sealed);
    control().order(&Verb::Pause).unwrap();
    control().order(&Verb::Resume).unwrap();

    let mut terminal =
        std::fs::OpenOptions::new().read(true).write(true).open(address(started, "pty")).unwrap();
    terminal.write_all(b"typed\n").unwrap();
    drop(terminal);
    let mut console = UnixStream::connect(rig.path("sockets/hvc")).unwrap();
    console.write_all(b"typed\n").unwrap();
    drop(console);
    let (_, mut stream, _) = control().console(None, false).unwrap();
    stream.write_all(b"typed\n").unwrap();
    drop(stream);

    let mut viewer = TcpStream::connect(address(started, "vnc")).unwrap();
    viewer.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut greeting = [0; 12];
    viewer.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting[..4], b"RFB ");
}

fn supervisor_holds_nothing(rig: &Rig, pid: i32) {
    let found = status(pid);
    let uid: u32 = found["Uid"].split('\t').next().unwrap().parse().unwrap();
    let range = rig.settings.uids.supervisors;
    assert!((range.first..range.first + range.count).contains(&uid), "uid {uid}");
    assert_eq!(found["Uid"], [uid; 4].map(|uid| uid.to_string()).join("\t"));
    assert_eq!(found["Gid"], found["Uid"]);
    assert_eq!(sets(&found), [0; 5]);
    assert_eq!((found["NoNewPrivs"].as_str(), found["Seccomp"].as_str()), ("1", "2"));
    // A process that is not dumpable belongs to root in /proc, whatever its uid.
    assert_eq!(std::fs::metadata(format!("/proc/{pid}/fd")).unwrap().uid(), 0, "the supervisor is dumpable");
}

fn labeller_holds_what_it_says(pid: u32) {
    let found = status(i32::try_from(pid).unwrap());
    let [inheritable, permitted, effective, bounding, ambient] = sets(&found);
    assert_eq!((permitted, effective, bounding, ambient), (LABELLER, LABELLER, LABELLER, 0));
    assert_eq!(inheritable & !LABELLER, 0);
    assert_eq!(found["Seccomp"], "2");
}

#[test]
fn own_processes_hold_the_least_that_works() {
    if !possible() {
        return;
    }
    let mut rig = Rig::new();
    std::fs::set_permissions(rig.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    rig.image("a.raw");
    rig.serve("");
    labeller_holds_what_it_says(rig.labeller.as_ref().unwrap().id());
    let mut client = rig.client();
    let plan = plan(&rig, &mut client);
    let uuid = plan.domain.uuid;
    let started = client.start(plan).unwrap_or_else(|e| panic!("{}\n{}", labeller_rig::rule(&e), rig.log()));
    let supervisor = |rig: &Rig| rig.client().describe(uuid).unwrap().status.supervisor_pid;
    supervisor_holds_nothing(&rig, started.supervisor_pid);
    use_it_all(&rig, &started);
    assert_eq!(supervisor(&rig), started.supervisor_pid, "a call that the filter refuses: {}", rig.log());

    let killed = Command::new("kill").args(["-KILL", &started.supervisor_pid.to_string()]).status().unwrap();
    assert!(killed.success());
    eventually("a replacement", || ![0, started.supervisor_pid].contains(&supervisor(&rig)));
    let second = supervisor(&rig);
    eventually("its socket", || Control::connect(&started.control).and_then(|mut c| c.status()).is_ok());
    supervisor_holds_nothing(&rig, second);
    use_it_all(&rig, &started);
    assert_eq!(supervisor(&rig), second, "a call that the filter refuses: {}", rig.log());

    // Another labeller copies descriptors of the supervisor, which needs its capability to trace.
    rig.end_labeller("-KILL");
    rig.serve("");
    labeller_holds_what_it_says(rig.labeller.as_ref().unwrap().id());
    assert_eq!(supervisor(&rig), second);
    Control::connect(&started.control).unwrap().order(&Verb::Destroy).unwrap();
    eventually("the end", || rig.client().describe(uuid).is_err());
    rig.assert_nothing_leased();
}
