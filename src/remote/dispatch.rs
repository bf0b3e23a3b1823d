//! From a packet to what is to be done about it.

use std::sync::Arc;

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::{
    Service, Session, agent, block, connect, counters, domain, empty, event, guest, interface, lifecycle, live, measure,
    metadata, network, plug, save, stats, storage, tune, tuning,
};
use crate::manager::Live;
use crate::rpc::{
    self, ErrorBody, Header, Kind, Packet, PacketStatus, PacketType, Procedure, Program, QemuProcedure,
};

/// What is to be done about a packet.
pub enum Outcome {
    /// A console is to be attached to; the answer comes from there.
    Console(Console),
    /// These bytes are the last ones that the client gets.
    Last(Vec<u8>),
    /// This may wait, and gives the bytes to send.
    Later(Box<dyn FnOnce() -> Vec<u8> + Send>),
    /// Nothing.
    Nothing,
    /// These bytes are sent.
    Reply(Vec<u8>),
    /// Bytes for a stream that is open, or is not.
    Stream(StreamPacket),
}

/// Which console, for which call.
#[derive(Debug)]
pub struct Console {
    /// The call.
    pub header: Header,
    /// What runs, as it was when the call came.
    pub live: Arc<Live>,
    /// Which of its consoles.
    pub alias: Option<String>,
    /// Whether it is taken from somebody else.
    pub force: bool,
}

impl Console {
    /// Whether it may be attached to; else the bytes to send. It reads the whole definition, so it is for a thread that
    /// may wait.
    pub fn check(&self) -> Result<(), Vec<u8>> {
        let Some(alias) = &self.alias else { return Ok(()) };
        match self.live.is_agent(alias) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let text = format!("character device {alias} is in use by the QEMU guest agent");
                Err(reply(&self.header, Err(Failure::new(Code::OperationInvalid, From::Qemu, text))))
            }
            Err(error) => Err(reply(&self.header, Err(error.into()))),
        }
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
}

/// How a handler is run.
enum Route {
    /// At once: it reads what is in memory.
    Fast(fn(&Call<'_>) -> Answer),
    /// On a thread of its own: it waits for the disk, the labeller or a supervisor.
    Slow(fn(&Call<'_>) -> Answer),
    /// It opens a stream.
    Console,
    /// It ends the connection.
    Close,
}

impl Service {
    /// Decides what becomes of one packet.
    pub fn packet(self: &Arc<Self>, session: &Arc<Session>, mut packet: Packet) -> Outcome {
        let header = packet.header;
        let program = Program::of(header.program, header.version);
        match (header.packet_type(), program) {
            (Some(PacketType::Message), Some(Program::Keepalive)) => keepalive(&header),
            (Some(PacketType::Stream), Some(Program::Remote)) => match header.packet_status() {
                Some(status) => Outcome::Stream(StreamPacket { header, status, data: packet.payload }),
                None => Outcome::Nothing,
            },
            (Some(PacketType::Call | PacketType::CallWithFds), _) => {
                self.call(session, program, &mut packet).unwrap_or_else(|failure| refuse(&header, &failure))
            }
            // libvirt drops what makes no sense here, and so do we.
            _ => Outcome::Nothing,
        }
    }

    fn call(
        self: &Arc<Self>,
        session: &Arc<Session>,
        program: Option<Program>,
        packet: &mut Packet,
    ) -> Result<Outcome, Failure> {
        let header = packet.header;
        let rpc = |text| Failure { code: Code::Rpc, from: From::Rpc, message: text };
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
        let Some(route) = route(procedure) else { return Err(Failure::unsupported(procedure.api())) };
        call.permit_connect()?;
        let at_hand = || domain::at_hand(procedure).is_some_and(|at_hand| at_hand(&call));
        match route {
            Route::Slow(handler) if at_hand() => Ok(Outcome::Reply(reply(&header, handler(&call)))),
            Route::Fast(handler) => Ok(Outcome::Reply(reply(&header, handler(&call)))),
            Route::Slow(handler) => {
                let (service, session) = (self.clone(), session.clone());
                // Moved: the bytes are there once, and whoever runs this counts them.
                let payload = std::mem::take(&mut packet.payload);
                Ok(Outcome::Later(Box::new(move || {
                    reply(&header, handler(&Call::new(&service, &session, procedure, &payload)))
                })))
            }
            Route::Console => console(&call, header).map(Outcome::Console),
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
            reply(&header, handler(&Call::new(&service, &session, stands_for, &payload)))
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

fn route(procedure: Procedure) -> Option<Route> {
    match procedure {
        Procedure::ConnectClose => Some(Route::Close),
        Procedure::DomainOpenConsole => Some(Route::Console),
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
                        .or_else(|| metadata::handler(procedure))
                        .or_else(|| measure::slow(procedure))
                        .or_else(|| interface::handler(procedure))
                        .or_else(|| tune::handler(procedure))
                        .or_else(|| tuning::handler(procedure))
                        .or_else(|| stats::waiting(procedure))
                        .or_else(|| storage::slow(procedure))
                };
                lifecycle::handler(procedure)
                    .or_else(|| domain::slow_handler(procedure))
                    .or_else(|| plug::handler(procedure))
                    .or_else(|| save::handler(procedure))
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
    call.only_flags(flags, CONSOLE_FORCE | CONSOLE_SAFE)?;
    let live = target
        .domain
        .running()
        .ok_or_else(|| Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"))?;
    if live.control.is_empty() {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    // Every console has one user only, so all are as safe as that flag asks for.
    let force = flags & CONSOLE_FORCE != 0;
    Ok(Console { header, live: live.clone(), alias: alias.map(Into::into), force })
}

fn refuse(header: &Header, failure: &Failure) -> Outcome {
    Outcome::Reply(body(&header.answer(PacketType::Reply, PacketStatus::Error), failure))
}

fn reply(header: &Header, answer: Answer) -> Vec<u8> {
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
    let end =
        (0..=TEXT_MAX.min(failure.message.len())).rev().find(|at| failure.message.is_char_boundary(*at));
    let message = failure.message.get(..end.unwrap_or(0)).unwrap_or_default();
    let error = ErrorBody { code: failure.code as i32, domain: failure.from as i32, message };
    Packet::bytes(header, &error).unwrap_or_default()
}
