//! The two ways to read an image header: through the labeller, or, for a caller without it, by running the
//! image probe on a file that the caller may open.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{DriverError, Labeller};
use crate::base::{Layer, Refusal};
use crate::image::Header;
use crate::plan::chain::{Found, Prober};
use crate::privsep::op::{FileIdentity, ImageKind};
use crate::settings::Settings;

/// The most bytes that an image probe may write.
const HEADER_MAX: u64 = 64 << 10;

/// How long all headers of one start or plug may take together.
const ALL_HEADERS: Duration = Duration::from_secs(120);

/// Reads headers through the labeller, all of one start or plug.
#[derive(Debug)]
pub struct LabellerProber<'a> {
    labeller: &'a mut Labeller,
    until: Instant,
}

impl<'a> LabellerProber<'a> {
    /// The time for all of them begins.
    #[must_use]
    pub fn new(labeller: &'a mut Labeller) -> Self {
        Self { labeller, until: Instant::now() + ALL_HEADERS }
    }
}

impl Prober for LabellerProber<'_> {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        if Instant::now() >= self.until {
            return Err(Refusal::new(
                Layer::Policy,
                "read the image header of",
                path,
                format!("reading headers has taken {} s by now", ALL_HEADERS.as_secs()),
                "merge layers with qemu-img commit, or look why the storage is so slow",
            ));
        }
        let probed = self.labeller.probe(path).map_err(|error: DriverError| error.refusal())?;
        Ok(Found {
            identity: probed.identity,
            kind: probed.kind,
            header: decode(path, probed.header.as_bytes())?,
        })
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        self.labeller.share(path).map_err(|error: DriverError| error.refusal())
    }
}

/// Reads headers of files that the caller itself may open, each in an image probe of its own.
#[derive(Debug)]
pub struct OwnProber {
    program: PathBuf,
    blocks: Vec<u64>,
}

impl OwnProber {
    /// Finds the image probe: in the configured directory, else beside this program.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let directory = if settings.paths.libexec.is_empty() {
            std::env::current_exe().ok().and_then(|own| own.parent().map(PathBuf::from)).unwrap_or_default()
        } else {
            PathBuf::from(&settings.paths.libexec)
        };
        let block = |path: &String| {
            let found = std::fs::metadata(path).ok()?;
            found.file_type().is_block_device().then(|| found.rdev())
        };
        Self {
            program: directory.join("svirt-imageprobe"),
            blocks: settings.images.block_devices.iter().filter_map(block).collect(),
        }
    }
}

impl Prober for OwnProber {
    fn probe(&mut self, path: &str) -> Result<Found, Refusal> {
        let kernel = |rule: String, remedy: &str| {
            Refusal::new(Layer::Kernel, "read the image header of", path, rule, remedy)
        };
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => "create the image, or correct the path",
                _ => "run as root, or with the labeller running: it reads headers for you",
            };
            kernel(error.to_string(), remedy)
        })?;
        let found = file.metadata().map_err(|error| kernel(error.to_string(), ""))?;
        let (kind, identity) = if found.file_type().is_block_device() {
            if !self.blocks.contains(&found.rdev()) {
                return Err(Refusal::new(
                    Layer::Configuration,
                    "use the block device",
                    path,
                    "it is not in images.block_devices",
                    format!("if domains may use it, add {path:?} to block_devices in [images]"),
                ));
            }
            (ImageKind::Block, FileIdentity { device: found.rdev(), inode: 0 })
        } else if found.is_file() {
            (ImageKind::File, FileIdentity { device: found.dev(), inode: found.ino() })
        } else {
            return Err(kernel(
                "it is neither a regular file nor a block device".into(),
                "name an image file",
            ));
        };
        let mut child = Command::new(&self.program)
            .env_clear()
            .stdin(file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| {
                kernel(
                    format!("{} does not start: {error}", self.program.display()),
                    "install svirt whole, or set paths.libexec",
                )
            })?;
        let mut text = Vec::new();
        let read = child.stdout.take().map(|out| out.take(HEADER_MAX).read_to_end(&mut text));
        // More than it may write: it is stuck or taken over.
        if text.len() as u64 >= HEADER_MAX {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| kernel(error.to_string(), ""))?;
        if !matches!(read, Some(Ok(_))) || !status.success() {
            return Err(kernel(
                format!("the image probe ended with {status}"),
                "check the image: qemu-img check",
            ));
        }
        Ok(Found { identity, kind, header: decode(path, &text)? })
    }

    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal> {
        let found = std::fs::metadata(path).map_err(|error| {
            let remedy = match error.kind() {
                std::io::ErrorKind::NotFound => "make the directory, or correct the path",
                _ => "run as root, or with the labeller running: it looks for you",
            };
            Refusal::new(Layer::Kernel, "look at the directory", path, error.to_string(), remedy)
        })?;
        Ok(FileIdentity { device: found.dev(), inode: found.ino() })
    }
}

fn decode(path: &str, json: &[u8]) -> Result<Header, Refusal> {
    crate::image::read_answer(json).map_err(|failure| {
        Refusal::new(
            Layer::Definition,
            "read the image header of",
            path,
            failure.to_string(),
            "check the image: qemu-img info",
        )
    })
}
