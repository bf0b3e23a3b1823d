//! What a person sees: errors with their remedy, notes, and safe text.

use std::io::Write as _;

use anstyle::{AnsiColor, Style};

use super::args::Color;
use super::exit::Failure;

const BAD: Style = AnsiColor::Red.on_default().bold();
const FIX: Style = AnsiColor::Cyan.on_default().bold();
const NOTE: Style = AnsiColor::Green.on_default().bold();

/// Makes anstream's global choice; `NO_COLOR` and a pipe count for `auto`.
pub fn choose(color: Color) {
    match color {
        Color::Auto => anstream::ColorChoice::Auto,
        Color::Always => anstream::ColorChoice::Always,
        Color::Never => anstream::ColorChoice::Never,
    }
    .write_global();
}

/// Prints why a command failed. A closed standard error is nothing that could be reported.
pub fn failure(failure: &Failure) {
    let mut out = anstream::stderr().lock();
    let _ = match failure {
        Failure::Died { message, remedy, stderr } => {
            write_error(&mut out, message, remedy).and_then(|()| write_last_words(&mut out, stderr))
        }
        Failure::OutputClosed => Ok(()),
        Failure::Ended(_, text) if text.is_empty() => Ok(()),
        Failure::Ended(_, text) => writeln!(out, "{}", printable(text)),
        Failure::Plain { message, remedy, .. } => write_error(&mut out, message, remedy),
        Failure::Refused { refusal, stderr } => {
            let message = format!(
                "cannot {} {}: {} ({})",
                refusal.operation, refusal.object, refusal.rule, refusal.layer
            );
            write_error(&mut out, &message, &refusal.remedy).and_then(|()| write_last_words(&mut out, stderr))
        }
    };
}

fn write_error(out: &mut impl std::io::Write, message: &str, remedy: &str) -> std::io::Result<()> {
    writeln!(out, "{BAD}error:{BAD:#} {}", printable(message))?;
    if !remedy.is_empty() {
        writeln!(out, "  {FIX}to fix it:{FIX:#} {}", printable(remedy))?;
    }
    Ok(())
}

fn write_last_words(out: &mut impl std::io::Write, stderr: &str) -> std::io::Result<()> {
    for line in stderr.lines() {
        writeln!(out, "  qemu: {}", printable(line))?;
    }
    Ok(())
}

/// Prints a note on standard error.
pub fn note(text: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{NOTE}svirt:{NOTE:#} {}", printable(text));
}

/// `text` without what a terminal would obey: names, paths and QEMU's words may come from anybody.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb\u{9b}1m\tc\n"), "a\u{fffd}[2Jb\u{fffd}1m\tc\n");
    }
}
