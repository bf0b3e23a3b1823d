//! Applies the operations of an admitted plan, in order, each one journalled before it takes effect.
//!
//! Owns the open descriptors of a start until they are handed over. It stops at the first refusal and undoes
//! nothing itself: what it wrote into `undos` (and the journal) is undone by `undo`.

mod network;
pub(super) mod nvram;
mod readable;
mod share;
mod shmem;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::fault;
use super::journal::{Entry, Journal, ProcessRole, Undo};
use super::launcher::{HelperLabels, LaunchRequest, Launcher, Slots};
use super::lease::{Hold, Leases, ObjectId};
use super::places::{DirectoryUse, PlaceKind, Places};
use super::remember::Memory;
use super::spawn::Launching;
use super::{memory, profile};
use crate::base::{DomainRef, Layer, Refusal, Slot};
use crate::privsep::apparmor::{DEGRADED, ProfilePart, ProfileRule, part_name, profile_name};
use crate::privsep::op::{Access, ListenAt, Op, OpenImage, Sharing, TpmVersion};
use crate::privsep::password::Password;
use crate::settings::Settings;
use crate::sys::path::{self, Found};
use crate::sys::process::Child;
use crate::sys::{listen, lock, pidfd, pty, selinux, tap, xattr};

/// What a plan made, as far as it came.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// Open descriptors.
    pub(super) slots: Slots,
    /// How to take back what was done, in the order of doing.
    pub(super) undos: Vec<Undo>,
    /// Helpers by alias.
    pub(super) helpers: Vec<(String, Child)>,
    /// Copies of the ends of channels that passt has, by alias.
    pub(super) channels: Vec<(String, OwnedFd)>,
    /// Listening addresses and ptys by slot.
    pub(super) listening: Vec<(String, String)>,
    /// New files that take their names once the guest runs.
    pub(super) logs: Vec<NewLog>,
    /// Stores of UEFI variables that are open: slot, path and which file.
    pub(super) nvrams: Vec<(Slot, String, ObjectId)>,
    /// States of helpers that are open.
    pub(super) states: Vec<(Slot, String, ObjectId)>,
    /// Directories that get a label, outside of the mounts that are made of them.
    pub(super) directories: Vec<(Slot, String, ObjectId, OwnedFd)>,
    /// What is only read, and which file each is.
    pub(super) readables: Vec<(Slot, String, ObjectId)>,
    /// The control socket.
    pub(super) control: String,
    /// The cgroup, where there is one.
    pub(super) cgroup: Option<String>,
    /// Its directories, where it was there before.
    pub(super) cgroups: Vec<PathBuf>,
    /// The AppArmor profile that was loaded.
    pub(super) profile: Option<String>,
    /// Layers that the host has only in part.
    pub(super) degraded: Vec<String>,
    /// The processes, which confine themselves now.
    pub(super) launching: Option<Launching>,
}

/// A file without a name yet: a log, or UEFI variables.
#[derive(Debug)]
pub(super) struct NewLog {
    directory: OwnedFd,
    name: String,
    path: String,
    file: OwnedFd,
    /// Whether it replaces what has the name now.
    replaces: bool,
    /// What puts its label and its owner back once it has the name by which it is found.
    named: Vec<Undo>,
}

/// One application.
pub(super) struct Apply<'a> {
    /// The configuration.
    pub(super) settings: &'a Settings,
    /// The configured places.
    pub(super) places: &'a Places<'a>,
    /// What is in use.
    pub(super) leases: &'a mut Leases,
    /// The domain's journal.
    pub(super) journal: &'a mut Journal,
    /// Who starts processes.
    pub(super) launcher: &'a mut dyn Launcher,
    /// Whose.
    pub(super) domain: &'a DomainRef,
    /// What is applied.
    pub(super) ops: &'a [Op],
    /// What the displays of a start ask of those who come to them.
    pub(super) passwords: &'a [Password],
    /// What came of it.
    pub(super) out: &'a mut Applied,
}

