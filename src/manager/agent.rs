//! The guest's agent: asked through the domain's supervisor, one command at a time.
//!
//! What answers is the guest, which may be hostile: every answer is bounded in length, depth and time, and nothing of it
//! is believed further than what was asked. Its channel is nobody's console.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::change::Busy;
use super::{Live, Manager, ManagerError};
use crate::base::DomainUuid;
use crate::conf::domain::CharTarget;

/// The name of the channel that an agent listens to.
pub(super) const CHANNEL: &str = "org.qemu.guest_agent.0";
/// How long an agent may take to say that it is there; libvirt waits as long.
const SYNC: Duration = Duration::from_secs(5);
/// The longest time that one call's commands may take, their beginnings included.
pub const PATIENCE_MAX: Duration = Duration::from_secs(120);
/// The longest answer in bytes.
const ANSWER_MAX: usize = 4 << 20;
/// How much is written at once, in bytes.
const PIECE: usize = 4096;
/// libvirt's words for an agent that does not answer.
const NOT_THERE: &str = "QEMU guest agent is not connected";
/// What an agent sends before an answer to `guest-sync-delimited`.
const SENTINEL: u8 = 0xff;

/// Why an agent did not do something.
#[derive(Debug, thiserror::Error)]
pub(super) enum AgentError {
    /// It said so.
    #[error("unable to execute QEMU agent command: {0}")]
    Refused(String),
    /// It does not answer, or answers nonsense.
    #[error("{0}")]
    Silent(String),
}

fn silent(error: impl std::fmt::Display) -> AgentError {
    AgentError::Silent(error.to_string())
}

/// One conversation.
struct Talk {
    stream: UnixStream,
    pending: Vec<u8>,
    until: Instant,
    /// Whether it has answered at all.
    answers: bool,
}

/// Whether a read or write is merely to be tried again, as long as there is time.
fn again(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

impl Talk {
    /// Writes it all within the time, however slowly the guest takes it.
    fn say(&mut self, bytes: &[u8]) -> Result<(), AgentError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            self.wait()?;
            // A longer write would wait anew for each piece of it.
            match self.stream.write(rest.get(..PIECE).unwrap_or(rest)) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if again(&error) => {}
                Err(error) => return Err(silent(error)),
            }
        }
        Ok(())
    }

    fn wait(&mut self) -> Result<(), AgentError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = if self.answers { "the guest agent did not answer in time" } else { NOT_THERE };
            return Err(silent(text));
        }
        self.stream.set_read_timeout(Some(left)).map_err(silent)?;
        self.stream.set_write_timeout(Some(left)).map_err(silent)
    }

    /// Reads up to and with a byte.
    fn until(&mut self, end: u8) -> Result<Vec<u8>, AgentError> {
        let mut chunk = [0; 4096];
        // What was looked at already.
        let mut seen = 0;
        loop {
            let new = self.pending.get(seen..).unwrap_or_default();
            if let Some(at) = new.iter().position(|byte| *byte == end) {
                let rest = self.pending.split_off(seen + at + 1);
                return Ok(std::mem::replace(&mut self.pending, rest));
            }
            seen = self.pending.len();
            if self.pending.len() > ANSWER_MAX {
                return Err(silent("its answer has no end"));
            }
            self.wait()?;
            let length = match self.stream.read(&mut chunk) {
                Ok(0) => return Err(silent("its channel was closed")),
                Ok(length) => length,
                Err(error) if again(&error) => continue,
                Err(_) => return Err(silent(NOT_THERE)),
            };
            self.pending.extend_from_slice(chunk.get(..length).unwrap_or_default());
        }
    }

    /// Brings both sides into step: what was said before is forgotten.
    fn sync(&mut self, number: u32) -> Result<(), AgentError> {
        let sync = json!({ "execute": "guest-sync-delimited", "arguments": { "id": number } });
        let mut line = vec![SENTINEL];
        line.extend(sync.to_string().into_bytes());
        line.push(b'\n');
        self.say(&line)?;
        loop {
            self.until(SENTINEL)?;
            let answer = self.until(b'\n')?;
            let answer: Option<Value> = serde_json::from_slice(&answer).ok();
            if answer.and_then(|answer| answer.get("return")?.as_u64()) == Some(number.into()) {
                self.answers = true;
                return Ok(());
            }
        }
    }

    fn answer(&mut self) -> Result<Value, AgentError> {
        loop {
            let line = self.until(b'\n')?;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut answer: Value =
                serde_json::from_slice(&line).map_err(|_| silent("the agent answers no JSON"))?;
            if let Some(error) = answer.get("error") {
                let text = error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why");
                let text = text.chars().filter(|c| !c.is_control()).take(500).collect();
                return Err(AgentError::Refused(text));
            }
            return answer
                .get_mut("return")
                .map(Value::take)
                .ok_or_else(|| silent("the agent answers neither a result nor an error"));
        }
    }
}

