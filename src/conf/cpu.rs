//! CPUs that clients describe: held against this host's, and what several of them have in common. Pure.
//!
//! What a named model has is what the emulator says of it, so that an answer is about guests that can be started; libvirt
//! has a table of its own. What the kernel's flags do not show of a host is not judged.

use std::collections::BTreeSet;

use super::emulator::EmulatorFacts;
use super::xml::Document;
use super::xml::walk::At;
use super::xml::write::Writer;

/// Features under libvirt's names where QEMU writes them otherwise.
const SPELLED: [(&str, &str); 9] = [
    ("cmp-legacy", "cmp_legacy"),
    ("ds-cpl", "ds_cpl"),
    ("fxsr-opt", "fxsr_opt"),
    ("lahf-lm", "lahf_lm"),
    ("nodeid-msr", "nodeid_msr"),
    ("pclmulqdq", "pclmuldq"),
    ("perfctr-core", "perfctr_core"),
    ("perfctr-nb", "perfctr_nb"),
    ("tsc-adjust", "tsc_adjust"),
];
/// Features of a CPU that its operating system sets, and no guest is given.
const OF_THE_SYSTEM: [&str; 2] = ["ospke", "osxsave"];
/// What libvirt knows and QEMU has no name for.
const OF_LIBVIRT: [&str; 7] = ["cmt", "cvt16", "mbm-local", "mbm-total", "ospke", "osxsave", "pconfig"];
/// What ties a guest to its host (virConnectBaselineCPU's VIR_CONNECT_BASELINE_CPU_MIGRATABLE).
const NOT_MIGRATABLE: [&str; 1] = ["invtsc"];

/// Why a description is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// It is no description of a CPU.
    #[error("{0}")]
    Xml(String),
    /// It names a model or feature that nobody knows.
    #[error("Unknown CPU {kind} {name}")]
    Unknown {
        /// `model` or `feature`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// It says what has no meaning here.
    #[error("{0}")]
    Unsupported(String),
    /// Several do not go together.
    #[error("{0}")]
    Apart(String),
}

/// How this host's CPU stands to a described one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// It lacks something, for this reason.
    Incompatible(String),
    /// It has that and nothing more.
    Identical,
    /// It has more.
    Superset,
}

/// A CPU that there is, and what an emulator knows of CPUs.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    arch: &'a str,
    vendor: Option<&'a str>,
    emulator: &'a EmulatorFacts,
    /// What it has, by place among the emulator's features.
    has: &'a [u16],
    /// What a description of it has.
    listed: &'a [u16],
    /// What is known to be there or not.
    shown: Option<&'a [u16]>,
}

/// What is wanted of a baseline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Every feature, and not only those beyond the model.
    pub expand: bool,
    /// Nothing that ties a guest to its host.
    pub migratable: bool,
    /// What can be started here, of hosts' or guests' CPUs.
    pub runs: bool,
}

/// What a `<feature>` asks for; a host's CPU has all that it lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Require,
    Force,
    Optional,
    Disable,
    Forbid,
}

/// A `<cpu>`, of a host where it has an `<arch>`, of a guest otherwise.
#[derive(Debug)]
struct Described {
    arch: Option<String>,
    model: Option<String>,
    vendor: Option<String>,
    strict: bool,
    features: Vec<(String, Policy)>,
}

/// libvirt's name of one of QEMU's features.
#[must_use]
pub fn spelled(feature: &str) -> &str {
    SPELLED.iter().find(|(own, _)| *own == feature).map_or(feature, |(_, libvirt)| libvirt)
}

/// The same name for whatever anybody writes.
fn plain(feature: &str) -> String {
    match feature {
        "pclmuldq" => "pclmulqdq".into(),
        "sse4-1" | "sse4_1" => "sse4.1".into(),
        "sse4-2" | "sse4_2" => "sse4.2".into(),
        other => other.replace('_', "-"),
    }
}

fn read(xml: &str) -> Result<Described, CpuError> {
    let document = Document::parse(xml.as_bytes()).map_err(|error| CpuError::Xml(error.to_string()))?;
    let root = At::root(&document);
    if root.name() != "cpu" {
        return Err(CpuError::Xml("XML does not contain expected 'cpu' element".into()));
    }
    let text = |name| root.one(name).map(|at| at.text().trim().to_owned()).filter(|text| !text.is_empty());
    let (arch, model) = (text("arch"), text("model"));
    if arch.is_some() && root.attribute("mode").is_some() {
        return Err(CpuError::Unsupported("Attribute mode is only allowed for guest CPU".into()));
    }
    if arch.is_some() && model.is_none() {
        return Err(CpuError::Xml("Missing CPU model name".into()));
    }
    let strict = match root.attribute("match") {
        None | Some("minimum" | "exact") => false,
        Some("strict") => true,
        Some(odd) => {
            let text = format!("Invalid value for attribute 'match' in element 'cpu': '{odd}'.");
            return Err(CpuError::Xml(text));
        }
    };
    let mut features: Vec<(String, Policy)> = Vec::new();
    let mut seen = BTreeSet::new();
    for at in root.all("feature") {
        let (name, policy) = feature(at, arch.is_some())?;
        if !seen.insert(name.clone()) {
            let text = format!("CPU feature '{}' specified more than once", spelled(&name));
            return Err(CpuError::Xml(text));
        }
        features.push((name, policy));
    }
    Ok(Described { arch, model, vendor: text("vendor"), strict, features })
}

