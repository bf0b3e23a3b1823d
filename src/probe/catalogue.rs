//! The attacks: what a taken-over device model would try first.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::unistd::Pid;
use rustix::fs::{FileType, OFlags};
use serde::Serialize;

use crate::sys::{attack, held};

/// What an attack is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Aim {
    /// The host.
    Host,
    /// Another guest's image, process or monitor.
    Neighbour,
    /// svirt's own processes (or libvirt's, for its guests).
    Manager,
}

/// Where the attacks are aimed, all of it known before the attacker is confined.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Targets {
    /// Pid of the neighbour's process.
    pub neighbour_pid: i32,
    /// Where that process keeps its secret.
    pub secret_address: usize,
    /// The neighbour's image.
    pub image: String,
    /// Another one, which every uid may read.
    pub open_image: String,
    /// The neighbour's monitor socket.
    pub monitor: String,
    /// An abstract socket of the neighbour.
    pub abstract_name: String,
    /// A System V shared memory segment of the neighbour.
    pub segment: i32,
    /// A TCP port on the host's loopback address that something listens on.
    pub port: u16,
    /// Socket of the process that manages this guest.
    pub manager_socket: Option<String>,
    /// The guest's own control socket.
    pub control_socket: Option<String>,
    /// Pid of the guest's supervisor or managing daemon.
    pub manager_pid: Option<i32>,
    /// A file that only the manager may read.
    pub manager_file: Option<String>,
    /// A block device of the host, and its number.
    pub block_device: Option<(String, u64)>,
}

/// Who attacks: what it is aimed at, and what it needs in its hands.
pub struct Attacker<'a> {
    /// Where the attacks are aimed.
    pub targets: &'a Targets,
    /// Set where names are those of the target's root directory and the attacker still has root's rights, which the
    /// target has not: a procfs of the host, through which only what was meant is opened (see [`held`]).
    pub careful: Option<BorrowedFd<'a>>,
    /// Whether numbers of processes are those of the target's namespace.
    pub own_numbers: bool,
    /// A procfs of the host.
    pub proc: BorrowedFd<'a>,
    /// What [`Attack::prepare`] made or held.
    pub prepared: Option<BorrowedFd<'a>>,
}

impl Attacker<'_> {
    /// Opens a name for reading, or for writing without changing anything.
    fn open(&self, path: &str, write: bool) -> io::Result<File> {
        let flags = if write { OFlags::WRONLY } else { OFlags::RDONLY };
        match self.careful {
            Some(proc) => held::regular(proc, path, flags).map(File::from),
            None => OpenOptions::new()
                .read(!write)
                .write(write)
                .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
                .open(path),
        }
    }

    /// Opens a file and reads at most one byte: an open that succeeds is not yet a read.
    fn read_first(&self, path: &str) -> io::Result<()> {
        self.open(path, false)?.read(&mut [0]).map(drop)
    }

    fn connect(&self, path: &str) -> io::Result<()> {
        match self.careful {
            Some(proc) => held::connect(proc, path),
            None => UnixStream::connect(path).map(drop),
        }
    }

    /// Reads from a whole disk.
    fn read_disk(&self, path: &str, number: u64) -> io::Result<()> {
        match self.careful {
            Some(proc) => File::from(held::block_device(proc, path, number)?).read(&mut [0]).map(drop),
            None => self.read_first(path),
        }
    }

    /// Makes a file of this process's own name and removes it.
    fn make_file(&self, directory: &str) -> io::Result<()> {
        let name = format!("svirt-probe-{}", std::process::id());
        if self.careful.is_some() {
            return held::make_file(directory, &name);
        }
        let path = format!("{directory}/{name}");
        OpenOptions::new().write(true).create_new(true).open(&path)?;
        fs::remove_file(path)
    }

    /// The neighbour's number; where numbers are the target's own, one that nobody has, so that no process of the
    /// target's is taken for the neighbour.
    fn neighbour(&self) -> i32 {
        if self.own_numbers { NOBODY } else { self.targets.neighbour_pid }
    }
}

/// One attack.
pub struct Attack {
    /// Short name, stable over versions.
    pub id: &'static str,
    /// At what.
    pub aim: Aim,
    /// What is tried.
    pub title: &'static str,
    /// What is won if it gets through.
    pub gain: &'static str,
    /// What closes the hole where svirt does not run the guest.
    pub closes: &'static str,
    /// Tries it; success means that nothing stopped it.
    pub run: fn(&Attacker<'_>) -> io::Result<()>,
}

impl Attack {
    /// Whether it executes a program, which may be the target's own.
    #[must_use]
    pub fn executes(&self) -> bool {
        self.id == EXEC
    }

