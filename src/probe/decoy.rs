//! The neighbour that attacks are aimed at: a process, an image, a monitor, a socket and a memory segment, made for
//! the probe and removed with it, so that no real guest is touched.
//!
//! Its process is a program of its own, not a fork of the prober: whoever gets into it finds nothing of root's in its
//! memory, and a filter that lets it do nothing but wait.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Gid, Uid, chown};

use super::catalogue::Targets;
use crate::sys::label::{self, Module};
use crate::sys::process::{self, Child};
use crate::sys::{attack, enter, seccomp, xattr};

/// Seconds after which the neighbour's process ends by itself: more than a probe takes.
const LIFE: u32 = 300;

/// What the neighbour wears, as another domain would.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dress {
    /// The label of its process, as procfs shows it.
    pub process: Option<String>,
    /// The SELinux label of its image.
    pub image: Option<String>,
}

/// The neighbour; everything of it goes when it is dropped.
pub struct Decoy {
    process: Child,
    directory: PathBuf,
    segment: i32,
    // Held open so that something listens.
    _tcp: TcpListener,
    _abstract: UnixListener,
    _monitor: UnixListener,
    targets: Targets,
    lacking: Vec<String>,
}

/// What the neighbour's process says of itself: where its secret is, and why it could not take its label on.
type Told = (usize, Option<i32>);

impl Decoy {
    /// Makes a neighbour that runs as `uid`, with its files below `parent`. `program` is this program, `svirt`.
    pub fn new(parent: &Path, uid: u32, dress: &Dress, program: &File) -> io::Result<Self> {
        let pid = std::process::id();
        let directory = parent.join(format!("svirt-probe-{pid}"));
        fs::create_dir(&directory)?;
        // The directory is open to everybody on purpose: only what protects the files themselves is tested.
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        let made = Self::fill(&directory, uid, dress, program);
        if made.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        made
    }

    fn fill(directory: &Path, uid: u32, dress: &Dress, program: &File) -> io::Result<Self> {
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
        let image = directory.join("neighbour.img");
        let open_image = directory.join("open.img");
        let mut undressed_image = None;
        for path in [&image, &open_image] {
            let mut file = File::create(path)?;
            file.write_all(b"the neighbour's secret")?;
            if let Some(label) = dress.image.as_deref() {
                undressed_image = xattr::set_selinux_label(&file, Some(label)).err().or(undressed_image);
            }
        }
        let monitor = directory.join("monitor.sock");
        let listener = UnixListener::bind(&monitor)?;
        for (path, mode) in [(&image, 0o600), (&open_image, 0o644), (&monitor, 0o600)] {
            fs::set_permissions(path, Permissions::from_mode(mode))?;
            chown(path, owner, group)?;
        }
        let abstract_name = format!("svirt-probe-{}", std::process::id());
        let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let (process, segment, told) = Self::process(uid, dress, program)?;
        let (secret_address, undressed) = told;
        let mut lacking: Vec<String> = Vec::new();
        if let Some(error) = undressed_image {
            lacking.push(format!("its image has no label of a neighbour's ({error})"));
        }
        if let Some(errno) = undressed {
            let error = io::Error::from_raw_os_error(errno);
            lacking.push(format!("its process has no label of a neighbour's ({error})"));
        }
        let targets = Targets {
            neighbour_pid: process.pid,
            secret_address,
            image: image.display().to_string(),
            open_image: open_image.display().to_string(),
            monitor: monitor.display().to_string(),
            abstract_name,
            segment,
            port: tcp.local_addr()?.port(),
            ..Targets::default()
        };
        Ok(Self {
            process,
            directory: directory.to_owned(),
            segment,
            _tcp: tcp,
            _abstract: by_name,
            _monitor: listener,
            targets,
            lacking,
        })
    }

