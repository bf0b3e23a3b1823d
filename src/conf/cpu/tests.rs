use proptest::prelude::*;

use super::*;
use crate::conf::emulator::{CpuDefinition, CpuFeatures};

/// Three models, and a host that has `avx` and `vmx` beyond the middle one; nobody can tell of `mds-no`.
fn emulator() -> EmulatorFacts {
    let names = ["avx", "fpu", "fxsr-opt", "invtsc", "mds-no", "rtm", "sse4.1", "svm", "vmx"];
    let model = |name: &str, vendor: Option<&str>, features: &[u16]| CpuDefinition {
        name: name.into(),
        vendor: vendor.map(ToOwned::to_owned),
        features: features.into(),
        ..CpuDefinition::default()
    };
    EmulatorFacts {
        arch: "x86_64".into(),
        cpus: vec![
            model("amd", Some("AMD"), &[1, 2, 6]),
            model("best", Some("Intel"), &[0, 1, 5, 6]),
            model("middle", Some("Intel"), &[1, 4, 6]),
            model("plain", Some("Intel"), &[1]),
            model("qemu64", None, &[1, 7]),
        ],
        cpu_features: CpuFeatures {
            names: names.map(str::to_owned).into(),
            shown: vec![0, 1, 2, 3, 5, 6, 7, 8],
            host: vec![0, 1, 3, 6, 8],
            listed: vec![0, 1, 6],
            emulated: vec![1, 4, 6, 7],
            emulated_vendor: Some("AMD".into()),
        },
        ..EmulatorFacts::default()
    }
}

fn compared(xml: &str) -> Result<Comparison, CpuError> {
    let emulator = emulator();
    Known::host(&emulator, Some("Intel")).compare(xml)
}

