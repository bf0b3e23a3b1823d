//! Displays that ask for a password.

mod des;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use svirt::rpc::Procedure;
use svirt::sys::scm;

use super::virsh_rig::raw::Raw;
use super::*;

/// What becomes of a client.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// It is in.
    In,
    /// It is turned away after its answer.
    Out,
}

/// The one way to come in that a VNC server offers: 1 for none, 2 for VNC's own password.
fn way(mut to: impl Read + Write) -> u8 {
    let mut version = [0; 12];
    to.read_exact(&mut version).unwrap();
    assert_eq!(&version, b"RFB 003.008\n");
    to.write_all(&version).unwrap();
    let mut ways = [0; 2];
    to.read_exact(&mut ways).unwrap();
    assert_eq!(ways[0], 1);
    ways[1]
}

/// A client of a VNC server up to the point where it is in, with the answer that it gives to a challenge.
fn client(mut to: impl Read + Write, answer: impl Fn([u8; 16]) -> [u8; 16]) -> Came {
    assert_eq!(way(&mut to), 2);
    to.write_all(&[2]).unwrap();
    let mut challenge = [0; 16];
    to.read_exact(&mut challenge).unwrap();
    to.write_all(&answer(challenge)).unwrap();
    let mut result = [0; 4];
    to.read_exact(&mut result).unwrap();
    if result == [0; 4] { Came::In } else { Came::Out }
}

/// Where it listens, by virsh.
fn address(host: &Host, name: &str) -> String {
    let shown = host.says(&["vncdisplay", name]);
    let number: u16 = shown.strip_prefix("127.0.0.1:").unwrap().parse().unwrap();
    format!("127.0.0.1:{}", 5900 + number)
}

fn connected(host: &Host, name: &str) -> TcpStream {
    let stream = TcpStream::connect(address(host, name)).unwrap();
    stream.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
    stream
}

fn comes(host: &Host, name: &str, password: &str) -> Came {
    client(connected(host, name), |challenge| des::answer(password, challenge))
}

fn vnc(asks: &str) -> String {
    format!("<graphics type='vnc' autoport='yes' listen='127.0.0.1' {asks}/>")
}

fn update(host: &Host, name: &str, display: &str, flags: &[&str]) -> e2e_rig::Ran {
    let file = host.rig.text("display.xml");
    std::fs::write(&file, display).unwrap();
    host.virsh(&[&["update-device", name, &file], flags].concat())
}

/// Every file below a directory that has this text, but for the test's own definitions.
fn that_have(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        if meta.is_dir() {
            found.extend(that_have(&path, text));
        } else if meta.is_file() && path.extension().is_none_or(|end| end != "xml") {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                let private = |meta: &std::fs::Metadata| meta.mode() & 0o077 == 0;
                let kept = private(&meta) || private(&std::fs::metadata(directory).unwrap());
                assert!(kept, "{} is for others", path.display());
                found.push(path.file_name().unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found
}

/// Nobody but the store and what was saved has it, and no process shows it.
fn is_kept(host: &Host, name: &str, secret: &str) {
    let found = that_have(&host.rig.path(""), secret);
    assert!(!found.is_empty() && found.iter().all(|file| file.starts_with("domains.db")), "{found:?}");
    let status = host.rig.status(name).unwrap();
    for pid in [status.qemu_pid, status.supervisor_pid] {
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains(secret), "{file} of {pid}");
        }
    }
    for words in [&["inspect", name][..], &["inspect", name, "--json"]] {
        assert!(!host.rig.svirt(words).out.contains(secret));
    }
}

