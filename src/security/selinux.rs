//! The `selinux` model: contexts of a domain's processes and of its images.

use super::LabelError;
use super::context::Context;
use super::decide::{Action, Decision};
use super::mcs::{Taken, allocate};
use super::range::Range;
use super::resource::{Image, Kind, Place, Process, Resource, Use};
use crate::base::CategoryPair;
use crate::conf::domain::{DeviceLabel, Domain, SecLabel, SecLabelKind, VirtType};
use crate::conf::facts::HostFacts;
use crate::settings::Selinux;

/// Contexts of one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    /// The pair of the domain, leased for it; also its supervisor and helpers run under it.
    pub pair: CategoryPair,
    /// The device model's context.
    pub guest: Context,
    /// The supervisor's context.
    pub supervisor: Context,
    /// passt's context.
    pub passt: Context,
    /// Whether images are labelled.
    pub relabel: bool,
    /// The context of a writable image of this domain alone.
    image: Context,
}

/// Checks that every model that a label of the definition names is one of the host's.
pub fn models_present(domain: &Domain, host: &HostFacts) -> Result<(), LabelError> {
    for label in &domain.seclabels {
        let here = match label.model.as_str() {
            "dac" => true,
            "selinux" => host.selinux.is_some(),
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

/// The contexts of a domain on a host with SELinux.
pub fn labels(domain: &Domain, types: &Selinux, taken: &Taken, seed: u64) -> Result<Labels, LabelError> {
    let draw = || allocate(taken, seed).ok_or(LabelError::NoPair);
    let default_type = match domain.virt {
        VirtType::Kvm => &types.guest_type,
        VirtType::Qemu => &types.guest_tcg_type,
    };
    let Some(label) = domain.seclabels.iter().find(|label| label.model == "selinux") else {
        return Ok(Labels::new(types, draw()?, default_type, true));
    };
    match &label.kind {
        SecLabelKind::Dynamic { baselabel: None } => Ok(Labels::new(types, draw()?, default_type, true)),
        SecLabelKind::Dynamic { baselabel: Some(base) } => {
            let base = guest_context(base, label, types)?;
            Ok(Labels::new(types, draw()?, &base.kind, true))
        }
        // libvirt would leave the context to the policy's own transition, which gives every such domain the same one.
        SecLabelKind::None => Err(refuse(
            "none",
            label.line,
            "this host runs SELinux, and a device model without a context of its own is kept from no other one",
        )),
        SecLabelKind::Static { label: text, imagelabel, relabel } => {
            let guest = guest_context(text, label, types)?;
            let pair = guest.range.pair().ok_or_else(|| {
                refuse(text, label.line, "its range must be s0 with exactly two categories: fewer are dominated by, more dominate other domains' pairs")
            })?;
            if taken.contains(pair) {
                return Err(LabelError::PairTaken(pair));
            }
            let mut labels = Labels::new(types, pair, &guest.kind, *relabel);
            if let Some(image) = imagelabel {
                labels.image = labels.override_context(image, Use::Private, label.line, types)?;
            }
            Ok(labels)
        }
    }
}

/// What both models of files say of a path outside the configured places.
pub(super) const ELSEWHERE: &str = "it lies in none of the places of images.relabelable and images.readable";

fn refuse(label: &str, line: u32, reason: impl Into<String>) -> LabelError {
    LabelError::Label { model: "selinux", label: label.into(), reason: reason.into(), line }
}

/// Reads a process context that a definition names, and checks it against the configured types.
fn guest_context(text: &str, label: &SecLabel, types: &Selinux) -> Result<Context, LabelError> {
    let context: Context = text.parse().map_err(|e| refuse(text, label.line, format!("{e}")))?;
    let known = [&types.guest_type, &types.guest_tcg_type].into_iter().chain(&types.extra_types);
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
    fn new(types: &Selinux, pair: CategoryPair, guest: &str, relabel: bool) -> Self {
        let range = Range::of(pair);
        Self {
            pair,
            guest: Context::process(guest, range),
            supervisor: Context::process(&types.supervisor_type, range),
            passt: Context::process(&types.passt_type, range),
            relabel,
            image: Context::file(&types.image_type, range),
        }
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
            Kind::Process(Process::Passt(_)) => {
                run(&self.passt, "packets of one domain; the domain's pair keeps it to that one")
            }
            Kind::Image(image) => self.image(image, resource.line, types),
            Kind::Boot(Place::Elsewhere) => Ok(Decision::nothing(Action::Refused, ELSEWHERE)),
            Kind::Boot(_) => Ok(Decision::nothing(
                Action::Content,
                "mounted alone and read-only into the device model's root; every domain may read what lies there",
            )),
            Kind::Channel => {
                never("its sockets carry the labeller's context, and exist in two processes alone")
            }
            Kind::Listener => {
                never("the supervisor accepts; the device model has no way to connect or listen")
            }
            Kind::Log => never("the supervisor appends; the device model never has it"),
            Kind::Pty => never("the supervisor has both sides; the device model has one connected socket"),
            Kind::Tap => {
                never("the policy lets device models use a tap that the labeller opened, and open none")
            }
        }
    }

    /// The context of one layer, in libvirt's order: its own override, the first layer's override, its use.
    fn image(&self, image: &Image, line: u32, types: &Selinux) -> Result<Decision, LabelError> {
        let of_model = |labels: &[DeviceLabel]| {
            labels.iter().find(|l| l.model.as_deref().is_none_or(|m| m == "selinux")).cloned()
        };
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
        let own = of_model(&image.own);
        let whose = if own.is_some() { "its own <seclabel>" } else { "the <seclabel> of the top layer" };
        if let Some(label) = own.or_else(|| of_model(&image.first)) {
            return match label.label {
                None => Ok(Decision::nothing(Action::Never, format!("{whose} says relabel='no'"))),
                Some(text) if !self.relabel => {
                    Err(refuse(&text, line, "the domain's own label says that nothing is relabelled"))
                }
                Some(text) => {
                    let context = self.override_context(&text, image.used(), line, types)?;
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
                Context::file(&types.image_type, Range::default()),
                "written by every domain that declares it <shareable/>",
            ),
            (Use::Content, 0) => Decision::set(content(), "read-only, so other domains may read it too"),
            (Use::Content, _) => {
                Decision::set(content(), "a backing layer: only read, and other disks may stand on it")
            }
        })
    }

    /// An override must fit how the image is opened: what one domain writes carries its pair and is no content.
    fn override_context(
        &self,
        text: &str,
        used: Use,
        line: u32,
        types: &Selinux,
    ) -> Result<Context, LabelError> {
        let context = self.file_context(text, line, types)?;
        let common = context.range == Range::default();
        let content = context.kind == types.content_type;
        match used {
            Use::Private | Use::Shared if content => {
                Err(refuse(text, line, "content that every domain reads cannot be writable"))
            }
            Use::Private if common => Err(refuse(
                text,
                line,
                "without categories every domain may write to it: declare the disk <shareable/>",
            )),
            _ if content && !common => {
                Err(refuse(text, line, "content that every domain reads has no categories"))
            }
            _ => Ok(context),
        }
    }

    /// Reads a file context that a definition names: a configured type, and no categories but the domain's own.
    fn file_context(&self, text: &str, line: u32, types: &Selinux) -> Result<Context, LabelError> {
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
        if context.range != Range::default() && context.range.pair() != Some(self.pair) {
            return Err(refuse(
                text,
                line,
                format!("its categories are not the domain's own, {}", self.pair),
            ));
        }
        Ok(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn own() -> Labels {
        Labels::new(&Selinux::default(), CategoryPair::new(41, 264).unwrap(), "svirt_guest_t", true)
    }

    fn image(used: Use, depth: usize, own: &[DeviceLabel], first: &[DeviceLabel]) -> Resource {
        let (writable, shareable) = (used != Use::Content, used == Use::Shared);
        let place = Place::Relabelable;
        let (own, first) = (own.to_vec(), first.to_vec());
        let kind = Kind::Image(Image { depth, block: false, writable, shareable, place, own, first });
        Resource { name: "disk vda".into(), path: Some("/i".into()), line: 3, kind }
    }

    fn of(used: Use, own_label: &[DeviceLabel], first: &[DeviceLabel]) -> Option<String> {
        own().decide(&image(used, 0, own_label, first), &Selinux::default()).unwrap().label
    }

    #[test]
    fn a_layer_is_labelled_by_its_use() {
        let expected = [
            (Use::Private, "system_u:object_r:svirt_guest_image_t:s0:c41,c264"),
            (Use::Shared, "system_u:object_r:svirt_guest_image_t:s0"),
            (Use::Content, "system_u:object_r:svirt_guest_content_t:s0"),
        ];
        for (used, label) in expected {
            assert_eq!(of(used, &[], &[]).as_deref(), Some(label));
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
