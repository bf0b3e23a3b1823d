//! Whether a guest's virtual CPUs run is its device model's to say: what is believed of it here is older than what a supervisor
//! did while nobody listened to it.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::happen::{PAUSED_CRASHED, PAUSED_IO_ERROR, PAUSED_WATCHDOG};
use super::table::{Live, State};
use super::{Lifecycle, Manager, ManagerError};
use crate::base::DomainUuid;

/// libvirt's reason for a state that was found and not made.
pub(super) const UNKNOWN: i32 = 0;

/// How long a supervisor may take to tell whoever waits for it, and how long where nobody does: nobody can change a domain
/// meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
const UNWAITED: Duration = Duration::from_secs(1);
/// How long is asked in all, until the next time.
const ROUND: Duration = Duration::from_secs(5);

/// What a guest does, in QEMU's word.
pub(super) fn state(word: &str) -> State {
    match word {
        "running" => State::Running(UNKNOWN),
        "guest-panicked" => State::Crashed,
        "io-error" => State::Paused(PAUSED_IO_ERROR),
        "watchdog" => State::Paused(PAUSED_WATCHDOG),
        _ => State::Paused(UNKNOWN),
    }
}

impl Manager {
    /// Asks what the guest of this start does and notes it, now or, where somebody changes the domain, later.
    pub fn look(&self, uuid: DomainUuid, id: i32) {
        let job = self.table().job(uuid);
        // Whoever changes it notes what came of that, and perhaps before it is asked for what it was.
        let looked = job.try_take("DomainGetState").and_then(|_held| {
            let live = self.live(uuid).ok().filter(|live| live.id == id);
            let looked = live.map_or(Ok(true), |live| self.look_within(uuid, &live, UNWAITED));
            looked.ok().filter(|looked| *looked)
        });
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        match looked {
            Some(_) => unseen.remove(&(uuid, id)),
            None => unseen.insert((uuid, id)),
        };
    }

