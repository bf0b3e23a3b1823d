//! What a definition is to QEMU: its command line, as a start would make it.

use super::Kind;
use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use crate::access::Object;
use crate::rpc::Procedure;

/// Made by the planner, which takes its time.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    (procedure == Procedure::ConnectDomainXmlToNative).then_some(to_native)
}

/// libvirt's word for the only form that there is.
const FORM: &str = "qemu-argv";

fn to_native(call: &Call<'_>) -> Answer {
    let (form, xml, flags): (&str, &str, u32) = call.arguments()?;
    call.read_only(0)?;
    if call.kind() == Kind::Test {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    call.only_flags(flags, 0)?;
    if form != FORM {
        let text = format!("unsupported config type {}", form.escape_debug());
        return Err(Failure::new(Code::InvalidArgument, From::Qemu, text));
    }
    let (environment, arguments) = call.manager().command_line(xml, call.sees(Object::StoragePool))?;
    let variables = environment.iter().map(|(name, value)| format!("{name}={}", quoted(value)));
    let words: Vec<String> = variables.chain(arguments.iter().map(|argument| quoted(argument))).collect();
    call.answer(&words.join(" "))
}

/// One word of a shell's command line.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"%+,-./:=@_".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_the_same_word() {
        for (word, text) in [
            ("-name", "-name"),
            ("guest=a,debug-threads=on", "guest=a,debug-threads=on"),
            ("", "''"),
            ("{\"a\":1}", "'{\"a\":1}'"),
            ("it's $x", "'it'\\''s $x'"),
        ] {
            assert_eq!(quoted(word), text);
        }
    }
}
