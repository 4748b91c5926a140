//! What a runtime must offer to carry a model: tensors described, filled, run and read. Knows no model.

use super::tensor::{TensorMeta, TensorMut, Values, View};

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

/// An output as heads get it, who index by the shape they were fitted to.
///
/// # Errors
/// When there are not as many values as `meta` says.
pub fn view<'v>(values: Values<'v>, meta: &TensorMeta) -> Result<View<'v>, EngineError> {
    if values.count().is_some_and(|count| count != meta.volume()) {
        return Err(EngineError(format!("output \"{}\" changed its shape", meta.name)));
    }
    Ok(View { values, quant: meta.quant })
}

/// An engine that has run once.
pub struct Opened {
    pub engine: Box<dyn Engine>,
    pub facts: Facts,
}

/// What is to be told of an engine.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// As in `DetectorInfo::backend`.
    pub backend: &'static str,
    /// The runtime library, its version and place.
    pub library: String,
    /// How much of the model the accelerator runs, where that can be told.
    pub takes: Option<String>,
    /// What was asked for and could not be had.
    pub refusals: Vec<String>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("facts", &self.facts).finish_non_exhaustive()
    }
}
