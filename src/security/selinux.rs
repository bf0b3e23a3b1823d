//! The `selinux` model: contexts of a domain's processes and of its images.

use super::LabelError;
use super::context::Context;
use super::mcs::{Taken, allocate};
use super::range::Range;
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

/// What an image is to the domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageUse {
    /// A layer below the first.
    Lower,
    /// The first layer, writable by this domain alone.
    Private,
    /// The first layer, read-only.
    Readonly,
    /// The first layer, writable by every domain that says so.
    Shareable,
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
        Some("dac") => Err(LabelError::Label {
            model: "dac",
            label: label.label.clone().unwrap_or_default(),
            reason:
                "owners of images are never changed: an owner could reopen a read-only descriptor for writing"
                    .into(),
            line,
        }),
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
                labels.image = labels.file_context(image, label.line, types)?;
            }
            Ok(labels)
        }
    }
}

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

    /// The context of one layer, in libvirt's order: its own override, the first layer's override, its use.
    /// `None` where it is left as it is.
    pub fn layer(
        &self,
        own: &[DeviceLabel],
        first: &[DeviceLabel],
        used: ImageUse,
        line: u32,
        types: &Selinux,
    ) -> Result<Option<Context>, LabelError> {
        let of_model = |labels: &[DeviceLabel]| {
            labels.iter().find(|l| l.model.as_deref().is_none_or(|m| m == "selinux")).cloned()
        };
        if let Some(label) = of_model(own).or_else(|| of_model(first)) {
            return match label.label {
                None => Ok(None),
                Some(text) if !self.relabel => {
                    Err(refuse(&text, line, "the domain's own label says that nothing is relabelled"))
                }
                Some(text) => self.override_context(&text, used, line, types).map(Some),
            };
        }
        if !self.relabel {
            return Ok(None);
        }
        Ok(Some(match used {
            ImageUse::Private => self.image.clone(),
            ImageUse::Shareable => Context::file(&types.image_type, Range::default()),
            ImageUse::Lower | ImageUse::Readonly => Context::file(&types.content_type, Range::default()),
        }))
    }

    /// An override must fit how the image is opened: what one domain writes carries its pair and is no content.
    fn override_context(
        &self,
        text: &str,
        used: ImageUse,
        line: u32,
        types: &Selinux,
    ) -> Result<Context, LabelError> {
        let context = self.file_context(text, line, types)?;
        let common = context.range == Range::default();
        let content = context.kind == types.content_type;
        match used {
            ImageUse::Private | ImageUse::Shareable if content => {
                Err(refuse(text, line, "content that every domain reads cannot be writable"))
            }
            ImageUse::Private if common => Err(refuse(
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

    fn of(labels: &Labels, own: &[DeviceLabel], first: &[DeviceLabel], used: ImageUse) -> Option<String> {
        labels.layer(own, first, used, 3, &Selinux::default()).unwrap().map(|c| c.to_string())
    }

    #[test]
    fn a_layer_is_labelled_by_its_use() {
        let labels = own();
        let expected = [
            (ImageUse::Private, "system_u:object_r:svirt_guest_image_t:s0:c41,c264"),
            (ImageUse::Shareable, "system_u:object_r:svirt_guest_image_t:s0"),
            (ImageUse::Readonly, "system_u:object_r:svirt_guest_content_t:s0"),
            (ImageUse::Lower, "system_u:object_r:svirt_guest_content_t:s0"),
        ];
        for (used, label) in expected {
            assert_eq!(of(&labels, &[], &[], used).as_deref(), Some(label));
        }
    }

    #[test]
    fn overrides_go_before_use() {
        let leave = [DeviceLabel { model: Some("selinux".into()), label: None }];
        let label = "system_u:object_r:svirt_guest_image_t:s0:c41,c264";
        let named = [DeviceLabel { model: None, label: Some(label.into()) }];
        let other = [DeviceLabel { model: Some("dac".into()), label: None }];
        assert_eq!(of(&own(), &leave, &named, ImageUse::Lower), None);
        assert_eq!(of(&own(), &[], &leave, ImageUse::Lower), None);
        assert_eq!(of(&own(), &named, &leave, ImageUse::Private).unwrap(), named[0].label.clone().unwrap());
        assert!(of(&own(), &other, &[], ImageUse::Private).unwrap().ends_with("c41,c264"));
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
            assert!(own().layer(&label, &[], ImageUse::Private, 3, &Selinux::default()).is_err(), "{text}");
        }
    }
}
