//! A disk's layers, top to bottom: which file each is, and in which format.
//!
//! A header was written by whoever wrote the image, a guest included. So a format is never guessed: the top's
//! comes from the definition, a backing file's from the definition or the header's own record, and a name in a
//! header is a plain file name or refused. Whether a path may be used at all, the labeller decides.
//!
//! Pure but for the [`Prober`], which reads one header.

use crate::base::{Files, Layer as Denier, Refusal};
use crate::conf::domain::{Backing, DeviceLabel, Disk, DiskSource, ImageFormat, SourceKind};
use crate::image::Header;
use crate::privsep::op::{FileIdentity, ImageKind};

/// Looks at what a definition names by path: image headers, read in a confined process, and directories.
pub trait Prober {
    /// The header and identity of what is at `path`.
    fn probe(&mut self, path: &str) -> Result<Found, Refusal>;

    /// Which directory is at `path`, for a guest to mount.
    fn directory(&mut self, path: &str) -> Result<FileIdentity, Refusal>;
}

/// What a [`Prober`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Which file.
    pub identity: FileIdentity,
    /// What kind of object.
    pub kind: ImageKind,
    /// Its header. Only its format `qcow2` or `raw` is a statement; everything in it is untrusted.
    pub header: Header,
}

/// One layer of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Absolute, without `.`, `..` and doubled slashes.
    pub path: String,
    /// File or block device.
    pub kind: ImageKind,
    /// Never guessed.
    pub format: ImageFormat,
    /// Which file it was when the chain was read.
    pub identity: FileIdentity,
    /// Overrides of its label.
    pub seclabels: Vec<DeviceLabel>,
}

/// A disk's layers, the top first; empty for an empty cdrom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// `<target dev>` of the disk.
    pub target: String,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// Why a chain cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A rule of the header.
    #[error("disk {disk}, layer {depth}, {path}: {rule}")]
    Header {
        /// `<target dev>`
        disk: String,
        /// Layer, 0 at the top.
        depth: usize,
        /// The layer's path.
        path: String,
        /// What is wrong.
        rule: String,
        /// What to do.
        remedy: String,
    },
    /// A layer could not be read.
    #[error("disk {disk}, layer {depth}, {path}: {}", refusal.rule)]
    Probe {
        /// `<target dev>`
        disk: String,
        /// Layer, 0 at the top.
        depth: usize,
        /// The layer's path.
        path: String,
        /// The image whose header named it, unless the definition did.
        named_by: Option<String>,
        /// Why.
        refusal: Box<Refusal>,
    },
}

impl ChainError {
    /// The error as a person sees it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Header { disk, depth, path, rule, remedy } => Refusal::new(
                Denier::Definition,
                format!("use layer {depth} of disk {disk},"),
                path.clone(),
                rule.clone(),
                remedy.clone(),
            ),
            Self::Probe { disk, depth, path, named_by, refusal } => {
                let named = named_by
                    .as_ref()
                    .map_or_else(String::new, |by| format!(", recorded in the header of {by}"));
                let what = if *depth == 0 { "image" } else { "backing file" };
                let mut remedy = refusal.remedy.clone();
                if let Some(by) = named_by {
                    let more = format!(
                        "if the backing file has moved: qemu-img rebase -u -F FORMAT -b NEW-PATH {by}"
                    );
                    remedy = if remedy.is_empty() { more } else { format!("{remedy}; {more}") };
                }
                Refusal::new(
                    refusal.layer,
                    format!("read the {what} of disk {disk} (layer {depth}{named}),"),
                    path.clone(),
                    refusal.rule.clone(),
                    remedy,
                )
            }
        }
    }
}

/// What is asked of the next layer.
struct Wanted<'a> {
    path: String,
    format: ImageFormat,
    kind: Option<ImageKind>,
    source: Option<&'a DiskSource>,
    named_by: Option<String>,
}

/// Resolves the layers of one disk, at most `depth_max` of them. Those that a header alone names are among `files`:
/// what the definition itself names was looked at when it was handed in, and a header is written by the guest.
pub fn resolve(
    disk: &Disk,
    depth_max: u32,
    files: &Files,
    prober: &mut dyn Prober,
) -> Result<Chain, ChainError> {
    let mut walk = Walk { disk: &disk.target, files, layers: Vec::new() };
    let mut wanted = match &disk.source {
        Some(source) => Some(walk.defined(source)?),
        None => None,
    };
    while let Some(layer) = wanted {
        if walk.layers.len() >= depth_max as usize {
            return Err(walk.error(
                &layer.path,
                format!("the chain has more than {depth_max} layers"),
                "merge layers with qemu-img commit, or raise limits.chain_depth",
            ));
        }
        wanted = walk.step(layer, prober)?;
    }
    Ok(Chain { target: disk.target.clone(), layers: walk.layers })
}

