//! A file that is written only when it is known what goes into it, by a process that has given up root by then.
//!
//! A child with the caller's own rights waits for the whole text. It parses nothing; without the mark at the end
//! it leaves the file as it was, whether it was there or not.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use super::exit::Failure;
use crate::sys::{process, scm};

/// What follows the last byte of a text that is whole.
const WHOLE: u8 = 0;

/// The longest text that is taken, in bytes.
const TEXT_MAX: u64 = 16 << 20;

/// A place for one text.
#[derive(Debug)]
pub(super) struct Deposit {
    path: PathBuf,
    text: File,
    answer: File,
    _keeper: process::Child,
}

impl Deposit {
    /// Prepares for `path`, which is neither opened nor made now. For callers with one thread.
    pub(super) fn at(path: &Path) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| refused(path, &error.to_string());
        let (text, text_end) = scm::pipe().map_err(failed)?;
        let (answer, answer_end) = scm::pipe().map_err(failed)?;
        let kept = [&text_end, &answer].map(std::os::fd::AsFd::as_fd);
        let keeper = process::fork(|| {
            // Else the end of the text would never be seen.
            kept.into_iter().for_each(process::close_inherited);
            i32::from(keep(path, &text, &answer_end).is_err())
        });
        let keeper = keeper.map_err(failed)?;
        Ok(Self { path: path.into(), text: text_end.into(), answer: answer.into(), _keeper: keeper })
    }

    /// Writes the file: it is there, whole, when this returns.
    pub(super) fn write(mut self, text: &str) -> Result<(), Failure> {
        let sent = self.text.write_all(text.as_bytes()).and_then(|()| self.text.write_all(&[WHOLE]));
        drop(self.text);
        let mut answer = String::new();
        let heard = std::io::Read::by_ref(&mut self.answer).take(4096).read_to_string(&mut answer);
        match (sent.and(heard), answer.strip_prefix("done")) {
            (Ok(_), Some(_)) => Ok(()),
            (Ok(_), None) => Err(refused(&self.path, &answer)),
            (Err(error), _) => Err(refused(&self.path, &error.to_string())),
        }
    }
}

fn refused(path: &Path, why: &str) -> Failure {
    Failure::plain(format!("cannot write {}: {why}", path.display()), "name a file that you may write")
}

/// The child: waits for the text, writes it, and says how that went.
fn keep(path: &Path, text: &OwnedFd, answer: &OwnedFd) -> std::io::Result<()> {
    let mut read = Vec::new();
    File::from(text.try_clone()?).take(TEXT_MAX).read_to_end(&mut read)?;
    let mut answer = File::from(answer.try_clone()?);
    match read.split_last() {
        Some((&WHOLE, text)) => match std::fs::write(path, text) {
            Ok(()) => answer.write_all(b"done"),
            Err(error) => answer.write_all(error.to_string().as_bytes()),
        },
        _ => Ok(()),
    }
}
