//! When the host booted, told as libvirt tells it: its records of labels carry this time and must match.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of Unix time at the boot: the boot record of `utmp`, or the time now without the uptime.
pub fn time() -> io::Result<u64> {
    match recorded() {
        Some(seconds) => Ok(seconds),
        None => from_uptime(),
    }
}

fn recorded() -> Option<u64> {
    // SAFETY: all-zero bytes are a valid utmpx, which holds numbers and arrays of numbers alone.
    let mut wanted: libc::utmpx = unsafe { std::mem::zeroed() };
    wanted.ut_type = libc::BOOT_TIME;
    // SAFETY: plain calls that open, search and close the C library's own stream; `wanted` outlives the search,
    // and the record that is found is copied before the stream is closed. No other thread uses this interface.
    let seconds = unsafe {
        libc::setutxent();
        let seconds = libc::getutxid(&raw const wanted).as_ref().map(|found| found.ut_tv.tv_sec);
        libc::endutxent();
        seconds
    };
    u64::try_from(seconds?).ok().filter(|seconds| *seconds > 0)
}

fn from_uptime() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = text
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
    // libvirtd drops the fraction of the time now, subtracts, and rounds: up to a second on either side of the boot,
    // as it falls when it starts. The whole seconds of the boot are what that yields most often.
    Ok((now.as_secs_f64() - uptime).max(0.0) as u64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_host_has_booted_before_now_and_says_so_again() {
        let (one, other) = (from_uptime().unwrap(), from_uptime().unwrap());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(one > 0 && one <= now + 1 && one.abs_diff(other) <= 30, "{one} {other}");
        assert!(time().unwrap() <= now + 1);
    }
}
