//! From a packet to what is to be done about it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::{
    Kind as ViewKind, Relay, Service, Session, Transfer, agent, block, connect, counters, cpu, display,
    domain, dump, empty, event, guest, interface, lifecycle, live, measure, metadata, native, network, pages,
    pin, plug, pretend, save, stats, storage, tune, tuning, volume,
};
use crate::manager::Live;
use crate::rpc::{
    self, ErrorBody, Header, Kind, Packet, PacketStatus, PacketType, Procedure, Program, QemuProcedure,
};
use crate::sys::handed::Handed;

/// What is to be done about a packet.
pub enum Outcome {
    /// A console is to be attached to; the answer comes from there.
    Console(Console),
    /// This may wait, and gives the bytes to send and the descriptors that go with them.
    Descriptors(Box<dyn FnOnce() -> (Vec<u8>, Vec<OwnedFd>) + Send>),
    /// These bytes are the last ones that the client gets.
    Last(Vec<u8>),
    /// This may wait, and gives the bytes to send.
    Later(Box<dyn FnOnce() -> Vec<u8> + Send>),
    /// Nothing.
    Nothing,
    /// A display is to be joined with what the client handed in; the answer comes from there.
    Relay(Relay),
    /// These bytes are sent.
    Reply(Vec<u8>),
    /// A stream that goes one way is to be opened; the answer comes from there.
    Transfer(Transfer),
    /// Bytes for a stream that is open, or is not.
    Stream(StreamPacket),
}

/// What of a domain a stream is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Port {
    /// A channel, by its alias or the name that the guest knows it by; the first one where none is named.
    Channel(Option<String>),
    /// A console, by its alias; the first one where none is named.
    Console(Option<String>),
}

/// Which console or channel, for which call.
#[derive(Debug)]
pub struct Console {
    /// The call.
    pub header: Header,
    /// What runs, as it was when the call came.
    pub live: Arc<Live>,
    /// Which of its consoles.
    pub port: Port,
    /// Whether it is taken from somebody else.
    pub force: bool,
}

impl Console {
    /// The alias of what may be attached to, where one is meant; else the bytes to send. It reads the whole definition, so
    /// it is for a thread that may wait.
    pub fn alias(&self) -> Result<Option<String>, Vec<u8>> {
        self.found().map_err(|failure| reply(&self.header, Err(failure)))
    }

    fn found(&self) -> Result<Option<String>, Failure> {
        let alias = match &self.port {
            Port::Console(None) => return Ok(None),
            Port::Console(Some(alias)) => alias.clone(),
            Port::Channel(name) => self.live.channel(name.as_deref())?.ok_or_else(|| {
                let text = format!("cannot find channel {}", name.as_deref().unwrap_or("(null)"));
                Failure::new(Code::Internal, From::Qemu, text)
            })?,
        };
        if self.live.is_agent(&alias)? {
            let text = format!("character device {alias} is in use by the QEMU guest agent");
            return Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
        }
        Ok(Some(alias))
    }
}

/// What a client sends on a stream.
#[derive(Debug)]
pub struct StreamPacket {
    /// Which stream: the call that opened it.
    pub header: Header,
    /// Data, its end, or an abort.
    pub status: PacketStatus,
    /// Data.
    pub data: Vec<u8>,
    /// How many zeros it stands for, where it is not data.
    pub hole: Option<u64>,
}

