//! Reads one image header: the image comes as descriptor 0, opened for reading, and the answer goes as JSON into
//! the pipe that is descriptor 1. Where descriptor 0 is a socket the image arrives there, as the only message: a probe
//! can be started before there is anything to read. Before the first byte of the image is read, nothing is left to
//! this process but those two. A line feed ends the answer: who waits for it need not wait until the kernel has
//! taken this process and its namespaces down. Where the image came by a socket, this process then waits until it is
//! killed: whoever was woken by the answer goes on at once, and not behind all that on the same processor.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::fs::{FileType, OFlags, SeekFrom};
use svirt::image::{self, Answer, Failure};
use svirt::sys::{imageprobe, scm};

/// The last byte of an answer: JSON has none of it on one line.
const END: u8 = b'\n';
/// Room for the longest answer, made before allocating becomes impossible.
const ANSWER: usize = 64 << 10;

fn main() -> ExitCode {
    let mut head = vec![0_u8; image::HEAD_MAX];
    let mut json = Vec::with_capacity(ANSWER);
    let ahead = is_socket();
    let answer = match probe(&mut head, ahead) {
        Ok(header) => Answer::Header(header),
        Err(failure) => Answer::Failed(failure),
    };
    let written = serde_json::to_writer(&mut json, &answer).is_ok() && {
        json.push(END);
        write_all(&json).is_ok()
    };
    if !written {
        return ExitCode::FAILURE;
    }
    if ahead {
        wait_to_be_killed();
    }
    ExitCode::SUCCESS
}

fn wait_to_be_killed() -> ! {
    loop {
        // Of nothing, for ever: no descriptor may be named here any more.
        let _ = rustix::event::poll(&mut [], None);
    }
}

fn probe(head: &mut [u8], ahead: bool) -> Result<image::Header, Failure> {
    let confinement =
        |(step, error): (&str, io::Error)| Failure::Confinement { step: format!("cannot {step}: {error}") };
    imageprobe::prepare().map_err(confinement)?;
    if ahead {
        // So that the kernel finds the memory for these bytes now, and not while somebody waits.
        head.get_mut(..image::HEAD).unwrap_or_default().fill(u8::MAX);
        receive_image()?;
    }
    let size = check_descriptors()?;
    imageprobe::seal().map_err(confinement)?;
    let mut filled = read(head, 0, image::HEAD)?;
    let wanted = image::needed(head.get(..filled).unwrap_or_default());
    if filled == image::HEAD && wanted > filled {
        filled += read(head, filled, wanted)?;
    }
    Ok(image::describe(head.get(..filled).unwrap_or_default(), size))
}

/// Whether descriptor 0 is a socket that the image comes by. Where that cannot be told, it is taken for the image, which
/// is looked at again.
fn is_socket() -> bool {
    rustix::fs::fstat(io::stdin())
        .is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Socket)
}

/// Waits for the image at the socket that is descriptor 0, and puts it in the socket's place.
fn receive_image() -> Result<(), Failure> {
    let broken = |error: io::Error| Failure::Read { error: error.to_string() };
    let (_, mut fds) = scm::recv(io::stdin().as_fd(), &mut [0]).map_err(broken)?;
    match (fds.pop(), fds.is_empty()) {
        (Some(image), true) => rustix::stdio::dup2_stdin(image).map_err(|error| broken(error.into())),
        _ => Err(Failure::Descriptor { what: "no image, or more than one".to_owned() }),
    }
}

/// Refuses what the probe must not hold, and returns the image's size in bytes.
fn check_descriptors() -> Result<u64, Failure> {
    let refuse = |what: &str| Failure::Descriptor { what: what.to_owned() };
    let kernel = |error: rustix::io::Errno| Failure::Read { error: error.to_string() };
    let image = io::stdin();
    let found = rustix::fs::fstat(&image).map_err(kernel)?;
    if !matches!(FileType::from_raw_mode(found.st_mode), FileType::RegularFile | FileType::BlockDevice) {
        return Err(refuse("something that is neither a file nor a block device"));
    }
    let flags = rustix::fs::fcntl_getfl(&image).map_err(kernel)?;
    if flags & OFlags::RWMODE != OFlags::RDONLY || flags.contains(OFlags::PATH) {
        return Err(refuse("an image that is not open for reading only"));
    }
    let out = rustix::fs::fstat(io::stdout()).map_err(kernel)?;
    if !matches!(FileType::from_raw_mode(out.st_mode), FileType::Fifo | FileType::Socket) {
        return Err(refuse("an output that is no pipe"));
    }
    rustix::fs::seek(&image, SeekFrom::End(0)).map_err(kernel)
}

/// Reads `head[from..to]`, or up to the image's end; returns how many bytes.
fn read(head: &mut [u8], from: usize, to: usize) -> Result<usize, Failure> {
    let mut at = from;
    while let Some(rest) = head.get_mut(at..to).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(io::stdin(), rest, at as u64) {
            Ok(0) => break,
            Ok(count) => at += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Read { error: error.to_string() }),
        }
    }
    Ok(at - from)
}

fn write_all(json: &[u8]) -> io::Result<()> {
    // Unbuffered, so that nothing is left for the way out.
    let mut rest = json;
    while !rest.is_empty() {
        let count = rustix::io::write(io::stdout(), rest)?;
        rest = rest.get(count..).unwrap_or_default();
    }
    io::stdout().flush()
}
