//! Lines of JSON to messages and back.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest line in bytes that is accepted from QEMU. The longest answer that svirt asks for is
/// `query-blockstats`, with about 2 KiB for each layer of each disk.
pub const LINE_MAX: usize = 1 << 20;

/// QEMU's name for reading on while a command is executed.
pub(super) const OOB: &str = "oob";

/// The longest name of an event or error class that is kept.
const WORD_MAX: usize = 128;
/// The longest error description that is kept, in bytes.
const DESCRIPTION_MAX: usize = 1024;

/// One message from QEMU.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first line of a connection.
    Greeting {
        /// QEMU's version as major, minor, micro.
        version: (u32, u32, u32),
        /// Whether it can read on while it executes a command.
        oob: bool,
    },
    /// The answer to a command.
    Reply {
        /// The command's id, if it is one that svirt gives; QEMU echoes what it was given.
        id: Option<Id>,
        /// What it returned.
        outcome: Result<Value, Failure>,
    },
    /// Something happened.
    Event(Event),
}

/// The id of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// Of whoever had the connection from its beginning.
    Number(u64),
    /// Of whoever took it over.
    Text(String),
}

impl Id {
    fn of(value: Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_u64().map(Self::Number),
            Value::String(text) => Some(Self::Text(text)),
            _ => None,
        }
    }
}

/// An asynchronous event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// QEMU's name for it, such as `SHUTDOWN`.
    pub name: String,
    /// What it says; `null` if nothing.
    pub data: Value,
}

/// A command that QEMU refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {description}")]
pub struct Failure {
    /// QEMU's error class, such as `GenericError`.
    pub class: String,
    /// Its text, without control characters.
    pub description: String,
}

/// Why a connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QmpError {
    /// A line is longer than [`LINE_MAX`].
    #[error("a line is longer than {LINE_MAX} bytes")]
    TooLong,
    /// A line is no JSON, or nested too deep.
    #[error("a line is no message: {0}")]
    Malformed(String),
    /// A line is JSON, but neither greeting nor reply nor event, or several of them at once.
    #[error("a message is neither greeting, reply nor event")]
    Shape,
    /// A message came that the state of the connection does not allow.
    #[error("unexpected {0}")]
    Unexpected(String),
    /// A command was refused that the connection cannot do without.
    #[error("{0}")]
    Refused(Failure),
    /// More than [`super::PENDING_MAX`] commands wait for their reply.
    #[error("too many commands wait for a reply")]
    Busy,
}

/// The union of all messages as it stands on the wire.
#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    returned: Option<Value>,
    error: Option<WireFailure>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
    #[serde(default)]
    id: Value,
}

/// Tells `"return": null` from no `return` at all.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(from).map(Some)
}

#[derive(Deserialize)]
struct Greeting {
    version: Version,
    #[serde(default)]
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct Version {
    qemu: Numbers,
}

#[derive(Deserialize)]
struct Numbers {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct WireFailure {
    class: String,
    desc: String,
}

/// Cuts a byte stream into messages, whatever the pieces in which it arrives.
///
/// Never holds more than [`LINE_MAX`] bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    line: Vec<u8>,
    /// The first line may be the rest of one that somebody else began to read.
    skipping: bool,
    broken: Option<QmpError>,
}

impl Decoder {
    /// Starts at the beginning of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts in the middle of a stream: if the first line is no message, it is dropped.
    #[must_use]
    pub fn in_the_middle() -> Self {
        Self { skipping: true, ..Self::default() }
    }

