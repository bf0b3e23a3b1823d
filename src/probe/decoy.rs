//! The neighbour that attacks are aimed at: a process, an image, a monitor, a socket and a memory segment, made for
//! the probe and removed with it, so that no real guest is touched.

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
use crate::sys::process::{self, Child};
use crate::sys::{attack, enter};

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
}

impl Decoy {
    /// Makes a neighbour that runs as `uid`, with its files below `parent`.
    pub fn new(parent: &Path, uid: u32) -> io::Result<Self> {
        let pid = std::process::id();
        let directory = parent.join(format!("svirt-probe-{pid}"));
        fs::create_dir(&directory)?;
        // The directory is open to everybody on purpose: only what protects the files themselves is tested.
        fs::set_permissions(&directory, Permissions::from_mode(0o755))?;
        let made = Self::fill(&directory, uid);
        if made.is_err() {
            let _ = fs::remove_dir_all(&directory);
        }
        made
    }

    fn fill(directory: &Path, uid: u32) -> io::Result<Self> {
        let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
        let image = directory.join("neighbour.img");
        File::create(&image)?.write_all(b"the neighbour's secret")?;
        let monitor = directory.join("monitor.sock");
        let listener = UnixListener::bind(&monitor)?;
        for path in [&image, &monitor] {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            chown(path, owner, group)?;
        }
        let abstract_name = format!("svirt-probe-{}", std::process::id());
        let by_name = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&abstract_name)?)?;
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let secret = Box::new(0x5ec2_e75e_c2e7_u64);
        let secret_address = std::ptr::from_ref(&*secret).addr();
        let (process, segment) = Self::process(uid, &secret)?;
        let targets = Targets {
            neighbour_pid: process.pid,
            secret_address,
            image: image.display().to_string(),
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
        })
    }

    /// Starts the neighbour's process and reads its segment's number; its secret is where ours is, for it is a fork.
    fn process(uid: u32, secret: &u64) -> io::Result<(Child, i32)> {
        let (mut ours, theirs) = UnixStream::pair()?;
        let process = process::fork(|| neighbour(uid, &theirs).map_or(1, |()| 0))?;
        ours.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut number = [0; 4];
        match ours.read_exact(&mut number) {
            Ok(()) => {
                std::hint::black_box(secret);
                Ok((process, i32::from_ne_bytes(number)))
            }
            Err(error) => {
                process.end()?;
                Err(error)
            }
        }
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

/// The neighbour's process: takes its uid, makes a segment, tells its number and waits to be killed.
fn neighbour(uid: u32, out: &UnixStream) -> io::Result<()> {
    // Whoever has the same uid can take its descriptors: none of ours, and not the terminal, may be among them.
    process::keep_only(out.as_fd())?;
    enter::ids(uid, uid, &[])?;
    enter::permitted(0)?;
    // A process that changed its uid is not dumpable; a device model that was executed as its uid is.
    process::set_dumpable(true)?;
    rustix::io::write(process::borrow(&3), &attack::shm_create()?.to_ne_bytes())?;
    // Two minutes are more than a probe takes; a probe that was killed leaves no process for longer.
    attack::alarm(120);
    loop {
        std::thread::park();
    }
}
