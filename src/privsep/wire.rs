//! Frames between the unprivileged part and the labeller: a 32-bit big-endian length and that many bytes of JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest frame; a plan with 16 disks of 200 layers fits.
pub const FRAME_MAX: usize = 4 << 20;

/// Why bytes are no frame.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The JSON inside is not what was expected there.
    #[error("malformed message: {0}")]
    Malformed(#[from] serde_json::Error),
    /// The frame is longer than [`FRAME_MAX`].
    #[error("a frame of {0} bytes is longer than {FRAME_MAX}")]
    TooLong(usize),
}

/// Encodes one message as a frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, WireError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let body = frame.len() - 4;
    if body > FRAME_MAX {
        return Err(WireError::TooLong(body));
    }
    let length = u32::try_from(body).map_err(|_| WireError::TooLong(body))?;
    frame.splice(..4, length.to_be_bytes());
    Ok(frame)
}

/// Takes the first whole frame off `buffer`, if there is one, and decodes it.
pub fn decode<T: DeserializeOwned>(buffer: &mut Vec<u8>) -> Result<Option<T>, WireError> {
    let Some(length) = buffer.first_chunk::<4>().map(|b| u32::from_be_bytes(*b) as usize) else {
        return Ok(None);
    };
    if length > FRAME_MAX {
        return Err(WireError::TooLong(length));
    }
    let Some(body) = buffer.get(4..4 + length) else {
        return Ok(None);
    };
    let message = serde_json::from_slice(body)?;
    buffer.drain(..4 + length);
    Ok(Some(message))
}
