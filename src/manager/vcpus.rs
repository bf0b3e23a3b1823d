//! Virtual CPUs of a domain that runs: more of those that it may have are plugged in, and the guest is asked to let those
//! that were plugged in go again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Definition, Impact, Manager, ManagerError, link};
use crate::base::DomainUuid;
use crate::conf::definition::{Definition as Tree, TypedCpus};
use crate::conf::domain::VirtType;
use crate::privsep::ask::{Ask, CpuPlace};

/// How long a guest may take to let a virtual CPU go; libvirt waits as long.
const LET_GO: Duration = Duration::from_secs(5);
/// How long it may take for all that are taken out in one call.
const LET_ALL_GO: Duration = Duration::from_secs(60);
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

/// No domain has a virtual CPU with a number beyond.
const VCPU_MAX: u32 = 16_384;

/// How many virtual CPUs there are, and how many there may be.
#[derive(Clone, Copy, Debug)]
struct Count {
    now: u32,
    most: u32,
    /// Whether of what is kept, not of what runs.
    kept: bool,
}

impl Count {
    fn of(definition: &Definition, kept: bool) -> Self {
        Self { now: definition.current_vcpus, most: definition.vcpus.min(VCPU_MAX), kept }
    }

    /// How many there are once these came or went: they come in the order of their numbers, and go in the other one.
    fn after(self, wanted: &TypedCpus, on: bool) -> Result<u32, ManagerError> {
        let invalid = |text: String| Err(ManagerError::Argument(text));
        // Before it is made a list, which is as long as the domain has virtual CPUs and no longer.
        if let Some(beyond) = wanted.highest().filter(|highest| *highest >= self.most) {
            let of = if self.kept { "persistent" } else { "live" };
            return invalid(format!("vcpu {beyond} is not present in {of} config"));
        }
        let wanted = wanted.below(self.most);
        if self.kept && wanted.contains(&0) {
            return invalid("vCPU '0' can't be modified".into());
        }
        let same = wanted.iter().find(|number| !self.kept && (**number < self.now) == on);
        if let Some(there) = same {
            return invalid(format!("vcpu '{there}' is already in requested state"));
        }
        match counted(&wanted, on, self.now) {
            Ok(0) => invalid("the number of vcpus must not be 0".into()),
            counted => counted.map_err(ManagerError::Argument),
        }
    }
}

/// How many of the virtual CPUs are there once these came or went, of which there are so many now.
fn counted(wanted: &[u32], on: bool, now: u32) -> Result<u32, String> {
    let mut after: std::collections::BTreeSet<u32> = (0..now).collect();
    for number in wanted {
        if on {
            after.insert(*number)
        } else {
            after.remove(number)
        };
    }
    let count = u32::try_from(after.len()).unwrap_or(u32::MAX);
    match (wanted, after.iter().zip(0..).all(|(number, place)| *number == place)) {
        ([], _) => Err("no vcpus selected for modification".into()),
        (_, true) => Ok(count),
        (_, false) if on => Err(format!("virtual CPUs come in their order: the next one is {now}")),
        (_, false) => {
            Err(format!("virtual CPUs go in their order: the first one to go is {}", now.saturating_sub(1)))
        }
    }
}

/// Changes how many of the virtual CPUs are there.
fn counting(count: u32) -> impl Fn(&mut Tree) -> Result<(), ManagerError> {
    move |tree| {
        tree.set_current_vcpus(count);
        Ok(())
    }
}

impl Definition {
    /// What runs of a definition that was started, with the virtual CPUs that were plugged in since.
    /// `answer` is what QEMU says of them.
    pub(super) fn with_vcpus(self, answer: Option<&Value>) -> Self {
        let count = answer.and_then(|answer| u32::try_from(answer.as_array()?.len()).ok());
        let Some(count) = count.filter(|count| (self.current_vcpus + 1..=self.vcpus).contains(count)) else {
            return self;
        };
        let edited = self.edited(|tree| {
            tree.set_current_vcpus(count);
            Ok(())
        });
        edited.unwrap_or(self)
    }
}