/// How a handler is run.
enum Route {
    /// At once: it reads what is in memory.
    Fast(fn(&Call<'_>) -> Answer),
    /// On a thread of its own: it waits for the disk, the labeller or a supervisor.
    Slow(fn(&Call<'_>) -> Answer),
    /// It opens a stream both ways.
    Console,
    /// It opens a stream one way.
    Transfer(fn(&Call<'_>, Header) -> Result<Transfer, Failure>),
    /// It gives the client a display, or takes what is to be joined with one.
    OpenGraphics,
    /// The same, as a descriptor that the client gets.
    OpenGraphicsFd,
    /// It ends the connection.
    Close,
}

impl Service {
    /// Decides what becomes of one packet that came without descriptors.
    pub fn packet(self: &Arc<Self>, session: &Arc<Session>, packet: Packet) -> Outcome {
        self.packet_with(session, packet, None)
    }

    /// Decides what becomes of one packet, and of a descriptor that came with it.
    pub fn packet_with(
        self: &Arc<Self>,
        session: &Arc<Session>,
        mut packet: Packet,
        handed: Option<Handed>,
    ) -> Outcome {
        let header = packet.header;
        let program = Program::of(header.program, header.version);
        match (header.packet_type(), program) {
            (Some(PacketType::Message), Some(Program::Keepalive)) => keepalive(&header),
            (Some(PacketType::Stream), Some(Program::Remote)) => match header.packet_status() {
                Some(status) => {
                    Outcome::Stream(StreamPacket { header, status, data: packet.payload, hole: None })
                }
                None => Outcome::Nothing,
            },
            (Some(PacketType::StreamHole), Some(Program::Remote)) => Outcome::Stream(hole(&packet)),
            (Some(PacketType::Call | PacketType::CallWithFds), _) => self
                .call(session, program, &mut packet, handed)
                .unwrap_or_else(|failure| refuse(&header, &failure)),
            // libvirt drops what makes no sense here, and so do we.
            _ => Outcome::Nothing,
        }
    }

    fn call(
        self: &Arc<Self>,
        session: &Arc<Session>,
        program: Option<Program>,
        packet: &mut Packet,
        handed: Option<Handed>,
    ) -> Result<Outcome, Failure> {
        let header = packet.header;
        let rpc = |text| Failure::raw(Code::Rpc, From::Rpc, text);
        if header.status != PacketStatus::Ok as i32 {
            return Err(rpc(format!("Unexpected message status {}", header.status)));
        }
        match program {
            Some(Program::Remote) => {}
            Some(Program::Qemu) => return self.qemu(session, packet),
            Some(Program::Lxc) if header.procedure == 1 => {
                return Err(Failure::unsupported("virDomainLxcOpenNamespace"));
            }
            Some(Program::Lxc | Program::Keepalive) => {
                return Err(Failure::unknown_procedure(header.procedure));
            }
            None => {
                let (program, version) = (header.program, header.version);
                return Err(rpc(format!("Cannot find program {program} version {version}")));
            }
        }
        let procedure = Procedure::of(header.procedure).filter(|procedure| procedure.kind() != Kind::Event);
        let procedure = procedure.ok_or_else(|| Failure::unknown_procedure(header.procedure))?;
        let call = Call::new(self, session, procedure, &packet.payload);
        if session.opened().is_none() && !before_open(procedure) {
            return Err(Failure::not_open());
        }
        if session.opened().is_some() && procedure.read_only() == rpc::ReadOnly::Refused {
            call.read_only(0)?;
        }
        let Some(route) = route(call.kind(), procedure) else {
            return Err(Failure::unsupported(procedure.api()));
        };
        call.permit_connect()?;
        let at_hand = || domain::at_hand(procedure).is_some_and(|at_hand| at_hand(&call));
        // What is not known yet may have to be waited for.
        let settled = call.manager().is_settled();
        match route {
            Route::Slow(handler) if settled && at_hand() => {
                Ok(Outcome::Reply(reply(&header, call.run(handler))))
            }
            Route::Fast(handler) if settled || !domain::may_wait(procedure) => {
                Ok(Outcome::Reply(reply(&header, call.run(handler))))
            }
            Route::Fast(handler) | Route::Slow(handler) => {
                let (service, session) = (self.clone(), session.clone());
                // Moved: the bytes are there once, and whoever runs this counts them.
                let payload = std::mem::take(&mut packet.payload);
                Ok(Outcome::Later(Box::new(move || {
                    reply(&header, Call::new(&service, &session, procedure, &payload).waiting().run(handler))
                })))
            }
            Route::Console => console(&call, header).map(Outcome::Console),
            Route::Transfer(open) => {
                let (service, session) = (self.clone(), session.clone());
                let told = move |failure| Call::new(&service, &session, procedure, &[]).told(failure);
                open(&call, header).map(|transfer| Outcome::Transfer(transfer.telling(told)))
            }
            Route::OpenGraphics => display::open(&call, header, handed).map(Outcome::Relay),
            Route::OpenGraphicsFd => {
                let open = display::open_fd(&call)?;
                Ok(Outcome::Descriptors(Box::new(move || match open() {
                    Ok(display) => with_descriptor(&header, display.into()),
                    Err(failure) => (reply(&header, Err(failure)), Vec::new()),
                })))
            }
            Route::Close => Ok(Outcome::Last(reply(&header, Ok(Vec::new())))),
        }
    }

    /// A call of the QEMU program. Its permissions are those of the call that stands for it.
    fn qemu(self: &Arc<Self>, session: &Arc<Session>, packet: &mut Packet) -> Result<Outcome, Failure> {
        let header = packet.header;
        if session.opened().is_none() {
            return Err(Failure::not_open());
        }
        let procedure = QemuProcedure::of(header.procedure).filter(|procedure| procedure.api() != "-");
        let procedure = procedure.ok_or_else(|| Failure::unknown_procedure(header.procedure))?;
        let (handler, stands_for) =
            guest::qemu_handler(procedure).ok_or_else(|| Failure::unsupported(procedure.api()))?;
        let call = Call::new(self, session, stands_for, &packet.payload);
        call.read_only(0)?;
        let (service, session) = (self.clone(), session.clone());
        let payload = std::mem::take(&mut packet.payload);
        Ok(Outcome::Later(Box::new(move || {
            reply(&header, Call::new(&service, &session, stands_for, &payload).waiting().run(handler))
        })))
    }

    /// The bytes of an error that comes after its call was taken.
    #[must_use]
    pub fn late_failure(&self, header: &Header, error: crate::driver::DriverError) -> Vec<u8> {
        reply(header, Err(crate::manager::ManagerError::from(error).into()))
    }

    /// The bytes of an answer to a call that there is no room for now.
    #[must_use]
    pub fn busy(&self, header: &Header) -> Vec<u8> {
        let text = "the daemon holds too many long calls; try again when some of them are through";
        reply(header, Err(Failure::new(Code::OperationFailed, From::Rpc, text)))
    }

    /// The bytes of an answer without results.
    #[must_use]
    pub fn done(&self, header: &Header) -> Vec<u8> {
        reply(header, Ok(Vec::new()))
    }

    /// The bytes of an error on a stream, which ends it.
    #[must_use]
    pub fn stream_failure(&self, header: &Header, text: &str) -> Vec<u8> {
        let header = header.answer(PacketType::Stream, PacketStatus::Error);
        body(&header, &Failure::new(Code::OperationFailed, From::Streams, text))
    }
}

/// What an unopened connection takes.
fn before_open(procedure: Procedure) -> bool {
    use Procedure as P;
    matches!(
        procedure,
        P::AuthList
            | P::AuthSaslInit
            | P::AuthSaslStart
            | P::AuthSaslStep
            | P::AuthPolkit
            | P::ConnectSupportsFeature
            | P::ConnectOpen
            | P::ConnectClose
    )
}

fn route(kind: ViewKind, procedure: Procedure) -> Option<Route> {
    if kind == ViewKind::Test {
        let made_up = pretend::fast(procedure).map(Route::Fast);
        let made_up = made_up.or_else(|| pretend::slow(procedure).map(Route::Slow));
        return made_up.or_else(|| real(procedure));
    }
    real(procedure)
}

/// What views have that make nothing up.
fn real(procedure: Procedure) -> Option<Route> {
    match procedure {
        Procedure::ConnectClose => Some(Route::Close),
        Procedure::DomainOpenChannel | Procedure::DomainOpenConsole => Some(Route::Console),
        Procedure::DomainOpenGraphics => Some(Route::OpenGraphics),
        Procedure::DomainOpenGraphicsFd => Some(Route::OpenGraphicsFd),
        Procedure::DomainScreenshot => Some(Route::Transfer(display::screenshot)),
        Procedure::StorageVolDownload => Some(Route::Transfer(volume::download)),
        Procedure::StorageVolUpload => Some(Route::Transfer(volume::upload)),
        _ => {
            let fast = connect::handler(procedure)
                .or_else(|| domain::handler(procedure))
                .or_else(|| stats::handler(procedure))
                .or_else(|| event::handler(procedure))
                .or_else(|| storage::fast(procedure))
                .or_else(|| measure::fast(procedure))
                .or_else(|| network::handler(procedure))
                .or_else(|| empty::handler(procedure));
            let slow = || {
                let others = || {
                    live::handler(procedure)
                        .or_else(|| agent::handler(procedure))
                        .or_else(|| block::handler(procedure))
                        .or_else(|| counters::handler(procedure))
                        .or_else(|| cpu::handler(procedure))
                        .or_else(|| metadata::handler(procedure))
                        .or_else(|| pages::handler(procedure))
                        .or_else(|| measure::slow(procedure))
                        .or_else(|| interface::handler(procedure))
                        .or_else(|| tune::handler(procedure))
                        .or_else(|| tuning::handler(procedure))
                        .or_else(|| pin::handler(procedure))
                        .or_else(|| native::handler(procedure))
                        .or_else(|| stats::waiting(procedure))
                        .or_else(|| storage::slow(procedure))
                };
                lifecycle::handler(procedure)
                    .or_else(|| domain::slow_handler(procedure))
                    .or_else(|| plug::handler(procedure))
                    .or_else(|| save::handler(procedure))
                    .or_else(|| dump::handler(procedure))
                    .or_else(|| guest::handler(procedure))
                    .or_else(others)
            };
            fast.map(Route::Fast).or_else(|| slow().map(Route::Slow))
        }
    }
}

fn keepalive(header: &Header) -> Outcome {
    const PING: i32 = 1;
    const PONG: i32 = 2;
    if header.procedure != PING {
        return Outcome::Nothing;
    }
    let pong = Header::event(Program::Keepalive, PONG, 0);
    Packet::bytes(&pong, &()).map_or(Outcome::Nothing, Outcome::Reply)
}

/// virDomainConsoleFlags
const CONSOLE_FORCE: u32 = 1;
const CONSOLE_SAFE: u32 = 2;

fn console(call: &Call<'_>, header: Header) -> Result<Console, Failure> {
    let (reference, alias, flags): (rpc::Domain<'_>, Option<&str>, u32) = call.arguments()?;
    let target: Target<'_> = call.domain(&reference, flags)?;
    // A channel knows the first of these only.
    let channel = call.procedure == Procedure::DomainOpenChannel;
    call.only_flags(flags, if channel { CONSOLE_FORCE } else { CONSOLE_FORCE | CONSOLE_SAFE })?;
    let live = target
        .domain
        .running()
        .ok_or_else(|| Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"))?;
    if live.control.is_empty() {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    // Every console has one user only, so all are as safe as that flag asks for.
    let force = flags & CONSOLE_FORCE != 0;
    let alias = alias.map(Into::into);
    let port = if channel { Port::Channel(alias) } else { Port::Console(alias) };
    Ok(Console { header, live: live.clone(), port, force })
}

fn refuse(header: &Header, failure: &Failure) -> Outcome {
    Outcome::Reply(body(&header.answer(PacketType::Reply, PacketStatus::Error), failure))
}

/// A packet that stands for zeros; one without a length that makes sense ends its stream.
fn hole(packet: &Packet) -> StreamPacket {
    let length = rpc::Decoder::new(&packet.payload).take().ok();
    let length = length.and_then(|(length, _flags): (i64, u32)| u64::try_from(length).ok());
    let status = match length {
        Some(_) => PacketStatus::Continue,
        None => PacketStatus::Error,
    };
    StreamPacket { header: packet.header, status, data: Vec::new(), hole: length }
}

/// The answer that brings one descriptor.
fn with_descriptor(header: &Header, fd: OwnedFd) -> (Vec<u8>, Vec<OwnedFd>) {
    let header = header.answer(PacketType::ReplyWithFds, PacketStatus::Ok);
    (Packet::bytes(&header, &1_u32).unwrap_or_default(), vec![fd])
}

pub(super) fn reply(header: &Header, answer: Answer) -> Vec<u8> {
    let done = answer.and_then(|results| {
        Packet::raw(&header.answer(PacketType::Reply, PacketStatus::Ok), &results).map_err(|error| {
            Failure::new(Code::Rpc, From::Rpc, format!("the answer does not fit a message: {error}"))
        })
    });
    done.unwrap_or_else(|failure| body(&header.answer(PacketType::Reply, PacketStatus::Error), &failure))
}

/// The bytes of an error. Its text is short enough for any message.
fn body(header: &Header, failure: &Failure) -> Vec<u8> {
    const TEXT_MAX: usize = 64 << 10;
    // Whoever has not been found to see the domain that it names does not.
    let message = failure.hides.as_ref().map_or(&failure.message, |hidden| &hidden.message);
    let end = (0..=TEXT_MAX.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
    let message = message.get(..end.unwrap_or(0)).unwrap_or_default();
    let error = ErrorBody { code: failure.code as i32, domain: failure.from as i32, message };
    Packet::bytes(header, &error).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Procedure, Route, real};

    #[test]
    fn what_reads_the_kernels_files_waits_on_a_thread_of_its_own() {
        for procedure in [Procedure::NodeGetFreePages, Procedure::NodeGetMemoryParameters] {
            assert!(matches!(real(procedure), Some(Route::Slow(_))), "{procedure:?}");
        }
    }
}
