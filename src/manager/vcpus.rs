//! Virtual CPUs of a domain that runs: more of those that it may have are plugged in, and the guest is asked to let those
//! that were plugged in go again.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Definition, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::domain::VirtType;
use crate::driver::Control;
use crate::privsep::ask::{Ask, CpuPlace};

/// How long a guest may take to let a virtual CPU go; libvirt waits as long.
const LET_GO: Duration = Duration::from_secs(5);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(50);

/// What QEMU says of one place for a virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    at: CpuPlace,
    driver: String,
    taken: bool,
    /// Whether what is there was plugged in, and so can go.
    plugged: bool,
}

fn query(execute: &str) -> Ask {
    Ask::Monitor { execute: execute.into(), arguments: Value::Null }
}

/// The places of a machine, in the order that they are filled in.
fn places(answer: &Value) -> Option<Vec<Place>> {
    let place = |one: &Value| {
        let props = one.get("props")?;
        let number = |name: &str| u32::try_from(props.get(name)?.as_u64()?).ok();
        let at = CpuPlace {
            socket: number("socket-id")?,
            die: number("die-id"),
            core: number("core-id")?,
            thread: number("thread-id")?,
        };
        let driver = one.get("type")?.as_str()?.to_owned();
        let path = one.get("qom-path").and_then(Value::as_str);
        let plugged = path.is_some_and(|path| path.starts_with("/machine/peripheral/vcpu"));
        Some(Place { at, driver, taken: path.is_some(), plugged })
    };
    let mut places = answer.as_array()?.iter().map(place).collect::<Option<Vec<_>>>()?;
    places.sort_by_key(|place| place.at);
    Some(places)
}

impl Definition {
    /// What runs of a definition that was started, with the virtual CPUs that were plugged in since.
    pub(super) fn with_vcpus(self, control: &str) -> Self {
        if self.current_vcpus == self.vcpus {
            return self;
        }
        let answer = Control::connect(control).and_then(|mut control| control.ask(query("query-cpus-fast")));
        let count = answer.ok().and_then(|answer| u32::try_from(answer.as_array()?.len()).ok());
        let Some(count) = count.filter(|count| *count > self.current_vcpus) else { return self };
        let edited = self.edited(|tree| {
            tree.set_current_vcpus(count);
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

impl Manager {
    /// Gives a domain that runs so many of the virtual CPUs that it may have.
    pub fn set_live_vcpus(&self, uuid: DomainUuid, count: u32) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = domain.job.lock().unwrap_or_else(PoisonError::into_inner);
        let places = self.places(uuid)?;
        let taken = places.iter().filter(|place| place.taken).count();
        let wanted = count as usize;
        if wanted < taken {
            self.may_take_vcpus(uuid)?;
            return self.take_vcpus(uuid, &places, taken - wanted);
        }
        let free = places.iter().enumerate().filter(|(_, place)| !place.taken);
        for (done, (at, place)) in free.take(wanted - taken).enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let plugged =
                self.ask(uuid, Ask::PlugCpu { driver: place.driver.clone(), number, place: place.at });
            if let Err(error) = plugged {
                self.show_vcpus(uuid, taken + done)?;
                return Err(error);
            }
        }
        self.show_vcpus(uuid, wanted)
    }

    fn places(&self, uuid: DomainUuid) -> Result<Vec<Place>, ManagerError> {
        let strange = || ManagerError::state("QEMU does not tell where virtual CPUs have their places");
        places(&self.ask(uuid, query("query-hotpluggable-cpus"))?).ok_or_else(strange)
    }

    /// QEMU's own emulation may crash when a virtual CPU goes: its other threads still use what was the CPU's (seen with
    /// 7.2, also without svirt).
    fn may_take_vcpus(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let definition = live.definition.as_ref().map(|definition| definition.to_start()).transpose()?;
        if definition.is_some_and(|definition| definition.virt == VirtType::Kvm) {
            return Ok(());
        }
        let text = "a virtual CPU is taken out of a guest of type='kvm' only: under emulation QEMU may crash of it; \
                    setvcpus --guest has the guest's agent switch it off, --config takes it out at the next start";
        Err(ManagerError::Operation(text.into()))
    }

    /// Takes so many out, the last ones first; those that the guest was started with it keeps.
    fn take_vcpus(&self, uuid: DomainUuid, places: &[Place], count: usize) -> Result<(), ManagerError> {
        let plugged = places.iter().enumerate().rev().filter(|(_, place)| place.plugged);
        let numbers: Vec<u32> =
            plugged.take(count).filter_map(|(number, _)| u32::try_from(number).ok()).collect();
        if numbers.len() < count {
            let text = "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count: \
                        a guest keeps those that it was started with; use --config and start it again";
            return Err(ManagerError::Argument(text.into()));
        }
        for number in numbers {
            self.ask(uuid, Ask::UnplugCpu { number })?;
            self.wait_for_vcpu(uuid, number)?;
            self.count_vcpus(uuid)?;
        }
        Ok(())
    }

    /// Waits until the guest has let a virtual CPU go.
    fn wait_for_vcpu(&self, uuid: DomainUuid, number: u32) -> Result<(), ManagerError> {
        let until = Instant::now() + LET_GO;
        loop {
            let places = self.places(uuid)?;
            if !places.get(number as usize).is_some_and(|place| place.taken) {
                return Ok(());
            }
            if Instant::now() >= until {
                let text =
                    "vcpu unplug request timed out. Unplug result must be manually inspected in the domain";
                return Err(ManagerError::Late(text.into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Shows as many as there are.
    fn count_vcpus(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let taken = self.places(uuid)?.iter().filter(|place| place.taken).count();
        self.show_vcpus(uuid, taken)
    }

    /// A guest has let a virtual CPU go, perhaps long after it was asked.
    pub(super) fn released_vcpu(&self, uuid: DomainUuid) {
        let Some(domain) = self.by_uuid(uuid).ok() else { return };
        // Whoever waits for it already does the rest.
        let Ok(_job) = domain.job.try_lock() else { return };
        if let Err(error) = self.count_vcpus(uuid) {
            tracing::warn!(%uuid, %error, "how many virtual CPUs it has is not known");
        }
    }

    fn show_vcpus(&self, uuid: DomainUuid, count: usize) -> Result<(), ManagerError> {
        self.replace_live(uuid, None, |tree| {
            tree.set_current_vcpus(u32::try_from(count).unwrap_or(u32::MAX));
            Ok(())
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_filled_from_the_first() {
        let cpu = |socket: u32, taken: bool| {
            let mut one = json!({"type": "qemu64-x86_64-cpu", "vcpus-count": 1,
                "props": {"socket-id": socket, "core-id": 0, "thread-id": 0}});
            if taken {
                one["qom-path"] =
                    if socket == 0 { "/machine/unattached/device[0]" } else { "/machine/peripheral/vcpu1" }
                        .into();
            }
            one
        };
        let found = places(&json!([cpu(2, false), cpu(1, true), cpu(0, true)])).unwrap();
        assert_eq!(
            found.iter().map(|it| (it.at.socket, it.taken, it.plugged)).collect::<Vec<_>>(),
            [(0, true, false), (1, true, true), (2, false, false)]
        );
        for wrong in [json!(null), json!([{}]), json!([{"type": 1, "props": {"socket-id": -1}}])] {
            assert_eq!(places(&wrong), None);
        }
    }
}
