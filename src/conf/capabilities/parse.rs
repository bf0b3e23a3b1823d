//! XML to values. What is read here describes a host and decides nothing of this one's safety, so unknown elements
//! are passed over; a value that is there and makes no sense is an error with its line.

use super::{
    Capabilities, Cell, CellCpu, Confinement, Cpu, Guest, HOST_NAMESPACE, Host, Machine, SecurityModel,
    Suspend,
};
use crate::conf::xml::walk::At;
use crate::conf::xml::{Document, XmlError};

/// The most siblings of one kind; a host has fewer CPUs, cells, models and machines.
const LIST_MAX: usize = 16_384;
/// The most of what is compared with each other: models and machines.
const COMPARED_MAX: usize = 1024;

/// Why a text is no capabilities XML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CapabilitiesError {
    /// Another root, or something that must be there is not.
    #[error("{what} is missing, line {line}")]
    Missing {
        /// Where.
        line: u32,
        /// What.
        what: &'static str,
    },
    /// A value makes no sense, or there are too many.
    #[error("{value:?} is no {what}, line {line}")]
    Value {
        /// Where.
        line: u32,
        /// What it should be.
        what: &'static str,
        /// What stands there.
        value: String,
    },
    /// It is no XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
}

type Read<T> = Result<T, CapabilitiesError>;

pub(super) fn capabilities(xml: &[u8]) -> Read<Capabilities> {
    let document = Document::parse(xml)?;
    let root = At::root(&document);
    let missing = |what| CapabilitiesError::Missing { line: root.line(), what };
    if root.name() != "capabilities" || root.namespace().is_some() {
        return Err(missing("<capabilities>"));
    }
    let found = root.one("host").ok_or_else(|| missing("<host>"))?;
    let mut guests: Vec<Guest> = Vec::new();
    for one in root.all("guest").take(LIST_MAX) {
        guests.extend(guest(one)?);
    }
    Ok(Capabilities { host: host(found)?, guests })
}

fn bad(at: At<'_>, what: &'static str, value: &str) -> CapabilitiesError {
    CapabilitiesError::Value { line: at.line(), what, value: crate::conf::error::clip(value) }
}

fn number<T: std::str::FromStr>(at: At<'_>, text: &str) -> Read<T> {
    text.trim().parse().map_err(|_| bad(at, "number", text))
}

/// A number in an attribute, where it stands.
fn attribute<T: std::str::FromStr>(at: At<'_>, name: &str) -> Read<Option<T>> {
    at.attribute(name).map(|text| number(at, text)).transpose()
}

fn required<T: std::str::FromStr>(at: At<'_>, name: &str) -> Read<T> {
    attribute(at, name)?.ok_or(CapabilitiesError::Missing { line: at.line(), what: "an attribute" })
}

fn text(at: At<'_>, name: &'static str) -> Option<String> {
    at.one(name).map(|inner| inner.text().into_owned())
}

fn list<'d, T>(found: impl Iterator<Item = At<'d>>, read: impl FnMut(At<'d>) -> Read<T>) -> Read<Vec<T>> {
    found.take(LIST_MAX).map(read).collect()
}

fn yes(at: At<'_>, word: &str) -> Read<bool> {
    match word.trim() {
        "yes" => Ok(true),
        "no" => Ok(false),
        other => Err(bad(at, "yes or no", other)),
    }
}

fn host(at: At<'_>) -> Read<Host> {
    let uuid = at.one("uuid").map(|inner| {
        let text = inner.text();
        uuid::Uuid::parse_str(text.trim()).map_err(|_| bad(inner, "uuid", &text))
    });
    let suspend = at.one("power_management").map_or(Vec::new(), |inner| {
        inner
            .elements()
            .filter_map(|state| match state.name() {
                "suspend_disk" => Some(Suspend::Disk),
                "suspend_mem" => Some(Suspend::Mem),
                _ => None,
            })
            .take(2)
            .collect()
    });
    let iommu = at.one("iommu").and_then(|inner| Some((inner, inner.attribute("support")?)));
    let cells = at.one("topology").and_then(|inner| inner.one("cells"));
    let confinement = at.named(Some(HOST_NAMESPACE), "confinement").next();
    Ok(Host {
        uuid: uuid.transpose()?,
        cpu: at.one("cpu").map(cpu).transpose()?.unwrap_or_default(),
        suspend,
        iommu: iommu.map(|(inner, word)| yes(inner, word)).transpose()?.unwrap_or(false),
        cells: cells.map(|inner| list(inner.all("cell"), cell)).transpose()?.unwrap_or_default(),
        security: security(at)?,
        confinement: confinement.map(self::confinement).transpose()?,
    })
}

fn cpu(at: At<'_>) -> Read<Cpu> {
    let microcode = at.one("microcode").map(|inner| required(inner, "version")).transpose()?;
    let signature = at.one("signature").map(|inner| -> Read<(u32, u32, u32)> {
        Ok((required(inner, "family")?, required(inner, "model")?, required(inner, "stepping")?))
    });
    let topology = at.one("topology").map(|inner| -> Read<[u32; 4]> {
        let dies = attribute(inner, "dies")?.unwrap_or(1);
        Ok([required(inner, "sockets")?, dies, required(inner, "cores")?, required(inner, "threads")?])
    });
    let bits = at.one("maxphysaddr").map(|inner| attribute(inner, "bits")).transpose()?;
    let pages = list(at.all("pages"), |inner| required(inner, "size"))?;
    Ok(Cpu {
        arch: text(at, "arch").unwrap_or_default(),
        model: text(at, "model"),
        vendor: text(at, "vendor"),
        microcode,
        signature: signature.transpose()?,
        topology: topology.transpose()?,
        physical_bits: bits.flatten(),
        features: at
            .all("feature")
            .take(LIST_MAX)
            .filter_map(|inner| inner.attribute("name").map(ToOwned::to_owned))
            .collect(),
        pages,
    })
}