fn why(xml: &str) -> String {
    match compared(xml) {
        Ok(Comparison::Incompatible(why)) => why,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_host_is_identical_incompatible_or_more() {
    let own =
        "<cpu><arch>x86_64</arch><model>middle</model><vendor>Intel</vendor><feature name='avx'/></cpu>";
    assert_eq!(compared(own), Ok(Comparison::Identical), "no model has vmx or invtsc, so nobody lists them");
    for more in [
        "<cpu><model>middle</model></cpu>",
        "<cpu><model>qemu64</model><feature name='svm' policy='disable'/><feature name='fpu' policy='optional'/></cpu>",
        "<cpu mode='host-model'/>",
        "<cpu><model>middle</model><feature name='mds-no'/></cpu>",
    ] {
        assert_eq!(compared(more), Ok(Comparison::Superset), "{more}");
    }
    let all = "<cpu><model>best</model><feature name='rtm' policy='disable'/></cpu>";
    assert_eq!(compared(all), Ok(Comparison::Identical));
    assert_eq!(compared(&all.replace("<cpu>", "<cpu match='strict'>")), Ok(Comparison::Identical));
    assert!(why("<cpu match='strict'><model>middle</model></cpu>").ends_with("Extra features: avx"));
    let lacks = "Host CPU does not provide required features: ";
    assert_eq!(why("<cpu><model>best</model></cpu>"), format!("{lacks}rtm"));
    assert_eq!(why("<cpu><model>amd</model></cpu>"), format!("{lacks}fxsr_opt"), "in libvirt's spelling");
    let forced = "<cpu><model>best</model><feature name='rtm' policy='force'/></cpu>";
    assert_eq!(compared(forced), Ok(Comparison::Identical));
    let forbidden = "<cpu><model>middle</model><feature name='avx' policy='forbid'/></cpu>";
    assert_eq!(why(forbidden), "Host CPU provides forbidden features: avx");
    assert!(why("<cpu><arch>aarch64</arch><model>x</model></cpu>").contains("arch aarch64"));
    assert!(why("<cpu><model>middle</model><vendor>AMD</vendor></cpu>").contains("vendor AMD"));
}

#[test]
fn what_is_no_cpu_is_refused_in_libvirts_words() {
    for (xml, words) in [
        ("<cpu><model>x</model></cpu>", "Unknown CPU model x"),
        ("<cpu><model>middle</model><feature name='y_z'/></cpu>", "Unknown CPU feature y-z"),
        ("<cpu><arch>x86_64</arch></cpu>", "Missing CPU model name"),
        ("<cpu><model>middle</model><feature name='avx'/><feature name='avx'/></cpu>", "more than once"),
        ("<cpu><model>middle</model><feature/></cpu>", "Invalid CPU feature name"),
        ("<cpu><model>middle</model><feature name='avx' policy='x'/></cpu>", "Invalid CPU feature policy"),
        ("<cpu match='odd'/>", "attribute 'match'"),
        ("<cpu mode='custom'><arch>x86_64</arch><model>middle</model></cpu>", "only allowed for guest"),
        ("<x/>", "'cpu' element"),
        ("", ""),
    ] {
        let told = compared(xml).unwrap_err().to_string();
        assert!(told.contains(words), "{xml}: {told}");
    }
}

#[test]
fn an_emulated_cpu_has_what_its_emulator_says() {
    let emulator = emulator();
    let known = Known::emulated(&emulator);
    assert_eq!(known.compare("<cpu><model>middle</model></cpu>"), Ok(Comparison::Superset));
    let lacks = known.compare("<cpu><model>best</model></cpu>").unwrap();
    let words = "Host CPU does not provide required features: avx, rtm";
    assert_eq!(lacks, Comparison::Incompatible(words.into()));
    let runs = Wish { runs: true, ..Wish::default() };
    let told =
        known.baseline(&["<cpu><model>best</model><feature name='rtm' policy='disable'/></cpu>"], runs);
    // What the emulator cannot give is left out.
    assert!(told.as_ref().is_ok_and(|xml| !xml.contains("avx") && xml.contains("sse4.1")), "{told:?}");
}

#[test]
fn a_baseline_is_what_all_have() {
    let emulator = emulator();
    let known = Known::host(&emulator, Some("Intel"));
    let cpu = |model: &str, rest: &str| format!("<cpu><arch>x86_64</arch><model>{model}</model>{rest}</cpu>");
    let told = |cpus: &[String], wish: Wish| {
        let cpus: Vec<&str> = cpus.iter().map(String::as_str).collect();
        known.baseline(&cpus, wish).map_err(|error| error.to_string())
    };
    let intel = "<vendor>Intel</vendor><feature name='invtsc'/><feature name='osxsave'/>";
    let two = [cpu("best", intel), cpu("middle", intel)];
    assert_eq!(
        told(&two, Wish { migratable: true, ..Wish::default() }).unwrap(),
        "<cpu mode='custom' match='exact'>\n  <model fallback='allow'>plain</model>\n  <vendor>Intel</vendor>\n  \
         <feature policy='require' name='sse4.1'/>\n</cpu>\n"
    );
    let one = told(&two[1..], Wish::default()).unwrap();
    assert!(one.contains("<model fallback='forbid'>middle</model>") && one.contains("invtsc"), "{one}");
    assert!(!one.contains("osxsave") && !one.contains("fpu"), "{one}");
    let every = told(&two[1..], Wish { expand: true, ..Wish::default() }).unwrap();
    assert!(every.contains("name='fpu'") && every.contains("name='mds-no'"), "{every}");
    let apart = [cpu("best", "<vendor>Intel</vendor>"), cpu("amd", "<vendor>AMD</vendor>")];
    assert_eq!(told(&apart, Wish::default()).unwrap_err(), "CPU vendors do not match");
    assert_eq!(told(&[], Wish::default()).unwrap_err(), "no CPUs given");
    let guest = ["<cpu><model>best</model></cpu>".to_owned()];
    assert_eq!(told(&guest, Wish::default()).unwrap_err(), "Missing CPU architecture");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "<cpu[a-z=' ]{0,20}>[<>/a-z='& !]{0,60}</cpu>") {
        let emulator = emulator();
        let known = Known::host(&emulator, None);
        let _ = known.compare(&text);
        let _ = known.baseline(&[&text, &text], Wish { runs: true, ..Wish::default() });
    }
}
