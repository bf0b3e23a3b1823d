//! The operations for directories that the guest mounts: over 9p by QEMU itself, over virtiofs by a process each.

use std::collections::HashSet;

use super::images::{self, inside};
use super::{Inputs, PlanError, inventory, slots};
use crate::base::{Layer, Refusal, Slot};
use crate::conf::domain::{Domain, Filesystem, VirtiofsCache, VirtiofsOptions};
use crate::conf::facts::HostFacts;
use crate::privsep::confinement::RootShare;
use crate::privsep::op::{Access, Op, ShareCache, SpawnVirtiofsd};
use crate::security::decide::{Action, Model, Stack};
use crate::security::resource::Resource;
use crate::settings::Settings;

/// What the shares of one domain lead to.
#[derive(Debug, Default)]
pub(super) struct Shares {
    pub(super) opens: Vec<Op>,
    pub(super) labels: Vec<Op>,
    pub(super) channels: Vec<Op>,
    pub(super) spawns: Vec<SpawnVirtiofsd>,
    /// What QEMU serves itself.
    pub(super) root: Vec<RootShare>,
}

/// libvirt's alias of a file system.
pub(super) fn alias(index: usize) -> String {
    format!("fs{index}")
}

/// How many of a domain's file systems have a process of their own.
pub(super) fn helpers(domain: &Domain) -> usize {
    domain.devices.filesystems.iter().filter(|one| one.virtiofs().is_some()).count()
}

/// Whether the configuration lets a guest mount a directory.
#[must_use]
pub fn is_place(path: &str, settings: &Settings) -> bool {
    let plain = super::chain::normalise("/", path).is_some_and(|plain| plain == path);
    plain
        && settings
            .shares
            .places
            .iter()
            .any(|place| inside(path, place) || path == place.trim_end_matches('/'))
}

/// Plans every share; `uids` are those of the processes, in the definition's order.
pub(super) fn plan(
    inputs: &Inputs<'_>,
    uids: &[u32],
    resources: &[Resource],
    stack: &[Stack<'_>],
) -> Result<Shares, PlanError> {
    let Inputs { domain, host, settings, .. } = *inputs;
    let mut shares = Shares::default();
    let mut uids = uids.iter();
    let mut labelled = HashSet::new();
    for (index, filesystem) in domain.devices.filesystems.iter().enumerate() {
        check_place(filesystem, settings)?;
        let alias = alias(index);
        let share = slots::console(&alias, "share")?;
        let access = if filesystem.readonly { Access::ReadOnly } else { Access::ReadWrite };
        let identity = inputs.shares.get(index).copied();
        let identity = identity.unwrap_or_else(|| inventory::made_up(&filesystem.source));
        shares.opens.push(Op::OpenShare {
            slot: share.clone(),
            path: filesystem.source.clone(),
            access,
            identity,
        });
        let label = label(filesystem, &alias, resources, stack)?;
        // One label is enough for a directory that is shared twice.
        if let Some(label) = label.filter(|_| labelled.insert(identity)) {
            shares.labels.push(Op::LabelSelinux { slot: share.clone(), label });
        }
        let Some(options) = filesystem.virtiofs() else {
            let number = u8::try_from(index).unwrap_or(u8::MAX);
            shares.root.push(RootShare { slot: share, number });
            continue;
        };
        let Some(uid) = uids.next() else { continue };
        let slot = slots::console(&alias, "peer")?;
        shares.channels.push(Op::Meeting { slot: slots::console(&alias, "")?, peer: slot.clone() });
        let program = program(options, filesystem.line, host, settings)?;
        let label = context(&alias, resources, stack)?;
        shares.spawns.push(spawn((alias, program), (slot, share), *uid, options, label));
    }
    Ok(shares)
}

fn spawn(
    (alias, program): (String, String),
    (slot, share): (Slot, Slot),
    uid: u32,
    options: &VirtiofsOptions,
    selinux_label: Option<String>,
) -> SpawnVirtiofsd {
    SpawnVirtiofsd {
        alias,
        slot,
        share,
        uid,
        program,
        cache: options.cache.map(|cache| match cache {
            VirtiofsCache::Always => ShareCache::Always,
            VirtiofsCache::Auto => ShareCache::Auto,
            VirtiofsCache::None => ShareCache::None,
        }),
        xattr: options.xattr,
        posix_lock: options.posix_lock,
        flock: options.flock,
        threads: options.threads,
        selinux_label,
    }
}

fn check_place(filesystem: &Filesystem, settings: &Settings) -> Result<(), PlanError> {
    if is_place(&filesystem.source, settings) {
        return Ok(());
    }
    let first = settings.shares.places.first().map_or("a configured directory", String::as_str);
    Err(configured(
        format!("{} of <filesystem> (line {})", filesystem.source, filesystem.line),
        "it lies in none of the directories of shares.places".into(),
        format!("share a directory below {first}, or add its directory to places in [shares]"),
    ))
}

/// The label that SELinux sets on the directory itself.
fn label(
    filesystem: &Filesystem,
    alias: &str,
    resources: &[Resource],
    stack: &[Stack<'_>],
) -> Result<Option<String>, PlanError> {
    let name = inventory::share_name(alias);
    let Some(resource) = resources.iter().find(|resource| resource.name == name) else { return Ok(None) };
    for model in stack.iter().filter(|model| model.model() == Model::Selinux) {
        let decision = model.decide(resource)?;
        if decision.action == Action::Refused {
            return Err(Refusal::new(
                Layer::Selinux,
                "plan the start with",
                format!("<filesystem> {} (line {})", filesystem.tag, filesystem.line),
                decision.reason,
                "write <driver type='virtiofs'/>, which a process of its own serves",
            )
            .into());
        }
    }
    images::label(resource, stack)
}

/// The context of a server.
fn context(alias: &str, resources: &[Resource], stack: &[Stack<'_>]) -> Result<Option<String>, PlanError> {
    let name = inventory::server_name(alias);
    let server = resources.iter().find(|resource| resource.name == name);
    let model = stack.iter().find(|model| model.model() == Model::Selinux);
    let (Some(server), Some(model)) = (server, model) else { return Ok(None) };
    Ok(model.decide(server)?.label)
}

/// The server: the definition's, else the first of the configured ones that is there.
fn program(
    options: &VirtiofsOptions,
    line: u32,
    host: &HostFacts,
    settings: &Settings,
) -> Result<String, PlanError> {
    let allowed = &settings.shares.virtiofsd;
    if let Some(wanted) = &options.binary {
        if allowed.contains(wanted) {
            return Ok(wanted.clone());
        }
        return Err(configured(
            format!("{wanted} of <binary> (line {line})"),
            "shares.virtiofsd does not list it".into(),
            "remove path for a configured one, or add it to virtiofsd in [shares]".into(),
        ));
    }
    let found = host.virtiofsds.iter().find(|found| allowed.contains(found)).cloned();
    found.ok_or_else(|| {
        Refusal::new(
            Layer::Configuration,
            "plan the start with",
            format!("a virtiofs <filesystem> (line {line})"),
            format!("none of shares.virtiofsd is there: {}", allowed.join(", ")),
            "install it (Debian 12: apt install qemu-system-common, later: virtiofsd), or correct virtiofsd in [shares]",
        )
        .into()
    })
}

fn configured(object: String, rule: String, remedy: String) -> PlanError {
    Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into()
}
