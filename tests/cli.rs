//! The command line as a person meets it: help, exit codes, messages. Nothing here needs a labeller.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

/// svirt, with no file of this host's configuration.
fn svirt(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_svirt"));
    command.args(arguments).env_remove("SVIRT_CONFIG").env("NO_COLOR", "1");
    command
}

fn ends(mut command: Command, code: i32) -> (String, String) {
    // A copy of the program is busy for as long as a child that another test forks meanwhile holds it open.
    let mut tries = 0;
    let output = loop {
        match command.output() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy && tries < 600 => {
                tries += 1;
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            output => break output,
        }
    };
    let Output { status, stdout, stderr } = output.unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "{command:?}\n{out}\n{err}");
    (out, err)
}

#[test]
fn help_names_every_command_and_the_exit_codes() {
    let (out, _) = ends(svirt(&["--help"]), 0);
    for word in [
        "run",
        "plan",
        "list",
        "stop",
        "console",
        "inspect",
        "probe",
        "label",
        "capabilities",
        "domcapabilities",
        "check-appliance",
        "config",
        "completions",
        "man",
    ] {
        assert!(out.lines().any(|line| line.trim_start().starts_with(word)), "{word} is not in\n{out}");
    }
    assert!(out.contains("Exit codes"));
    for command in ["run", "plan", "list", "stop", "console", "inspect", "probe"] {
        assert!(ends(svirt(&[command, "--help"]), 0).0.contains("Usage"));
    }
}

#[test]
fn wrong_usage_ends_with_2() {
    for arguments in [&["fly"][..], &["run"], &["stop", "x", "--timeout", "0"], &["list", "-q", "-v"]] {
        assert!(ends(svirt(arguments), 2).1.contains("error:"));
    }
    assert!(ends(svirt(&["man", "fly"]), 2).1.contains("no subcommand"));
}

#[test]
fn manual_pages_and_completions_are_made_for_every_command() {
    assert!(ends(svirt(&["man"]), 0).0.contains(".TH"));
    assert!(ends(svirt(&["man", "run"]), 0).0.contains("detach"));
    for shell in ["bash", "fish", "zsh"] {
        assert!(ends(svirt(&["completions", shell]), 0).0.contains("console"));
    }
}

#[test]
fn a_mistake_in_the_configuration_is_told_with_file_and_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("svirt.toml");
    fs::write(&file, "[limits]\nvcpus = 4\nchain_depth = 0\n").unwrap();
    let name = file.to_str().unwrap();
    for arguments in [&["config", "check"][..], &["config", "show"], &["plan", "/nonexistent.xml"]] {
        let mut command = svirt(arguments);
        command.args(["--config", name]);
        let (_, err) = ends(command, 1);
        assert!(err.contains(&format!("{name}:3")), "{err}");
        assert!(err.contains("limits.chain_depth") && err.contains("to fix it:"), "{err}");
    }
    let (_, err) = ends(svirt(&["--config", "/nonexistent/svirt.toml", "config", "check"]), 1);
    assert!(err.contains("/nonexistent/svirt.toml"), "{err}");
}

#[test]
fn what_is_shown_is_a_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("svirt.toml");
    fs::write(&file, "[limits]\nvcpus = 4\n").unwrap();
    let (shown, _) = ends(svirt(&["--config", file.to_str().unwrap(), "config", "show"]), 0);
    assert!(shown.contains("vcpus = 4"));
    fs::write(&file, shown).unwrap();
    ends(svirt(&["--config", file.to_str().unwrap(), "config", "check"]), 0);
}

/// A copy of the program that everybody may execute, since the build directory may be closed to others.
fn copy_for_others() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("svirt");
    fs::copy(env!("CARGO_BIN_EXE_svirt"), &program).unwrap();
    (directory, program)
}