    /// Starts the neighbour's process and hears from it.
    fn process(uid: u32, dress: &Dress, program: &File) -> io::Result<(Child, i32, Told)> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let mut argv = vec![c"svirt".to_owned(), c"neighbour".to_owned()];
        if let Some(label) = &dress.process {
            argv.push(CString::new(format!("--label={label}"))?);
        }
        let argv: Vec<_> = argv.iter().map(AsRef::as_ref).collect();
        let process = process::fork(|| {
            let env = [c"SECRET=the neighbour's"];
            // Only the error comes back; the parent hears of it by the end of its socket.
            let _error = process::exec_apart(program.as_fd(), &argv, &env, theirs.as_fd(), |told| {
                enter::ids(uid, uid, &[])?;
                enter::permitted(0)?;
                rustix::io::write(told, &attack::shm_create()?.to_ne_bytes())?;
                Ok(())
            });
            1
        })?;
        drop(theirs);
        ours.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut hear = || {
            let (mut segment, mut address, mut errno) = ([0; 4], [0; size_of::<usize>()], [0; 4]);
            ours.read_exact(&mut segment)?;
            ours.read_exact(&mut address)?;
            let undressed = match ours.read(&mut errno)? {
                0 => None,
                _ => Some(i32::from_ne_bytes(errno)),
            };
            Ok((i32::from_ne_bytes(segment), (usize::from_ne_bytes(address), undressed)))
        };
        match hear() {
            Ok((segment, told)) => Ok((process, segment, told)),
            Err(error) => {
                process.end()?;
                Err(error)
            }
        }
    }

    /// In what it is not as a neighbour would be.
    #[must_use]
    pub fn lacking(&self) -> &[String] {
        &self.lacking
    }

    /// What attacks are aimed at.
    #[must_use]
    pub fn targets(&self) -> &Targets {
        &self.targets
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.process.end();
        let _ = attack::shm_remove(self.segment);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The neighbour's process, executed as its uid: tells where its secret is, takes its label on, gives up every system
/// call but waiting, and waits to be killed.
pub fn neighbour(label: Option<&str>) -> io::Result<Infallible> {
    let secret = Box::new(0x5ec2_e75e_c2e7_u64);
    let address = std::ptr::from_ref(&*secret).addr();
    rustix::io::write(process::borrow(&3), &address.to_ne_bytes())?;
    if let Some(label) = label {
        let taken =
            File::open("/proc").and_then(|proc| label::take_on(proc.as_fd(), Module::running(), label));
        if let Err(error) = taken {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            rustix::io::write(process::borrow(&3), &errno.to_ne_bytes())?;
        }
    }
    attack::alarm(LIFE);
    enter::no_new_privs()?;
    seccomp::load(&WAIT_ONLY)?;
    // The prober hears the end of this descriptor.
    process::close_inherited(process::borrow(&3));
    loop {
        nix::unistd::pause();
        std::hint::black_box(&secret);
    }
}

/// Kills at every system call but `close`, `pause` and what a signal needs (x86-64).
const WAIT_ONLY: [seccomp::Instruction; 9] = [
    (0x20, 0, 0, 4),
    (0x15, 0, 5, 0xc000_003e),
    (0x20, 0, 0, 0),
    (0x15, 4, 0, 3),
    (0x15, 3, 0, 34),
    (0x15, 2, 0, 15),
    (0x15, 1, 0, 219),
    (0x06, 0, 0, 0x8000_0000),
    (0x06, 0, 0, 0x7fff_0000),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_can_only_wait() {
        let ends = |call: fn()| {
            attack::in_child(move || {
                attack::alarm(1);
                if enter::no_new_privs().and_then(|()| seccomp::load(&WAIT_ONLY)).is_err() {
                    return 1;
                }
                call();
                loop {
                    nix::unistd::pause();
                }
            })
            .ok()
        };
        let by = |signal| Some(attack::ChildEnd::Signal(signal));
        assert_eq!(ends(|| ()), by(libc::SIGALRM), "it waits");
        assert_eq!(
            ends(|| {
                let _uid = nix::unistd::getuid();
            }),
            by(libc::SIGSYS)
        );
        assert_eq!(ends(|| drop(File::open("/"))), by(libc::SIGSYS));
    }
}