    /// Makes or holds what the attack opens, before anything stands in its way.
    #[must_use]
    pub fn prepare(&self, targets: &Targets) -> Option<OwnedFd> {
        match self.id {
            NODE => device_node(targets).ok(),
            IMAGE_HELD => held::hold(&targets.open_image, FileType::RegularFile).ok(),
            _ => None,
        }
    }
}

/// Above the highest number that the kernel gives to a process (2^22).
const NOBODY: i32 = i32::MAX;
const EXEC: &str = "host-exec";
const NODE: &str = "host-device-node";
const IMAGE_HELD: &str = "neighbour-image-held";
const UID: &str = "a uid of its own for each guest: run it under svirt, or give it a static dac label \
                   (<seclabel type='static' model='dac' relabel='yes'><label>+UID:+GID</label></seclabel>)";
const ROOT: &str = "a minimal root and Landlock: run it under svirt; libvirt hides only /dev";
const FILTER: &str =
    "an allow-list filter: run it under svirt; libvirt's -sandbox refuses 35 calls and allows the rest";
const NET: &str = "a network namespace: run it under svirt, which hands sockets and taps over as descriptors";
const PIDS: &str = "a pid namespace: run it under svirt";

/// Every attack, neighbours first.
pub const ATTACKS: &[Attack] = &[
    Attack {
        id: "neighbour-image-read",
        aim: Aim::Neighbour,
        title: "open a neighbour's image for reading",
        gain: "every byte on another guest's disk",
        closes: UID,
        run: |it| it.read_first(&it.targets.image),
    },
    Attack {
        id: "neighbour-image-write",
        aim: Aim::Neighbour,
        title: "open a neighbour's image for writing",
        gain: "code in another guest at its next boot",
        closes: UID,
        run: |it| it.open(&it.targets.image, true).map(drop),
    },
    Attack {
        id: IMAGE_HELD,
        aim: Aim::Neighbour,
        title: "open a neighbour's image that everybody may read, wherever it turns up",
        gain: "every byte on another guest's disk, once no directory is in the way",
        closes: "a security module's label, or Landlock: run it under svirt",
        run: |it| {
            it.prepared
                .map_or_else(|| not_here("no image"), |image| held::open_again(it.proc, image).map(drop))
        },
    },
    Attack {
        id: "neighbour-memory",
        aim: Aim::Neighbour,
        title: "read a neighbour's memory (process_vm_readv)",
        gain: "another guest's memory, keys included",
        closes: UID,
        run: |it| attack::read_memory(it.neighbour(), it.targets.secret_address).map(drop),
    },
    Attack {
        id: "neighbour-ptrace",
        aim: Aim::Neighbour,
        title: "trace a neighbour's process (ptrace)",
        gain: "control over another guest's device model",
        closes: UID,
        run: |it| attack::ptrace_seize(it.neighbour()),
    },
    Attack {
        id: "neighbour-proc-mem",
        aim: Aim::Neighbour,
        title: "open a neighbour's /proc/PID/mem for writing",
        gain: "control over another guest's device model",
        closes: UID,
        run: |it| it.open(&format!("/proc/{}/mem", it.neighbour()), true).map(drop),
    },
    Attack {
        id: "neighbour-environ",
        aim: Aim::Neighbour,
        title: "read a neighbour's /proc/PID/environ",
        gain: "paths and secrets of another guest",
        closes: UID,
        run: |it| it.read_first(&format!("/proc/{}/environ", it.neighbour())),
    },
    Attack {
        id: "neighbour-signal",
        aim: Aim::Neighbour,
        title: "send a signal to a neighbour's process",
        gain: "another guest stopped or killed",
        closes: PIDS,
        run: |it| Ok(kill(Pid::from_raw(it.neighbour()), Signal::SIGCONT)?),
    },
    Attack {
        id: "neighbour-monitor",
        aim: Aim::Neighbour,
        title: "connect to a neighbour's monitor socket",
        gain: "every management command of another guest",
        closes: UID,
        run: |it| it.connect(&it.targets.monitor),
    },
    Attack {
        id: "neighbour-abstract-socket",
        aim: Aim::Neighbour,
        title: "connect to an abstract socket of another process",
        gain: "services that no file mode protects",
        closes: NET,
        run: |it| {
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&it.targets.abstract_name)?;
            UnixStream::connect_addr(&address).map(drop)
        },
    },
    Attack {
        id: "neighbour-shared-memory",
        aim: Aim::Neighbour,
        title: "attach a neighbour's System V shared memory",
        gain: "memory that another guest shares with its helpers",
        closes: "an ipc namespace: run it under svirt",
        run: |it| attack::shm_attach(it.targets.segment),
    },
    Attack {
        id: "host-shadow",
        aim: Aim::Host,
        title: "read /etc/shadow",
        gain: "password hashes of the host",
        closes: ROOT,
        run: |it| it.read_first("/etc/shadow"),
    },
    Attack {
        id: "host-files",
        aim: Aim::Host,
        title: "read /etc/passwd, that is, any file that everybody may read",
        gain: "the host's users, software and configuration",
        closes: ROOT,
        run: |it| it.read_first("/etc/passwd"),
    },
    Attack {
        id: "host-write",
        aim: Aim::Host,
        title: "make a file in /tmp, /var/tmp or /dev/shm",
        gain: "a place to leave things for other processes to trip over",
        closes: ROOT,
        run: |it| {
            let tries = ["/tmp", "/var/tmp", "/dev/shm"].map(|directory| it.make_file(directory));
            tries.into_iter().reduce(Result::or).unwrap_or(Ok(()))
        },
    },
    Attack {
        id: "host-block-device",
        aim: Aim::Host,
        title: "open a block device of the host",
        gain: "every file system of the host",
        closes: "cgroup device rules and a private /dev: run it under svirt",
        run: |it| {
            let disk = it.targets.block_device.as_ref();
            disk.map_or_else(|| not_here("no block device"), |(path, number)| it.read_disk(path, *number))
        },
    },
    Attack {
        id: NODE,
        aim: Aim::Host,
        title: "open a device of the host through a node that reached it",
        gain: "the host's disk or kernel log, should a device node turn up in its root or as a descriptor",
        closes: "cgroup device rules: run it under svirt, or leave cgroup_device_acl and cgroup_controllers of qemu.conf as they are",
        run: |it| {
            it.prepared.map_or_else(|| not_here("no device node can be made"), attack::open_device_node)
        },
    },
    Attack {
        id: EXEC,
        aim: Aim::Host,
        title: "execute a shell",
        gain: "every program of the host as a tool",
        closes: FILTER,
        run: |_| attack::exec_shell(),
    },
    Attack {
        id: "host-user-namespace",
        aim: Aim::Host,
        title: "make a user namespace (unshare)",
        gain: "every capability over new mounts and networks: most kernel exploits start here",
        closes: FILTER,
        run: |_| Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?),
    },
    Attack {
        id: "host-mount",
        aim: Aim::Host,
        title: "mount a file system",
        gain: "/proc, /sys or another view of the host's files",
        closes: FILTER,
        run: |_| mount_tmpfs(),
    },
    Attack {
        id: "host-loopback",
        aim: Aim::Host,
        title: "connect to a service on the host's loopback address",
        gain: "services that trust whoever is on this machine",
        closes: NET,
        run: |it| {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, it.targets.port));
            TcpStream::connect_timeout(&address, Duration::from_secs(2)).map(drop)
        },
    },
    Attack {
        id: "host-packet-socket",
        aim: Aim::Host,
        title: "open a packet socket",
        gain: "every packet of the host's networks",
        closes: NET,
        run: |_| raw_socket(AddressFamily::Packet),
    },
    Attack {
        id: "host-netlink",
        aim: Aim::Host,
        title: "open a netlink socket",
        gain: "a large part of the kernel's attack surface",
        closes: FILTER,
        run: |_| raw_socket(AddressFamily::Netlink),
    },
    Attack {
        id: "kernel-bpf",
        aim: Aim::Host,
        title: "make a BPF map",
        gain: "the kernel's BPF verifier as attack surface",
        closes: FILTER,
        run: |_| attack::bpf(),
    },
    Attack {
        id: "kernel-io-uring",
        aim: Aim::Host,
        title: "set up io_uring",
        gain: "file and socket operations that no seccomp filter sees",
        closes: FILTER,
        run: |_| attack::io_uring(),
    },
    Attack {
        id: "kernel-userfaultfd",
        aim: Aim::Host,
        title: "make a userfaultfd",
        gain: "the tool that turns a kernel race into an exploit",
        closes: FILTER,
        run: |_| attack::userfaultfd(),
    },
    Attack {
        id: "kernel-perf",
        aim: Aim::Host,
        title: "open a performance counter over every process",
        gain: "the perf subsystem as attack surface",
        closes: FILTER,
        run: |_| attack::perf_event(),
    },
    Attack {
        id: "kernel-keyring",
        aim: Aim::Host,
        title: "ask for a keyring (keyctl)",
        gain: "keys of other processes of this uid",
        closes: FILTER,
        run: |_| attack::keyring(),
    },
    Attack {
        id: "kernel-clone3",
        aim: Aim::Host,
        title: "call clone3, whose flags no filter can see",
        gain: "new namespaces past a filter on clone",
        closes: FILTER,
        run: |_| attack::clone3(),
    },
    Attack {
        id: "kernel-module",
        aim: Aim::Host,
        title: "load a kernel module",
        gain: "the kernel",
        closes: "no capabilities: do not run QEMU as root",
        run: |_| attack::finit_module(),
    },
    Attack {
        id: "kernel-kexec",
        aim: Aim::Host,
        title: "load another kernel (kexec_file_load)",
        gain: "the machine",
        closes: "no capabilities: do not run QEMU as root",
        run: |_| attack::kexec(),
    },
    Attack {
        id: "host-chroot",
        aim: Aim::Host,
        title: "change the root directory",
        gain: "a way out of a root that is only chrooted",
        closes: "no capabilities: do not run QEMU as root",
        run: |_| attack::chroot(),
    },
    Attack {
        id: "host-open-by-handle",
        aim: Aim::Host,
        title: "open a file by its handle",
        gain: "any file, whatever directory hides it",
        closes: "no capabilities: do not run QEMU as root",
        run: |_| attack::open_by_handle(),
    },
    Attack {
        id: "manager-socket",
        aim: Aim::Manager,
        title: "connect to the manager's socket",
        gain: "the right to start, stop and redefine guests",
        closes: ROOT,
        run: |it| {
            let socket = it.targets.manager_socket.as_deref();
            socket.map_or_else(|| not_here("no manager found"), |path| it.connect(path))
        },
    },
    Attack {
        id: "manager-control",
        aim: Aim::Manager,
        title: "connect to its own supervisor's control socket",
        gain: "its own monitor, and with it a way to open new files",
        closes: ROOT,
        run: |it| {
            let socket = it.targets.control_socket.as_deref();
            socket.map_or_else(|| not_here("no supervisor"), |path| it.connect(path))
        },
    },
    Attack {
        id: "manager-ptrace",
        aim: Aim::Manager,
        title: "trace its supervisor or managing daemon",
        gain: "the phase gate and the monitor",
        closes: UID,
        run: |it| match it.targets.manager_pid {
            None => not_here("no manager found"),
            Some(pid) => attack::ptrace_seize(if it.own_numbers { NOBODY } else { pid }),
        },
    },
    Attack {
        id: "manager-state",
        aim: Aim::Manager,
        title: "read the manager's journal or secrets",
        gain: "the plans, paths and labels of every guest",
        closes: ROOT,
        run: |it| {
            let file = it.targets.manager_file.as_deref();
            file.map_or_else(|| not_here("no file found"), |path| it.read_first(path))
        },
    },
];

/// The error of an attack that has nothing to aim at on this host.
fn not_here(why: &str) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, why))
}

/// Makes the node that an attack opens: of a disk, or of the kernel's log, which is as closed to guests.
fn device_node(targets: &Targets) -> io::Result<OwnedFd> {
    match &targets.block_device {
        Some((_, number)) => attack::device_node(FileType::BlockDevice, *number),
        None => attack::device_node(FileType::CharacterDevice, rustix::fs::makedev(1, 11)),
    }
}

/// Opens a raw socket of a family and closes it.
fn raw_socket(family: AddressFamily) -> io::Result<()> {
    socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(())
}

/// Mounts a tmpfs over an empty directory of the attacker's own mount namespace only.
fn mount_tmpfs() -> io::Result<()> {
    use nix::mount::{MsFlags, mount};
    // Without a mount namespace of our own the control would mount on the host; a failure here means that the
    // attacker has no CAP_SYS_ADMIN, which refuses the mount just the same.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    Ok(mount(Some("none"), "/", Some("tmpfs"), MsFlags::MS_RDONLY, None::<&str>)?)
}
