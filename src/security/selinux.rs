//! The `selinux` model: contexts of a domain's processes and of its images.

use super::context::Context;
use super::decide::{Action, Decision};
use super::range::Range;
use super::resource::{Image, Kind, Place, Process, Resource, Share, Use};
use super::share::{self, Pairs, Shared};
use super::{LabelError, foreign};
use crate::base::CategoryPair;
use crate::conf::domain::{DeviceLabel, Domain, SecLabel, SecLabelKind, VirtType};
use crate::conf::facts::HostFacts;
use crate::privsep::request::Survey;
use crate::privsep::share::ShareIdentity;
use crate::settings::Selinux;

/// Contexts of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The pair of the domain, leased for it, and those of the images, directories and memory that it shares. Device model
    /// and supervisor run under those that are theirs, a server of a directory under that one's besides, swtpm like the
    /// device model, passt under the first.
    pub pairs: Pairs,
    /// The device model's context.
    pub guest: Context,
    /// The supervisor's context.
    pub supervisor: Context,
    /// passt's context.
    pub passt: Context,
    /// swtpm's context.
    pub swtpm: Context,
    /// The context of the TPM's state.
    tpm_state: Context,
    /// Whether images are labelled.
    pub relabel: bool,
    /// The context of a writable image of this domain alone.
    pub image: Context,
    /// The context of a file while this domain goes on from it.
    pub save: Context,
}

/// Checks that every model that a label of the definition names is one of the host's.
pub fn models_present(domain: &Domain, host: &HostFacts) -> Result<(), LabelError> {
    for label in &domain.seclabels {
        let here = match label.model.as_str() {
            "dac" => true,
            "selinux" => host.selinux.is_some(),
            "apparmor" => host.apparmor.is_some(),
            _ => false,
        };
        // A label of type none for a model that is not there is what libvirt tolerates too.
        if !here && label.kind != SecLabelKind::None {
            return Err(LabelError::ModelMissing { model: label.model.clone(), line: label.line });
        }
    }
    for disk in &domain.devices.disks {
        let mut layer = disk.source.as_ref();
        while let Some(source) = layer {
            for label in source.seclabels.iter().filter(|label| label.label.is_some()) {
                device_model_present(label, host, disk.line)?;
            }
            layer = match &source.backing {
                crate::conf::domain::Backing::Layer(below) => Some(below),
                _ => None,
            };
        }
    }
    Ok(())
}

fn device_model_present(label: &DeviceLabel, host: &HostFacts, line: u32) -> Result<(), LabelError> {
    match label.model.as_deref() {
        None | Some("selinux") if host.selinux.is_some() => Ok(()),
        // `dac` is everywhere, and refuses every label on a device itself.
        Some("dac") => Ok(()),
        other => Err(LabelError::ModelMissing { model: other.unwrap_or("selinux").into(), line }),
    }
}

/// The contexts of a domain that runs under its own pair, for what is plugged into it.
pub fn running(domain: &Domain, types: &Selinux, own: CategoryPair) -> Result<Labels, LabelError> {
    let labels = labels(domain, &[], types, &Survey::default(), 0)?;
    if labels.pairs.own == own {
        return Ok(labels);
    }
    let pairs = Pairs { own, shares: Vec::new(), helpers: Vec::new() };
    Ok(Labels::new(types, pairs, &labels.guest.kind, labels.relabel))
}

/// The contexts of a domain on a host with SELinux. `resources` tells what it shares.
pub fn labels(
    domain: &Domain,
    resources: &[Resource],
    types: &Selinux,
    survey: &Survey,
    seed: u64,
) -> Result<Labels, LabelError> {
    let serves = domain.devices.filesystems.iter().any(|one| one.virtiofs().is_none());
    let default_type = match (domain.virt, serves) {
        (VirtType::Kvm, false) => &types.guest_type,
        (VirtType::Kvm, true) => &types.guest_share_type,
        (VirtType::Qemu, false) => &types.guest_tcg_type,
        (VirtType::Qemu, true) => &types.guest_tcg_share_type,
    };
    let label = domain.seclabels.iter().find(|label| label.model == "selinux");
    let (guest, own, relabel) = match label.map(|label| (label, &label.kind)) {
        None | Some((_, SecLabelKind::Dynamic { baselabel: None })) => (default_type.clone(), None, true),
        Some((label, SecLabelKind::Dynamic { baselabel: Some(base) })) => {
            (guest_context(base, label, types)?.kind, None, true)
        }
        // libvirt would leave the context to the policy's own transition, which gives every such domain the same one.
        Some((label, SecLabelKind::None)) => {
            return Err(refuse(
                "none",
                label.line,
                "this host runs SELinux, and a device model without a context of its own is kept from no other one",
            ));
        }
        Some((label, SecLabelKind::Static { label: text, relabel, .. })) => {
            let guest = guest_context(text, label, types)?;
            let pair = guest.range.pair().ok_or_else(|| {
                refuse(text, label.line, "its range must be s0 with exactly two categories: fewer are dominated by, more dominate other domains' pairs")
            })?;
            (guest.kind, Some(pair), *relabel)
        }
    };
    let shared = shared(resources, relabel, types)?;
    let mut labels = Labels::new(types, share::draw(own, &shared, survey, seed)?, &guest, relabel);
    if let Some(SecLabel { kind: SecLabelKind::Static { imagelabel: Some(image), .. }, line, .. }) = label {
        labels.image = labels.override_context(image, Use::Private, labels.pairs.own, *line, types)?;
    }
    Ok(labels)
}