fn feature(at: At<'_>, of_a_host: bool) -> Result<(String, Policy), CpuError> {
    let name = at.attribute("name").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| CpuError::Xml("Invalid CPU feature name".into()))?;
    let policy = match at.attribute("policy") {
        _ if of_a_host => Policy::Require,
        None | Some("require") => Policy::Require,
        Some("force") => Policy::Force,
        Some("optional") => Policy::Optional,
        Some("disable") => Policy::Disable,
        Some("forbid") => Policy::Forbid,
        Some(_) => return Err(CpuError::Unsupported("Invalid CPU feature policy".into())),
    };
    Ok((plain(name), policy))
}

impl<'a> Known<'a> {
    /// This host's, of a vendor such as `Intel`.
    #[must_use]
    pub fn host(emulator: &'a EmulatorFacts, vendor: Option<&'a str>) -> Self {
        let features = &emulator.cpu_features;
        let (has, listed, shown) = (&features.host, &features.listed, Some(features.shown.as_slice()));
        Self { arch: &emulator.arch, vendor, emulator, has, listed, shown }
    }

    /// The best one that is emulated without the host's.
    #[must_use]
    pub fn emulated(emulator: &'a EmulatorFacts) -> Self {
        let features = &emulator.cpu_features;
        let vendor = features.emulated_vendor.as_deref();
        let has = &features.emulated;
        Self { arch: &emulator.arch, vendor, emulator, has, listed: has, shown: None }
    }

    fn names(&self, places: &'a [u16]) -> BTreeSet<&'a str> {
        let names = &self.emulator.cpu_features.names;
        places.iter().filter_map(|place| names.get(usize::from(*place))).map(String::as_str).collect()
    }

    /// What a named model has.
    fn model(&self, name: &str) -> Result<BTreeSet<&'a str>, CpuError> {
        let found = self.emulator.cpus.iter().find(|model| model.name == name);
        let found = found.ok_or_else(|| CpuError::Unknown { kind: "model", name: name.into() })?;
        Ok(self.names(&found.features))
    }

    fn check(&self, feature: &str) -> Result<(), CpuError> {
        let names = &self.emulator.cpu_features.names;
        let known = names.binary_search_by(|name| name.as_str().cmp(feature)).is_ok();
        if known || OF_LIBVIRT.contains(&feature) {
            return Ok(());
        }
        Err(CpuError::Unknown { kind: "feature", name: spelled(feature).to_owned() })
    }

    /// Holds a described CPU against this host's, as virConnectCompareCPU does.
    pub fn compare(&self, xml: &str) -> Result<Comparison, CpuError> {
        let described = read(xml)?;
        let lacks = |text: String| Ok(Comparison::Incompatible(text));
        if let Some(arch) = described.arch.as_deref().filter(|arch| *arch != self.arch) {
            return lacks(format!("CPU arch {arch} does not match host arch"));
        }
        if let Some(vendor) = described.vendor.as_deref().filter(|vendor| Some(*vendor) != self.vendor) {
            return lacks(format!("host CPU vendor does not match required CPU vendor {vendor}"));
        }
        let host = self.names(self.has);
        let shown = self.shown.map(|shown| self.names(shown));
        let with = |wanted: Policy| {
            let those = described.features.iter().filter(move |(_, policy)| *policy == wanted);
            those.map(|(name, _)| name.as_str()).collect::<BTreeSet<&str>>()
        };
        for (name, _) in &described.features {
            self.check(name)?;
        }
        let forbidden: Vec<&str> =
            with(Policy::Forbid).into_iter().filter(|name| host.contains(name)).map(spelled).collect();
        if !forbidden.is_empty() {
            return lacks(format!("Host CPU provides forbidden features: {}", forbidden.join(", ")));
        }
        let waived: BTreeSet<&str> =
            [Policy::Force, Policy::Optional, Policy::Disable].into_iter().flat_map(with).collect();
        let model = described.model.as_deref().map(|name| self.model(name)).transpose()?.unwrap_or_default();
        let required: BTreeSet<&str> = model
            .iter()
            .copied()
            .chain(with(Policy::Require))
            .filter(|name| !waived.contains(name))
            .collect();
        let missing: Vec<&str> = required
            .iter()
            .filter(|name| shown.as_ref().is_none_or(|shown| shown.contains(*name)) && !host.contains(*name))
            .map(|name| spelled(name))
            .collect();
        if !missing.is_empty() {
            return lacks(format!("Host CPU does not provide required features: {}", missing.join(", ")));
        }
        let listed = self.names(self.listed);
        let more = listed.into_iter().filter(|name| !required.contains(name) && !waived.contains(name));
        let more: Vec<&str> = more.map(spelled).collect();
        match (more.is_empty(), described.strict) {
            (true, _) => Ok(Comparison::Identical),
            (false, false) => Ok(Comparison::Superset),
            (false, true) => {
                let text = "Host CPU does not strictly match guest CPU: Extra features: ";
                lacks(format!("{text}{}", more.join(", ")))
            }
        }
    }

