//! Virtual CPUs of a domain that runs: more of those that it may have are plugged in, none is taken out.

use std::sync::PoisonError;

use serde_json::Value;

use super::{Definition, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::driver::Control;
use crate::privsep::ask::{Ask, CpuPlace};

/// What QEMU says of one place for a virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    at: CpuPlace,
    driver: String,
    taken: bool,
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
        Some(Place { at, driver, taken: one.get("qom-path").is_some() })
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
        let strange = || ManagerError::state("QEMU does not tell where virtual CPUs have their places");
        let places = places(&self.ask(uuid, query("query-hotpluggable-cpus"))?).ok_or_else(strange)?;
        let taken = places.iter().filter(|place| place.taken).count();
        let wanted = count as usize;
        if wanted < taken {
            let text = "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count: \
                        a guest keeps those that it has; use --config and start it again";
            return Err(ManagerError::Unsupported(text.into()));
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
                one["qom-path"] = "/machine/unattached/device[0]".into();
            }
            one
        };
        let found = places(&json!([cpu(2, false), cpu(1, false), cpu(0, true)])).unwrap();
        assert_eq!(
            found.iter().map(|it| (it.at.socket, it.taken)).collect::<Vec<_>>(),
            [(0, true), (1, false), (2, false)]
        );
        for wrong in [json!(null), json!([{}]), json!([{"type": 1, "props": {"socket-id": -1}}])] {
            assert_eq!(places(&wrong), None);
        }
    }
}
