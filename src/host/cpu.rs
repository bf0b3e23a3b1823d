//! This host's CPU by name: its flags from `/proc/cpuinfo`, held against the named models that an emulator expands.
//!
//! QEMU's classic names are libvirt's, so no table of models is kept here. What cannot be told from the flags is not
//! judged: bits of model-specific registers, nested virtualisation, and features that every model has.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use serde_json::Value;

use crate::conf::emulator::{CpuFeatures, HostModel};

/// How much of `/proc/cpuinfo` is read: one CPU's part has 2 to 4 KiB, and all are made of the same.
const CPUINFO_MAX: u64 = 16 << 10;

/// What the kernel says of the first CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct HostFlags {
    pub(super) vendor: String,
    pub(super) signature: Option<(u32, u32, u32)>,
    pub(super) microcode: Option<u32>,
    pub(super) physical_bits: Option<u32>,
    pub(super) flags: BTreeSet<String>,
    /// Everything that decides a comparison, as one text.
    pub(super) key: String,
}

/// One of an emulator's models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) vendor: String,
    signature: (u64, u64),
    /// Features that are on, of those that tell models apart and that flags show.
    features: BTreeSet<String>,
}

/// Reads this host's.
pub(super) fn read() -> HostFlags {
    let mut text = String::new();
    if let Ok(file) = std::fs::File::open("/proc/cpuinfo") {
        let _short = file.take(CPUINFO_MAX).read_to_string(&mut text);
    }
    parse(&text)
}

pub(super) fn parse(text: &str) -> HostFlags {
    let first = text.split("\n\n").next().unwrap_or_default();
    let value = |name: &str| {
        first.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            (key.trim() == name).then(|| value.trim())
        })
    };
    let number = |name: &str| {
        let text = value(name)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |hex| u32::from_str_radix(hex, 16).ok())
    };
    let signature =
        number("cpu family").and_then(|family| Some((family, number("model")?, number("stepping")?)));
    let flags: BTreeSet<String> =
        value("flags").unwrap_or_default().split_whitespace().map(ToOwned::to_owned).collect();
    let vendor = value("vendor_id").unwrap_or_default().to_owned();
    let sorted: Vec<&str> = flags.iter().map(String::as_str).collect();
    HostFlags {
        key: format!("{vendor} {signature:?} {}", sorted.join(" ")),
        physical_bits: value("address sizes").and_then(|sizes| sizes.split(' ').next()?.parse().ok()),
        microcode: number("microcode").filter(|version| *version > 0),
        vendor,
        signature,
        flags,
    }
}

/// libvirt's short name of a vendor.
pub(super) fn vendor(id: &str) -> Option<String> {
    let name = match id {
        "AuthenticAMD" => "AMD",
        "CentaurHauls" => "Centaur",
        "GenuineIntel" => "Intel",
        "HygonGenuine" => "Hygon",
        _ => return None,
    };
    Some(name.to_owned())
}

/// The names without a version, which libvirt shares; what is not a named CPU is left out.
pub(super) fn classic<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let versioned = |name: &str| {
        name.rsplit_once("-v")
            .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
    };
    names
        .filter(|name| !versioned(name) && !["base", "host", "max"].contains(name))
        .map(ToOwned::to_owned)
        .collect()
}

/// The models, each with the features that tell it from others.
pub(super) fn models(names: &[String], expanded: &BTreeMap<String, Value>) -> Vec<Model> {
    let all: Vec<(&String, &serde_json::Map<String, Value>)> =
        names.iter().filter_map(|name| Some((name, properties(expanded.get(name)?)?))).collect();
    let on = |properties: &serde_json::Map<String, Value>, key: &str| {
        properties.get(key).and_then(Value::as_bool).unwrap_or(false)
    };
    let keys: BTreeSet<&String> =
        all.iter().flat_map(|(_, properties)| properties.keys()).filter(|key| told_by_flags(key)).collect();
    let differing: Vec<&String> = keys
        .into_iter()
        .filter(|key| {
            let count = all.iter().filter(|(_, properties)| on(properties, key)).count();
            count > 0 && count < all.len()
        })
        .collect();
    all.iter()
        .map(|(name, properties)| {
            let number = |key: &str| properties.get(key).and_then(Value::as_u64).unwrap_or_default();
            Model {
                name: (*name).clone(),
                vendor: properties.get("vendor").and_then(Value::as_str).unwrap_or_default().to_owned(),
                signature: (number("family"), number("model")),
                features: differing
                    .iter()
                    .filter(|key| on(properties, key))
                    .map(|key| (*key).clone())
                    .collect(),
            }
        })
        .collect()
}

