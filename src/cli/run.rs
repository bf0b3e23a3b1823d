//! `svirt run`: from a definition to a running guest, and in the foreground to its end.
//!
//! As root: open the definition, find or start the labeller, read the host. Then root is given up, and only then
//! is anything parsed.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;

use super::args::Run;
use super::attach::{self, Detached};
use super::definition::Definition;
use super::exit::{Code, Failure};
use super::labeller::failure;
use super::stop::{describe, remedy};
use super::terminal::Raw;
use super::{config, labeller, output, privilege};
use crate::base::{DomainUuid, Files};
use crate::driver::{self, Begin, Control, DriverError, Labeller, Launch};
use crate::host;
use crate::privsep::supervisor::{Ended, Verb};
use crate::settings::Settings;

/// How long the answer to a kill is waited for once the domain is gone.
const ANSWER: Duration = Duration::from_secs(5);

/// Runs `svirt run`.
pub(super) fn run(wanted: &Run, config: &Path, quiet: bool) -> Result<(), Failure> {
    if !privilege::is_root() {
        return Err(Failure::needs_root(&format!("svirt run {}", wanted.definition.display())));
    }
    let settings = config::load(config)?;
    let definition = Definition::open(&wanted.definition)?;
    let mut labeller = labeller::ensure(&settings, config)?;
    let facts = host::read(&settings);
    privilege::drop_all(&settings)?;
    // Only now: a labeller that was started with these signals blocked would keep them so.
    let signals = attach::signals()?;
    let domain = definition.parse()?;
    let launch = driver::start(
        &mut labeller,
        (domain, &Files::ALL),
        &facts,
        &settings,
        Begin { paused: wanted.paused, restore: None },
    )
    .map_err(|error| failure(&error))?;
    if !quiet {
        announce(&launch, wanted.paused);
    }
    if wanted.detach {
        return Ok(());
    }
    drop(labeller);
    let grace = Duration::from_secs(wanted.grace);
    Foreground::new(launch, signals, settings, grace, quiet)?.serve()
}

fn announce(launch: &Launch, paused: bool) {
    let started = &launch.started;
    let state = if paused { "is paused" } else { "runs" };
    output::note(&format!("{} {state} (pid {})", launch.plan.domain.name, started.qemu_pid));
    for (slot, address) in &started.listening {
        let verb = if slot.starts_with("net") || slot.starts_with("vsock") { "is" } else { "listens on" };
        output::note(&format!("{slot} {verb} {address}"));
    }
    for layer in &started.degraded {
        output::note(&format!("degraded: {layer}"));
    }
}

/// A guest with a person, or a service manager, in front of it.
struct Foreground {
    name: String,
    control: String,
    signals: SignalFd,
    /// Readable once the domain is gone.
    gone: UnixStream,
    ended: Receiver<Result<Ended, DriverError>>,
    /// Which signal asked for the end first.
    asked: Option<Detached>,
    end: Arc<End>,
    quiet: bool,
}

/// What ends a domain: the guest's consent first, force when its grace is over.
struct End {
    name: String,
    uuid: DomainUuid,
    control: String,
    settings: Settings,
    grace: Duration,
    killing: Mutex<Killing>,
    /// Told when an answer to a kill has come.
    answered: Condvar,
    quiet: bool,
}

/// How far a domain's end by force is.
#[derive(Debug, Default)]
struct Killing {
    /// How many have asked and have no answer yet.
    asking: u32,
    /// Whether the labeller has done it.
    done: bool,
}

impl End {
    /// Asks the guest, and ends the domain where it does not end by itself. To be called on a thread of its own: neither a
    /// supervisor that does not answer nor an output that nobody reads may keep the next signal from being heard.
    fn politely(&self) {
        let until = Instant::now() + self.grace;
        let asked =
            Control::connect_by(&self.control, until).and_then(|mut control| control.order(&Verb::Shutdown));
        match asked {
            Ok(()) => {
                let grace = self.grace.as_secs();
                self.say(&format!("asked {} to power off; once more, or {grace} s, ends it", self.name));
                // The program ends with the domain, and this thread with it.
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                self.say(&format!("the guest did not power off within {grace} s"));
            }
            Err(error) => self.say(&format!("cannot ask the guest: {}", error.refusal().rule)),
        }
        self.by_force();
    }

