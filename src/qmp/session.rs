//! One connection: greeting, capabilities, commands in flight, events.
//!
//! ```text
//! fresh:    Greeting ──greeting──▶ Capabilities ──reply──▶ Ready
//! takeover: Resync ──reply to its own first command──▶ Ready
//! ```

use std::collections::VecDeque;

use serde_json::{Value, json};

use super::codec::{Event, Failure, Id, Message, OOB, QmpError, encode};

/// The most commands that wait for their reply at once.
pub const PENDING_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Greeting,
    Capabilities,
    Resync,
    Ready,
}

/// The state of one connection; `T` says what a command was sent for.
#[derive(Debug)]
pub struct Session<T> {
    state: State,
    /// What every id begins with; nothing where they are numbers.
    prefix: Option<String>,
    next: u64,
    pending: VecDeque<(u64, Option<T>)>,
}

/// What one message means.
#[derive(Debug, PartialEq)]
pub enum Heard<T> {
    /// QEMU said who it is; the bytes are the next thing to send.
    Greeted {
        /// Major, minor, micro.
        version: (u32, u32, u32),
        /// The request for capabilities.
        send: Vec<u8>,
    },
    /// Commands may be sent from now on.
    Ready,
    /// A command was answered.
    Reply {
        /// What it was sent for.
        purpose: T,
        /// What QEMU returned.
        outcome: Result<Value, Failure>,
    },
    /// Something happened.
    Event(Event),
    /// A reply to somebody who had the connection before.
    Foreign,
}

impl<T> Session<T> {
    /// A connection on which nothing was said yet. Its ids are plain numbers: QEMU reads its monitor byte by byte.
    #[must_use]
    pub fn fresh() -> Self {
        Self { state: State::Greeting, prefix: None, next: 0, pending: VecDeque::new() }
    }

    /// A connection that somebody else used before, and the bytes that bring it into step.
    ///
    /// `prefix` begins every id, which is a string; it must differ from the predecessor's. The byte 0xff is an error to
    /// QEMU's parser wherever it stands, which makes it forget a command that the predecessor sent in part. Whether QEMU
    /// reads on while it executes is the predecessor's doing: it answers in the order in which it was asked all the same,
    /// errors of its parser included, so that the reply to the first command says that all before it are done.
    #[must_use]
    pub fn takeover(prefix: &str) -> (Self, Vec<u8>) {
        let prefix = Some(prefix.to_owned());
        let mut session = Self { state: State::Resync, prefix, next: 0, pending: VecDeque::new() };
        let mut bytes = vec![0xff, b'\n'];
        bytes.extend(session.push("query-status", &Value::Null, None));
        (session, bytes)
    }

    /// Whether commands may be sent.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Encodes a command; its reply will be heard with `purpose`.
    pub fn command(&mut self, execute: &str, arguments: &Value, purpose: T) -> Result<Vec<u8>, QmpError> {
        if self.state != State::Ready {
            return Err(QmpError::Unexpected(format!("command {execute} before the handshake")));
        }
        if self.pending.len() >= PENDING_MAX {
            return Err(QmpError::Busy);
        }
        Ok(self.push(execute, arguments, Some(purpose)))
    }

    fn push(&mut self, execute: &str, arguments: &Value, purpose: Option<T>) -> Vec<u8> {
        let number = self.next;
        self.next += 1;
        self.pending.push_back((number, purpose));
        encode(execute, arguments, &self.id(number))
    }

    fn id(&self, number: u64) -> Id {
        match &self.prefix {
            Some(prefix) => Id::Text(format!("{prefix}{number}")),
            None => Id::Number(number),
        }
    }

    /// Takes the next message. An error ends the connection: QEMU answers in order, so what does not fit
    /// was not made by a sound QEMU.
    pub fn receive(&mut self, message: Message) -> Result<Heard<T>, QmpError> {
        match message {
            Message::Greeting { version, oob } if self.state == State::Greeting => {
                self.state = State::Capabilities;
                // Nothing is executed out of order for it, but the next commands are read meanwhile.
                let arguments = if oob { json!({ "enable": [OOB] }) } else { Value::Null };
                let send = self.push("qmp_capabilities", &arguments, None);
                Ok(Heard::Greeted { version, send })
            }
            Message::Greeting { .. } => Err(QmpError::Unexpected("greeting".into())),
            Message::Event(_) if self.state == State::Greeting => {
                Err(QmpError::Unexpected("event before the greeting".into()))
            }
            Message::Event(event) => Ok(Heard::Event(event)),
            Message::Reply { id, outcome } => self.reply(id, outcome),
        }
    }