/// The images, directories and memory that the domain shares, with the pairs that the definition names for them.
fn shared(resources: &[Resource], relabel: bool, types: &Selinux) -> Result<Vec<Shared>, LabelError> {
    let mut all = Vec::new();
    for resource in resources {
        let image = match &resource.kind {
            Kind::Image(image) => image,
            Kind::Beyond(foreign) if foreign.is_labelled() => &foreign.image,
            // It is svirt's own, whatever the domain's label says of images.
            Kind::Shmem(name) => {
                all.push(Shared { identity: ShareIdentity::memory(name), named: None, helper: false });
                continue;
            }
            Kind::Share(share) if relabel && share.place => {
                all.push(Shared { identity: share.identity.into(), named: None, helper: share.served });
                continue;
            }
            _ => continue,
        };
        if !relabel || image.used() != Use::Shared || image.place != Place::Relabelable {
            continue;
        }
        let named = match override_of(image) {
            None => None,
            // It stays as it is, so that no pair of ours is on it.
            Some((DeviceLabel { label: None, .. }, _)) => continue,
            Some((DeviceLabel { label: Some(text), .. }, _)) => {
                let context = file_context(text, resource.line, types)?;
                let pair = context.range.pair();
                Some(pair.ok_or_else(|| refuse(text, resource.line, NOT_A_PAIR))?)
            }
        };
        all.push(Shared { identity: image.identity.into(), named, helper: false });
    }
    Ok(all)
}

/// The override that counts for a layer, in libvirt's order, and whose it is.
fn override_of(image: &Image) -> Option<(&DeviceLabel, &'static str)> {
    let of_model = |labels: &'_ [DeviceLabel]| {
        labels.iter().position(|l| l.model.as_deref().is_none_or(|m| m == "selinux"))
    };
    if let Some(own) = of_model(&image.own).and_then(|at| image.own.get(at)) {
        return Some((own, "its own <seclabel>"));
    }
    let first = of_model(&image.first).and_then(|at| image.first.get(at))?;
    Some((first, "the <seclabel> of the top layer"))
}

const NOT_A_PAIR: &str = "an image that several domains write has exactly two categories, the same in all of their definitions: without them every domain may write to it";

/// What both models of files say of a path outside the configured places.
pub(super) const ELSEWHERE: &str = "it lies in none of the places of images.relabelable and images.readable";

/// Why a device model shares nothing over 9p.
const NO_FILES: &str = "over 9p the device model makes files, which the type of the domain's own label may not; that of [selinux] guest_share_type may";

/// What every model says of a share outside the configured places.
pub(super) const NO_SHARE: &str = "it lies in none of the places of shares.places";

fn refuse(label: &str, line: u32, reason: impl Into<String>) -> LabelError {
    LabelError::Label { model: "selinux", label: label.into(), reason: reason.into(), line }
}

/// Reads a process context that a definition names, and checks it against the configured types.
fn guest_context(text: &str, label: &SecLabel, types: &Selinux) -> Result<Context, LabelError> {
    let context: Context = text.parse().map_err(|e| refuse(text, label.line, format!("{e}")))?;
    let shipped =
        [&types.guest_type, &types.guest_tcg_type, &types.guest_share_type, &types.guest_tcg_share_type];
    let known = shipped.into_iter().chain(&types.extra_types);
    if !known.into_iter().any(|known| *known == context.kind) {
        return Err(refuse(
            text,
            label.line,
            format!(
                "the type {} is neither a guest type of [selinux] nor one of its extra_types",
                context.kind
            ),
        ));
    }
    if context.user != "system_u" || context.role != "system_r" {
        return Err(refuse(text, label.line, "a device model runs as system_u:system_r"));
    }
    Ok(context)
}