    /// Ends the domain. Whoever asks again while nobody has an answer asks anew.
    fn by_force(&self) {
        self.killing().asking += 1;
        // A new connection: the labeller closes one that has been silent for minutes.
        let killed = Labeller::connect(&self.settings).and_then(|mut labeller| labeller.kill(self.uuid));
        let mut killing = self.killing();
        killing.asking = killing.asking.saturating_sub(1);
        killing.done |= killed.is_ok();
        let done = killing.done;
        drop(killing);
        self.answered.notify_all();
        match killed {
            // It is gone already, which is as good.
            Ok(_) | Err(DriverError::NoDomain) => {}
            Err(error) if !done => self.say(&format!("cannot end it: {}", error.refusal().rule)),
            Err(_) => {}
        }
    }

    /// Whether the domain's end was this program's doing. Its answer may come a moment after the news of the end.
    fn killed(&self) -> bool {
        let waits = |killing: &mut Killing| killing.asking > 0 && !killing.done;
        match self.answered.wait_timeout_while(self.killing(), ANSWER, waits) {
            Ok((killing, _)) => killing.done,
            Err(poisoned) => poisoned.into_inner().0.done,
        }
    }

    fn killing(&self) -> MutexGuard<'_, Killing> {
        self.killing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, text: &str) {
        say(self.quiet, text);
    }
}

impl Foreground {
    fn new(
        launch: Launch,
        signals: SignalFd,
        settings: Settings,
        grace: Duration,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let uuid = launch.plan.domain.uuid;
        // The reply to this request comes at the end, so it has a connection of its own.
        let mut waiter = Labeller::connect(&settings).map_err(|error| failure(&error))?;
        let (gone, teller) = UnixStream::pair()?;
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || {
            // If nobody listens any more the program ends anyway.
            let _ = sender.send(waiter.wait(uuid));
            drop(teller);
        });
        let name = launch.plan.domain.name.to_string();
        let control = launch.started.control;
        let end = End {
            name: name.clone(),
            uuid,
            control: control.clone(),
            settings,
            grace,
            killing: Mutex::default(),
            answered: Condvar::new(),
            quiet,
        };
        Ok(Self { name, control, signals, gone, ended, asked: None, end: Arc::new(end), quiet })
    }

    /// Stays until the domain ends or the person leaves it.
    fn serve(mut self) -> Result<(), Failure> {
        let console = Control::connect(&self.control).and_then(|control| control.console(None, false));
        match console {
            Ok((alias, stream, early)) => {
                let greeting = if self.quiet {
                    String::new()
                } else {
                    format!("attached to {alias}; ^C asks the guest to power off, ^] leaves it running")
                };
                if self.attached(&stream, greeting, early)? {
                    self.say(&format!("{} goes on; `svirt console {}` attaches again", self.name, self.name));
                    return Ok(());
                }
            }
            Err(error) => self.say(&format!("no console: {}", error.refusal().rule)),
        }
        self.outlast()?;
        self.finish()
    }

    /// True where the person left and the guest goes on.
    fn attached(
        &mut self,
        stream: &UnixStream,
        mut greeting: String,
        mut early: Vec<u8>,
    ) -> Result<bool, Failure> {
        // From the first key to the last: a mode that changed in between would lose what is typed meanwhile.
        let _raw = Raw::enter()?;
        loop {
            let end =
                attach::attach(stream, &greeting, &early, &self.signals, Some(self.gone.as_fd()), true)?;
            greeting.clear();
            early.clear();
            match end {
                Detached::Closed => return Ok(false),
                Detached::Escape => return Ok(true),
                Detached::Interrupt | Detached::Terminate => self.wish(end),
            }
        }
    }

    /// Without a console: waits for the end, and still hears signals.
    fn outlast(&mut self) -> Result<(), Failure> {
        loop {
            let mut fds = [
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.gone.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                other => other.map_err(std::io::Error::from)?,
            };
            let [signal, gone] = fds.map(|fd| fd.any().unwrap_or(false));
            if gone {
                // Nothing is ever written: readable means closed.
                let _ = self.gone.read(&mut [0]);
                return Ok(());
            }
            if signal && let Some(end) = attach::pending(&self.signals) {
                self.wish(end);
            }
        }
    }

    /// The first signal asks the guest, and gives it its grace; the second one does not.
    fn wish(&mut self, how: Detached) {
        let end = Arc::clone(&self.end);
        if self.asked.is_none() {
            self.asked = Some(how);
            std::thread::spawn(move || end.politely());
        } else {
            self.say(&format!("ending {}", self.name));
            std::thread::spawn(move || end.by_force());
        }
    }

    fn finish(self) -> Result<(), Failure> {
        let ended = match self.ended.recv() {
            Ok(Err(DriverError::Refused(refused))) => return Err(failure(&DriverError::Refused(refused))),
            Ok(Ok(ended)) => ended,
            Ok(Err(_)) | Err(_) => {
                return Err(Failure::plain(
                    format!("lost the labeller; {} may go on without it", self.name),
                    "`svirt list` starts another one, which finds the domain again, and shows whether it runs",
                ));
            }
        };
        let last = format!("{} {}", self.name, describe(&ended));
        let died = ended.signal.is_some() || ended.code.is_some_and(|code| code != 0);
        // It may have died by itself a moment before it was to be killed.
        let by_us = ended.signal == Some(libc::SIGKILL) && self.end.killed();
        if died && !by_us {
            return Err(Failure::Died { message: last, remedy: remedy(&ended), stderr: ended.stderr });
        }
        match self.asked {
            Some(Detached::Terminate) => Err(Failure::Ended(Code::Terminated, last)),
            Some(_) => Err(Failure::Ended(Code::Interrupted, last)),
            None => {
                self.say(&last);
                Ok(())
            }
        }
    }

    fn say(&self, text: &str) {
        say(self.quiet, text);
    }
}