/// Has a command done. `early` are bytes that came before. One that ends the guest gets no answer.
fn converse(
    stream: UnixStream,
    early: Vec<u8>,
    command: &Value,
    patience: Duration,
    answers: bool,
) -> Result<Value, AgentError> {
    let begin = Instant::now();
    let mut talk = Talk { stream, pending: early, until: begin + SYNC.min(patience), answers: false };
    talk.sync(u32::try_from(crate::driver::draw() >> 33).unwrap_or(1))?;
    talk.until = begin + patience;
    talk.say(format!("{command}\n").as_bytes())?;
    if answers { talk.answer() } else { Ok(Value::Null) }
}

fn is_agents(target: &CharTarget) -> bool {
    matches!(target, CharTarget::Channel(name) if name == CHANNEL)
}

impl Live {
    /// Whether one of its consoles is the channel of the guest's agent, which answers only what [`Manager::agent`]
    /// asks: nobody talks to it who may merely open consoles. It reads the whole definition.
    pub fn is_agent(&self, alias: &str) -> Result<bool, ManagerError> {
        let Some(number) = alias.strip_prefix("channel") else { return Ok(false) };
        // Where svirtd does not know what runs, any channel may be it.
        let Some(definition) = &self.definition else { return Ok(true) };
        let channels = definition.to_start()?.devices.channels;
        let channel = number.parse().ok().and_then(|at: usize| channels.get(at));
        Ok(channel.is_none_or(|channel| is_agents(&channel.target)))
    }
}

/// How long an agent may take is noted under this name.
const TIMEOUT: &str = "agent-timeout";

impl Live {
    /// What was noted of how long its agent may take.
    pub(super) fn agent_timeout(&self) -> Option<i32> {
        let noted = self.listening.iter().find(|(name, _)| name == TIMEOUT);
        noted.and_then(|(_, seconds)| seconds.parse().ok())
    }
}