    /// The CPU that all these hosts have, as virConnectBaselineCPU tells it: the model that says most of it and what is
    /// beyond that.
    pub fn baseline(&self, xmls: &[&str], wish: Wish) -> Result<String, CpuError> {
        let mut all = xmls.iter().map(|xml| self.one_of_many(xml, wish));
        let first = all.next().ok_or_else(|| CpuError::Unsupported("no CPUs given".into()))??;
        let (mut vendor, mut common, mut agreed) = (first.0.clone(), first.1, first.0.is_some());
        for other in all {
            let (its, features) = other?;
            if vendor.is_some() && its.is_some() && vendor != its {
                return Err(CpuError::Apart("CPU vendors do not match".into()));
            }
            agreed &= its.is_some();
            vendor = vendor.or(its);
            common.retain(|name| features.contains(name));
        }
        common.retain(|name| !OF_THE_SYSTEM.contains(&name.as_str()));
        common.retain(|name| !wish.migratable || !NOT_MIGRATABLE.contains(&name.as_str()));
        if wish.runs {
            let has = self.names(self.has);
            common.retain(|name| has.contains(name.as_str()));
        }
        if common.is_empty() {
            return Err(CpuError::Apart("CPUs are incompatible".into()));
        }
        let (model, has) = self.closest(&common, vendor.as_deref())?;
        let listed = common.iter().map(String::as_str).filter(|name| wish.expand || !has.contains(name));
        let listed: BTreeSet<&str> = listed.map(spelled).collect();
        let fallback = if xmls.len() == 1 { "forbid" } else { "allow" };
        let mut w = Writer::new();
        w.open("cpu", &[("mode", &"custom"), ("match", &"exact")]);
        w.text("model", &[("fallback", &fallback)], model);
        if let Some(vendor) = vendor.filter(|_| agreed) {
            w.text("vendor", &[], vendor);
        }
        for name in listed {
            w.empty("feature", &[("policy", &"require"), ("name", &name)]);
        }
        w.close();
        Ok(w.finish())
    }

    /// Vendor and features of one of several.
    fn one_of_many(&self, xml: &str, wish: Wish) -> Result<(Option<String>, BTreeSet<String>), CpuError> {
        let described = read(xml)?;
        let arch = described.arch.or_else(|| wish.runs.then(|| self.arch.to_owned()));
        let arch = arch.ok_or_else(|| CpuError::Xml("Missing CPU architecture".into()))?;
        if arch != self.arch {
            let text = format!("svirt knows the CPUs of {} alone, and not those of {arch}", self.arch);
            return Err(CpuError::Unsupported(text));
        }
        let model = self.model(&described.model.unwrap_or_default())?;
        let mut features: BTreeSet<String> = model.into_iter().map(ToOwned::to_owned).collect();
        for (name, policy) in described.features {
            self.check(&name)?;
            match policy {
                Policy::Disable | Policy::Forbid => features.remove(&name),
                Policy::Require | Policy::Force | Policy::Optional => features.insert(name),
            };
        }
        Ok((described.vendor, features))
    }

    /// The model that has most of these and nothing else, and what it has.
    fn closest(
        &self,
        common: &BTreeSet<String>,
        vendor: Option<&str>,
    ) -> Result<(&'a str, BTreeSet<&'a str>), CpuError> {
        let fits = self.emulator.cpus.iter().filter(|model| {
            let generic = model.name.starts_with("qemu") || model.name.starts_with("kvm");
            vendor.is_none() || generic || model.vendor.as_deref() == vendor
        });
        let fits = fits
            .map(|model| (model.name.as_str(), self.names(&model.features)))
            .filter(|(_, has)| has.iter().all(|name| common.contains(*name)));
        let best = fits.max_by_key(|(name, has)| (has.len(), std::cmp::Reverse(*name)));
        best.ok_or_else(|| CpuError::Apart("CPUs are incompatible".into()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