impl Labels {
    fn new(types: &Selinux, pairs: Pairs, guest: &str, relabel: bool) -> Self {
        let own = Range::of(pairs.own);
        let all = Range::of_all(&pairs.model());
        Self {
            guest: Context::process(guest, all),
            supervisor: Context::process(&types.supervisor_type, all),
            passt: Context::process(&types.passt_type, own),
            // Its commands come over a socket that the device model makes, which has the device model's range.
            swtpm: Context::process(&types.swtpm_type, all),
            tpm_state: Context::file(&types.tpm_state_type, own),
            relabel,
            image: Context::file(&types.image_type, own),
            save: Context::file(&types.save_type, own),
            pairs,
        }
    }

    /// The pair of what the domain shares.
    fn share(&self, identity: &ShareIdentity) -> Option<CategoryPair> {
        self.pairs.shares.iter().find(|(shared, _)| shared == identity).map(|(_, pair)| *pair)
    }

    /// What is done to one resource.
    pub fn decide(&self, resource: &Resource, types: &Selinux) -> Result<Decision, LabelError> {
        let never = |reason: &str| Ok(Decision::nothing(Action::Never, reason));
        let run = |context: &Context, reason: &str| Ok(Decision::given(Action::Run, context, reason));
        match &resource.kind {
            Kind::Process(Process::DeviceModel) => {
                run(&self.guest, "the pair is this domain's alone on this host, static labels included")
            }
            Kind::Process(Process::Supervisor) => {
                run(&self.supervisor, "it serves one domain, and the domain's pair keeps it to that one")
            }
            Kind::Process(Process::Swtpm(_)) => {
                run(&self.swtpm, "the TPM of one domain; the domain's categories keep it to that one's state")
            }
            // The emulator opens it anew, by a name that only the context holds: so it is labelled whatever the
            // domain's own label says of images.
            Kind::HelperState(Process::Swtpm(_)) => {
                Ok(Decision::set(&self.tpm_state, "only the domain's own TPM emulator may open it"))
            }
            Kind::HelperState(_) => never("only swtpm keeps a state"),
            Kind::Process(Process::Passt(_)) => {
                run(&self.passt, "packets of one domain; the domain's pair keeps it to that one")
            }
            Kind::Process(Process::Virtiofsd { share, .. }) => {
                let range = Range::of_all(&self.pairs.server(&(*share).into()));
                run(
                    &Context::process(&types.virtiofsd_type, range),
                    "requests of one domain about one directory, whose pair it alone has besides the domain's",
                )
            }
            Kind::Share(Share { place: false, .. }) => Ok(Decision::nothing(Action::Refused, NO_SHARE)),
            Kind::Share(share) => Ok(self.directory(share, types)),
            Kind::Shmem(name) => self.shmem(name, types),
            Kind::Image(image) => self.image(image, resource.line, types),
            Kind::Boot(place) | Kind::Firmware(place) | Kind::FwCfg(place, _) => Ok(self.boot(*place, types)),
            Kind::Beyond(foreign) => foreign::selinux(self, foreign, resource.line, types),
            Kind::Channel => {
                never("its sockets carry the labeller's context, and exist in two processes alone")
            }
            Kind::Listener => {
                never("the supervisor accepts; the device model has no way to connect or listen")
            }
            Kind::Log => never("the supervisor appends; the device model never has it"),
            Kind::Pty => never("the supervisor has both sides; the device model has one connected socket"),
            Kind::Vsock => {
                never("the policy lets device models use a vsock that the labeller opened, and open none")
            }
            Kind::Tap => {
                never("the policy lets device models use a tap that the labeller opened, and open none")
            }
        }
    }

    /// A directory that the guest mounts: only whoever may search it comes to what it holds.
    fn directory(&self, share: &Share, types: &Selinux) -> Decision {
        if !share.served && [&types.guest_type, &types.guest_tcg_type].contains(&&self.guest.kind) {
            return Decision::nothing(Action::Refused, NO_FILES);
        }
        match self.share(&share.identity.into()) {
            Some(pair) => Decision::set(
                Context::file(&types.share_type, Range::of(pair)),
                "the directory's own pair, which only those have that serve it; what lies in it keeps its label",
            ),
            None => Decision::nothing(Action::Never, "the domain's own label says relabel='no'"),
        }
    }

