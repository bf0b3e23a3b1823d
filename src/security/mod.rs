//! Labels: which MCS pair, SELinux context and uid a domain and its images get. Pure: what is taken and the
//! seed of every draw are arguments. Never looks at a file; the labeller applies what is decided here.
#![forbid(unsafe_code)]

pub mod apparmor;
pub mod context;
pub mod dac;
pub mod decide;
pub mod doi;
mod foreign;
pub mod mcs;
pub mod range;
pub mod resource;
pub mod selinux;
pub mod share;

use crate::base::{Layer, Refusal};

/// Why a domain cannot be labelled as its definition asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A label is not well formed or not one that this host gives.
    #[error("the {model} label {label:?} cannot be given: {reason}")]
    Label {
        /// `selinux`, `apparmor` or `dac`.
        model: &'static str,
        /// The label as it was written.
        label: String,
        /// Why not.
        reason: String,
        /// Line in the definition, 0 where there is none.
        line: u32,
    },
    /// A label of a model that this host does not run.
    #[error("the host does not run the security model {model:?}")]
    ModelMissing {
        /// The model as it was written.
        model: String,
        /// Line in the definition, 0 where there is none.
        line: u32,
    },
    /// Every category pair is taken.
    #[error("all category pairs are taken")]
    NoPair,
    /// Every uid of a range is taken.
    #[error("all uids of the range for {0} are taken")]
    NoUid(&'static str),
    /// The categories of a static label belong to a running domain.
    #[error("the categories {0} belong to another running domain")]
    PairTaken(crate::base::CategoryPair),
}

impl LabelError {
    /// The error as a person sees it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let operation = "label the domain with";
        match self {
            Self::Label { model, label, reason, line } => Refusal::new(
                if *model == "dac" { Layer::Dac } else { Layer::Selinux },
                operation,
                format!("{label:?}{}", at_line(*line)),
                reason.clone(),
                "write a label that the configuration admits, or leave the <seclabel> out for a label of the domain's own",
            ),
            Self::ModelMissing { model, line } => Refusal::new(
                Layer::Definition,
                operation,
                format!("a label of the model {model:?}{}", at_line(*line)),
                "the host does not run this security model",
                format!(
                    "remove <seclabel model='{model}'> from the definition, or start the domain on a host that runs {model}"
                ),
            ),
            Self::NoPair => Refusal::new(
                Layer::Lease,
                operation,
                "a category pair",
                self.to_string(),
                "stop a domain, or give the labeller's range more categories",
            ),
            Self::NoUid(role) => Refusal::new(
                Layer::Lease,
                operation,
                format!("a uid for {role}"),
                self.to_string(),
                "stop a domain, or raise the count of the range in [uids]",
            ),
            Self::PairTaken(pair) => Refusal::new(
                Layer::Lease,
                operation,
                pair.to_string(),
                "the pair belongs to a running domain",
                "choose other categories for the static label, or stop the domain that holds them",
            ),
        }
    }
}

/// Reads whatever is given as a label, and as a table that translates it; for fuzzers and the replay of their corpus.
/// The label is the first line, the table the rest.
pub fn fuzz_labels(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (label, table) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(context) = label.parse::<context::Context>() {
        let again = context.to_string().parse();
        assert_eq!(again, Ok(context), "{label:?} is written otherwise than it was read");
    }
    let Ok(tables) = doi::Tables::load(&[("fuzzed".into(), table.into())]) else { return };
    for model in ["dac", "selinux"] {
        match tables.translate(model, "a", "b", label) {
            Ok(translated) => {
                let root = translated.label.split(':').zip(label.split(':'));
                let mut root = root.filter(|(there, _)| *there == "+0");
                assert!(root.all(|(_, here)| matches!(here, "0" | "+0")), "{label:?} becomes root's");
            }
            Err(error) => assert!(!error.refusal(label).remedy.is_empty()),
        }
    }
}

fn at_line(line: u32) -> String {
    if line == 0 { String::new() } else { format!(" (line {line})") }
}
