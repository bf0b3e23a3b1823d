//! Displays of domains that run: pictures of them, and connections to them.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::call::{Call, Target};
use super::error::{Code, Failure, From};
use super::transfer::{Piece, Source, Transfer, Way};
use crate::driver::Picture;
use crate::manager::{Live, Manager};
use crate::privsep::supervisor::Graphics;
use crate::rpc::{self, Encode, Encoder, Header, STREAM_CHUNK};
use crate::sys::handed::Handed;

/// A display that a client is to be joined with.
pub struct Relay {
    /// The call.
    pub header: Header,
    theirs: Handed,
    open: Connect,
}

/// Connects to a display.
type Connect = Box<dyn FnOnce() -> Result<UnixStream, Failure> + Send>;

impl Relay {
    /// Connects to the display: the client's end, and that one; else the bytes of an error. It may wait.
    pub fn open(self) -> Result<(Handed, UnixStream), Vec<u8>> {
        match (self.open)() {
            Ok(ours) => Ok((self.theirs, ours)),
            Err(failure) => Err(super::dispatch::reply(&self.header, Err(failure))),
        }
    }
}

fn running(target: &Target<'_>) -> Result<Arc<Live>, Failure> {
    let live = target.domain.running().cloned();
    live.ok_or_else(|| Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"))
}

/// virDomainOpenGraphicsFlags: the display asks for no password.
const SKIP_AUTH: u32 = 1;

/// The display that a call is about, as something that connects to it.
fn display(call: &Call<'_>) -> Result<Connect, Failure> {
    let (reference, index, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, SKIP_AUTH)?;
    let live = running(&target)?;
    let manager = call.shared_manager();
    let uuid = target.domain.uuid;
    Ok(Box::new(move || {
        let protocol = numbered(&live, index)?;
        Ok(manager.open_display(uuid, protocol, flags & SKIP_AUTH != 0)?)
    }))
}

fn numbered(live: &Live, index: u32) -> Result<Graphics, Failure> {
    let displays = live.displays()?;
    let found = usize::try_from(index).ok().and_then(|at| displays.get(at).copied());
    found.ok_or_else(|| {
        Failure::new(Code::Internal, From::Qemu, format!("No graphics backend with index {index}"))
    })
}

/// A connection to a display that is handed to the client.
pub(super) fn open_fd(call: &Call<'_>) -> Result<Connect, Failure> {
    display(call)
}

/// A connection to a display, joined with what the client has handed in.
pub(super) fn open(call: &Call<'_>, header: Header, handed: Option<Handed>) -> Result<Relay, Failure> {
    let open = display(call)?;
    let theirs = handed.filter(|handed| handed.stream().is_some()).ok_or_else(|| {
        let text = "exactly one descriptor comes with this call: a unix socket that carries a stream and is connected \
                    with what the same user has made";
        Failure::new(Code::InvalidArgument, From::Domain, text)
    })?;
    Ok(Relay { header, theirs, open })
}

/// What a picture is said to be.
const PNG: &str = "image/png";

/// A picture of a screen.
pub(super) fn screenshot(call: &Call<'_>, header: Header) -> Result<Transfer, Failure> {
    let (reference, screen, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let live = running(&target)?;
    let manager = call.shared_manager();
    let uuid = target.domain.uuid;
    Ok(Transfer::new(header, false, move || {
        let way = picture(&manager, &live, uuid, screen)?;
        let mut to = Encoder::new();
        Some(PNG).encode(&mut to).map_err(|error| {
            Failure::new(Code::Rpc, From::Rpc, format!("the answer does not fit a message: {error}"))
        })?;
        Ok((to.into_bytes(), way))
    }))
}

fn picture(
    manager: &Manager,
    live: &Live,
    uuid: crate::base::DomainUuid,
    screen: u32,
) -> Result<Way, Failure> {
    let screens = live.screens()?;
    let wrong = |text: &str| Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
    if screens.is_empty() {
        return wrong("no screens to take screenshot from");
    }
    let mut rest = screen;
    for (device, heads) in screens {
        if rest < heads {
            return Ok(Way::Down(Box::new(Image(manager.picture(uuid, device, rest)?))));
        }
        rest -= heads;
    }
    wrong("no such screen ID")
}

/// A picture that its supervisor sends.
struct Image(Picture);

impl Source for Image {
    fn next(&mut self) -> io::Result<Piece> {
        if self.0.left == 0 {
            return Ok(Piece::End);
        }
        let most = usize::try_from(self.0.left).unwrap_or(usize::MAX).min(STREAM_CHUNK);
        let mut bytes = vec![0; most];
        let length = self.0.stream.read(&mut bytes)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(length);
        self.0.left -= length as u64;
        Ok(Piece::Data(bytes))
    }
}
