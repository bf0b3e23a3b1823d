//! The operations for images: how each layer is opened, who else may hold it, and its label.

use std::collections::HashMap;

use super::chain::{Chain, Layer};
use super::qemu::{is_direct, is_writable};
use super::{PlanError, inventory, slots};
use crate::base::{Layer as Denier, Refusal};
use crate::conf::domain::{Disk, Domain, ImageFormat, IoMode};
use crate::privsep::op::{Access, FileIdentity, Op, OpenImage, Sharing};
use crate::security::decide::{Action, Model, Stack};
use crate::security::resource::{Kind, Place, Resource};
use crate::settings::Settings;

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
    stack: &[Stack<'_>],
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
            images.layer(disk, chain, depth, settings, stack)?;
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
        stack: &[Stack<'_>],
    ) -> Result<(), PlanError> {
        let (Some(layer), Some(resource)) =
            (chain.layers.get(depth), inventory::layer(disk, chain, depth, settings))
        else {
            return Ok(());
        };
        let slot = slots::layer(&disk.target, depth)?;
        let writable = depth == 0 && is_writable(disk);
        check_place(disk, &resource, writable, settings)?;
        let shared = writable && disk.shareable;
        if shared && layer.format == ImageFormat::Qcow2 {
            return Err(PlanError::definition(
                format!("disk {} (line {})", disk.target, disk.line),
                "two writers of one qcow2 image destroy it",
                "use a raw image for a shareable disk",
            ));
        }
        let label = label(&resource, stack)?;
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

/// What SELinux sets on a resource; every other model of the stack must agree to it being used at all.
pub(super) fn label(resource: &Resource, stack: &[Stack<'_>]) -> Result<Option<String>, PlanError> {
    let mut label = None;
    for model in stack {
        let decision = model.decide(resource)?;
        if decision.action == Action::Set && model.model() == Model::Selinux {
            label = decision.label;
        }
    }
    Ok(label)
}

fn check_place(
    disk: &Disk,
    resource: &Resource,
    writable: bool,
    settings: &Settings,
) -> Result<(), PlanError> {
    let Kind::Image(image) = &resource.kind else { return Ok(()) };
    let operation = format!("open the image of disk {},", disk.target);
    let path = resource.path.clone().unwrap_or_default();
    let (rule, remedy) = match image.place {
        Place::Relabelable => return Ok(()),
        Place::Readable if !writable => return Ok(()),
        Place::Readable => (
            "it lies in a place that is only read (images.readable), and the disk is writable",
            "add <readonly/> to the disk, or move the image into a directory of images.relabelable".into(),
        ),
        Place::Elsewhere => (
            "it lies in none of the places of images.relabelable and images.readable",
            format!(
                "move the image into {}, or add its directory to relabelable in [images]",
                settings.images.relabelable.first().map_or("a configured directory", String::as_str)
            ),
        ),
    };
    Err(Refusal::new(Denier::Configuration, operation, path, rule, remedy).into())
}
