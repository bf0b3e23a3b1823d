//! Domains of interpretation: which labels of a model this host understands. A label means nothing outside of its
//! own domain: `s0:c1` of one site's policy is not `s0:c1` of another's.

use serde::{Deserialize, Serialize};

use super::Settings;

/// The longest domain of interpretation in bytes, libvirt's own limit.
pub const DOI_MAX: usize = 256;
/// The most of one model; a list is shown whole in the host's capabilities.
const DOIS_MAX: usize = 64;

/// `[apparmor]` and `[dac]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelSettings {
    /// Domains of interpretation that this host's labels of the model belong to; the first is that of labels that name none.
    pub doi: Vec<String>,
}

impl Default for ModelSettings {
    fn default() -> Self {
        // libvirt's own, for every model.
        Self { doi: vec!["0".into()] }
    }
}

/// Why a text is no domain of interpretation; `None` for one that is.
#[must_use]
pub fn doi_complaint(doi: &str) -> Option<String> {
    let good = (1..=DOI_MAX).contains(&doi.len())
        && doi.chars().all(|c| !c.is_whitespace() && !c.is_control() && c != '\u{fffe}' && c != '\u{ffff}');
    (!good).then(|| format!("{doi:?} is no domain of interpretation: 1 to {DOI_MAX} bytes without blanks"))
}

impl Settings {
    /// The domains of interpretation that this host declares for a model; none for one that is not configured here.
    #[must_use]
    pub fn dois(&self, model: &str) -> &[String] {
        match model {
            "apparmor" => &self.apparmor.doi,
            "dac" => &self.dac.doi,
            "flask" => &self.flask.doi,
            "selinux" => &self.selinux.doi,
            _ => &[],
        }
    }

    pub(super) fn dois_complaint(&self) -> Option<(String, String)> {
        ["apparmor", "dac", "flask", "selinux"].into_iter().find_map(|model| {
            let dois = self.dois(model);
            let twice = dois.iter().enumerate().find(|(at, doi)| dois.iter().take(*at).any(|d| d == *doi));
            let wrong = if dois.is_empty() && model != "flask" {
                Some("a model needs one domain of interpretation; libvirt's own is \"0\"".to_owned())
            } else if dois.len() > DOIS_MAX {
                Some(format!("more than {DOIS_MAX}"))
            } else if let Some((_, doi)) = twice {
                Some(format!("{doi:?} stands there twice"))
            } else {
                dois.iter().find_map(|doi| doi_complaint(doi))
            };
            wrong.map(|wrong| (format!("{model}.doi"), wrong))
        })
    }
}
