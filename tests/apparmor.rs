//! The AppArmor profile of a device model, compiled by AppArmor's own parser. No kernel with AppArmor is needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::expect_used)]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use svirt::base::DomainUuid;
use svirt::privsep::apparmor::{ProfilePart, ProfileRule, part_name, profile_name, render, render_part};

/// The parser with `text`; `None` where it is not installed.
fn parse(text: &str, arguments: &[&str]) -> Option<Output> {
    let program = ["/usr/sbin/apparmor_parser", "/sbin/apparmor_parser"];
    let Some(program) = program.into_iter().find(|path| std::path::Path::new(path).exists()) else {
        println!("skipped: needs apparmor_parser (Debian: apt install apparmor)");
        return None;
    };
    let mut child = Command::new(program)
        .args(["--skip-kernel-load", "--skip-cache"])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

fn uuid() -> DomainUuid {
    DomainUuid(uuid::Uuid::from_u128(7))
}

#[test]
fn a_profile_is_what_the_parser_takes() {
    let more = [ProfileRule::Shares, ProfileRule::Shmem];
    for rules in [&[][..], &[ProfileRule::Kvm], &[ProfileRule::Kvm, ProfileRule::HandedInTcp], &more] {
        let text = render(uuid(), rules).unwrap();
        assert!(!text.contains("/images"), "no path of a definition is in it");
        let Some(done) = parse(&text, &["--stdout", "--quiet"]) else { return };
        assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
        assert!(done.stdout.len() > 1000, "only {} bytes came out", done.stdout.len());
        let name = profile_name(uuid());
        assert!(done.stdout.windows(name.len()).any(|bytes| bytes == name.as_bytes()));
    }
}

fn rendered(part: ProfilePart, rules: &[ProfileRule], userns: bool) -> String {
    let programs = ["/usr/libexec/svirt/program".to_owned()];
    render_part(uuid(), part, rules, &programs, "/var/lib/svirt/tpm", userns).unwrap()
}

fn all_profiles(userns: bool) -> String {
    let rules = [ProfileRule::Shmem];
    let parts = ProfilePart::ALL.map(|part| rendered(part, &rules, userns));
    render(uuid(), &rules).unwrap() + &parts.concat()
}

/// A device model sends all memory of its guest to a server of directories, and to nobody else beside it.
#[test]
fn shared_memory_is_named_for_a_server_of_a_domain_that_has_some() {
    for part in ProfilePart::ALL {
        let named = |rules: &[ProfileRule]| rendered(part, rules, false).contains("/svirt/shmem");
        assert_eq!(named(&[ProfileRule::Shmem]), part == ProfilePart::Virtiofsd, "{part:?}");
        assert!(!named(&[ProfileRule::Shares, ProfileRule::Kvm]), "{part:?}");
    }
}

#[test]
fn the_profiles_of_all_processes_are_taken_together() {
    let text = all_profiles(false);
    let Some(done) = parse(&text, &["--stdout", "--quiet"]) else { return };
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
    for part in ProfilePart::ALL {
        let name = part_name(uuid(), part);
        assert!(done.stdout.windows(name.len()).any(|bytes| bytes == name.as_bytes()), "{name}");
    }
}

/// The labeller knows by these words that the parser is too old, and compiles without.
#[test]
fn a_parser_takes_the_rule_for_user_namespaces_or_calls_it_a_syntax_error() {
    let Some(done) = parse(&all_profiles(true), &["--stdout", "--quiet"]) else { return };
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() || said.contains("syntax error"), "{said}");
}

#[test]
fn the_parser_is_asked_and_says_no() {
    let text = render(uuid(), &[]).unwrap().replace("flags=", "fags=");
    let Some(done) = parse(&text, &["--stdout", "--quiet"]) else { return };
    assert!(!done.status.success(), "a check that cannot fail checks nothing");
}
