//! Graphical consoles: the supervisor accepts, QEMU gets the connection.
//!
//! QEMU runs with `-vnc none`, or with `-spice` without a port, and never listens. How many clients there are is asked of QEMU before each hand-over, so
//! that nothing has to be remembered over a takeover. One connection at a time is on its way; the next ones wait in
//! the socket's own queue.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::Instant;

use serde_json::{Value, json};

use super::monitor::{MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::{Answer, Graphics, Verb};
use crate::qmp::Failure;

/// The name under which QEMU knows a connection between `getfd` and `add_client`.
const NAME: &str = "svirt-vnc";

/// Listening sockets and the connection that is on its way.
#[derive(Debug)]
pub(super) struct Vncs {
    listeners: Vec<Listener>,
    busy: bool,
    arriving: Option<(Arriving, u32)>,
    /// What the connection on its way speaks.
    protocol: Graphics,
    /// Whether it is asked for no password.
    skip_auth: bool,
    /// Tickets of clients whose own connections are to be handed over, with what they speak and whether they are asked
    /// for no password. Those whose clients gave up are dropped with the next one: there are never more than the control
    /// socket has clients.
    asked: VecDeque<(u64, Graphics, bool)>,
}

/// A connection that is on its way.
#[derive(Debug)]
enum Arriving {
    /// One that came to the display's own socket.
    Accepted(OwnedFd),
    /// The one that the client with this ticket asked over.
    Asked(u64),
}

/// Connections at once of a display that has no socket of its own.
const DIRECT_MAX: u32 = 8;

/// A listening socket, what is spoken there, and the most connections at once.
pub(super) type Listener = (OwnedFd, Graphics, u32);

impl Vncs {
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        let (busy, skip_auth) = (false, false);
        Self { listeners, busy, arriving: None, protocol: Graphics::Vnc, skip_auth, asked: VecDeque::new() }
    }

    /// The most connections at once of a display.
    fn most(&self, protocol: Graphics) -> u32 {
        let of = self.listeners.iter().find(|(_, other, _)| *other == protocol);
        of.map_or(DIRECT_MAX, |(.., most)| *most)
    }

    /// Calls `ask` with each socket from which a connection can be taken now.
    pub(super) fn interests<'a>(&'a self, mut ask: impl FnMut(usize, &'a OwnedFd)) {
        if !self.busy {
            self.listeners.iter().enumerate().for_each(|(index, (fd, ..))| ask(index, fd));
        }
    }
}

impl Server {
    /// Takes a connection and asks QEMU how many it has.
    pub(super) fn vnc_ready(&mut self, index: usize) {
        let Some((listener, protocol, most)) = self.vncs.listeners.get(index) else { return };
        // QEMU makes it non-blocking itself.
        let Ok(connection) = rustix::net::accept_with(listener, rustix::net::SocketFlags::CLOEXEC) else {
            return;
        };
        let (arriving, protocol) = ((Arriving::Accepted(connection), *most), *protocol);
        self.hand_over(arriving, protocol, false);
    }

    /// Hands the very connection over that this was asked on, once those before it are through.
    pub(super) fn display_verb(&mut self, client: u64, protocol: Graphics, skip_auth: bool, now: Instant) {
        let ticket = self.control.wait(client, Verb::Display { protocol, skip_auth }, now);
        self.vncs.asked.retain(|(ticket, ..)| self.control.waiting(*ticket).is_some());
        self.vncs.asked.push_back((ticket, protocol, skip_auth));
        self.next_asked();
    }

    fn next_asked(&mut self) {
        while !self.vncs.busy
            && let Some((ticket, protocol, skip_auth)) = self.vncs.asked.pop_front()
        {
            // One that has left meanwhile is none.
            if self.control.waiting(ticket).is_some() {
                let most = self.vncs.most(protocol);
                self.hand_over((Arriving::Asked(ticket), most), protocol, skip_auth);
            }
        }
    }

    fn hand_over(&mut self, arriving: (Arriving, u32), protocol: Graphics, skip_auth: bool) {
        self.vncs.arriving = Some(arriving);
        self.vncs.busy = true;
        self.vncs.protocol = protocol;
        self.vncs.skip_auth = skip_auth;
        let query = match protocol {
            Graphics::Spice => "query-spice",
            Graphics::Vnc => "query-vnc-servers",
        };
        self.vnc_command(query, &Value::Null, Purpose::VncList, None);
    }