#[test]
fn a_display_lets_in_who_knows_its_password() {
    if !virsh_possible() {
        return;
    }
    let mut host = Host::new();
    let file = host.rig.bare("guarded", &vnc("passwd='erst-es1'"));
    host.says(&["define", &file]);
    let (before, daemon) = (host.rig.snapshot(), host.daemon_pid());
    host.says(&["start", "guarded"]);
    assert_eq!(comes(&host, "guarded", "erst-es1"), Came::In);
    for wrong in ["", "erst-es", "erst-es2", "Erst-es1"] {
        assert_eq!(comes(&host, "guarded", wrong), Came::Out, "{wrong:?}");
    }
    is_kept(&host, "guarded", "erst-es1");
    fine(&host, "guarded");

    // Whoever may not see it does not.
    let shown = |words: &[&str]| host.says(&[&["dumpxml", "guarded"], words].concat());
    assert!(!shown(&[]).contains("erst-es1") && !shown(&["--inactive"]).contains("erst-es1"));
    assert!(shown(&["--security-info"]).contains("passwd='erst-es1'"));
    assert!(!host.says(&["domdisplay", "guarded"]).contains("erst"));
    let whole = host.says(&["domdisplay", "guarded", "--include-password"]);
    assert!(whole.starts_with("vnc://:erst-es1@127.0.0.1:"), "{whole}");

    // Whoever svirtd hands a connection to is asked for it, too, unless the call says otherwise.
    let uuid = *host.rig.uuid("guarded").0.as_bytes();
    let domain = svirt::rpc::Domain { name: "guarded", uuid, id: -1 };
    let mut raw = Raw::open(&host);
    for (flags, expected) in [(0_u32, 2), (1, 1)] {
        let reply = raw.call(Procedure::DomainOpenGraphicsFd, &(domain, 0_u32, flags)).unwrap();
        assert_eq!(reply.status, 0, "{reply:?}");
        let (_, mut fds) = scm::recv(raw.0.as_fd(), &mut [0]).unwrap();
        let mut display = UnixStream::from(fds.pop().unwrap());
        display.set_read_timeout(Some(e2e_rig::PATIENCE)).unwrap();
        assert_eq!(way(&mut display), expected);
    }

    // Another one for what runs.
    update(&host, "guarded", &vnc("passwd='zweites'"), &["--live"]).expect(0);
    assert_eq!(comes(&host, "guarded", "erst-es1"), Came::Out);
    assert_eq!(comes(&host, "guarded", "zweites"), Came::In);
    let shown = |words: &[&str]| host.says(&[&["dumpxml", "guarded", "--security-info"], words].concat());
    assert!(shown(&[]).contains("passwd='zweites'") && shown(&["--inactive"]).contains("passwd='erst-es1'"));
    is_kept(&host, "guarded", "zweites");
    // What is over is over, and what is empty lets nobody in.
    let past = vnc("passwd='dritt-es' passwdValidTo='2020-01-02T03:04:05'");
    update(&host, "guarded", &past, &["--live"]).expect(0);
    assert_eq!(comes(&host, "guarded", "dritt-es"), Came::Out);
    let later = vnc("passwd='dritt-es' passwdValidTo='2222-01-02T03:04:05' connected='keep'");
    update(&host, "guarded", &later, &["--live"]).expect(0);
    assert_eq!(comes(&host, "guarded", "dritt-es"), Came::In);
    update(&host, "guarded", &vnc("passwd=''"), &["--live"]).expect(0);
    for wrong in ["", "dritt-es"] {
        assert_eq!(comes(&host, "guarded", wrong), Came::Out, "{wrong:?}");
    }

    // What libvirt refuses, and what it does not: QEMU would go on with a password that nobody sees.
    for (display, flags, words) in [
        (vnc("passwd='123456789'"), "--live", "9 characters long, only 8 permitted"),
        (vnc("passwd='geheim' connected='fail'"), "--config", "VNC supports connected='keep' only"),
        (vnc("passwd='geheim' passwdValidTo='soon'"), "--live", "passwdValidTo"),
        (vnc("passwd='geheim' keymap='de'"), "--live", "cannot change keymap setting on vnc graphics"),
        (
            vnc("").replace("127.0.0.1", "0.0.0.0"),
            "--live",
            "cannot change listen address setting on 'vnc' graphics",
        ),
        (vnc(""), "--live", "cannot be taken away"),
        ("<graphics type='spice' passwd='geheim'/>".into(), "--live", "cannot find existing graphics device"),
        (
            "<graphics type='spice' passwd='geheim'/>".into(),
            "--config",
            "cannot find existing graphics type 'spice'",
        ),
    ] {
        let said = update(&host, "guarded", &display, &[flags]).expect(1).err;
        assert!(said.contains(words) && !said.contains("geheim") && !said.contains("123456789"), "{said}");
    }

    // Both, and a daemon that knows nothing but what is stored.
    update(&host, "guarded", &vnc("passwd='beide-1'"), &["--live", "--config"]).expect(0);
    host.kill_daemon();
    host.start_daemon();
    let shown = |words: &[&str]| host.says(&[&["dumpxml", "guarded", "--security-info"], words].concat());
    assert!(shown(&[]).contains("passwd='beide-1'") && shown(&["--inactive"]).contains("passwd='beide-1'"));
    assert_eq!(comes(&host, "guarded", "beide-1"), Came::In);
    update(&host, "guarded", &vnc("passwd='viert-es'"), &["--live"]).expect(0);
    host.kill_daemon();
    host.start_daemon();
    // It goes with what is saved.
    host.says(&["managedsave", "guarded"]);
    assert!(!host.says(&["managedsave-dumpxml", "guarded"]).contains("viert-es"));
    host.says(&["start", "guarded"]);
    assert_eq!(comes(&host, "guarded", "beide-1"), Came::Out);
    assert_eq!(comes(&host, "guarded", "viert-es"), Came::In);
    is_kept(&host, "guarded", "viert-es");
    fine(&host, "guarded");
    host.says(&["destroy", "guarded"]);
    host.says(&["start", "guarded"]);
    assert_eq!(comes(&host, "guarded", "beide-1"), Came::In);
    host.says(&["destroy", "guarded"]);
    host.rig.same_as(&before.with_process(daemon, host.daemon_pid()));
}

