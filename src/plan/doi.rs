//! Which domain of interpretation a definition's labels belong to, before anything is planned with them: they are the
//! host's own, or reviewed tables lead to one of the host's, or the start is refused.

use std::borrow::Cow;

use super::PlanError;
use super::chain::Chain;
use crate::base::{Layer, Refusal};
use crate::conf::domain::{Backing, DeviceLabel, DiskSource, Domain, SecLabelKind};
use crate::conf::facts::HostFacts;
use crate::conf::metadata::Binding;
use crate::security::doi::{Tables, TranslateError};
use crate::settings::Settings;

/// A definition whose labels are meant as this host means them.
#[derive(Clone, Debug)]
pub(super) struct Bound<'a> {
    /// The definition.
    pub(super) domain: Cow<'a, Domain>,
    /// Its disks' layers.
    pub(super) chains: Cow<'a, [Chain]>,
    /// What was translated.
    pub(super) notes: Vec<Note>,
}

/// A label that was translated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Note {
    /// What it is here.
    pub(super) label: String,
    /// The sentence for people.
    pub(super) text: String,
}

/// A way from a definition's domain of interpretation to one of the host's.
struct Way<'t> {
    tables: &'t Tables,
    model: &'t str,
    from: &'t str,
    to: &'t str,
    notes: Vec<Note>,
}

/// Whether a host runs a model.
pub(super) fn runs(host: &HostFacts, model: &str) -> bool {
    match model {
        "apparmor" => host.apparmor.is_some(),
        "dac" => true,
        "selinux" => host.selinux.is_some(),
        _ => false,
    }
}

/// Translates what must be translated; without a binding, labels are the host's first.
pub(super) fn bind<'a>(
    domain: &'a Domain,
    chains: &'a [Chain],
    host: &HostFacts,
    settings: &Settings,
    runs: &dyn Fn(&str) -> bool,
) -> Result<Bound<'a>, PlanError> {
    let mut bound = Bound { domain: Cow::Borrowed(domain), chains: Cow::Borrowed(chains), notes: Vec::new() };
    for binding in &domain.metadata.bindings {
        // Domains of interpretation are held for models that run.
        let held = if runs(&binding.model) { settings.dois(&binding.model) } else { &[] };
        if held.contains(&binding.doi) {
            continue;
        }
        let tables = Tables::load(&host.doi_tables).map_err(Refusal::from)?;
        let target = held.iter().find(|to| tables.lead(&binding.model, &binding.doi, to));
        let to = target.ok_or_else(|| refuse(domain, binding, held))?;
        let mut way =
            Way { tables: &tables, model: &binding.model, from: &binding.doi, to, notes: Vec::new() };
        way.domain(bound.domain.to_mut())?;
        for chain in bound.chains.to_mut() {
            for layer in &mut chain.layers {
                way.devices(&mut layer.seclabels)?;
            }
        }
        way.notes.sort_unstable();
        way.notes.dedup();
        bound.notes.append(&mut way.notes);
    }
    Ok(bound)
}

fn refuse(domain: &Domain, binding: &Binding, held: &[String]) -> PlanError {
    let Binding { model, doi, line } = binding;
    let rule = if held.is_empty() {
        format!(
            "its {model} labels belong to the domain of interpretation {doi:?} (line {line}), and this host does not run {model}"
        )
    } else {
        let held: Vec<String> = held.iter().map(|doi| format!("{doi:?}")).collect();
        format!(
            "its {model} labels belong to the domain of interpretation {doi:?} (line {line}); this host holds {}, and no reviewed table leads there",
            held.join(", ")
        )
    };
    let remedy = format!(
        "start it on a host that holds {doi:?}; or, if this host's policy gives the labels the same meaning, add {doi:?} to doi in \
         [{model}], or a reviewed table to the directory of paths.doi (`svirt label translate --model {model} --from {doi} --to … LABEL` \
         shows what it makes of a label)"
    );
    Refusal::new(Layer::Definition, "start", domain.name.to_string(), rule, remedy).into()
}

