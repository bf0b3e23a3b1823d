//! The log of a daemon: standard error, one harmless line an event.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

/// Sends events to standard error, those that `SVIRT_LOG` chooses.
pub(super) fn to_stderr() {
    let filter = EnvFilter::try_from_env("SVIRT_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Log).with_ansi(false).init();
}

/// What clients and supervisors said may be in an event, and neither ends the line nor reaches the terminal of who
/// reads the log.
struct Log;

impl Write for Log {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn one_line(event: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(event);
    let plain = |c: char| if c.is_control() && c != '\t' { ' ' } else { c };
    let mut line: String = text.trim_end_matches('\n').chars().map(plain).collect();
    line.push('\n');
    line.into_bytes()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_event_is_one_harmless_line() {
        let line = super::one_line("a\x1b[2J\0b\nERROR forged\u{9b}1m\n".as_bytes());
        assert_eq!(line, b"a [2J b ERROR forged 1m\n");
    }
}