    /// The descriptor of a connection. Whoever asked over it hears that first: QEMU may speak at once.
    fn connection(&mut self, arriving: Arriving) -> Option<OwnedFd> {
        let ticket = match arriving {
            Arriving::Accepted(connection) => return Some(connection),
            Arriving::Asked(ticket) => ticket,
        };
        let (client, _) = self.control.waiting(ticket)?;
        let (socket, early) = self.control.take(client)?;
        let alias = self.vncs.protocol.word().to_owned();
        let mut answer = serde_json::to_vec(&Answer::Attached { alias }).ok()?;
        answer.push(b'\n');
        // What came before the answer was for nobody. The answer is short: a socket that does not take it has gone.
        let sent = rustix::net::send(&socket, &answer, rustix::net::SendFlags::NOSIGNAL);
        (early.is_empty() && sent == Ok(answer.len())).then_some(socket)
    }

    /// There are too many, or QEMU has no such display: whoever asked hears why.
    fn not_handed_over(&mut self, arriving: &Arriving, rule: String) {
        let Arriving::Asked(ticket) = arriving else { return };
        let Some((client, _)) = self.control.waiting(*ticket) else { return };
        let remedy = "see the displays of its live definition, and who is connected to them";
        let refusal = Refusal::new(Layer::DeviceModel, "open", "the display", rule, remedy);
        self.control.answer(client, &Answer::Refused(refusal), Instant::now());
    }

    /// Goes on with the hand-over.
    pub(super) fn vnc_reply(&mut self, purpose: Purpose, outcome: Result<Value, Failure>) {
        let arriving = self.vncs.arriving.take();
        match (purpose, outcome, arriving) {
            (Purpose::VncList, Ok(servers), Some((arriving, most))) if clients(&servers) < most => {
                match self.connection(arriving) {
                    Some(connection) => {
                        let arguments = json!({ "fdname": NAME });
                        self.vnc_command("getfd", &arguments, Purpose::VncDescriptor, Some(connection));
                    }
                    None => self.vnc_over(),
                }
            }
            (Purpose::VncDescriptor, Ok(_), _) => {
                let mut arguments = json!({ "protocol": self.vncs.protocol, "fdname": NAME });
                if self.vncs.skip_auth
                    && let Some(arguments) = arguments.as_object_mut()
                {
                    arguments.insert("skipauth".into(), true.into());
                }
                self.vnc_command("add_client", &arguments, Purpose::VncAdd, None);
            }
            // One too many, handed over, or refused by QEMU: in each case it is over, and what is still held is closed.
            (_, outcome, arriving) => {
                if let Some((arriving, most)) = arriving {
                    let rule = match outcome {
                        Ok(_) => format!("it has {most} connections already"),
                        Err(failure) => failure.to_string(),
                    };
                    self.not_handed_over(&arriving, rule);
                }
                self.vnc_over();
            }
        }
    }

    fn vnc_over(&mut self) {
        self.vncs.busy = false;
        self.next_asked();
    }

    fn vnc_command(&mut self, execute: &str, arguments: &Value, purpose: Purpose, fd: Option<OwnedFd>) {
        let sent: Result<(), MonitorError> = match &mut self.monitor {
            Some(monitor) => monitor.command(execute, arguments, purpose, fd),
            None => Err(MonitorError::Closed),
        };
        if let Err(error) = sent {
            self.vncs.arriving = None;
            self.vncs.busy = false;
            self.monitor_lost(&error);
        }
    }
}

/// How many clients QEMU's answer to `query-vnc-servers` names, or how many channels the one to `query-spice`.
fn clients(servers: &Value) -> u32 {
    let lists =
        servers.as_array().into_iter().flatten().filter_map(|server| server.get("clients")?.as_array());
    let lists = lists.chain(servers.get("channels").and_then(Value::as_array));
    u32::try_from(lists.map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_counted_over_all_servers() {
        let servers =
            json!([{"id": "default", "clients": [{}, {}]}, {"id": "b", "clients": [{}]}, {"id": "c"}, 7]);
        assert_eq!(clients(&servers), 3);
        assert_eq!(clients(&json!({"clients": 4})), 0);
        assert_eq!(clients(&json!({"enabled": true, "channels": [{}, {}]})), 2);
    }
}