impl Way<'_> {
    fn domain(&mut self, domain: &mut Domain) -> Result<(), PlanError> {
        let model = self.model;
        for label in domain.seclabels.iter_mut().filter(|label| label.model == model) {
            match &mut label.kind {
                SecLabelKind::Dynamic { baselabel } => {
                    if let Some(base) = baselabel {
                        self.label(base)?;
                    }
                }
                SecLabelKind::None => {}
                SecLabelKind::Static { label, imagelabel, .. } => {
                    self.label(label)?;
                    if let Some(image) = imagelabel {
                        self.label(image)?;
                    }
                }
            }
        }
        for disk in &mut domain.devices.disks {
            let mut layer: Option<&mut DiskSource> = disk.source.as_mut();
            while let Some(source) = layer {
                self.devices(&mut source.seclabels)?;
                layer = match &mut source.backing {
                    Backing::Layer(below) => Some(below),
                    Backing::None | Backing::Unspecified => None,
                };
            }
        }
        Ok(())
    }

    /// An override without a model is for each model; the only labels of disks that svirt sets are SELinux's.
    fn devices(&mut self, labels: &mut [DeviceLabel]) -> Result<(), PlanError> {
        let own = |label: &DeviceLabel| label.model.as_deref().unwrap_or("selinux") == self.model;
        let mine: Vec<&mut DeviceLabel> = labels.iter_mut().filter(|label| own(label)).collect();
        for label in mine {
            if let Some(text) = &mut label.label {
                self.label(text)?;
            }
        }
        Ok(())
    }

    fn label(&mut self, label: &mut String) -> Result<(), PlanError> {
        let done = self.tables.translate(self.model, self.from, self.to, label);
        let done = done.map_err(|error: TranslateError| PlanError::from(error.refusal(label)))?;
        let text = format!(
            "{} label {label} of {:?} is {} of {:?}, by {}",
            self.model,
            self.from,
            done.label,
            self.to,
            done.tables.join(", then ")
        );
        self.notes.push(Note { label: done.label.clone(), text });
        *label = done.label;
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::conf::domain_xml::parse;
    use crate::plan::testing::host;

    const STATIC: &str = "<seclabel model='selinux' type='static' relabel='yes'><label>system_u:system_r:svirt_tcg_t:s0:c1,c2</label></seclabel>";

    fn domain(doi: &str, seclabel: &str) -> Domain {
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>65536</memory><os><type>hvm</type></os>\
             <metadata><s:domain xmlns:s='urn:svirt:domain:1'>{doi}</s:domain></metadata>\
             <devices><disk type='file' device='disk'><source file='/var/lib/svirt/images/a'>\
             <seclabel model='selinux' relabel='yes'><label>system_u:object_r:svirt_image_t:s0:c1,c2</label></seclabel></source>\
             <driver name='qemu' type='raw'/><target dev='vda' bus='virtio'/></disk></devices>{seclabel}</domain>"
        );
        parse(xml.as_bytes()).unwrap()
    }

    fn bound(domain: &Domain, selinux: bool, dois: &[&str]) -> Result<(Domain, Vec<Note>), Refusal> {
        let mut settings = Settings::default();
        settings.selinux.doi = dois.iter().map(|doi| (*doi).to_owned()).collect();
        let host = host(selinux);
        let bound = bind(domain, &[], &host, &settings, &|model| runs(&host, model));
        bound.map(|bound| (bound.domain.into_owned(), bound.notes)).map_err(|error| error.refusal())
    }

    const SELINUX: &str = "<s:seclabel model='selinux' doi='libvirt'/>";

    #[test]
    fn labels_of_a_doi_that_the_host_holds_stay_as_they_are() {
        for (binding, held) in [(SELINUX, "libvirt"), ("", "0")] {
            let own = domain(binding, STATIC);
            assert_eq!(bound(&own, true, &["other", held]).unwrap(), (own, vec![]));
        }
    }

    #[test]
    fn a_reviewed_table_translates_every_label_and_says_so() {
        let (own, notes) = bound(&domain(SELINUX, STATIC), true, &["0", "svirt"]).unwrap();
        let SecLabelKind::Static { label, .. } = &own.seclabels[0].kind else { unreachable!() };
        assert_eq!(label, "system_u:system_r:svirt_guest_tcg_t:s0:c1,c2");
        let image = &own.devices.disks[0].source.as_ref().unwrap().seclabels[0];
        assert_eq!(image.label.as_deref(), Some("system_u:object_r:svirt_guest_image_t:s0:c1,c2"));
        assert_eq!(notes.len(), 2);
        assert!(notes.iter().all(|note| note.text.contains("selinux-libvirt-svirt.toml")), "{notes:?}");
    }

    #[test]
    fn a_doi_that_the_host_does_not_hold_starts_nothing() {
        let refusal = bound(&domain(SELINUX, STATIC), true, &["0", "b.example."]).unwrap_err();
        for word in ["\"libvirt\"", "\"0\", \"b.example.\"", "svirt label translate"] {
            assert!(refusal.to_string().contains(word), "{word}: {refusal}");
        }
        let refusal = bound(&domain(SELINUX, ""), false, &["svirt"]).unwrap_err();
        assert!(refusal.rule.contains("does not run selinux"), "{refusal}");
        let foreign = "<s:seclabel model='dac' doi='elsewhere'/>";
        assert!(bound(&domain(foreign, ""), true, &["0"]).unwrap_err().rule.contains("elsewhere"));
        assert!(bound(&domain("<s:seclabel model='smack' doi='0'/>", ""), true, &["0"]).is_err());
    }

    #[test]
    fn a_label_that_the_table_does_not_name_starts_nothing() {
        let other = STATIC.replace("svirt_tcg_t", "httpd_t");
        let refusal = bound(&domain(SELINUX, &other), true, &["svirt"]).unwrap_err();
        assert!(refusal.rule.contains("the type httpd_t"), "{refusal}");
    }

    #[test]
    fn owners_are_translated_by_a_table_of_the_hosts() {
        let binding = "<s:seclabel model='dac' doi='elsewhere'/>";
        let own = domain(
            binding,
            "<seclabel model='dac' type='static' relabel='no'><label>+1000:+1001</label></seclabel>",
        );
        let mut host = host(false);
        let table = "model = \"dac\"\nfrom = \"elsewhere\"\nto = \"0\"\nreviewed = \"yes\"\n\
            [[uid]]\nfrom = \"1000-1009\"\nto = \"7000-7009\"\nreason = \"r\"\n\
            [[gid]]\nfrom = \"1001\"\nto = \"7\"\nreason = \"r\"\n";
        host.doi_tables = vec![("ids.toml".into(), table.into())];
        let settings = Settings::default();
        let bound = bind(&own, &[], &host, &settings, &|model| runs(&host, model)).unwrap();
        let SecLabelKind::Static { label, .. } = &bound.domain.seclabels[0].kind else { unreachable!() };
        assert_eq!((label.as_str(), bound.notes.len()), ("+7000:+7", 1));
        let root = domain(
            binding,
            "<seclabel model='dac' type='static' relabel='no'><label>+0:+1001</label></seclabel>",
        );
        let refusal = bind(&root, &[], &host, &settings, &|model| runs(&host, model)).unwrap_err().refusal();
        assert!(refusal.rule.contains("the uid 0 has no image"), "{refusal}");
    }

    #[test]
    fn a_table_that_is_none_starts_nothing_that_needs_one() {
        let domain = domain(SELINUX, STATIC);
        let settings = Settings::default();
        let mut host = host(true);
        host.doi_tables = vec![("mine.toml".into(), "unusable = \"x\"".into())];
        let bound = bind(&domain, &[], &host, &settings, &|_| true);
        assert!(bound.unwrap_err().refusal().object.contains("mine.toml"));
    }
}
