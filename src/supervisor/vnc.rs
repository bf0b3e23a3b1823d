//! Graphical consoles: the supervisor accepts, QEMU gets the connection.
//!
//! QEMU runs with `-vnc none`, or with `-spice` without a port, and never listens. How many clients there are is asked of QEMU before each hand-over, so
//! that nothing has to be remembered over a takeover. One connection at a time is on its way; the next ones wait in
//! the socket's own queue.

use std::os::fd::OwnedFd;

use serde_json::{Value, json};

use super::monitor::{MonitorError, Purpose};
use super::serve::Server;
use crate::privsep::supervisor::Graphics;
use crate::qmp::Failure;

/// The name under which QEMU knows a connection between `getfd` and `add_client`.
const NAME: &str = "svirt-vnc";

/// Listening sockets and the connection that is on its way.
#[derive(Debug)]
pub(super) struct Vncs {
    listeners: Vec<Listener>,
    busy: bool,
    arriving: Option<(OwnedFd, u32)>,
    /// What the connection on its way speaks.
    protocol: Graphics,
}

/// A listening socket, what is spoken there, and the most connections at once.
pub(super) type Listener = (OwnedFd, Graphics, u32);

impl Vncs {
    pub(super) fn new(listeners: Vec<Listener>) -> Self {
        Self { listeners, busy: false, arriving: None, protocol: Graphics::Vnc }
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
        self.vncs.arriving = Some((connection, *most));
        self.vncs.busy = true;
        self.vncs.protocol = *protocol;
        let query = match self.vncs.protocol {
            Graphics::Spice => "query-spice",
            Graphics::Vnc => "query-vnc-servers",
        };
        self.vnc_command(query, &Value::Null, Purpose::VncList, None);
    }

    /// Goes on with the hand-over.
    pub(super) fn vnc_reply(&mut self, purpose: Purpose, outcome: Result<Value, Failure>) {
        let arriving = self.vncs.arriving.take();
        match (purpose, outcome, arriving) {
            (Purpose::VncList, Ok(servers), Some((connection, most))) if clients(&servers) < most => {
                let arguments = json!({ "fdname": NAME });
                self.vnc_command("getfd", &arguments, Purpose::VncDescriptor, Some(connection));
            }
            (Purpose::VncDescriptor, Ok(_), _) => {
                let arguments = json!({ "protocol": self.vncs.protocol, "fdname": NAME });
                self.vnc_command("add_client", &arguments, Purpose::VncAdd, None);
            }
            // One too many, handed over, or refused by QEMU: in each case it is over, and what is still held is closed.
            _ => self.vncs.busy = false,
        }
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