impl Apply<'_> {
    /// Applies everything. An error names the operation, counted from 0.
    pub(super) fn run(&mut self) -> Result<(), (usize, Refusal)> {
        for (at, op) in self.ops.iter().enumerate() {
            fault::step(op.name())
                .and_then(|()| self.op(op))
                .and_then(|()| fault::step(op.name()))
                .map_err(|refusal| (at, refusal))?;
        }
        Ok(())
    }

    fn op(&mut self, op: &Op) -> Result<(), Refusal> {
        let uuid = self.domain.uuid;
        match op {
            Op::LeaseUid { role, uid } => self.leases.uid(uuid, *role, *uid),
            Op::LeaseCategories { pair } => self.leases.pair(uuid, *pair),
            Op::LeaseShare { identity, pair } => self.leases.share(uuid, identity, *pair),
            Op::Cgroup(limits) => {
                self.intent(Undo::Cgroup { directories: self.launcher.cgroup_directories(uuid) })?;
                let (cgroup, degraded) = self.launcher.make_cgroup(uuid, limits)?;
                self.out.cgroup = cgroup;
                self.out.degraded.extend(degraded);
                Ok(())
            }
            Op::OpenImage(image) => self.open_image(image),
            Op::OpenReadable { slot, path } => self.open_readable(slot, path),
            Op::OpenNvram { slot, path, template } => self.open_nvram(slot, path, template),
            Op::OpenSaved { slot, saved } => {
                let (fd, found, path) = super::saved::open_stream(self.settings, self.places, (uuid, saved))?;
                let hold = Hold { access: Access::ReadOnly, sharing: Sharing::Exclusive };
                self.hold(found.id(), hold, &path)?;
                self.out.states.push((slot.clone(), path, found.id()));
                self.keep(slot, fd)
            }
            Op::OpenTap { slot, interface } => {
                let fd = tap::attach(interface).map_err(|error| {
                    let remedy = "make the tap device first, and see that nobody else is attached to it";
                    kernel("attach to the tap device", interface, &error, remedy)
                })?;
                self.keep(slot, fd)
            }
            Op::OpenVsock { slot, cid } => self.open_vsock(slot, *cid),
            Op::MakeTap { slot, bridge, name, mac, mtu } => self.make_tap(slot, bridge, name, *mac, *mtu),
            Op::LoadProfile { rules, required } => self.profile(rules, *required),
            Op::LabelSelinux { slot, label } => self.label(slot, label),
            Op::Channel { slot, peer } => {
                let (one, other) =
                    listen::channel().map_err(|error| kernel("make", "a channel", &error, ""))?;
                self.keep(slot, one)?;
                self.keep(peer, other)
            }
            Op::Pty { slot, peer } => {
                let (fd, terminal, name) =
                    pty::open().map_err(|error| kernel("open", "a pty", &error, ""))?;
                self.out.listening.push((slot.to_string(), name));
                self.keep(slot, fd)?;
                self.keep(peer, terminal)
            }
            Op::Listen { slot, at } => self.listen(slot, at),
            Op::OpenLog { slot, path, append } => self.open_log(slot, path, *append),
            Op::OpenShare { slot, path, access, identity } => self.open_share(slot, path, *access, *identity),
            Op::OpenShmem { slot, name, size, selinux_label } => {
                self.open_shmem(slot, name, *size, selinux_label.as_deref())
            }
            Op::Meeting { slot, peer } => {
                let (listener, connected) =
                    listen::meeting().map_err(|error| kernel("make", "a listener", &error, ""))?;
                self.keep(slot, connected)?;
                self.keep(peer, listener)
            }
            Op::SpawnVirtiofsd(spawn) => self.virtiofsd(spawn),
            Op::OpenTpmState { slot, path, uid } => self.open_tpm_state(slot, path, *uid),
            Op::SpawnSwtpm { alias, slot, state, uid, version, selinux_label } => {
                self.swtpm(alias, slot, state, *uid, *version, selinux_label.as_deref())
            }
            Op::SpawnPasst { alias, slot, uid, selinux_label } => {
                self.passt(alias, slot, *uid, selinux_label.as_deref())
            }
            Op::Spawn(_) => self.spawn(),
        }
    }

    /// Writes down how the next effect is undone.
    fn intent(&mut self, undo: Undo) -> Result<(), Refusal> {
        self.write(&Entry::Intent(undo.clone()))?;
        self.out.undos.push(undo);
        fault::step("intent")
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Refusal> {
        self.journal.write(entry).map_err(|error| journal_refusal(&error))
    }

    fn sync(&mut self) -> Result<(), Refusal> {
        self.journal.sync().map_err(|error| journal_refusal(&error))
    }

    fn keep(&mut self, slot: &Slot, fd: OwnedFd) -> Result<(), Refusal> {
        match self.out.slots.insert(slot.clone(), fd) {
            None => Ok(()),
            Some(_) => Err(Refusal::new(Layer::Policy, "fill", slot.to_string(), "it is filled already", "")),
        }
    }

    fn hold(&mut self, id: ObjectId, hold: Hold, path: &str) -> Result<(), Refusal> {
        self.leases.object(self.domain.uuid, id, hold, path)?;
        self.write(&Entry::Held { path: path.to_owned(), id, access: hold.access, sharing: hold.sharing })
    }

    fn open_image(&mut self, image: &OpenImage) -> Result<(), Refusal> {
        let opened = self.places.open_image(image)?;
        self.hold(opened.id, Hold { access: image.access, sharing: image.sharing }, &image.path)?;
        let others_write = image.sharing == Sharing::Writers;
        let wanted = lock::ImageLock::new(image.access == Access::ReadWrite, others_write);
        lock::take(&opened.fd, wanted).map_err(|error| lock_refusal(&image.path, &opened.fd, &error))?;
        self.check_labelled(&image.slot, &image.path, opened.place)?;
        self.keep(&image.slot, opened.fd)
    }

    /// Nothing is labelled in a place that is only read.
    fn check_labelled(&self, slot: &Slot, path: &str, place: PlaceKind) -> Result<(), Refusal> {
        if place == PlaceKind::Relabelable || !self.is_labelled(slot) {
            return Ok(());
        }
        let remedy = "move it to a directory of images.relabelable, or write <seclabel relabel='no'/>";
        let rule = "images.readable: files there are never labelled";
        Err(Refusal::new(Layer::Policy, "label", path, rule, remedy))
    }

    fn is_labelled(&self, wanted: &Slot) -> bool {
        self.ops.iter().any(|op| matches!(op, Op::LabelSelinux { slot, .. } if slot == wanted))
    }

    fn image_of(&self, wanted: &Slot) -> Result<(String, ObjectId), Refusal> {
        let mut opened = self.out.nvrams.iter().chain(&self.out.states).chain(&self.out.readables);
        if let Some((_, path, id)) = opened.find(|(slot, ..)| slot == wanted) {
            return Ok((path.clone(), *id));
        }
        if let Some((_, path, id, _)) = self.out.directories.iter().find(|(slot, ..)| slot == wanted) {
            return Ok((path.clone(), *id));
        }
        let image = self.ops.iter().find_map(|op| match op {
            Op::OpenImage(image) if image.slot == *wanted => Some(image),
            _ => None,
        });
        image.map(|image| (image.path.clone(), (image.identity.device, image.identity.inode))).ok_or_else(
            || Refusal::new(Layer::Policy, "label", wanted.to_string(), "is no image of this plan", ""),
        )
    }

    /// What a label is set on: a mount of a directory may be read-only, so that is the directory itself.
    fn object(&self, wanted: &Slot) -> Option<&OwnedFd> {
        let directory = self.out.directories.iter().find(|(slot, ..)| slot == wanted);
        directory.map(|(.., fd)| fd).or_else(|| self.out.slots.get(wanted))
    }

    /// Sets one label. Before the first one the undo of all of them is on the disk: one `fsync` for a start.
    fn label(&mut self, slot: &Slot, label: &str) -> Result<(), Refusal> {
        if !self.out.undos.iter().any(|undo| matches!(undo, Undo::Label { .. })) {
            self.prepare_labels()?;
        }
        let (path, _) = self.image_of(slot)?;
        let Some(fd) = self.object(slot) else {
            return Err(Refusal::new(Layer::Policy, "label", path, "is not open", ""));
        };
        let now = xattr::selinux_label(fd).map_err(|error| label_refusal(&path, &error))?;
        memory::take(fd, now.as_deref()).map_err(|error| label_refusal(&path, &error))?;
        if now.as_deref() != Some(label) {
            xattr::set_selinux_label(fd, Some(label)).map_err(|error| label_refusal(&path, &error))?;
        }
        Ok(())
    }

    fn prepare_labels(&mut self) -> Result<(), Refusal> {
        let wanted: Vec<(&Slot, &String)> = self
            .ops
            .iter()
            .filter_map(|op| match op {
                Op::LabelSelinux { slot, label } => Some((slot, label)),
                _ => None,
            })
            .collect();
        for (slot, label) in wanted {
            let (path, id) = self.image_of(slot)?;
            let Some(fd) = self.object(slot) else { continue };
            let error = |error| label_refusal(&path, &error);
            let now = xattr::selinux_label(fd).map_err(error)?;
            let memory = memory::look(fd).map_err(error)?;
            let first = memory == Memory::Nothing;
            let changes = now.as_deref() != Some(label);
            if first && changes && self.is_read_elsewhere(id, fd, now.as_deref()).map_err(error)? {
                return Err(read_refusal(&path, now));
            }
            let before = match memory {
                Memory::Users { label: first, .. } if now.as_deref() == Some(label) => first,
                Memory::Users { count, ours: false, .. } => {
                    return Err(remembered_refusal(&path, now, count));
                }
                _ => now,
            };
            let before = self.leases.label(self.domain.uuid, id, before, label, &path)?;
            let undo = Undo::Label { path, id, before, after: label.clone(), first };
            if !self.out.logs.iter_mut().any(|file| file.takes(id, &undo)) {
                self.intent(undo)?;
            }
        }
        self.sync()?;
        fault::step("journal on disk")
    }

    /// Whether another manager's guest may have an image open that it could not read under another label. libvirt counts no
    /// reader in, so that such a guest has no other trace than QEMU's locks; but anybody who may read an image may hold
    /// those, so that they count only where its label is one that libvirt's guests could use it under. A plan that opens an
    /// image twice locks it twice.
    fn is_read_elsewhere(&self, id: ObjectId, fd: &OwnedFd, now: Option<&str>) -> std::io::Result<bool> {
        let own = |op: &&Op| matches!(op, Op::OpenImage(image) if (image.identity.device, image.identity.inode) == id);
        let once = self.ops.iter().filter(own).count() == 1;
        Ok(once && lock::used_elsewhere(fd)? && now.map_or(Ok(false), selinux::is_read_by_libvirt)?)
    }

    /// Loads the profile. What keeps it from being loaded is named where a start may be degraded.
    fn profile(&mut self, rules: &[ProfileRule], required: bool) -> Result<(), Refusal> {
        let uuid = self.domain.uuid;
        self.intent(Undo::Profile)?;
        let parts = self.profile_parts();
        let wanted = profile::Wanted { uuid, rules, parts: &parts, states: &self.settings.tpm.state };
        match profile::load(&wanted, self.settings.uids.imageprobe) {
            Ok(()) => self.out.profile = Some(profile_name(uuid)),
            Err(refusal) if !required && self.settings.confinement.degraded => {
                self.out.degraded.push(format!("{DEGRADED}: no profile, {}", refusal.rule));
            }
            Err(refusal) => return Err(refusal),
        }
        Ok(())
    }

    /// The processes of this plan beside the device model, and what each executes.
    fn profile_parts(&self) -> Vec<(ProfilePart, Vec<String>)> {
        let supervisor = self.launcher.supervisor().display().to_string();
        let mut parts = vec![(ProfilePart::Supervisor, vec![supervisor])];
        let has = |name: &str| self.ops.iter().any(|op| op.name() == name);
        if has("spawn-passt") {
            parts.push((ProfilePart::Passt, vec![self.settings.network.passt.clone()]));
        }
        if has("spawn-swtpm") {
            parts.push((ProfilePart::Swtpm, vec![self.settings.tpm.swtpm.clone()]));
        }
        let servers: BTreeSet<&str> = self.ops.iter().filter_map(server).collect();
        if !servers.is_empty() {
            parts.push((ProfilePart::Virtiofsd, servers.into_iter().map(ToOwned::to_owned).collect()));
        }
        parts
    }

    /// The profile of a helper, where this domain's were loaded.
    fn part(&self, part: ProfilePart) -> Option<String> {
        self.out.profile.as_ref().map(|_| part_name(self.domain.uuid, part))
    }

    fn listen(&mut self, slot: &Slot, at: &ListenAt) -> Result<(), Refusal> {
        match at {
            ListenAt::Tcp { address, port, port_last } => {
                let (fd, bound) = listen::tcp(*address, *port, *port_last).map_err(|error| {
                    kernel("listen at", &format!("{address}:{port}"), &error, "choose another port")
                })?;
                self.out.listening.push((slot.to_string(), bound.to_string()));
                self.keep(slot, fd)
            }
            ListenAt::Control => {
                let directory = Path::new(&self.settings.paths.run).join("control");
                let name = format!("{}.sock", self.domain.uuid);
                let path = directory.join(&name).to_string_lossy().into_owned();
                let fd = path::directory(&directory.to_string_lossy())
                    .map_err(|error| kernel("open", &directory.to_string_lossy(), &error, ""))?;
                // Everybody may connect; the supervisor admits by peer credentials.
                self.bind(slot, &fd, &name, &path, 0o666)?;
                self.out.control = path;
                Ok(())
            }
            ListenAt::Unix { path } => {
                let (directory, name) = self.places.directory_of(path, DirectoryUse::Sockets)?;
                self.bind(slot, &directory, &name, path, 0o600)?;
                self.out.listening.push((slot.to_string(), path.clone()));
                Ok(())
            }
        }
    }

    fn bind(&mut self, slot: &Slot, dir: &OwnedFd, name: &str, path: &str, mode: u32) -> Result<(), Refusal> {
        if path::look(dir, name.as_ref()).is_ok() {
            let remedy = "remove it, or choose another path";
            return Err(Refusal::new(Layer::Kernel, "listen at", path, "something has this name", remedy));
        }
        self.intent(Undo::Socket { path: path.to_owned() })?;
        let fd = listen::unix(dir, name, mode).map_err(|error| kernel("listen at", path, &error, ""))?;
        fault::step("bound")?;
        if let Ok(found) = path::look(dir, name.as_ref()) {
            self.write(&Entry::Bound { path: path.to_owned(), id: found.id() })?;
        }
        self.keep(slot, fd)
    }

    fn open_log(&mut self, slot: &Slot, path: &str, append: bool) -> Result<(), Refusal> {
        let (directory, name) = self.places.directory_of(path, DirectoryUse::Logs)?;
        let error = |error: std::io::Error| kernel("open the log", path, &error, "look at its directory");
        if let Ok(found) = path::look(&directory, name.as_ref()) {
            if !found.is(libc::S_IFREG) || found.links > 1 || found.uid != 0 {
                let rule = "is not a regular file of root with one name";
                return Err(Refusal::new(Layer::Policy, "open the log", path, rule, "choose another path"));
            }
            let hold = Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive };
            self.hold(found.id(), hold, path)?;
            if append {
                let fd = path::open_in(&directory, name.as_ref(), OFlags::WRONLY | OFlags::APPEND)
                    .map_err(error)?;
                if Found::of(&fd).map_err(error)?.id() != found.id() {
                    let rule = "it was replaced meanwhile";
                    return Err(Refusal::new(Layer::Policy, "open the log", path, rule, "start again"));
                }
                return self.keep(slot, fd);
            }
        }
        // A new file has no name until it is needed, so that a failed start leaves what was there.
        let file = path::nameless(&directory, 0o600, OFlags::WRONLY | OFlags::APPEND).map_err(error)?;
        let id = Found::of(&file).map_err(error)?.id();
        self.hold(id, Hold { access: Access::ReadWrite, sharing: Sharing::Exclusive }, path)?;
        let copy = file.try_clone().map_err(error)?;
        self.out.logs.push(NewLog {
            directory,
            name,
            path: path.to_owned(),
            file: copy,
            replaces: true,
            named: Vec::new(),
        });
        self.keep(slot, file)
    }

    fn passt(&mut self, alias: &str, slot: &Slot, uid: u32, label: Option<&str>) -> Result<(), Refusal> {
        let profile = self.part(ProfilePart::Passt);
        let labels = HelperLabels { selinux: label, apparmor: profile.as_deref() };
        let Some(channel) = self.out.slots.get(slot) else {
            return Err(Refusal::new(Layer::Policy, "start passt for", alias, "its channel is not open", ""));
        };
        let child = self.launcher.passt(self.domain, channel, uid, labels, &self.out.cgroups)?;
        let noted = note(self.journal, ProcessRole::Helper(alias.to_owned()), child.pid);
        self.out.helpers.push((alias.to_owned(), child));
        noted?;
        // For another passt, should this one die.
        self.out.channels.extend(self.out.slots.remove(slot).map(|channel| (alias.to_owned(), channel)));
        Ok(())
    }

    fn swtpm(
        &mut self,
        alias: &str,
        slot: &Slot,
        state: &Slot,
        uid: u32,
        version: TpmVersion,
        label: Option<&str>,
    ) -> Result<(), Refusal> {
        let profile = self.part(ProfilePart::Swtpm);
        let labels = HelperLabels { selinux: label, apparmor: profile.as_deref() };
        let (Some(channel), Some(file)) = (self.out.slots.get(slot), self.out.slots.get(state)) else {
            return Err(Refusal::new(
                Layer::Policy,
                "start swtpm for",
                alias,
                "its descriptors are not open",
                "",
            ));
        };
        let child = self.launcher.swtpm(self.domain, (channel, file), uid, version, labels)?;
        let noted = note(self.journal, ProcessRole::Helper(alias.to_owned()), child.pid);
        self.out.helpers.push((alias.to_owned(), child));
        noted?;
        self.out.slots.remove(slot);
        self.out.slots.remove(state);
        Ok(())
    }

    fn spawn(&mut self) -> Result<(), Refusal> {
        let Some(Op::Spawn(spawn)) = self.ops.last() else {
            return Err(Refusal::new(Layer::Policy, "apply", "the plan", "it has no spawn", ""));
        };
        let profile = self.out.profile.clone();
        let (domain, slots, passwords) = (self.domain, &self.out.slots, self.passwords);
        let request = LaunchRequest { domain, spawn, slots, profile, passwords };
        self.out.launching = Some(self.launcher.launch(&request)?);
        // What the supervisor has is kept for a later one; images and the rest are the device model's alone, so
        // that their locks end with it.
        let kept: Vec<&Slot> = spawn.supervisor.fds.iter().map(|grant| &grant.slot).collect();
        self.out.slots.retain(|slot, _| kept.contains(&slot));
        Ok(())
    }
}