fn cell(at: At<'_>) -> Read<Cell> {
    let memory = at.one("memory").map(|inner| number(inner, &inner.text())).transpose()?;
    let pages = list(at.all("pages"), |inner| Ok((required(inner, "size")?, number(inner, &inner.text())?)))?;
    let distances = at.one("distances").map(|inner| {
        list(inner.all("sibling"), |sibling| Ok((required(sibling, "id")?, required(sibling, "value")?)))
    });
    let cpus = at.one("cpus").map(|inner| {
        list(inner.all("cpu"), |cpu| {
            Ok(CellCpu {
                id: required(cpu, "id")?,
                socket: attribute(cpu, "socket_id")?.unwrap_or_default(),
                die: attribute(cpu, "die_id")?.unwrap_or_default(),
                core: attribute(cpu, "core_id")?.unwrap_or_default(),
                siblings: cpu.attribute("siblings").unwrap_or_default().to_owned(),
            })
        })
    });
    Ok(Cell {
        id: required(at, "id")?,
        memory: memory.unwrap_or_default(),
        pages,
        distances: distances.transpose()?.unwrap_or_default(),
        cpus: cpus.transpose()?.unwrap_or_default(),
    })
}

/// Joins the two shapes: `<secmodel>` gives the order and the base labels, `<seclabel>` all domains of interpretation.
///
/// A host that has only libvirt's shape is taken for enforcing: libvirt does not say.
fn security(at: At<'_>) -> Read<Vec<SecurityModel>> {
    let mut models: Vec<SecurityModel> = Vec::new();
    for secmodel in at.all("secmodel").take(COMPARED_MAX) {
        let model = text(secmodel, "model").unwrap_or_default();
        if models.iter().any(|known| known.model == model) {
            continue;
        }
        let baselabels = secmodel.all("baselabel").take(LIST_MAX);
        models.push(SecurityModel {
            dois: text(secmodel, "doi").into_iter().collect(),
            baselabels: baselabels
                .map(|l| (l.attribute("type").unwrap_or_default().to_owned(), l.text().into_owned()))
                .collect(),
            enforcing: model != "none",
            model,
            policy_version: None,
        });
    }
    for seclabel in at.all("seclabel").take(COMPARED_MAX) {
        let Some(name) = seclabel.attribute("model") else { continue };
        let dois = seclabel.all("doi").take(LIST_MAX).map(|doi| doi.text().into_owned()).collect();
        let enforcing = seclabel.one("enforcing").map(|inner| yes(inner, &inner.text())).transpose()?;
        let policy = seclabel.one("policy").map(|inner| required(inner, "version")).transpose()?;
        let at = match models.iter().position(|known| known.model == name) {
            Some(at) => at,
            None => {
                models.push(SecurityModel { model: name.to_owned(), ..SecurityModel::default() });
                models.len() - 1
            }
        };
        if let Some(model) = models.get_mut(at) {
            model.dois = dois;
            model.enforcing = enforcing.unwrap_or(true);
            model.policy_version = policy;
        }
    }
    Ok(models)
}

fn confinement(at: At<'_>) -> Read<Confinement> {
    let one = |name| at.named(Some(HOST_NAMESPACE), name).next();
    let texts = |at: At<'_>, name| {
        at.named(Some(HOST_NAMESPACE), name).take(LIST_MAX).map(|inner| inner.text().into_owned()).collect()
    };
    let kvm = one("kvm");
    let failed = kvm.filter(|kvm| kvm.attribute("usable") != Some("yes"));
    Ok(Confinement {
        kernel: one("kernel").and_then(|k| k.attribute("release")).unwrap_or_default().to_owned(),
        lsms: texts(at, "lsm"),
        landlock_abi: one("landlock").map(|inner| required(inner, "abi")).transpose()?.unwrap_or_default(),
        seccomp: one("seccomp").map(|inner| texts(inner, "action")).unwrap_or_default(),
        kvm_failure: failed.map(|kvm| kvm.attribute("reason").unwrap_or_default().to_owned()),
    })
}

/// `None` for a guest that is no whole machine.
fn guest(at: At<'_>) -> Read<Option<Guest>> {
    let (Some("hvm"), Some(arch)) = (text(at, "os_type").as_deref(), at.one("arch")) else {
        return Ok(None);
    };
    let mut machines: Vec<Machine> = Vec::new();
    for one in arch.all("machine").take(COMPARED_MAX) {
        let name = one.text().into_owned();
        let cpus = attribute(one, "maxCpus")?.unwrap_or_default();
        let deprecated = one.attribute("deprecated") == Some("yes");
        match one.attribute("canonical") {
            None => machines.push(Machine { name, alias: None, cpus, deprecated }),
            // libvirt writes an alias anywhere in the list.
            Some(canonical) => match machines.iter_mut().find(|m| m.name == canonical && m.alias.is_none()) {
                Some(machine) => machine.alias = Some(name),
                None => {
                    machines.push(Machine { name: canonical.into(), alias: Some(name), cpus, deprecated })
                }
            },
        }
    }
    Ok(Some(Guest {
        arch: arch.attribute("name").unwrap_or_default().to_owned(),
        wordsize: arch
            .one("wordsize")
            .map(|inner| number(inner, &inner.text()))
            .transpose()?
            .unwrap_or_default(),
        emulator: text(arch, "emulator").unwrap_or_default(),
        machines,
        domains: arch
            .all("domain")
            .take(LIST_MAX)
            .filter_map(|inner| inner.attribute("type").map(ToOwned::to_owned))
            .collect(),
    }))
}