#[test]
fn a_display_that_asks_nothing_gets_no_password_while_it_runs() {
    if !virsh_possible() {
        return;
    }
    let host = Host::new();
    host.says(&["define", &host.rig.bare("open", &vnc(""))]);
    host.says(&["start", "open"]);
    let said = update(&host, "open", &vnc("passwd='geheim'"), &["--live"]).expect(1).err;
    assert!(said.contains("started without a password"), "{said}");
    update(&host, "open", &vnc("passwd='geheim'"), &["--config"]).expect(0);
    host.says(&["destroy", "open"]);
    host.says(&["start", "open", "--paused"]);
    assert_eq!(comes(&host, "open", "geheim"), Came::In);
    // Nothing else has a say in what an attribute without a password means.
    for (name, asks) in [("late", "passwdValidTo='2222-01-02T03:04:05'"), ("kept", "connected='keep'")] {
        host.says(&["define", &host.rig.bare(name, &vnc(asks))]);
        let said = host.complains(&["start", name]);
        assert!(said.contains("without a passwd"), "{said}");
    }
}

#[test]
fn a_spice_server_has_a_password_of_its_own() {
    if !virsh_possible() {
        return;
    }
    if !Path::new("/usr/lib/x86_64-linux-gnu/qemu/ui-spice-core.so").exists() {
        println!("skipped: needs QEMU's SPICE module");
        return;
    }
    let host = Host::new();
    let spice = |asks: &str| format!("<graphics type='spice' autoport='yes' listen='127.0.0.1' {asks}/>");
    let displays = format!("{}{}", spice("passwd='ein laengeres' connected='fail'"), vnc("passwd='kurz'"));
    host.says(&["define", &host.rig.bare("live", &displays)]);
    host.says(&["start", "live"]);
    let auth = host.says(&by_hand(&["{\"execute\":\"query-spice\"}"]));
    assert!(auth.contains("\"auth\":\"spice\""), "{auth}");
    assert_eq!(comes(&host, "live", "kurz"), Came::In);
    let whole = host.says(&["domdisplay", "live", "--include-password", "--all"]);
    assert!(whole.contains("password=ein laengeres"), "{whole}");
    is_kept(&host, "live", "ein laengeres");
    for asks in ["passwd='anderes' connected='disconnect'", "passwd=''"] {
        update(&host, "live", &spice(asks), &["--live"]).expect(0);
        assert!(host.says(&["dumpxml", "live", "--security-info"]).contains(asks));
    }
    // Each has its own.
    assert_eq!(comes(&host, "live", "kurz"), Came::In);
    fine(&host, "live");
}