impl Manager {
    /// Says how long a domain's agent may take from now on, as [`agent_timeout`](super::Domain::agent_timeout) tells it, whether
    /// it runs or not. As by libvirt it is forgotten with the domain, or when the daemon ends while the domain is off.
    pub fn set_agent_timeout(&self, uuid: DomainUuid, seconds: i32) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainAgentSetResponseTimeout")?;
        // For a later daemon, where there is anything to note it beside.
        if let Some(live) = self.by_uuid(uuid)?.running().filter(|live| live.definition.is_some()) {
            self.note(live, TIMEOUT.to_owned(), Some(seconds.to_string()))?;
        }
        self.table().get(uuid).ok_or(ManagerError::NoUuid(uuid))?.agent_timeout = Some(seconds);
        Ok(())
    }

    /// What is noted of how long the agent of a domain may take that starts; nothing where nobody has said.
    pub(super) fn agent_note(&self, uuid: DomainUuid) -> Option<(String, String)> {
        let seconds = self.by_uuid(uuid).ok()?.agent_timeout?;
        Some((TIMEOUT.to_owned(), seconds.to_string()))
    }

    /// The alias of the channel that the agent listens to.
    pub(super) fn agent_alias(&self, uuid: DomainUuid) -> Result<String, ManagerError> {
        let live = self.live(uuid)?;
        let lacks = || ManagerError::NoAgent("QEMU guest agent is not configured".into());
        let definition = live.definition.as_ref().ok_or_else(lacks)?;
        let channels = definition.to_start()?.devices.channels;
        let at = channels.iter().position(|channel| is_agents(&channel.target)).ok_or_else(lacks)?;
        Ok(format!("channel{at}"))
    }

    /// Has the guest's agent do something. `patience` is how long it may take, and never longer than [`PATIENCE_MAX`].
    pub fn agent(
        &self,
        uuid: DomainUuid,
        command: &Value,
        patience: Duration,
        answers: bool,
    ) -> Result<Value, ManagerError> {
        let begin = Instant::now();
        let patience = patience.min(PATIENCE_MAX);
        // Its channel has one end on this side.
        let first = self.live(uuid)?;
        let wait = patience.min(Duration::from_secs(self.settings.daemon.change_wait));
        let turn = first.runtime.asking.take("DomainAgentCommand", wait);
        let _turn = turn.map_err(|Busy { call, lasts }| ManagerError::Busy { call, lasts })?;
        let live = self.live(uuid)?;
        // What was meant for one run of the domain is nothing for the next.
        if live.id != first.id || !matches!(live.state, super::State::Running(_)) {
            return Err(ManagerError::state("domain is not running"));
        }
        let alias = self.agent_alias(uuid)?;
        let control = self.core.control(&live.control, None);
        let attached = control.and_then(|control| Ok(control.console(Some(alias), false)?));
        let (_, stream, early) = self.unless_ended(uuid, live.id, attached)?;
        let left = patience.saturating_sub(begin.elapsed());
        converse(stream, early, command, left, answers).map_err(|error| match error {
            AgentError::Refused(text) => ManagerError::Failed(text),
            AgentError::Silent(text) => ManagerError::AgentSilent(text),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;

    use super::*;
    use crate::conf::definition::Strictness;
    use crate::conf::facts::HostFacts;
    use crate::manager::testing::Deaf;
    use crate::manager::{Memory, StartFlags};
    use crate::settings::Settings;

    /// A guest that answers each line with what `answer` makes of it.
    fn guest(answer: impl Fn(&Value) -> Vec<u8> + Send + 'static) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(theirs);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).unwrap() > 0 {
                let text: Vec<u8> = line.iter().copied().filter(|byte| *byte != SENTINEL).collect();
                let answer = answer(&serde_json::from_slice(&text).unwrap());
                if reader.get_mut().write_all(&answer).is_err() {
                    return;
                }
                line.clear();
            }
        });
        ours
    }

    fn ask(guest: UnixStream) -> Result<Value, AgentError> {
        converse(
            guest,
            b"old {\"return\":7}\n".to_vec(),
            &json!({"execute": "guest-ping"}),
            Duration::from_secs(40),
            true,
        )
    }

    fn sync_answer(command: &Value) -> Option<Vec<u8>> {
        let id = command.get("arguments")?.get("id")?;
        let mut bytes = vec![SENTINEL];
        bytes.extend(format!("{{\"return\":{id}}}\n").into_bytes());
        Some(bytes)
    }

    #[test]
    fn what_was_said_before_is_forgotten() {
        let guest =
            guest(|command| sync_answer(command).unwrap_or_else(|| b"{\"return\":{\"a\":1}}\n".to_vec()));
        assert_eq!(ask(guest).unwrap(), json!({"a": 1}));
    }

    #[test]
    fn refusals_are_told_without_control_characters() {
        let error = b"{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\\u001b[2J\"}}\n";
        let guest = guest(|command| sync_answer(command).unwrap_or_else(|| error.to_vec()));
        let told = ask(guest).unwrap_err().to_string();
        assert!(told.ends_with("no[2J"), "{told}");
    }

    #[test]
    fn one_that_takes_forever_to_listen_has_one_limit() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let slow = std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            // Each piece comes well within the limit; all of them take a minute.
            while theirs.read(&mut chunk).is_ok_and(|length| length > 0) {
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        let mut talk = Talk {
            stream: ours,
            pending: Vec::new(),
            until: Instant::now() + Duration::from_millis(500),
            answers: false,
        };
        let told = talk.say(&vec![b'x'; 16 << 20]).unwrap_err();
        assert_eq!(told.to_string(), NOT_THERE);
        // One that has spoken is there.
        talk.answers = true;
        let told = talk.wait().unwrap_err();
        assert!(told.to_string().contains("in time"), "{told}");
        drop(talk);
        slow.join().unwrap();
    }

    #[test]
    fn answers_in_pieces_are_found_whole() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut talk = Talk {
            stream: ours,
            pending: b"a".to_vec(),
            until: Instant::now() + Duration::from_secs(60),
            answers: false,
        };
        let pieces = std::thread::spawn(move || {
            for piece in [&b"b"[..], b"c\nd", b"e\n"] {
                theirs.write_all(piece).unwrap();
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        assert_eq!(talk.until(b'\n').unwrap(), b"abc\n");
        assert_eq!(talk.until(b'\n').unwrap(), b"de\n");
        pieces.join().unwrap();
    }

    #[test]
    fn answers_without_end_nonsense_and_depth_are_errors() {
        let deep = format!("{}\n", "[".repeat(100_000)).into_bytes();
        for answer in [vec![b'x'; ANSWER_MAX + 8192], deep, b"{}\n".to_vec()] {
            let guest = guest(move |command| sync_answer(command).unwrap_or_else(|| answer.clone()));
            assert!(matches!(ask(guest), Err(AgentError::Silent(_))));
        }
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        assert!(matches!(ask(ours), Err(AgentError::Silent(_))));
    }

    #[test]
    fn how_long_an_agent_may_take_is_said_of_a_domain_that_is_off_too() {
        let settings = Settings::default();
        let (facts, sink) = (HostFacts::default(), Arc::new(Deaf));
        let manager = Manager::new(settings, facts, Box::new(Memory), None, sink, |_, _| {});
        let uuid = DomainUuid(uuid::Uuid::from_u128(9));
        let xml = "<domain type='test'><name>a</name><memory>1024</memory><os><type>hvm</type></os></domain>";
        manager.define(manager.read(xml, uuid, Strictness::Strict).unwrap(), 0).unwrap();
        let said = || manager.by_uuid(uuid).unwrap().agent_timeout;
        assert_eq!(said(), None);
        manager.set_agent_timeout(uuid, 5).unwrap();
        manager.start(uuid, StartFlags::default()).unwrap();
        let noted = || manager.live(uuid).unwrap().agent_timeout();
        assert_eq!((said(), noted()), (Some(5), Some(5)));
        manager.set_agent_timeout(uuid, -2).unwrap();
        assert_eq!((said(), noted()), (Some(-2), Some(-2)));
        manager.destroy(uuid).unwrap();
        assert_eq!(said(), Some(-2));
    }
}