/// All features that a CPU of an emulator may have, and those of this host.
pub(super) fn features(expanded: &BTreeMap<String, Value>, host: &HostFlags) -> CpuFeatures {
    let all = expanded.values().filter_map(properties).flatten();
    let names: BTreeSet<&String> =
        all.filter(|(name, value)| value.is_boolean() && is_feature(name)).map(|(name, _)| name).collect();
    let names: Vec<String> = names.into_iter().take(FEATURES_MAX).cloned().collect();
    let places = |which: &dyn Fn(&str) -> bool| -> Vec<u16> {
        (0..).zip(&names).filter(|(_, name)| which(name)).map(|(place, _)| place).collect()
    };
    let shown = places(&shown_by_flags);
    let has = places(&|name| shown_by_flags(name) && host.flags.contains(&flag(name)));
    let in_a_model: BTreeSet<u16> = expanded
        .iter()
        .filter(|(name, _)| *name != BEST)
        .flat_map(|(_, model)| places(&|name| is_on(model, name)))
        .collect();
    let described = |place: &&u16| {
        in_a_model.contains(place) && names.get(usize::from(**place)).is_some_and(|name| told_by_flags(name))
    };
    let listed = has.iter().filter(described).copied().collect();
    let best = expanded.get(BEST);
    let vendor = best.and_then(properties).and_then(|all| self::vendor(all.get("vendor")?.as_str()?));
    let emulated = places(&|name| best.is_some_and(|best| is_on(best, name)));
    CpuFeatures { shown, host: has, listed, emulated, emulated_vendor: vendor, names }
}

/// Whether a model has a feature.
fn is_on(model: &Value, feature: &str) -> bool {
    properties(model).and_then(|all| all.get(feature)?.as_bool()).unwrap_or(false)
}

/// What an emulator says of a model.
fn properties(expanded: &Value) -> Option<&serde_json::Map<String, Value>> {
    expanded.get("model")?.get("props")?.as_object()
}

/// Which of these features a model has.
pub(super) fn has(features: &CpuFeatures, expanded: Option<&Value>) -> Vec<u16> {
    let on = |name: &str| expanded.is_some_and(|model| is_on(model, name));
    (0..).zip(&features.names).filter(|(_, name)| on(name)).map(|(place, _)| place).collect()
}

/// Whether a property of QEMU's is a CPU's feature under the one name that counts: others have `_` for `-`, or are
/// another vendor's words.
fn is_feature(property: &str) -> bool {
    const ALIASES: [&str; 7] = ["ffxsr", "i64", "pclmuldq", "sse3", "sse4-1", "sse4-2", "xd"];
    const APART: [&str; 5] = ["hv-", "kvm", "vmware-", "vmx-", "x-"];
    !property.contains('_')
        && !ALIASES.contains(&property)
        && !APART.iter().any(|prefix| property.starts_with(prefix))
}

/// Whether the kernel's flags say if the host's CPU has a feature, whether or not a guest gets it.
fn shown_by_flags(feature: &str) -> bool {
    // What Linux does not list, or not where it does not use it itself.
    const HIDDEN: [&str; 4] = ["la57", "svme-addr-chk", "virt-ssbd", "xfd"];
    !HIDDEN.contains(&feature) && (told_by_flags(feature) || APART.contains(&feature))
}

/// Nested virtualisation, and what a guest never gets from the host's CPU.
const APART: [&str; 10] =
    ["acpi", "monitor", "npt", "nrip-save", "osvw", "perfctr-core", "ss", "svm", "svme-addr-chk", "vmx"];