    /// Takes the next bytes and gives each message that they complete to `sink`, in order.
    ///
    /// After an error every further call returns that error: a stream that was out of step once is
    /// not believed again.
    pub fn feed(&mut self, bytes: &[u8], mut sink: impl FnMut(Message)) -> Result<(), QmpError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
            let (head, tail) = rest.split_at(end);
            rest = tail.get(1..).unwrap_or_default();
            let outcome = self.append(head).and_then(|()| decode(&self.line));
            self.line.clear();
            let first = std::mem::take(&mut self.skipping);
            match outcome {
                Ok(Some(message)) => sink(message),
                Ok(None) => {}
                Err(_) if first => {}
                Err(error) => return Err(self.fail(error)),
            }
        }
        match self.append(rest) {
            Err(error) if !self.skipping => Err(self.fail(error)),
            _ => Ok(()),
        }
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), QmpError> {
        if self.line.len() + bytes.len() > LINE_MAX {
            // A skipped line must stay one that cannot be parsed, and needs no more memory for that.
            self.line.clear();
            self.line.resize(LINE_MAX, b'!');
            return Err(QmpError::TooLong);
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn fail(&mut self, error: QmpError) -> QmpError {
        self.line = Vec::new();
        self.broken = Some(error.clone());
        error
    }
}

fn decode(line: &[u8]) -> Result<Option<Message>, QmpError> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let envelope: Envelope =
        serde_json::from_slice(line).map_err(|error| QmpError::Malformed(error.to_string()))?;
    let id = Id::of(envelope.id);
    let message = match (envelope.greeting, envelope.returned, envelope.error, envelope.event) {
        (Some(greeting), None, None, None) => {
            let Numbers { major, minor, micro } = greeting.version.qemu;
            let oob = greeting.capabilities.iter().any(|capability| capability == OOB);
            Message::Greeting { version: (major, minor, micro), oob }
        }
        (None, Some(value), None, None) => Message::Reply { id, outcome: Ok(value) },
        (None, None, Some(error), None) => {
            let failure = Failure {
                class: printable(&error.class, WORD_MAX),
                description: printable(&error.desc, DESCRIPTION_MAX),
            };
            Message::Reply { id, outcome: Err(failure) }
        }
        (None, None, None, Some(name)) => {
            Message::Event(Event { name: printable(&name, WORD_MAX), data: envelope.data })
        }
        _ => return Err(QmpError::Shape),
    };
    Ok(Some(message))
}

/// Text that cannot move a terminal's cursor: it ends up in messages that people read.
fn printable(text: &str, longest: usize) -> String {
    let mut kept = String::new();
    for character in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + character.len_utf8() > longest {
            break;
        }
        kept.push(character);
    }
    kept
}

#[derive(Serialize)]
struct Command<'a> {
    execute: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    arguments: &'a Value,
    id: &'a Id,
}

/// One command; `arguments` is an object or `null`. There is no end of line: QEMU executes an object at its last brace,
/// and every byte takes its time.
pub(super) fn encode(execute: &str, arguments: &Value, id: &Id) -> Vec<u8> {
    // Serialising values and strings into memory has no way to fail; nothing at all would be harmless.
    serde_json::to_vec(&Command { execute, arguments, id }).unwrap_or_default()
}