    /// The same, later: it is not known what became of an order.
    pub(super) fn look_later(&self, uuid: DomainUuid, id: i32) {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).insert((uuid, id));
    }

    /// The same of all that could not be asked. To be called again and again.
    pub fn look_again(&self) {
        let unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let until = Instant::now() + ROUND;
        unseen.into_iter().take_while(|_| Instant::now() < until).for_each(|(uuid, id)| self.look(uuid, id));
    }

    /// The same of one whose job is held, for whoever waits.
    pub(super) fn look_at(&self, uuid: DomainUuid, live: &Live) -> Result<(), ManagerError> {
        self.look_within(uuid, live, PATIENCE).map(drop)
    }

    /// Whether what was found out holds: what was heard meanwhile is newer.
    fn look_within(&self, uuid: DomainUuid, live: &Live, patience: Duration) -> Result<bool, ManagerError> {
        let control = self.core.control(&live.control, Some(Instant::now() + patience));
        let status = control.and_then(|mut control| Ok(control.status()?));
        match status {
            Ok(status) => Ok(self.seen(uuid, live, &status.state)),
            // What is nothing but memory does what is believed of it.
            Err(ManagerError::Unsupported(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Notes what a guest does, and tells it where nobody knew; `false` where more was heard of it since it was `asked`.
    fn seen(&self, uuid: DomainUuid, asked: &Live, word: &str) -> bool {
        let mut table = self.table();
        let live = table.get(uuid).and_then(|domain| domain.live.as_mut());
        let Some(live) = live.filter(|live| live.id == asked.id) else { return true };
        if live.runtime.heard != asked.runtime.heard {
            return false;
        }
        let found = state(word);
        let told = match (live.state, found) {
            (State::Starting, _)
            | (State::Running(_), State::Running(_))
            | (State::Crashed, State::Crashed) => {
                return true;
            }
            // It was told when it crashed, and was let go on since, which it did not.
            (State::Paused(PAUSED_CRASHED), State::Crashed) => None,
            // Why it stands is known better, and one that sleeps or has powered off is not told to stand.
            (State::Paused(_), State::Paused(_)) => return true,
            (State::Running(_), _) if matches!(word, "suspended" | "shutdown") => return true,
            (_, State::Running(_)) => Some(Lifecycle::Unpaused),
            (_, State::Crashed) => Some(Lifecycle::Panicked),
            (_, State::Paused(PAUSED_IO_ERROR)) => Some(Lifecycle::PausedIoError),
            (_, State::Paused(PAUSED_WATCHDOG)) => Some(Lifecycle::PausedWatchdog),
            _ => Some(Lifecycle::Paused),
        };
        Arc::make_mut(live).state = found;
        let domain = table.by_uuid(uuid);
        drop(table);
        if let Some((domain, told)) = domain.zip(told) {
            self.tell(&domain, told);
        }
        true
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;
    use std::sync::Mutex;

    use super::*;
    use crate::conf::facts::HostFacts;
    use crate::driver::Control;
    use crate::manager::What;
    use crate::manager::testing::{Heard, Played};
    use crate::privsep::ask::Happening;
    use crate::privsep::supervisor::{Answer, Status, Verb};
    use crate::settings::Settings;

    /// What a guest does, in QEMU's word, and what it was ordered.
    #[derive(Default)]
    struct Guest {
        word: Mutex<&'static str>,
        ordered: Mutex<Vec<Verb>>,
    }

    fn serve(listener: &UnixListener, guest: &Guest) {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let mut line = String::new();
            stream.read_line(&mut line).unwrap();
            assert_eq!(serde_json::from_str::<Verb>(&line).unwrap(), Verb::Status);
            let state = guest.word.lock().unwrap().to_string();
            let status = Status { state, sealed: true, notifications: 0, refused: vec![], consoles: vec![] };
            let mut answer = serde_json::to_vec(&Answer::Status(status)).unwrap();
            answer.push(b'\n');
            stream.get_mut().write_all(&answer).unwrap();
        }
    }

    #[test]
    fn what_a_guest_does_is_asked_and_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control").to_str().unwrap().to_owned();
        let listener = UnixListener::bind(&path).unwrap();
        let (guest, heard) = (Arc::new(Guest::default()), Arc::new(Heard::default()));
        let served = guest.clone();
        std::thread::spawn(move || serve(&listener, &served));
        let ordering = guest.clone();
        let core = Box::new(Played {
            order: Box::new(move |verb| {
                ordering.ordered.lock().unwrap().push(verb.clone());
                Ok(None)
            }),
            control: Box::new(move |until| Ok(Control::connect_by(&path, until.unwrap())?)),
            ..Played::default()
        });
        let (settings, facts) = (Settings::default(), HostFacts::default());
        let manager = Manager::new(settings, facts, core, None, heard.clone(), |_, _| {});
        manager.furnish().unwrap();
        let domain = manager.by_name("test").unwrap();
        let (uuid, id) = (domain.uuid, domain.id());
        let state = || manager.live(uuid).unwrap().state;
        let believe = |state: State| {
            let mut table = manager.table();
            Arc::make_mut(table.get(uuid).unwrap().live.as_mut().unwrap()).state = state;
        };
        let does = |word: &'static str| *guest.word.lock().unwrap() = word;
        let ordered = || std::mem::take(&mut *guest.ordered.lock().unwrap());
        let told = || heard.taken();
        told();

        // It was let go on, or stopped, while nobody listened.
        believe(State::Paused(UNKNOWN));
        does("running");
        manager.look(uuid, id);
        assert_eq!((state(), told()), (State::Running(UNKNOWN), vec![What::Lifecycle(Lifecycle::Unpaused)]));
        does("paused");
        manager.look(uuid, id);
        assert_eq!((state(), told()), (State::Paused(UNKNOWN), vec![What::Lifecycle(Lifecycle::Paused)]));
        manager.look(uuid, id);
        assert!(told().is_empty());

        // One that stood for a reason that nobody here knows goes on: the save was an earlier daemon's.
        does("running");
        manager.happened(uuid, id, Happening::Resumed);
        assert_eq!((state(), told()), (State::Running(UNKNOWN), vec![What::Lifecycle(Lifecycle::Unpaused)]));

        // While somebody changes it, it is asked later.
        believe(State::Paused(UNKNOWN));
        let held = manager.change(&domain.job, "DomainSave").unwrap();
        manager.look(uuid, id);
        assert_eq!(state(), State::Paused(UNKNOWN));
        drop(held);
        manager.look_again();
        assert_eq!(state(), State::Running(UNKNOWN));

        // What was heard meanwhile is newer than an answer, and a crash that was told is not told again.
        let asked = manager.live(uuid).unwrap();
        manager.happened(uuid, id, Happening::Panicked);
        told();
        assert!(!manager.seen(uuid, &asked, "running"));
        assert_eq!(state(), State::Crashed);
        believe(State::Paused(PAUSED_CRASHED));
        assert!(manager.seen(uuid, &manager.live(uuid).unwrap(), "guest-panicked"));
        assert_eq!((state(), told()), (State::Crashed, vec![]));

        // Nothing is to be done only where that is true.
        believe(State::Paused(UNKNOWN));
        manager.suspend(uuid).unwrap();
        assert_eq!(ordered(), [Verb::Pause]);
        does("paused");
        manager.suspend(uuid).unwrap();
        assert!(ordered().is_empty() && matches!(state(), State::Paused(_)));
        believe(State::Running(UNKNOWN));
        manager.resume(uuid).unwrap();
        assert_eq!(ordered(), [Verb::Resume]);
        does("running");
        assert!(manager.resume(uuid).unwrap_err().to_string().contains("already running"));
        assert!(ordered().is_empty());
    }
}