#[test]
fn who_is_not_root_is_told_what_to_type() {
    let (_kept, program) = copy_for_others();
    for (arguments, typed) in [
        (&["run", "/tmp/a.xml"][..], "sudo svirt run /tmp/a.xml"),
        (&["list"], "sudo svirt list"),
        (&["stop", "web"], "sudo svirt stop web"),
        (&["console", "web"], "sudo svirt console web"),
    ] {
        let mut command = Command::new(&program);
        command.args(arguments).env("NO_COLOR", "1");
        if nix::unistd::geteuid().is_root() {
            command.uid(65_533).gid(65_533);
        }
        let (_, err) = ends(command, 4);
        assert!(err.contains(typed), "{err}");
    }
}

#[test]
fn no_labeller_means_no_domains() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root may ask for domains");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("svirt.toml");
    let run = directory.path().join("run");
    fs::write(&file, format!("[paths]\nrun = \"{}\"\n", run.display())).unwrap();
    let config = file.to_str().unwrap();
    let (out, _) = ends(svirt(&["--config", config, "list", "--json"]), 0);
    assert_eq!(out.trim(), "[]");
    for command in ["stop", "console"] {
        assert!(ends(svirt(&["--config", config, command, "web"]), 3).1.contains("web"));
    }
    assert!(!run.exists(), "looking must not start anything");
}

#[test]
fn labels_are_planned_without_privilege_for_models_that_this_host_lacks() {
    let (kept, program) = copy_for_others();
    let xml = kept.path().join("guest.xml");
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/chain-declared.xml"), &xml).unwrap();
    let label = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.args(["label", "plan"]).arg(&xml).args(arguments).env("NO_COLOR", "1");
        command.env_remove("SVIRT_CONFIG");
        if nix::unistd::geteuid().is_root() {
            command.uid(65_533).gid(65_533);
        }
        ends(command, 0)
    };
    let (out, err) = label(&["--model", "selinux,apparmor,dac", "--json"]);
    assert!(err.contains("disk vda"), "nobody said that the image cannot be read: {err}");
    let rows: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    let of = |model: &str| {
        let is = |row: &&serde_json::Value| row["model"] == model && row["resource"] == "disk vda, layer 2";
        rows.iter().find(is).unwrap().clone()
    };
    // The lower layer is in the definition alone here, since there is no such image.
    assert_eq!(of("selinux")["label"], "system_u:object_r:svirt_guest_content_t:s0");
    assert_eq!(of("selinux")["restore"], true);
    assert_eq!(of("apparmor")["action"], "handed");
    assert_eq!(of("dac")["action"], "handed");
    let (text, _) = label(&["--model", "dac"]);
    assert!(text.contains("+1910") && !text.contains("selinux"), "{text}");
    assert_eq!(text, label(&["--model", "dac"]).0, "the same definition gives the same table");
    // Devices that no start takes have rows too, which say so.
    fs::copy(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/labels/host-devices.xml"), &xml).unwrap();
    let (text, _) = label(&["--model", "selinux"]);
    assert!(text.contains("hostdev 0, usb 1.14  /dev/bus/usb/001/014  (does not run"), "{text}");
}

#[test]
fn labels_are_translated_exactly_or_refused() {
    let translate = |labels: &[&str]| {
        let mut command = svirt(&["label", "translate", "--from", "libvirt", "--to", "svirt"]);
        command.args(labels);
        command
    };
    let guest = "system_u:system_r:svirt_t:s0:c1,c2";
    let (out, _) = ends(translate(&[guest, "system_u:object_r:svirt_image_t:s0:c1,c2"]), 0);
    assert_eq!(
        out,
        "system_u:system_r:svirt_guest_t:s0:c1,c2\nsystem_u:object_r:svirt_guest_image_t:s0:c1,c2\n"
    );
    assert!(ends(translate(&[guest, "--json"]), 0).0.contains("selinux-libvirt-svirt.toml"));
    let (out, err) = ends(translate(&[guest, "system_u:system_r:httpd_t:s0"]), 1);
    assert!(out.is_empty() && err.contains("the type httpd_t"), "all or none: {out}{err}");
    assert!(
        ends(svirt(&["label", "translate", "--from", "svirt", "--to", "libvirt", guest]), 1)
            .1
            .contains("no reviewed table")
    );
    ends(translate(&[]), 2);
}