/// Writes a process into the journal.
pub(super) fn note(journal: &mut Journal, role: ProcessRole, pid: i32) -> Result<(), Refusal> {
    fault::step("forked")?;
    let id = pidfd::ProcessId::of(pid).map_err(|error| kernel("look at", "a child", &error, ""))?;
    journal.write(&Entry::Process { role, id }).map_err(|error| journal_refusal(&error))?;
    fault::step("noted")
}

impl NewLog {
    /// Whether it is the labelled file; it then keeps the undo until it has a name.
    fn takes(&mut self, id: ObjectId, undo: &Undo) -> bool {
        let same = Found::of(&self.file).is_ok_and(|found| found.id() == id);
        if same {
            self.named.push(undo.clone());
        }
        same
    }

    /// Gives the file its name, in place of what has it now.
    pub(super) fn put(&self, journal: &mut Journal, undos: &mut Vec<Undo>) -> Result<(), Refusal> {
        let error =
            |error: std::io::Error| kernel("name the log", &self.path, &error, "look at its directory");
        let id = Found::of(&self.file).map_err(error)?.id();
        if path::look(&self.directory, self.name.as_ref()).is_err() {
            intend(journal, undos, &Undo::Name { path: self.path.clone(), id, keep_after_run: true })?;
            // A label that nothing has the name of yet cannot be put back; an owner can, as there is nothing to do.
            let (owner, label): (Vec<&Undo>, Vec<&Undo>) =
                self.named.iter().partition(|undo| matches!(undo, Undo::Owner { .. }));
            owner.into_iter().try_for_each(|undo| intend(journal, undos, undo))?;
            // The name may outlive a crash of the host; what takes it, and the file's owner, back must do so first.
            journal.sync().map_err(|error| journal_refusal(&error))?;
            fault::step("log name noted")?;
            path::link(&self.file, &self.directory, self.name.as_ref()).map_err(error)?;
            return label.into_iter().try_for_each(|undo| intend(journal, undos, undo));
        }
        if !self.replaces {
            let rule = "something took this name while the guest started";
            return Err(Refusal::new(Layer::Policy, "name", &*self.path, rule, "start again"));
        }
        let old = path::look(&self.directory, self.name.as_ref()).map_err(error)?.id();
        let hidden = format!(".{}.svirt", self.name);
        let aside = Path::new(&self.path).with_file_name(&hidden).to_string_lossy().into_owned();
        let undo = Undo::Swap { path: self.path.clone(), aside, new: id, old };
        journal.write(&Entry::Intent(undo.clone())).map_err(|error| journal_refusal(&error))?;
        journal.sync().map_err(|error| journal_refusal(&error))?;
        undos.push(undo);
        fault::step("log swap noted")?;
        path::link(&self.file, &self.directory, hidden.as_ref()).map_err(error)?;
        fault::step("log linked")?;
        path::exchange(&self.directory, hidden.as_ref(), self.name.as_ref()).map_err(error)
    }
}

