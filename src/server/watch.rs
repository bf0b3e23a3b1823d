//! Waiting for the end of every domain that runs, without a thread for each, and noticing those that others start.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::base::DomainUuid;
use crate::driver::Labeller;
use crate::manager::Manager;
use crate::privsep::ask::Happening;
use crate::privsep::request::{Reply, Request};
use crate::privsep::supervisor::{Ended, Verb};
use crate::privsep::wire;

/// How long to leave a labeller alone that does not answer.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest line of a supervisor in bytes.
const LINE_MAX: usize = 4096;
/// How often to ask what runs, and how often while nobody answers and it is not known.
const SURVEY_EVERY: Duration = Duration::from_secs(5);
const SURVEY_SOON: Duration = Duration::from_millis(200);
/// The least time between two surveys, however many clients wait for one.
const SURVEY_LEAST: Duration = Duration::from_millis(100);

/// Waits for the end of one domain, across restarts of the labeller, and tells the manager.
pub(super) async fn wait(manager: Arc<Manager>, uuid: DomainUuid, id: i32) {
    let socket = Labeller::path(manager.settings());
    let ended = loop {
        match ask(&socket, uuid).await {
            Ok(ended) => break ended,
            Err(error) => tracing::debug!(%uuid, %error, "the labeller does not answer"),
        }
        tokio::time::sleep(PAUSE).await;
        if manager.by_uuid(uuid).is_ok_and(|domain| domain.live.is_none_or(|live| live.id != id)) {
            return;
        }
    };
    // The change goes to the disk.
    let told = tokio::task::spawn_blocking(move || manager.ended(uuid, id, ended.as_ref()));
    if let Err(error) = told.await {
        tracing::error!(%uuid, %error, "the end of a domain was not noted");
    }
}

/// How a domain ended; `None` where the labeller no longer knows it.
async fn ask(socket: &Path, uuid: DomainUuid) -> io::Result<Option<Ended>> {
    let mut stream = UnixStream::connect(socket).await?;
    let request = wire::encode(&Request::Wait { uuid }).map_err(io::Error::other)?;
    stream.write_all(&request).await?;
    let mut pending = Vec::new();
    loop {
        match wire::decode(&mut pending).map_err(io::Error::other)? {
            Some(Reply::Ended(ended)) => return Ok(Some(ended)),
            Some(Reply::NoDomain) => return Ok(None),
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None => {}
        }
        if stream.read_buf(&mut pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Finds what runs before the first client asks, and goes on looking; `autostarted` is empty until what is to be
/// started with the host was.
pub(super) fn start(manager: &Arc<Manager>, mut autostarted: std::fs::File) -> io::Result<()> {
    let mut labeller = None;
    if let Err(error) = once(manager, &mut labeller) {
        tracing::warn!(%error, "cannot ask the labeller yet what runs");
    }
    let starter = manager.clone();
    let first = move || {
        if autostarted.metadata().is_ok_and(|found| found.len() == 0) {
            starter.autostart();
            if let Err(error) = autostarted.write_all(b"done\n") {
                tracing::warn!(%error, "what was started with the host would be again");
            }
        }
    };
    doubts(manager)?;
    survey(manager, first)
}

/// Passes on what one domain's supervisors say that happens, until another start of it runs or none does.
pub(super) async fn listen(manager: Arc<Manager>, uuid: DomainUuid, id: i32) {
    loop {
        let live = manager.by_uuid(uuid).ok().and_then(|domain| domain.live);
        let Some(live) = live.filter(|live| live.id == id) else { return };
        if let Err(error) = hear(&manager, uuid, id, &live.control).await {
            // It may be gone, or be replaced; the labeller tells which.
            tracing::debug!(%uuid, %error, "a supervisor is not heard");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears one supervisor until it leaves.
async fn hear(manager: &Arc<Manager>, uuid: DomainUuid, id: i32, control: &str) -> io::Result<()> {
    let mut stream = UnixStream::connect(control).await?;
    let mut line = serde_json::to_vec(&Verb::Listen)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    // A supervisor is trusted with less than this daemon is: what it says is bounded.
    let mut pending = Vec::new();
    let mut first = true;
    loop {
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let rest = pending.split_off(end + 1);
            let line = std::mem::replace(&mut pending, rest);
            // The first line is the answer to the question itself: what happens from now on is heard, and what happened
            // while nobody listened is asked for.
            if std::mem::take(&mut first) {
                let manager = manager.clone();
                tokio::task::spawn_blocking(move || manager.look(uuid, id));
            } else if let Ok(happening) = serde_json::from_slice::<Happening>(&line) {
                let (manager, told) = (manager.clone(), happening);
                let noted = tokio::task::spawn_blocking(move || manager.happened(uuid, id, told));
                noted.await.map_err(io::Error::other)?;
            }
        }
        if pending.len() > LINE_MAX || stream.read_buf(&mut pending).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Asks what runs, again and again, on a thread of its own; `first` is called after the first answer.
fn survey(manager: &Arc<Manager>, first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let manager = manager.clone();
    std::thread::Builder::new().name("survey".into()).spawn(move || {
        let (mut labeller, mut first) = (None, Some(first));
        loop {
            match once(&manager, &mut labeller) {
                Ok(()) => {
                    if let Some(first) = first.take() {
                        // Whoever starts domains may wait for the next survey.
                        let begun = std::thread::Builder::new().name("autostart".into()).spawn(first);
                        if let Err(error) = begun {
                            tracing::error!(%error, "no domain is started with the host");
                        }
                    }
                    // Whoever wants to know soon waits for that long.
                    std::thread::sleep(SURVEY_LEAST);
                    manager.rest(SURVEY_EVERY);
                }
                Err(error) => {
                    tracing::debug!(%error, "no survey");
                    labeller = None;
                    std::thread::sleep(if manager.is_settled() { SURVEY_EVERY } else { SURVEY_SOON });
                }
            }
        }
    })?;
    Ok(())
}

/// Finds out, again and again, what became of changes whose answers never came. A device model that answers slowly keeps
/// this thread waiting, and nobody's survey.
fn doubts(manager: &Arc<Manager>) -> io::Result<()> {
    let manager = manager.clone();
    std::thread::Builder::new().name("doubts".into()).spawn(move || {
        loop {
            std::thread::sleep(SURVEY_EVERY);
            if manager.is_in_doubt() {
                match Labeller::connect(manager.settings()) {
                    Ok(mut labeller) => manager.clear_doubts(&mut labeller),
                    Err(error) => tracing::debug!(%error, "nobody to ask what runs"),
                }
            }
            manager.look_again();
        }
    })?;
    Ok(())
}

/// One survey over a connection that is kept.
fn once(manager: &Manager, labeller: &mut Option<Labeller>) -> Result<(), crate::driver::DriverError> {
    let mut connection = match labeller.take() {
        Some(connection) => connection,
        None => Labeller::connect(manager.settings()).inspect_err(|_| manager.no_survey())?,
    };
    manager.survey(&mut connection)?;
    *labeller = Some(connection);
    Ok(())
}