    /// Memory of several guests.
    fn shmem(&self, name: &str, types: &Selinux) -> Result<Decision, LabelError> {
        // Every region of the definition has been given one.
        let pair = self.share(&ShareIdentity::memory(name)).ok_or(LabelError::NoPair)?;
        let label = Context::file(&types.shmem_type, Range::of(pair));
        let reason = "the memory's own pair, which only the domains that name it have besides theirs";
        Ok(Decision::made(label, reason))
    }

    /// What QEMU reads at start: labelled like a read-only image, where anything is.
    fn boot(&self, place: Place, types: &Selinux) -> Decision {
        match place {
            Place::Elsewhere => Decision::nothing(Action::Refused, ELSEWHERE),
            Place::Readable => Decision::nothing(
                Action::Content,
                "it lies in images.readable, where nothing is labelled and every domain may read",
            ),
            Place::Relabelable if !self.relabel => {
                Decision::nothing(Action::Never, "the domain's own label says relabel='no'")
            }
            Place::Relabelable => Decision::set(
                Context::file(&types.content_type, Range::default()),
                "only read, so other domains may read it too",
            ),
        }
    }

    /// The context of one layer, in libvirt's order: its own override, the first layer's override, its use.
    pub(super) fn image(&self, image: &Image, line: u32, types: &Selinux) -> Result<Decision, LabelError> {
        if image.place == Place::Elsewhere {
            return Ok(Decision::nothing(Action::Refused, ELSEWHERE));
        }
        if image.place == Place::Readable {
            return Ok(match image.used() {
                Use::Content => Decision::nothing(
                    Action::Content,
                    "it lies in images.readable, where nothing is labelled and every domain may read",
                ),
                Use::Private | Use::Shared => {
                    Decision::nothing(Action::Refused, "it lies in images.readable, and the disk is writable")
                }
            });
        }
        // What is written alone or by nobody has the domain's own pair or none.
        let pair = self
            .share(&image.identity.into())
            .filter(|_| image.used() == Use::Shared)
            .unwrap_or(self.pairs.own);
        if let Some((label, whose)) = override_of(image) {
            return match &label.label {
                None => Ok(Decision::nothing(Action::Never, format!("{whose} says relabel='no'"))),
                Some(text) if !self.relabel => {
                    Err(refuse(text, line, "the domain's own label says that nothing is relabelled"))
                }
                Some(text) => {
                    let context = self.override_context(text, image.used(), pair, line, types)?;
                    Ok(Decision::set(context, format!("{whose} names it")))
                }
            };
        }
        if !self.relabel {
            return Ok(Decision::nothing(Action::Never, "the domain's own label says relabel='no'"));
        }
        let content = || Context::file(&types.content_type, Range::default());
        Ok(match (image.used(), image.depth) {
            (Use::Private, _) => Decision::set(&self.image, "written by this domain alone"),
            (Use::Shared, _) => Decision::set(
                Context::file(&types.image_type, Range::of(pair)),
                "the image's own pair, which only the domains that declare it <shareable/> have besides theirs",
            ),
            (Use::Content, 0) => Decision::set(content(), "read-only, so other domains may read it too"),
            (Use::Content, _) => {
                Decision::set(content(), "a backing layer: only read, and other disks may stand on it")
            }
        })
    }

    /// An override must fit how the image is opened: what is written carries `pair` and is no content.
    fn override_context(
        &self,
        text: &str,
        used: Use,
        pair: CategoryPair,
        line: u32,
        types: &Selinux,
    ) -> Result<Context, LabelError> {
        let context = file_context(text, line, types)?;
        let common = context.range == Range::default();
        let content = context.kind == types.content_type;
        match used {
            _ if !common && context.range.pair() != Some(pair) => {
                Err(refuse(text, line, format!("its categories are not the domain's own, {pair}")))
            }
            Use::Private | Use::Shared if content => {
                Err(refuse(text, line, "content that every domain reads cannot be writable"))
            }
            Use::Private if common => Err(refuse(
                text,
                line,
                "without categories every domain may write to it: declare the disk <shareable/>",
            )),
            Use::Shared if common => Err(refuse(text, line, NOT_A_PAIR)),
            _ if content && !common => {
                Err(refuse(text, line, "content that every domain reads has no categories"))
            }
            _ => Ok(context),
        }
    }
}

