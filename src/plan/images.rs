//! The operations for images: how each layer is opened, who else may hold it, and its label.

use std::collections::HashMap;

use super::chain::{Chain, Layer};
use super::qemu::{is_direct, is_writable};
use super::{PlanError, slots};
use crate::base::{Layer as Denier, Refusal};
use crate::conf::domain::{Disk, Domain, ImageFormat, IoMode};
use crate::privsep::op::{Access, FileIdentity, ImageKind, Op, OpenImage, Sharing};
use crate::security::selinux::{ImageUse, Labels};
use crate::settings::Settings;

/// What the configuration lets a path be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Used and labelled.
    Relabelable,
    /// Read, never labelled.
    Readable,
}

/// The operations on a domain's images.
#[derive(Debug, Default)]
pub(super) struct Images {
    pub(super) opens: Vec<Op>,
    pub(super) labels: Vec<Op>,
    seen: HashMap<FileIdentity, Seen>,
}

#[derive(Clone, Debug)]
struct Seen {
    disk: String,
    writable: bool,
    label: Option<String>,
}

/// Plans every layer of every disk.
pub(super) fn plan(
    domain: &Domain,
    chains: &[Chain],
    settings: &Settings,
    labels: Option<&Labels>,
) -> Result<Images, PlanError> {
    let mut images = Images::default();
    for (disk, chain) in domain.devices.disks.iter().zip(chains) {
        if disk.io == Some(IoMode::IoUring) && !settings.confinement.io_uring {
            return Err(Refusal::new(
                Denier::Configuration,
                "plan the start with",
                format!("disk {} (line {})", disk.target, disk.line),
                "confinement.io_uring is off, since no seccomp filter sees what a ring does",
                "write io='threads', or set io_uring = true in [confinement]",
            )
            .into());
        }
        for depth in 0..chain.layers.len() {
            images.layer(disk, chain, depth, settings, labels)?;
        }
    }
    Ok(images)
}

impl Images {
    fn layer(
        &mut self,
        disk: &Disk,
        chain: &Chain,
        depth: usize,
        settings: &Settings,
        labels: Option<&Labels>,
    ) -> Result<(), PlanError> {
        let (Some(layer), Some(first)) = (chain.layers.get(depth), chain.layers.first()) else {
            return Ok(());
        };
        let slot = slots::layer(&disk.target, depth)?;
        let writable = depth == 0 && is_writable(disk);
        let place = place(disk, layer, writable, settings)?;
        let shared = writable && disk.shareable;
        if shared && layer.format == ImageFormat::Qcow2 {
            return Err(PlanError::definition(
                format!("disk {} (line {})", disk.target, disk.line),
                "two writers of one qcow2 image destroy it",
                "use a raw image for a shareable disk",
            ));
        }
        let label = match labels {
            Some(labels) if place == Place::Relabelable => {
                let used = match (depth, writable, shared) {
                    (0, true, true) => ImageUse::Shareable,
                    (0, true, false) => ImageUse::Private,
                    (0, false, _) => ImageUse::Readonly,
                    _ => ImageUse::Lower,
                };
                labels
                    .layer(&layer.seclabels, &first.seclabels, used, disk.line, &settings.selinux)?
                    .map(|context| context.to_string())
            }
            _ => None,
        };
        let fresh = self.remember(disk, layer, writable, label.as_deref())?;
        self.opens.push(Op::OpenImage(OpenImage {
            slot: slot.clone(),
            path: layer.path.clone(),
            kind: layer.kind,
            access: if writable { Access::ReadWrite } else { Access::ReadOnly },
            direct: is_direct(disk),
            sharing: match (writable, shared) {
                (true, true) => Sharing::Writers,
                (true, false) => Sharing::Exclusive,
                (false, _) => Sharing::Readers,
            },
            identity: layer.identity,
        }));
        if let Some(label) = label.filter(|_| fresh) {
            self.labels.push(Op::LabelSelinux { slot, label });
        }
        Ok(())
    }

    /// Holds one domain to one use of each file: writable only once, and one label. True for a file that is new.
    fn remember(
        &mut self,
        disk: &Disk,
        layer: &Layer,
        writable: bool,
        label: Option<&str>,
    ) -> Result<bool, PlanError> {
        let now = Seen { disk: disk.target.clone(), writable, label: label.map(str::to_owned) };
        let Some(before) = self.seen.get(&layer.identity) else {
            self.seen.insert(layer.identity, now);
            return Ok(true);
        };
        let object = format!("{} as layers of disk {} and disk {}", layer.path, before.disk, disk.target);
        if before.writable || writable {
            return Err(PlanError::definition(
                object,
                "an image that is written may be used only once",
                "give each disk an image of its own",
            ));
        }
        if before.label != now.label {
            return Err(PlanError::definition(
                object,
                "the two uses ask for different labels",
                "give both the same <seclabel>",
            ));
        }
        Ok(false)
    }
}

/// Whether `path` lies in `directory`; both are absolute and plain.
pub(super) fn inside(path: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    path.strip_prefix(directory).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

fn place(disk: &Disk, layer: &Layer, writable: bool, settings: &Settings) -> Result<Place, PlanError> {
    let operation = format!("open the image of disk {},", disk.target);
    let images = &settings.images;
    if layer.kind == ImageKind::Block {
        // A device has many names: whoever read its header has held its number against images.block_devices.
        return Ok(Place::Relabelable);
    }
    // The longest directory decides: a readable one inside a relabelable one stays unlabelled.
    let longest = |list: &[String]| list.iter().filter(|d| inside(&layer.path, d)).map(String::len).max();
    match (longest(&images.relabelable), longest(&images.readable)) {
        (Some(relabel), read) if read.is_none_or(|read| relabel >= read) => Ok(Place::Relabelable),
        (_, Some(_)) if !writable => Ok(Place::Readable),
        (_, Some(_)) => Err(Refusal::new(
            Denier::Configuration,
            operation,
            layer.path.clone(),
            "it lies in a place that is only read (images.readable), and the disk is writable",
            "add <readonly/> to the disk, or move the image into a directory of images.relabelable",
        )
        .into()),
        _ => Err(Refusal::new(
            Denier::Configuration,
            operation,
            layer.path.clone(),
            "it lies in none of the places of images.relabelable and images.readable",
            format!(
                "move the image into {}, or add its directory to relabelable in [images]",
                images.relabelable.first().map_or("a configured directory", String::as_str)
            ),
        )
        .into()),
    }
}