/// The name of the best CPU that there is.
pub(super) const BEST: &str = "max";
/// The most features that are kept; QEMU 7.2 has about 220.
const FEATURES_MAX: usize = 1000;

/// Whether the kernel's flags say yes or no to one of QEMU's features.
fn told_by_flags(feature: &str) -> bool {
    // Bits of IA32_ARCH_CAPABILITIES and IA32_CORE_CAPABILITY, which only the model-specific registers hold.
    const REGISTERS: [&str; 8] = [
        "core-capability",
        "ibrs-all",
        "rsba",
        "skip-l1dfl-vmentry",
        "split-lock-detect",
        "tsx-ctrl",
        "fb-clear",
        "arch-capabilities",
    ];
    !feature.ends_with("-no")
        && !feature.starts_with("vmx-")
        && !feature.starts_with("kvm")
        && !feature.starts_with("hv-")
        && !REGISTERS.contains(&feature)
        && !APART.contains(&feature)
}

/// The kernel's flag for one of QEMU's features.
fn flag(feature: &str) -> String {
    match feature {
        "amd-ssbd" => "ssbd".into(),
        "amd-stibp" => "stibp".into(),
        "avx512bitalg" => "avx512_bitalg".into(),
        "avx512vbmi2" => "avx512_vbmi2".into(),
        "avx512vnni" => "avx512_vnni".into(),
        "cr8legacy" => "cr8_legacy".into(),
        "invtsc" => "nonstop_tsc".into(),
        // Intel's one bit for both; the kernel shows each.
        "spec-ctrl" => "ibrs".into(),
        "tsc-deadline" => "tsc_deadline_timer".into(),
        "tsx-ldtrk" => "tsxldtrk".into(),
        other => other.replace(['-', '.'], "_"),
    }
}

/// What a model needs and this CPU lacks.
pub(super) fn missing<'a>(model: &'a Model, host: &'a HostFlags) -> impl Iterator<Item = &'a str> {
    model.features.iter().map(String::as_str).filter(|feature| !host.flags.contains(&flag(feature)))
}

