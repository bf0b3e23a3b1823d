//! Which UEFI firmware a domain gets: what its definition names, else the first of the host's descriptions that fits.

use super::{PlanError, images, slots};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::conf::domain::{Domain, Firmware};
use crate::conf::facts::{FirmwareFile, HostFacts};
use crate::privsep::nvram::{named_for, own_name};
use crate::privsep::op::Op;
use crate::security::resource::Place;
use crate::settings::Settings;

/// The resource that holds a domain's variables.
pub(super) const NVRAM: &str = "UEFI variables";

/// Firmware that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flash {
    /// The code.
    pub code: String,
    /// What a new store of variables is copied from.
    pub template: String,
    /// The domain's store of variables.
    pub nvram: String,
    /// Whether the store may be written from system management mode alone.
    pub secure: bool,
}

/// Where a domain may have UEFI variables: under its own name, from a definition before too, and where its definition
/// names a file that could be used.
#[must_use]
pub fn stores(named: Option<&str>, uuid: DomainUuid, settings: &Settings) -> Vec<String> {
    let place = settings.images.nvram.trim_end_matches('/');
    let own = format!("{place}/{}", own_name(uuid));
    let named = named.filter(|named| *named != own && is_store(named, place)).map(str::to_owned);
    std::iter::once(own).chain(named).collect()
}

fn is_store(path: &str, place: &str) -> bool {
    super::chain::normalise("/", path).is_some_and(|plain| plain == path) && images::inside(path, place)
}

/// The firmware of a domain, `None` for the machine's own.
pub fn find(
    domain: &Domain,
    uuid: DomainUuid,
    host: &HostFacts,
    settings: &Settings,
) -> Result<Option<Flash>, PlanError> {
    let Some(firmware) = &domain.os.firmware else { return Ok(None) };
    let nvram = nvram(firmware, uuid, settings)?;
    let machine = domain.os.machine.as_str();
    let Some(loader) = &firmware.loader else {
        let fits = |file: &&FirmwareFile| fits(file, machine, firmware, domain.features.smm);
        let Some(found) = host.firmwares.iter().find(fits) else {
            let rule = "none of the host's firmware descriptions fits the machine and the features asked for";
            let remedy = "install UEFI firmware (Debian: apt install ovmf), or name a <loader> and an <nvram template=…>";
            return Err(refuse(firmware, "firmware='efi'".into(), rule, remedy));
        };
        return Ok(Some(Flash {
            code: found.code.clone(),
            template: firmware.template.clone().unwrap_or_else(|| found.template.clone()),
            nvram,
            secure: found.has("requires-smm"),
        }));
    };
    let described = host.firmwares.iter().find(|file| file.code == *loader);
    let template = firmware.template.clone().or_else(|| described.map(|file| file.template.clone()));
    let Some(template) = template else {
        let rule = "no firmware description of the host tells what its variables start from";
        return Err(refuse(firmware, loader.clone(), rule, "write <nvram template='…'>"));
    };
    let secure = firmware.secure.unwrap_or(false);
    if secure && !machine.contains("q35") {
        let rule = "secure firmware needs system management mode, which only a q35 has";
        return Err(refuse(firmware, loader.clone(), rule, "write <type machine='q35'>"));
    }
    Ok(Some(Flash { code: loader.clone(), template, nvram, secure }))
}

/// Opens the code, the template and the variables.
pub(super) fn ops(flash: &Flash, settings: &Settings) -> Result<Vec<Op>, PlanError> {
    let mut ops = Vec::new();
    for (part, path) in [("code", &flash.code), ("template", &flash.template)] {
        if super::inventory::boot_place(path, settings) == Place::Elsewhere {
            return Err(Refusal::new(
                Layer::Configuration,
                format!("open the firmware's {part}"),
                path.clone(),
                "it lies in none of the places of images.readable",
                "add its directory to readable in [images]",
            )
            .into());
        }
        ops.push(Op::OpenReadable { slot: slots::firmware(part)?, path: path.clone() });
    }
    let (slot, template) = (slots::firmware("nvram")?, slots::firmware("template")?);
    ops.push(Op::OpenNvram { slot, path: flash.nvram.clone(), template });
    Ok(ops)
}

fn refuse(firmware: &Firmware, object: String, rule: &str, remedy: &str) -> PlanError {
    PlanError::definition(format!("{object} (line {})", firmware.line), rule, remedy)
}

/// A store lies in the configured directory; one that has no name is named by the uuid, which stays when the
/// domain is renamed and is nobody else's.
fn nvram(firmware: &Firmware, uuid: DomainUuid, settings: &Settings) -> Result<String, PlanError> {
    let place = settings.images.nvram.trim_end_matches('/');
    let Some(path) = &firmware.nvram else { return Ok(format!("{place}/{}", own_name(uuid))) };
    let refuse = |rule: String, remedy: &str| {
        let object = format!("<nvram> {path} (line {})", firmware.line);
        Err(Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into())
    };
    if !is_store(path, place) {
        let remedy = "move the file there, or leave <nvram> empty for a new one";
        return refuse(format!("it does not lie in images.nvram, {place}"), remedy);
    }
    if named_for(path).is_some_and(|owner| owner != uuid) {
        return refuse(
            "by its name it is another domain's".into(),
            "name another file, or leave <nvram> empty",
        );
    }
    Ok(path.clone())
}