fn say(quiet: bool, text: &str) {
    if !quiet {
        output::note(text);
        if attach::interactive() {
            // A raw terminal goes down on a line feed, but not back to its left edge.
            let _ = std::io::stderr().write_all(b"\r");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::privsep::request::{Refused, Reply, Request};
    use crate::privsep::wire;

    /// A labeller that gives these replies, one to each connection.
    fn labeller(run: &Path, replies: Vec<Reply>) -> std::thread::JoinHandle<()> {
        let listener = UnixListener::bind(run.join("labeller.sock")).unwrap();
        std::thread::spawn(move || {
            for reply in replies {
                let (mut stream, _) = listener.accept().unwrap();
                let mut heard = Vec::new();
                let mut chunk = [0; 1024];
                while wire::decode::<Request>(&mut heard).unwrap().is_none() {
                    let length = stream.read(&mut chunk).unwrap();
                    heard.extend(chunk.iter().take(length));
                }
                stream.write_all(&wire::encode(&reply).unwrap()).unwrap();
            }
        })
    }

    #[test]
    fn a_refused_kill_is_no_kill_and_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::default();
        settings.paths.run = dir.path().to_str().unwrap().to_owned();
        let refusal = crate::base::Refusal::new(crate::base::Layer::Policy, "kill", "it", "not now", "");
        let refused = Reply::Refused(Box::new(Refused { refusal, op: None, stderr: String::new() }));
        let ended = Ended { code: None, signal: Some(9), reason: None, stderr: String::new() };
        let fake = labeller(dir.path(), vec![refused, Reply::NoDomain, Reply::Ended(ended)]);
        let end = End {
            name: "d".into(),
            uuid: DomainUuid(uuid::Uuid::nil()),
            control: String::new(),
            settings,
            grace: Duration::ZERO,
            killing: Mutex::default(),
            answered: Condvar::new(),
            quiet: true,
        };
        for killed in [false, false, true] {
            end.by_force();
            assert_eq!(end.killed(), killed);
        }
        fake.join().unwrap();
    }
}