    fn reply(&mut self, id: Option<Id>, outcome: Result<Value, Failure>) -> Result<Heard<T>, QmpError> {
        let expected = self.pending.front().map(|(number, _)| self.id(*number));
        if id.is_none() || id != expected {
            if self.state == State::Resync {
                return Ok(Heard::Foreign);
            }
            return Err(QmpError::Unexpected("reply to a command that was not sent".into()));
        }
        let purpose = self.pending.pop_front().and_then(|(_, purpose)| purpose);
        match purpose {
            Some(purpose) => Ok(Heard::Reply { purpose, outcome }),
            None => {
                outcome.map_err(QmpError::Refused)?;
                self.state = State::Ready;
                Ok(Heard::Ready)
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use super::*;

    const GREETING: Message = Message::Greeting { version: (7, 2, 0), oob: false };

    fn done(id: Id) -> Message {
        Message::Reply { id: Some(id), outcome: Ok(json!({})) }
    }

    fn reply(id: u64) -> Message {
        done(Id::Number(id))
    }

    fn text(id: &str) -> Message {
        done(Id::Text(id.into()))
    }

    fn ready() -> Session<u8> {
        let mut session = Session::fresh();
        let Heard::Greeted { send, .. } = session.receive(GREETING).unwrap() else { panic!("no greeting") };
        assert_eq!(send, b"{\"execute\":\"qmp_capabilities\",\"id\":0}");
        assert!(session.command("cont", &Value::Null, 1).is_err(), "before the handshake");
        assert_eq!(session.receive(reply(0)).unwrap(), Heard::Ready);
        session
    }

    #[test]
    fn qemu_reads_on_where_it_can() {
        let mut session = Session::<u8>::fresh();
        let greeted = session.receive(Message::Greeting { version: (7, 2, 0), oob: true }).unwrap();
        let Heard::Greeted { send, .. } = greeted else { panic!("no greeting") };
        assert_eq!(send, b"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]},\"id\":0}");
    }

    #[test]
    fn answers_are_matched_in_order() {
        let mut session = ready();
        let line = session.command("getfd", &json!({"fdname": "x"}), 7).unwrap();
        assert_eq!(line, b"{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"x\"},\"id\":1}");
        session.command("cont", &Value::Null, 8).unwrap();
        assert_eq!(session.receive(reply(1)).unwrap(), Heard::Reply { purpose: 7, outcome: Ok(json!({})) });
        assert!(session.receive(text("2")).is_err());
        assert!(session.receive(reply(3)).is_err());
    }

    #[test]
    fn what_does_not_fit_ends_the_connection() {
        assert!(Session::<u8>::fresh().receive(reply(0)).is_err());
        let event = Message::Event(Event { name: "STOP".into(), data: Value::Null });
        assert!(Session::<u8>::fresh().receive(event.clone()).is_err());
        let mut session = ready();
        assert!(session.receive(GREETING).is_err());
        assert!(session.receive(reply(0)).is_err());
        assert!(session.receive(Message::Reply { id: None, outcome: Ok(Value::Null) }).is_err());
        assert!(matches!(session.receive(event), Ok(Heard::Event(_))));
        for number in 0..PENDING_MAX {
            session.command("cont", &Value::Null, u8::try_from(number).unwrap()).unwrap();
        }
        assert_eq!(session.command("cont", &Value::Null, 0), Err(QmpError::Busy));
    }

    #[test]
    fn a_takeover_ignores_what_the_predecessor_asked() {
        let (mut session, bytes) = Session::<u8>::takeover("t-");
        assert_eq!(bytes, b"\xff\n{\"execute\":\"query-status\",\"id\":\"t-0\"}");
        for foreign in [reply(9), reply(0), text("0"), text("s-0")] {
            assert_eq!(session.receive(foreign).unwrap(), Heard::Foreign);
        }
        let failure = Failure { class: "GenericError".into(), description: "JSON parse error".into() };
        assert_eq!(
            session.receive(Message::Reply { id: None, outcome: Err(failure) }).unwrap(),
            Heard::Foreign
        );
        assert!(!session.is_ready());
        assert_eq!(session.receive(text("t-0")).unwrap(), Heard::Ready);
        assert!(session.receive(reply(9)).is_err());
    }

    #[test]
    fn refused_capabilities_are_an_error() {
        let mut session = Session::<u8>::fresh();
        session.receive(GREETING).unwrap();
        let failure = Failure { class: "C".into(), description: "D".into() };
        let message = Message::Reply { id: Some(Id::Number(0)), outcome: Err(failure.clone()) };
        assert_eq!(session.receive(message), Err(QmpError::Refused(failure)));
    }
}