/// Writes down what is about to be done.
fn intend(journal: &mut Journal, undos: &mut Vec<Undo>, undo: &Undo) -> Result<(), Refusal> {
    journal.write(&Entry::Intent(undo.clone())).map_err(|error| journal_refusal(&error))?;
    undos.push(undo.clone());
    Ok(())
}

pub(super) fn kernel(operation: &str, object: &str, error: &std::io::Error, remedy: &str) -> Refusal {
    Refusal::new(Layer::Kernel, operation, object, error.to_string(), remedy)
}

pub(super) fn journal_refusal(error: &std::io::Error) -> Refusal {
    kernel("write", "the journal", error, "see that paths.state has room and can be written")
}

fn lock_refusal(path: &str, fd: &OwnedFd, error: &std::io::Error) -> Refusal {
    if error.kind() != std::io::ErrorKind::WouldBlock {
        let remedy = "the file system must support open-file-description locks";
        return Refusal::new(Layer::Lock, "lock the image", path, error.to_string(), remedy);
    }
    let holders = lock::holders(fd);
    let who = if holders.is_empty() {
        "another program uses it (a QEMU or qemu-img that svirt did not start)".to_owned()
    } else {
        let pids: Vec<String> = holders.iter().map(ToString::to_string).collect();
        format!("another program uses it (pid {})", pids.join(", "))
    };
    Refusal::new(Layer::Lock, "lock the image", path, who, "end that program; `lsof` names it")
}

