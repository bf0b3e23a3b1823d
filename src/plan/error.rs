//! Why no plan can be made.

use super::chain::ChainError;
use crate::base::{Layer, NameError, Refusal};
use crate::privsep::order::OrderError;
use crate::security::LabelError;

/// Why no plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A disk's layers could not be told.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The labels asked for cannot be given.
    #[error(transparent)]
    Label(#[from] LabelError),
    /// A device's name cannot name a descriptor.
    #[error("a device's name is unusable: {0}")]
    Name(#[from] NameError),
    /// The planner broke its own rules; a defect of svirt.
    #[error("the plan breaks its own rules: {0}")]
    Order(#[from] OrderError),
    /// Anything that the definition, the host or the configuration forbids.
    #[error(transparent)]
    Refused(Box<Refusal>),
}

impl From<Refusal> for PlanError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl PlanError {
    /// A part of the definition that this version or this host does not run.
    #[must_use]
    pub fn definition(object: impl Into<String>, rule: impl Into<String>, remedy: impl Into<String>) -> Self {
        Refusal::new(Layer::Definition, "plan the start with", object, rule, remedy).into()
    }

    /// The error as a person sees it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        match self {
            Self::Chain(error) => error.refusal(),
            Self::Label(error) => error.refusal(),
            Self::Name(error) => Refusal::new(
                Layer::Definition,
                "plan the start with",
                "a device",
                error.to_string(),
                "give the device a target of letters and digits, such as vda",
            ),
            Self::Order(error) => Refusal::new(
                Layer::Policy,
                "plan the start of",
                "the domain",
                error.to_string(),
                "this is a defect of svirt; please report it with the definition",
            ),
            Self::Refused(refusal) => (**refusal).clone(),
        }
    }
}