struct Walk<'a> {
    disk: &'a str,
    files: &'a Files,
    layers: Vec<Layer>,
}

impl Walk<'_> {
    fn error(&self, path: &str, rule: impl Into<String>, remedy: impl Into<String>) -> ChainError {
        ChainError::Header {
            disk: self.disk.into(),
            depth: self.layers.len(),
            path: path.into(),
            rule: rule.into(),
            remedy: remedy.into(),
        }
    }

    fn defined<'s>(&self, source: &'s DiskSource) -> Result<Wanted<'s>, ChainError> {
        let path =
            normalise("/", &source.path).filter(|_| source.path.starts_with('/')).ok_or_else(|| {
                self.error(&source.path, "it is no absolute path of a file", "write an absolute path")
            })?;
        if let Some(rule) = refused_place(&path) {
            return Err(self.error(&source.path, rule, "name the image file itself"));
        }
        let kind = match source.kind {
            SourceKind::Block => ImageKind::Block,
            SourceKind::File => ImageKind::File,
        };
        Ok(Wanted { path, format: source.format, kind: Some(kind), source: Some(source), named_by: None })
    }

    fn step<'s>(
        &mut self,
        wanted: Wanted<'s>,
        prober: &mut dyn Prober,
    ) -> Result<Option<Wanted<'s>>, ChainError> {
        let found = prober.probe(&wanted.path).map_err(|refusal| ChainError::Probe {
            disk: self.disk.into(),
            depth: self.layers.len(),
            path: wanted.path.clone(),
            named_by: wanted.named_by.clone(),
            refusal: Box::new(refusal),
        })?;
        self.check_object(&wanted, &found)?;
        let below = match wanted.format {
            // A raw image has no header: whatever stands there, the guest may have written it.
            ImageFormat::Raw => match wanted.source.map(|s| &s.backing) {
                Some(Backing::Layer(_)) => {
                    return Err(self.error(
                        &wanted.path,
                        "a raw image cannot have a backing file",
                        "remove the <backingStore>, or correct the format",
                    ));
                }
                _ => None,
            },
            ImageFormat::Qcow2 => self.below_qcow2(&wanted, &found.header)?,
        };
        self.layers.push(Layer {
            path: wanted.path,
            kind: found.kind,
            format: wanted.format,
            identity: found.identity,
            seclabels: wanted.source.map(|source| source.seclabels.clone()).unwrap_or_default(),
        });
        Ok(below)
    }

    fn check_object(&self, wanted: &Wanted<'_>, found: &Found) -> Result<(), ChainError> {
        let again = |layer: &Layer| layer.identity == found.identity || layer.path == wanted.path;
        if self.layers.iter().any(again) {
            return Err(self.error(
                &wanted.path,
                "the chain comes back to a layer that it has passed",
                "give the images backing files that end somewhere: qemu-img info --backing-chain shows them",
            ));
        }
        if wanted.kind.is_some_and(|kind| kind != found.kind) {
            let (is, write) = match found.kind {
                ImageKind::Block => ("a block device", "type='block' and <source dev=…>"),
                ImageKind::File => ("a regular file", "type='file' and <source file=…>"),
            };
            return Err(self.error(
                &wanted.path,
                format!("it is {is}, not what the definition says"),
                format!("write {write}"),
            ));
        }
        Ok(())
    }

    fn below_qcow2<'s>(
        &self,
        wanted: &Wanted<'s>,
        header: &Header,
    ) -> Result<Option<Wanted<'s>>, ChainError> {
        self.check_header(&wanted.path, header)?;
        match wanted.source.map_or(&Backing::Unspecified, |source| &source.backing) {
            Backing::None => Ok(None),
            Backing::Layer(source) => self.agreed(wanted, header, source).map(Some),
            Backing::Unspecified => self.recorded(&wanted.path, header),
        }
    }

    fn check_header(&self, path: &str, header: &Header) -> Result<(), ChainError> {
        if header.format != "qcow2" {
            return Err(self.error(
                path,
                format!("the format is said to be qcow2 and the header is {}", header.format),
                "correct <driver type=…> (or the recorded backing format), or convert the image with qemu-img convert",
            ));
        }
        if header.encrypted {
            return Err(self.error(path, "the image is encrypted", "convert it: qemu-img convert -O qcow2"));
        }
        if header.needs_data_file || header.data_file.is_some() {
            let name = header.data_file.as_deref().unwrap_or("without a name");
            return Err(self.error(
                path,
                format!("the image keeps its data in another file, {name:?}"),
                "convert it to an image of its own: qemu-img convert -O qcow2",
            ));
        }
        if header.unknown_features != 0 {
            return Err(self.error(
                path,
                format!(
                    "the header asks for features that svirt does not know ({:#x})",
                    header.unknown_features
                ),
                "convert the image: qemu-img convert -O qcow2 -o compat=1.1",
            ));
        }
        Ok(())
    }

    /// The definition names the next layer; the header must name the same one. It may lie outside of `files`: whoever is
    /// held to those may keep a layer that an administrator has declared, and whose word it was is not known here.
    fn agreed<'s>(
        &self,
        wanted: &Wanted<'_>,
        header: &Header,
        source: &'s DiskSource,
    ) -> Result<Wanted<'s>, ChainError> {
        let next = self.defined(source)?;
        let path = &wanted.path;
        let Some(name) = &header.backing_file else {
            return Err(self.error(
                path,
                format!(
                    "the definition says that {} lies below, and the header records no backing file",
                    next.path
                ),
                "write <backingStore/> for an image that stands alone",
            ));
        };
        let recorded = self.backing_path(path, name)?;
        if recorded != next.path {
            return Err(self.error(
                path,
                format!(
                    "the definition says that {} lies below, and the header records {recorded}",
                    next.path
                ),
                format!(
                    "correct the definition, or the header: qemu-img rebase -u -F {} -b {} {path}",
                    name_of(next.format),
                    next.path
                ),
            ));
        }
        if let Some(format) = &header.backing_format
            && format_of(format) != Some(next.format)
        {
            return Err(self.error(
                path,
                format!(
                    "the definition says that the layer below is {}, and the header records {format:?}",
                    name_of(next.format)
                ),
                "make definition and header agree on the format of the backing file",
            ));
        }
        Ok(next)
    }

    /// The header alone names the next layer.
    fn recorded<'s>(&self, path: &str, header: &Header) -> Result<Option<Wanted<'s>>, ChainError> {
        let Some(name) = &header.backing_file else { return Ok(None) };
        let below = self.backing_path(path, name)?;
        if !self.files.has(&below) {
            return Err(self.error(
                path,
                format!(
                    "the header names the backing file {below}, which is not among the files that whoever \
                     defined the domain may name"
                ),
                "have it defined with this layer as <backingStore> by somebody who may name it, or defined anew \
                 once the rule's `files` have it",
            ));
        }
        let Some(format) = &header.backing_format else {
            return Err(self.error(
                path,
                format!("the header names the backing file {below} without its format, and a guessed format lets a guest name host files"),
                format!("record it: qemu-img rebase -u -F FORMAT -b {name} {path}"),
            ));
        };
        let Some(format) = format_of(format) else {
            return Err(self.error(
                path,
                format!("the backing file {below} has the format {format:?}, and only qcow2 and raw run"),
                "convert the backing file with qemu-img convert, then qemu-img rebase",
            ));
        };
        Ok(Some(Wanted { path: below, format, kind: None, source: None, named_by: Some(path.into()) }))
    }

    /// The absolute path that a header's backing name stands for.
    fn backing_path(&self, path: &str, name: &str) -> Result<String, ChainError> {
        let refuse = |rule: &str| {
            self.error(
                path,
                format!("the backing file {name:?} {rule}"),
                format!("if you trust the image: qemu-img rebase -u -F FORMAT -b PLAIN-PATH {path}"),
            )
        };
        if name.is_empty() {
            return Err(refuse("has no name"));
        }
        if name.chars().any(char::is_control) {
            return Err(refuse("has a control character in its name"));
        }
        // As QEMU tells a protocol: a colon before the first slash. `json:` and `nbd:` are such names.
        if name.split('/').next().is_some_and(|first| first.contains(':')) {
            return Err(refuse("is no plain file but a protocol"));
        }
        let directory = path.rsplit_once('/').map_or("/", |(directory, _)| directory);
        let below = normalise(directory, name).ok_or_else(|| refuse("is no path of a file"))?;
        match refused_place(&below) {
            Some(rule) => Err(refuse(rule)),
            None => Ok(below),
        }
    }
}

/// Places whose names mean something else to QEMU or to the process that opens them.
fn refused_place(path: &str) -> Option<&'static str> {
    if path == "/dev/fdset" || path.starts_with("/dev/fdset/") {
        return Some("stands for a descriptor of QEMU's, not for a file");
    }
    if path == "/proc" || path.starts_with("/proc/") {
        return Some("stands for an object of a process, not for a file");
    }
    None
}

/// `name` seen from `directory`, without `.`, `..` and doubled slashes; `None` above the root or for a directory.
#[must_use]
pub fn normalise(directory: &str, name: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    let from = if name.starts_with('/') { "" } else { directory };
    // A last part that can only be a directory.
    if matches!(name.rsplit('/').next(), Some("" | "." | "..")) {
        return None;
    }
    for part in from.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() {
        return None;
    }
    Some(format!("/{}", parts.join("/")))
}

fn format_of(name: &str) -> Option<ImageFormat> {
    match name {
        "qcow2" => Some(ImageFormat::Qcow2),
        "raw" => Some(ImageFormat::Raw),
        _ => None,
    }
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Raw => "raw",
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