/// Another manager's domains use an object under a label that svirt's could not use it under.
fn remembered_refusal(path: &str, now: Option<String>, count: u32) -> Refusal {
    let label = now.unwrap_or_else(|| "none".into());
    Refusal::new(
        Layer::Selinux,
        "label",
        path,
        format!("another manager uses it {count} times with the label {label}"),
        format!(
            "stop the guests that use it; if there are none: setfattr -x trusted.libvirt.security.ref_selinux {path}"
        ),
    )
}

/// Another program reads an image that nobody is counted for.
fn read_refusal(path: &str, now: Option<String>) -> Refusal {
    let label = now.unwrap_or_else(|| "none".into());
    Refusal::new(
        Layer::Selinux,
        "label",
        path,
        format!(
            "another program has it open with the label {label}, and may be a guest of libvirt's, which could not read it with another one"
        ),
        "end that program (`lsof` names it), or give each a copy; if it is no guest: restorecon gives the image the label of one at rest",
    )
}

fn label_refusal(path: &str, error: &std::io::Error) -> Refusal {
    let remedy = match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            "the file system keeps no labels: mount it with context=, and write relabel='no'"
        }
        Some(libc::EROFS) => "the file system is read-only: write <seclabel relabel='no'/>",
        Some(libc::EACCES) => {
            "its type is none that the policy lets svirt change: give it one by semanage fcontext and restorecon; the kernel's audit log has it"
        }
        Some(libc::EINVAL) => "the loaded policy does not know this label: load svirt's policy module",
        _ => "look at the kernel's audit log",
    };
    Refusal::new(Layer::Selinux, "label", path, error.to_string(), remedy)
}

/// The program of a server of a shared directory.
fn server(op: &Op) -> Option<&str> {
    match op {
        Op::SpawnVirtiofsd(spawn) => Some(&spawn.program),
        _ => None,
    }
}