fn fits(file: &FirmwareFile, machine: &str, wanted: &Firmware, smm: Option<bool>) -> bool {
    let agrees = |asked: Option<bool>, feature: &str| asked.is_none_or(|asked| asked == file.has(feature));
    file.runs_on(machine)
        && agrees(wanted.secure_boot, "secure-boot")
        && agrees(wanted.enrolled_keys, "enrolled-keys")
        && agrees(wanted.secure, "requires-smm")
        && !(smm == Some(false) && file.has("requires-smm"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::plan::testing::{domain, host, uuid};

    fn file(code: &str, machines: &[&str], features: &[&str]) -> FirmwareFile {
        let own = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
        FirmwareFile {
            code: code.into(),
            template: format!("{code}.vars"),
            machines: own(machines),
            features: own(features),
        }
    }

    fn found(change: impl FnOnce(&mut Domain, &mut Firmware)) -> Result<Flash, String> {
        let mut host = host(false);
        host.firmwares = vec![
            file("/ms", &["pc-q35-*"], &["enrolled-keys", "requires-smm", "secure-boot"]),
            file("/secure", &["pc-q35-*"], &["requires-smm", "secure-boot"]),
            file("/plain", &["pc-i440fx-*", "pc-q35-*"], &[]),
        ];
        let mut domain = domain("d");
        let mut firmware = Firmware::automatic(3);
        change(&mut domain, &mut firmware);
        domain.os.firmware = Some(firmware);
        let flash = find(&domain, uuid(7), &host, &Settings::default());
        flash.map(Option::unwrap).map_err(|error| error.to_string())
    }

    #[test]
    fn the_first_description_that_fits_is_taken() {
        let code =
            |change: fn(&mut Domain, &mut Firmware)| found(change).map(|flash| (flash.code, flash.secure));
        assert_eq!(code(|_, _| {}), Ok(("/ms".into(), true)));
        assert_eq!(code(|_, f| f.enrolled_keys = Some(false)), Ok(("/secure".into(), true)));
        assert_eq!(code(|_, f| f.secure_boot = Some(false)), Ok(("/plain".into(), false)));
        assert_eq!(code(|d, _| d.os.machine = "pc".into()), Ok(("/plain".into(), false)));
        assert_eq!(code(|d, _| d.os.machine = "pc-i440fx-7.2".into()), Ok(("/plain".into(), false)));
        assert_eq!(code(|d, _| d.features.smm = Some(false)), Ok(("/plain".into(), false)));
        let none = code(|d, f| {
            d.os.machine = "pc".into();
            f.secure_boot = Some(true);
        });
        assert!(none.unwrap_err().contains("none of the host's"));
    }

    #[test]
    fn a_named_loader_brings_the_template_that_its_description_tells() {
        let flash = found(|_, f| f.loader = Some("/plain".into())).unwrap();
        assert_eq!((flash.template.as_str(), flash.secure), ("/plain.vars", false));
        assert!(flash.nvram.starts_with("/var/lib/svirt/nvram/") && flash.nvram.ends_with("_VARS.fd"));
        assert!(found(|_, f| f.loader = Some("/other".into())).unwrap_err().contains("template"));
        let both = found(|d, f| {
            f.loader = Some("/plain".into());
            f.secure = Some(true);
            d.os.machine = "pc".into();
        });
        assert!(both.unwrap_err().contains("q35"));
    }

    #[test]
    fn variables_lie_in_their_place() {
        let at = |path: &str| {
            let path = path.to_owned();
            found(move |_, f| f.nvram = Some(path))
        };
        assert_eq!(at("/var/lib/svirt/nvram/a.fd").unwrap().nvram, "/var/lib/svirt/nvram/a.fd");
        for path in ["/etc/shadow", "/var/lib/svirt/nvram/../a", "/var/lib/svirt/nvram2/a"] {
            assert!(at(path).unwrap_err().contains("images.nvram"), "{path}");
        }
        let of = |number| format!("/var/lib/svirt/nvram/{}", own_name(uuid(number)));
        assert_eq!(at(&of(7)).unwrap().nvram, of(7));
        assert!(at(&of(8)).unwrap_err().contains("another domain's"));
    }

    #[test]
    fn every_store_that_may_be_a_domains_is_known() {
        let settings = Settings::default();
        let own = format!("/var/lib/svirt/nvram/{}", own_name(uuid(7)));
        let of = |named: &str| stores(Some(named), uuid(7), &settings);
        assert_eq!(of("/var/lib/svirt/nvram/a.fd"), [own.clone(), "/var/lib/svirt/nvram/a.fd".into()]);
        for named in [own.as_str(), "/etc/shadow", "/var/lib/svirt/nvram/../a"] {
            assert_eq!(of(named), [own.as_str()], "{named}");
        }
    }
}
