//! Contents of volumes, as streams: read and written by a process of the labeller's.

use std::io;
use std::sync::Arc;

use super::call::Call;
use super::error::Failure;
use super::transfer::{Piece, Sink, Source, Transfer, Way};
use crate::access::Object;
use crate::privsep::contents::DATA_MAX;
use crate::privsep::storage::{Part, Passage};
use crate::rpc::{Header, STREAM_CHUNK};
use crate::storage::{Contents, Pools, StorageError, Taken};

/// VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM, and the same for uploads.
const SPARSE: u32 = 1;

/// What a call names: pool, volume and key; from where on; how much, 0 for everything; flags.
type Arguments<'a> = ((&'a str, &'a str, &'a str), u64, u64, u32);

/// Sends what a volume holds.
pub(super) fn download(call: &Call<'_>, header: Header) -> Result<Transfer, Failure> {
    transfer(call, header, false)
}

/// Writes into a volume that no domain uses.
pub(super) fn upload(call: &Call<'_>, header: Header) -> Result<Transfer, Failure> {
    transfer(call, header, true)
}

fn transfer(call: &Call<'_>, header: Header, up: bool) -> Result<Transfer, Failure> {
    let ((pool, name, _), offset, length, flags): Arguments<'_> = call.arguments()?;
    call.permit_on(Object::StorageVol, 0, || StorageError::NoVolume("name", name.into()).into())?;
    call.only_flags(flags, SPARSE)?;
    let (pools, pool, name) = (call.shared_pools(), pool.to_owned(), name.to_owned());
    let part = Part { offset, length };
    Ok(Transfer::new(header, up, move || {
        let volume = pools.volume(&pools.by_name(&pool)?, &name)?;
        let passage = if up { Passage::Up } else { Passage::Down { sparse: flags & SPARSE != 0 } };
        let contents = pools.open_contents(&volume, part, passage)?;
        let way = if up {
            Way::Up(Box::new(Filling { contents, pools, pool }))
        } else {
            Way::Down(Box::new(contents))
        };
        Ok((Vec::new(), way))
    }))
}

/// What comes at once goes into one packet.
const _: () = assert!(DATA_MAX <= STREAM_CHUNK);

impl Source for Contents {
    fn next(&mut self) -> io::Result<Piece> {
        Ok(match self.take()? {
            Taken::Data(bytes) => Piece::Data(bytes),
            Taken::Hole(length) => Piece::Hole(length),
            Taken::End => Piece::End,
        })
    }
}

/// A volume that is written.
struct Filling {
    contents: Contents,
    pools: Arc<Pools>,
    /// The name of its pool.
    pool: String,
}

impl Sink for Filling {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.contents.data(bytes)
    }

    fn hole(&mut self, length: u64) -> io::Result<()> {
        self.contents.hole(length)
    }

    fn finish(&mut self) -> io::Result<()> {
        self.contents.finish()
    }
}

impl Drop for Filling {
    /// As libvirt tells of it, whatever became of the upload.
    fn drop(&mut self) {
        self.pools.was_written(&self.pool);
    }
}