impl Manager {
    /// Gives a domain so many of the virtual CPUs that it may have, while it runs and when it starts again.
    pub fn set_vcpus(&self, uuid: DomainUuid, impact: Impact, count: u32) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetVcpus")?;
        // What cannot be kept is not done to what runs either.
        if impact.config {
            self.may_edit(uuid, counting(count))?;
        }
        if impact.live {
            self.give_vcpus(uuid, count)?;
        }
        if impact.config {
            self.edit(uuid, counting(count))?;
        }
        Ok(())
    }

    /// Has virtual CPUs come or go, by their numbers.
    pub fn set_these_vcpus(
        &self,
        uuid: DomainUuid,
        impact: Impact,
        wanted: &TypedCpus,
        on: bool,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainSetVcpu")?;
        // Only now nobody changes how many there are.
        let domain = self.by_uuid(uuid)?;
        let kept = impact.config.then(|| self.definition(&domain)).transpose()?;
        let live = impact.live.then(|| self.live(uuid)).transpose()?;
        let live = live.map(|live| live.definition.clone().ok_or_else(link::unknown)).transpose()?;
        let after = |of: &Definition, kept: bool| Count::of(of, kept).after(wanted, on);
        let kept = kept.map(|kept| after(&kept, true)).transpose()?;
        let live = live.map(|live| after(&live, false)).transpose()?;
        // What cannot be kept is not done to what runs either.
        if let Some(count) = kept {
            self.may_edit(uuid, counting(count))?;
        }
        if let Some(count) = live {
            self.give_vcpus(uuid, count)?;
        }
        kept.map_or(Ok(()), |count| self.edit(uuid, counting(count)))
    }

    /// Plugs in, or takes out, until there are so many. To be called while nobody else changes the domain.
    fn give_vcpus(&self, uuid: DomainUuid, count: u32) -> Result<(), ManagerError> {
        let places = self.places(uuid)?;
        let taken = places.iter().filter(|place| place.taken).count();
        let there = |number: &u32| places.get(*number as usize).is_some_and(|place| place.taken);
        self.leaving(uuid, |leaving| leaving.retain(there));
        let wanted = count as usize;
        if wanted < taken {
            self.may_take_vcpus(uuid)?;
            return self.take_vcpus(uuid, &places, taken, taken - wanted);
        }
        let free = places.iter().enumerate().filter(|(_, place)| !place.taken);
        for (done, (at, place)) in free.take(wanted - taken).enumerate() {
            let number = u32::try_from(at).unwrap_or(u32::MAX);
            let plug = Ask::PlugCpu { driver: place.driver.clone(), number, place: place.at };
            let plugged = self.sure(uuid, self.ask(uuid, plug));
            if let Err(error) = plugged {
                self.show_vcpus(uuid, taken + done)?;
                return Err(error);
            }
        }
        self.show_vcpus(uuid, wanted)?;
        self.pin_again(uuid)
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
    fn take_vcpus(
        &self,
        uuid: DomainUuid,
        places: &[Place],
        taken: usize,
        count: usize,
    ) -> Result<(), ManagerError> {
        let plugged = places.iter().enumerate().rev().filter(|(_, place)| place.plugged);
        let numbers: Vec<u32> =
            plugged.take(count).filter_map(|(number, _)| u32::try_from(number).ok()).collect();
        if numbers.len() < count {
            let text = "failed to find appropriate hotpluggable vcpus to reach the desired target vcpu count: \
                        a guest keeps those that it was started with; use --config and start it again";
            return Err(ManagerError::Argument(text.into()));
        }
        let by = Instant::now() + LET_ALL_GO;
        for (done, number) in numbers.into_iter().enumerate() {
            // Before it is asked, so that its word that it has is believed.
            self.leaving(uuid, |leaving| leaving.insert(number));
            self.sure(uuid, self.ask(uuid, Ask::UnplugCpu { number })).inspect_err(|_| {
                self.leaving(uuid, |leaving| leaving.remove(&number));
            })?;
            self.wait_for_vcpu(uuid, number, by.min(Instant::now() + LET_GO))?;
            self.leaving(uuid, |leaving| leaving.remove(&number));
            self.show_vcpus(uuid, taken - done - 1)?;
        }
        Ok(())
    }

    /// Waits until the guest has let a virtual CPU go, and no longer than until then.
    fn wait_for_vcpu(&self, uuid: DomainUuid, number: u32, until: Instant) -> Result<(), ManagerError> {
        let late = "vcpu unplug request timed out. Unplug result must be manually inspected in the domain";
        loop {
            let answer = self.ask_each(uuid, vec![query("query-hotpluggable-cpus")], until).pop().flatten();
            let Some(places) = answer.as_ref().and_then(places) else {
                return Err(ManagerError::Late(late.into()));
            };
            if !places.get(number as usize).is_some_and(|place| place.taken) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(ManagerError::Late(late.into()));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// What is done with the virtual CPUs that a domain was asked to let go.
    fn leaving<T: Default>(&self, uuid: DomainUuid, with: impl FnOnce(&mut BTreeSet<u32>) -> T) -> T {
        let mut table = self.table();
        let live = table.get(uuid).and_then(|domain| domain.live.as_mut());
        live.map(|live| with(&mut Arc::make_mut(live).runtime.leaving)).unwrap_or_default()
    }

    /// A guest has let a virtual CPU go, perhaps long after it was asked. The device model says so: nobody asks it back,
    /// and one that was not asked for is not believed.
    pub(super) fn released_vcpu(&self, uuid: DomainUuid, id: i32, number: u32) {
        let (Ok(domain), Ok(live)) = (self.by_uuid(uuid), self.live(uuid)) else { return };
        if live.id != id || !live.runtime.leaving.contains(&number) {
            return;
        }
        // Whoever waits for it already does the rest.
        let Some(_job) = domain.job.try_take("DomainSetVcpus") else { return self.doubt(uuid) };
        if !self.leaving(uuid, |leaving| leaving.remove(&number)) {
            return;
        }
        let left = self.live(uuid).ok().and_then(|live| Some(live.definition.as_ref()?.current_vcpus));
        let shown = left.map(|before| self.show_vcpus(uuid, before.saturating_sub(1) as usize));
        if let Some(Err(error)) = shown {
            tracing::warn!(%uuid, %error, "how many virtual CPUs it has is not shown");
        }
    }

    /// Shows so many, and no number that it cannot have, whatever the device model says.
    fn show_vcpus(&self, uuid: DomainUuid, count: usize) -> Result<(), ManagerError> {
        let live = self.live(uuid)?;
        let most = live.definition.as_ref().map_or(1, |definition| definition.vcpus).max(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX).clamp(1, most);
        self.replace_live(uuid, None, |tree| {
            tree.set_current_vcpus(count);
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
    fn virtual_cpus_come_and_go_in_their_order() {
        assert_eq!((counted(&[1], true, 1), counted(&[1, 2], true, 1)), (Ok(2), Ok(3)));
        assert_eq!((counted(&[0, 1], true, 2), counted(&[2], false, 3)), (Ok(2), Ok(2)));
        assert_eq!(counted(&[1, 2], false, 3), Ok(1));
        assert!(counted(&[2], true, 1).is_err_and(|text| text.ends_with("the next one is 1")));
        assert!(counted(&[1], false, 3).is_err_and(|text| text.ends_with("the first one to go is 2")));
        assert!(counted(&[], true, 1).is_err());
    }

    #[test]
    fn only_those_that_a_domain_may_have_are_counted() {
        let after = |(now, most, kept): (u32, u32, bool), map: &str, on: bool| {
            let wanted = TypedCpus::parse(map).unwrap();
            Count { now, most, kept }.after(&wanted, on).map_err(|error| error.to_string())
        };
        for kept in [false, true] {
            assert_eq!(after((2, 4, kept), "2-3,^3", true), Ok(3));
            assert_eq!(after((3, 3, kept), "1-2", false), Ok(1));
        }
        let told = |count, map, on, why: &str| {
            let told = after(count, map, on).unwrap_err();
            assert!(told.contains(why), "{told}");
        };
        told((1, 3, false), "0-4294967295,0-4294967295", true, "vcpu 4294967295 is not present in live");
        told((1, 3, true), "3", true, "vcpu 3 is not present in persistent config");
        told((1, 3, true), "0", false, "vCPU '0' can't be modified");
        told((1, 3, false), "0", true, "vcpu '0' is already in requested state");
        told((1, 3, false), "0", false, "must not be 0");
        told((1, 3, false), "^1", true, "no vcpus selected");
    }

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

    struct Deaf;

    impl crate::manager::Sink for Deaf {
        fn tell(&self, _event: &crate::manager::Event) {}
    }

    #[test]
    fn a_device_model_is_believed_of_cpus_that_were_asked_to_go_and_once() {
        use crate::conf::facts::HostFacts;
        use crate::manager::{Memory, StartFlags};
        use crate::privsep::ask::Happening;
        use crate::settings::Settings;

        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        let xml = "<domain type='test'><name>a</name><memory>1024</memory><vcpu current='3'>4</vcpu>\
            <os><type>hvm</type></os></domain>";
        let uuid = DomainUuid(uuid::Uuid::from_u128(9));
        let strict = crate::conf::definition::Strictness::Strict;
        manager.define(manager.read(xml, uuid, strict).unwrap(), 0).unwrap();
        manager.start(uuid, StartFlags::default()).unwrap();
        let id = manager.live(uuid).unwrap().id;
        let shown = || manager.live(uuid).unwrap().definition.as_ref().unwrap().current_vcpus;
        let gone = |number: u32| {
            manager.happened(uuid, id, Happening::DeviceDeleted { alias: format!("vcpu{number}") });
            shown()
        };
        assert_eq!(gone(2), 3, "nobody asked for it");
        manager.leaving(uuid, |leaving| leaving.insert(2));
        assert_eq!([gone(1), gone(2), gone(2)], [3, 2, 2]);
        for (told, believed) in [(0, 1), (3, 3), (usize::MAX, 4)] {
            manager.show_vcpus(uuid, told).unwrap();
            assert_eq!(shown(), believed);
        }
    }
}