/// Reads a file context that a definition names: a configured type of an object.
fn file_context(text: &str, line: u32, types: &Selinux) -> Result<Context, LabelError> {
    let context: Context = text.parse().map_err(|e| refuse(text, line, format!("{e}")))?;
    let known = [&types.image_type, &types.content_type].into_iter().chain(&types.extra_image_types);
    if !known.into_iter().any(|known| *known == context.kind) {
        return Err(refuse(
            text,
            line,
            format!(
                "the type {} is neither an image type of [selinux] nor one of its extra_image_types",
                context.kind
            ),
        ));
    }
    if context.user != "system_u" || context.role != "object_r" {
        return Err(refuse(text, line, "an image is labelled as system_u:object_r"));
    }
    Ok(context)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::privsep::op::FileIdentity;

    fn own() -> Labels {
        let image = FileIdentity { device: 1, inode: 7 }.into();
        let shares = vec![(image, CategoryPair::new(5, 9).unwrap())];
        let pairs = Pairs { own: CategoryPair::new(41, 264).unwrap(), shares, helpers: Vec::new() };
        Labels::new(&Selinux::default(), pairs, "svirt_guest_t", true)
    }

    fn image(used: Use, depth: usize, own: &[DeviceLabel], first: &[DeviceLabel]) -> Resource {
        let (writable, shareable) = (used != Use::Content, used == Use::Shared);
        let place = Place::Relabelable;
        let (own, first) = (own.to_vec(), first.to_vec());
        let identity = FileIdentity { device: 1, inode: 7 };
        let kind =
            Kind::Image(Image { depth, block: false, identity, writable, shareable, place, own, first });
        Resource { name: "disk vda".into(), path: Some("/i".into()), line: 3, kind }
    }

    fn of(used: Use, own_label: &[DeviceLabel], first: &[DeviceLabel]) -> Option<String> {
        own().decide(&image(used, 0, own_label, first), &Selinux::default()).unwrap().label
    }

    #[test]
    fn a_layer_is_labelled_by_its_use() {
        let expected = [
            (Use::Private, "system_u:object_r:svirt_guest_image_t:s0:c41,c264"),
            (Use::Shared, "system_u:object_r:svirt_guest_image_t:s0:c5,c9"),
            (Use::Content, "system_u:object_r:svirt_guest_content_t:s0"),
        ];
        for (used, label) in expected {
            assert_eq!(of(used, &[], &[]).as_deref(), Some(label));
        }
    }

    #[test]
    fn who_shares_an_image_has_its_pair_besides_the_own() {
        let labels = own();
        assert_eq!(labels.guest.range.to_string(), "s0:c5,c9,c41,c264");
        assert_eq!(labels.supervisor.range, labels.guest.range);
        assert_eq!(labels.passt.range.to_string(), "s0:c41,c264");
        let named = |range| {
            [DeviceLabel {
                model: None,
                label: Some(format!("system_u:object_r:svirt_guest_image_t:{range}")),
            }]
        };
        assert!(of(Use::Shared, &named("s0:c5,c9"), &[]).is_some());
        for range in ["s0", "s0:c41,c264", "s0:c5", "s0:c5,c9,c41,c264"] {
            let image = image(Use::Shared, 0, &named(range), &[]);
            assert!(labels.decide(&image, &Selinux::default()).is_err(), "{range}");
        }
    }

    #[test]
    fn overrides_go_before_use() {
        let leave = [DeviceLabel { model: Some("selinux".into()), label: None }];
        let label = "system_u:object_r:svirt_guest_image_t:s0:c41,c264";
        let named = [DeviceLabel { model: None, label: Some(label.into()) }];
        let other = [DeviceLabel { model: Some("dac".into()), label: None }];
        assert_eq!(of(Use::Content, &leave, &named), None);
        assert_eq!(of(Use::Content, &[], &leave), None);
        assert_eq!(of(Use::Private, &named, &leave).unwrap(), named[0].label.clone().unwrap());
        assert!(of(Use::Private, &other, &[]).unwrap().ends_with("c41,c264"));
    }

    #[test]
    fn labels_that_give_access_away_are_refused() {
        for text in [
            "system_u:object_r:svirt_guest_image_t:s0:c1,c2",
            "system_u:object_r:etc_t:s0",
            "unconfined_u:object_r:svirt_guest_image_t:s0",
            "system_u:object_r:svirt_guest_image_t:s0-s0:c0.c1023",
            "svirt_guest_image_t",
            "system_u:object_r:svirt_guest_content_t:s0",
            "system_u:object_r:svirt_guest_image_t:s0",
        ] {
            let label = [DeviceLabel { model: None, label: Some(text.into()) }];
            let image = image(Use::Private, 0, &label, &[]);
            assert!(own().decide(&image, &Selinux::default()).is_err(), "{text}");
        }
    }
}
