//! What a runtime must offer to carry a model: tensors described, filled, run and read. Knows no model.

use super::tensor::{TensorMeta, TensorMut, View};

/// Why a runtime could not run.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct EngineError(pub String);

/// A model loaded into a runtime, with one input and any number of outputs.
pub trait Engine: Send {
    fn input(&self) -> &TensorMeta;

    /// In the order in which `run` hands their values over.
    fn outputs(&self) -> &[TensorMeta];

    /// Lets `fill` write the input, runs the model and lets `read` look at the outputs where they lie.
    fn run(
        &mut self,
        fill: &mut dyn FnMut(TensorMut<'_>),
        read: &mut dyn FnMut(&[View<'_>]),
    ) -> Result<(), EngineError>;
}