/// The model that this CPU has whole and that says most of it; of equals the one with its own family and model.
pub(super) fn closest(models: &[Model], host: &HostFlags) -> Option<HostModel> {
    let fits = models.iter().filter(|model| {
        // `qemu64` and `kvm64` are nobody's.
        let generic = model.name.starts_with("qemu") || model.name.starts_with("kvm");
        (model.vendor == host.vendor || generic) && missing(model, host).next().is_none()
    });
    let best = fits.max_by_key(|model| {
        let own = host
            .signature
            .is_some_and(|(family, number, _)| model.signature == (u64::from(family), u64::from(number)));
        (model.features.len(), own, std::cmp::Reverse(&model.name))
    })?;
    let known: BTreeSet<&String> = models.iter().flat_map(|model| &model.features).collect();
    let beyond = known.into_iter().filter(|feature| {
        let plain = feature.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        plain && !best.features.contains(*feature) && host.flags.contains(&flag(feature))
    });
    Some(HostModel { name: best.name.clone(), features: beyond.cloned().collect() })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use serde_json::json;

    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 94\nmodel name\t: X: Y\n\
        stepping\t: 3\nmicrocode\t: 0xf0\naddress sizes\t: 39 bits physical, 48 bits virtual\n\
        flags\t\t: fpu sse4_1 avx2 rtm ibrs tsc_deadline_timer\n\nprocessor\t: 1\nvendor_id\t: Other\n";

    fn expanded() -> (Vec<String>, BTreeMap<String, Value>) {
        let model = |vendor: &str, on: &[&str]| {
            let mut properties = serde_json::Map::new();
            for key in ["fpu", "sse4.1", "avx2", "rtm", "spec-ctrl", "mds-no", "tsc-deadline"] {
                properties.insert(key.into(), json!(on.contains(&key)));
            }
            properties.insert("vendor".into(), json!(vendor));
            properties.insert("family".into(), json!(6));
            properties.insert("model".into(), json!(94));
            json!({ "model": { "name": "base", "props": properties } })
        };
        let all = [
            ("old", model("GenuineIntel", &["fpu"])),
            ("near", model("GenuineIntel", &["fpu", "sse4.1", "avx2", "spec-ctrl", "mds-no"])),
            ("foreign", model("AuthenticAMD", &["fpu", "sse4.1", "avx2", "spec-ctrl", "tsc-deadline"])),
            ("qemu64", model("AuthenticAMD", &["fpu", "sse4.1"])),
        ];
        (all.iter().map(|(n, _)| (*n).to_owned()).collect(), all.map(|(n, v)| (n.to_owned(), v)).into())
    }

    #[test]
    fn the_first_cpu_is_read() {
        let host = parse(CPUINFO);
        assert_eq!((host.vendor.as_str(), host.signature), ("GenuineIntel", Some((6, 94, 3))));
        assert_eq!((host.microcode, host.physical_bits), (Some(0xf0), Some(39)));
        assert!(host.flags.contains("avx2") && host.flags.len() == 6);
        assert_eq!(parse("").flags.len(), 0);
        assert_eq!(parse("flags : \nmodel: x\n\n").signature, None);
    }

    #[test]
    fn the_closest_model_of_the_vendor_is_named_with_what_is_beyond_it() {
        let (names, expanded) = expanded();
        let found = closest(&models(&names, &expanded), &parse(CPUINFO)).unwrap();
        assert_eq!(found.name, "near", "foreign has another vendor, and old and qemu64 say less");
        assert_eq!(
            found.features,
            ["tsc-deadline"],
            "no model has rtm, all have fpu, and mds-no cannot be told"
        );
    }

    #[test]
    fn a_model_that_needs_more_than_there_is_does_not_fit() {
        let (names, expanded) = expanded();
        let models = models(&names, &expanded);
        let poor = parse(&CPUINFO.replace("avx2 ", ""));
        assert_eq!(missing(&models[1], &poor).collect::<Vec<_>>(), ["avx2"]);
        assert_eq!(closest(&models, &poor).unwrap().name, "qemu64");
    }

    #[test]
    fn features_have_one_name_and_those_of_the_host_are_known() {
        let (_, mut expanded) = expanded();
        let mut best = expanded["near"].clone();
        best["model"]["props"]["rtm"] = json!(true);
        for other in ["sse4-1", "kvm_asyncpf", "hv-time", "x-force-features", "svm"] {
            best["model"]["props"][other] = json!(false);
        }
        expanded.insert(BEST.into(), best);
        let features = features(&expanded, &parse(CPUINFO));
        let named = |places: &[u16]| -> Vec<&str> {
            places.iter().map(|place| features.names[usize::from(*place)].as_str()).collect()
        };
        let all = ["avx2", "fpu", "mds-no", "rtm", "spec-ctrl", "sse4.1", "svm", "tsc-deadline"];
        assert_eq!(features.names, all);
        assert_eq!(
            named(&features.shown),
            all.into_iter().filter(|name| *name != "mds-no").collect::<Vec<_>>()
        );
        let host = ["avx2", "fpu", "rtm", "spec-ctrl", "sse4.1", "tsc-deadline"];
        assert_eq!(named(&features.host), host);
        // No model has rtm, so that no description of the host would say it.
        assert_eq!(
            named(&features.listed),
            host.into_iter().filter(|name| *name != "rtm").collect::<Vec<_>>()
        );
        assert_eq!(named(&features.emulated), ["avx2", "fpu", "mds-no", "rtm", "spec-ctrl", "sse4.1"]);
        assert_eq!(features.emulated_vendor.as_deref(), Some("Intel"));
        assert_eq!(named(&has(&features, expanded.get("old"))), ["fpu"]);
        assert!(has(&features, None).is_empty());
    }

    #[test]
    fn versions_of_models_are_left_to_their_classic_names() {
        let names = ["EPYC-v1", "EPYC", "host", "max", "base", "Opteron_G5", "x-vy"];
        assert_eq!(classic(names.into_iter()), ["EPYC", "Opteron_G5", "x-vy"]);
    }
}