/// Feeds arbitrary bytes in two different ways and compares; for the fuzzer and the corpus.
pub fn fuzz_qmp(bytes: &[u8]) {
    for start in [Decoder::new, Decoder::in_the_middle] {
        let (mut whole, mut pieces) = (Vec::new(), Vec::new());
        let mut decoder = start();
        let all = decoder.feed(bytes, |message| whole.push(message));
        let mut decoder = start();
        let mut each = Ok(());
        for byte in bytes {
            each = decoder.feed(std::slice::from_ref(byte), |message| pieces.push(message));
            if each.is_err() {
                break;
            }
            assert!(decoder.line.len() <= LINE_MAX, "the decoder holds more than a line");
        }
        assert_eq!(all, each, "a stream fails in one piece only");
        assert_eq!(whole, pieces, "messages depend on how the stream is cut");
        let mut session = super::Session::<u8>::fresh();
        for message in whole {
            if session.receive(message).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn all(bytes: &[u8]) -> (Vec<Message>, Result<(), QmpError>) {
        let mut found = Vec::new();
        let outcome = Decoder::new().feed(bytes, |message| found.push(message));
        (found, outcome)
    }

    #[test]
    fn reads_what_qemu_says() {
        let text = concat!(
            r#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "#,
            "\"capabilities\": [\"oob\"]}}\r\n",
            "{\"return\": {}, \"id\": \"s-1\"}\r\n",
            "{\"return\": {}, \"id\": 7}\r\n{\"return\": {}, \"id\": -7}\r\n",
            r#"{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "SHUTDOWN", "data": {"guest": true}}"#,
            "\r\n\r\n",
            "{\"id\": \"s-2\", \"error\": {\"class\": \"GenericError\", \"desc\": \"no\\u001b[31m\"}}\r\n",
            "{\"return\": null}\n",
        );
        let (found, outcome) = all(text.as_bytes());
        outcome.unwrap();
        let reply = |id: Option<Id>| Message::Reply { id, outcome: Ok(json!({})) };
        assert_eq!(found[0], Message::Greeting { version: (7, 2, 22), oob: true });
        assert_eq!(found[1], reply(Some(Id::Text("s-1".into()))));
        assert_eq!(found[2], reply(Some(Id::Number(7))));
        assert_eq!(found[3], reply(None));
        let Message::Event(event) = &found[4] else { panic!("{:?}", found[4]) };
        assert_eq!((event.name.as_str(), &event.data), ("SHUTDOWN", &json!({"guest": true})));
        let failure = Failure { class: "GenericError".into(), description: "no [31m".into() };
        assert_eq!(found[5], Message::Reply { id: Some(Id::Text("s-2".into())), outcome: Err(failure) });
        assert_eq!(found[6], Message::Reply { id: None, outcome: Ok(Value::Null) });
        assert_eq!(found.len(), 7);
    }

    #[test]
    fn a_greeting_tells_what_qemu_can() {
        for (capabilities, oob) in
            [("", false), (r#", "capabilities": []"#, false), (r#", "capabilities": ["x", "oob"]"#, true)]
        {
            let text = format!(
                r#"{{"QMP": {{"version": {{"qemu": {{"micro": 1, "minor": 2, "major": 7}}}}{capabilities}}}}}"#
            );
            let (found, outcome) = all(format!("{text}\n").as_bytes());
            outcome.unwrap();
            assert_eq!(found, [Message::Greeting { version: (7, 2, 1), oob }]);
        }
    }

    #[test]
    fn refuses_what_is_no_message() {
        for text in [
            "junk\n",
            "{}\n",
            "[]\n",
            "7\n",
            "{\"return\":{},\"event\":\"X\"}\n",
            "{\"return\":1,\"return\":2}\n",
            "{\"event\":7}\n",
            "{\"QMP\":{}}\n",
            "{\"QMP\":{\"version\":{\"qemu\":{\"micro\":1,\"minor\":2,\"major\":7}},\"capabilities\":7}}\n",
            "\u{0}\n",
        ] {
            assert!(all(text.as_bytes()).1.is_err(), "{text:?}");
        }
        let deep = format!("{{\"return\":{}1{}}}\n", "[".repeat(20_000), "]".repeat(20_000));
        assert!(matches!(all(deep.as_bytes()).1, Err(QmpError::Malformed(_))));
    }

    #[test]
    fn an_endless_line_is_refused_in_bounded_memory() {
        let mut decoder = Decoder::new();
        let mut refused = None;
        for _ in 0..=LINE_MAX / 4096 {
            refused = decoder.feed(&[b' '; 4096], |_| {}).err();
            assert!(decoder.line.capacity() <= 4 * LINE_MAX);
        }
        assert_eq!(refused, Some(QmpError::TooLong));
        assert_eq!(decoder.feed(b"{\"return\":{}}\n", |_| {}), Err(QmpError::TooLong));
    }

    #[test]
    fn a_half_line_is_skipped_once_and_only_in_the_middle() {
        let text = b"rn\": {}}\n{\"event\":\"STOP\"}\n";
        let mut found = Vec::new();
        let mut decoder = Decoder::in_the_middle();
        decoder.feed(text, |message| found.push(message)).unwrap();
        assert_eq!(found.len(), 1);
        assert!(decoder.feed(b"rn\": {}}\n", |_| {}).is_err());
        assert!(all(text).1.is_err());
        let mut long = vec![b'x'; 3 * LINE_MAX];
        long.extend_from_slice(b"\n{\"event\":\"STOP\"}\n");
        let mut found = Vec::new();
        Decoder::in_the_middle().feed(&long, |message| found.push(message)).unwrap();
        assert_eq!(found.len(), 1);
    }

    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(b"{\"return\": {\"a\": [1, 2]}, \"id\": \"s-1\"}\r\n".to_vec()),
            Just(b"{\"event\": \"STOP\"}\n".to_vec()),
            Just(b"{\"error\": {\"class\": \"C\", \"desc\": \"D\"}, \"id\": \"s-2\"}\n".to_vec()),
            Just(b"\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..20),
        ]
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            pieces in proptest::collection::vec(piece(), 0..12),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let stream = pieces.concat();
            let (whole, outcome) = all(&stream);
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            at.extend([0, stream.len()]);
            at.sort_unstable();
            let (mut found, mut each) = (Vec::new(), Ok(()));
            let mut decoder = Decoder::new();
            for pair in at.windows(2) {
                each = decoder.feed(&stream[pair[0]..pair[1]], |message| found.push(message));
            }
            prop_assert_eq!(whole, found);
            prop_assert_eq!(outcome, each);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            fuzz_qmp(&bytes);
        }
    }
}
