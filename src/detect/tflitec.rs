//! TensorFlow Lite as an engine, linked at build time by the crate tflitec, for firmware that loads nothing at run time. The CPU
//! only: tflitec adds no delegates but XNNPACK.

use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tflitec::interpreter::{Interpreter, Options};
use tflitec::model::Model;
use tflitec::tensor::{DataType, Tensor};

use super::engine::{Engine, EngineError, Facts, Opened, view};
use super::tensor::{Element, Quant, TensorMeta, TensorMut, Values, View};
use crate::supervise::panic_text;

/// A model in an interpreter that borrows it; tflitec's types borrow each other, so what they borrow is leaked and taken back.
struct Linked {
    interpreter: ManuallyDrop<Interpreter<'static>>,
    model: *mut Model<'static>,
    bytes: *mut [u8],
    input: TensorMeta,
    outputs: Vec<TensorMeta>,
    /// tflitec hands out no writable tensor: the input is made here and copied.
    bytes_in: Vec<u8>,
    floats_in: Vec<f32>,
}

// SAFETY: both pointers are this value's own boxes, and everything behind them may be sent (tflitec declares Model and
// Interpreter to be Send).
#[allow(unsafe_code)]
unsafe impl Send for Linked {}

impl Drop for Linked {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: each is dropped once, here, in the order in which they borrow: interpreter, model, bytes. The pointers came
        // from Box::into_raw and nobody else has them.
        unsafe {
            ManuallyDrop::drop(&mut self.interpreter);
            drop(Box::from_raw(self.model));
            drop(Box::from_raw(self.bytes));
        }
    }
}

/// Loads a model's bytes for the CPU.
pub(super) fn on_cpu(bytes: Vec<u8>, threads: usize) -> Result<Opened, String> {
    super::compiled::is_tflite(&bytes)?;
    // tflitec unwraps what a model file may spoil: names that are no UTF-8, say.
    let engine = catch_unwind(AssertUnwindSafe(|| Linked::open(bytes, threads)))
        .unwrap_or_else(|panic| Err(format!("tflitec panicked: {}", panic_text(&*panic))))?;
    let facts = Facts {
        backend: "tflitec-xnnpack",
        library: format!("TensorFlow Lite {} (linked by tflitec)", tflitec::tf_lite_version()),
        ..Facts::default()
    };
    Ok(Opened { engine: Box::new(engine), facts })
}

impl Linked {
    #[allow(unsafe_code)]
    fn open(bytes: Vec<u8>, threads: usize) -> Result<Self, String> {
        let bytes: *mut [u8] = Box::into_raw(bytes.into_boxed_slice());
        // SAFETY: the box lives until this value is dropped, or, where opening fails, for ever: a leak of one model file.
        let model = Model::from_bytes(unsafe { &*bytes })
            .map_err(|_| "not a whole TensorFlow Lite model".to_owned())?;
        let model = Box::into_raw(Box::new(model));
        let options = Options {
            thread_count: i32::try_from(threads).unwrap_or(i32::MAX),
            is_xnnpack_enabled: true,
        };
        // SAFETY: as for the bytes.
        let interpreter =
            Interpreter::new(unsafe { &*model }, Some(options)).map_err(|e| e.to_string())?;
        interpreter.allocate_tensors().map_err(|e| e.to_string())?;
        if interpreter.input_tensor_count() != 1 {
            return Err(format!("expected 1 input, found {}", interpreter.input_tensor_count()));
        }
        let input = meta(&interpreter.input(0).map_err(|e| e.to_string())?);
        // Once before the first picture: weights are packed, and shapes may be known only then.
        interpreter.invoke().map_err(|e| e.to_string())?;
        let outputs = (0..interpreter.output_tensor_count())
            .map(|at| interpreter.output(at).map(|t| meta(&t)).map_err(|e| e.to_string()))
            .collect::<Result<_, _>>()?;
        let (bytes_in, floats_in) = match input.element {
            Element::F32 => (Vec::new(), vec![0.0; input.volume()]),
            _ => (vec![0; input.volume()], Vec::new()),
        };
        let interpreter = ManuallyDrop::new(interpreter);
        Ok(Self { interpreter, model, bytes, input, outputs, bytes_in, floats_in })
    }
}

fn meta(tensor: &Tensor<'_>) -> TensorMeta {
    let element = match tensor.data_type() {
        DataType::Int8 => Element::I8,
        DataType::UInt8 => Element::U8,
        DataType::Float32 => Element::F32,
        _ => Element::Other("another type"),
    };
    let quant = tensor.quantization_parameters();
    let quant = quant.map_or(Quant::NONE, |q| Quant { scale: q.scale, zero_point: q.zero_point });
    let shape = tensor.shape().dimensions().clone();
    TensorMeta { name: tensor.name().to_owned(), shape, element, quant }
}

impl Engine for Linked {
    fn input(&self) -> &TensorMeta {
        &self.input
    }

    fn outputs(&self) -> &[TensorMeta] {
        &self.outputs
    }

    fn run(
        &mut self,
        fill: &mut dyn FnMut(TensorMut<'_>),
        read: &mut dyn FnMut(&[View<'_>]),
    ) -> Result<(), EngineError> {
        let copied = match self.input.element {
            Element::F32 => {
                fill(TensorMut::F32(&mut self.floats_in));
                self.interpreter.copy(&self.floats_in, 0)
            }
            _ => {
                fill(TensorMut::Bytes(&mut self.bytes_in));
                self.interpreter.copy(&self.bytes_in, 0)
            }
        };
        copied.map_err(failed)?;
        // tflitec has one word for whatever goes wrong here.
        self.interpreter.invoke().map_err(|_| EngineError("the model could not be run".into()))?;
        let tensors = (0..self.outputs.len()).map(|at| self.interpreter.output(at));
        let tensors = tensors.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let mut views = Vec::with_capacity(tensors.len());
        for (tensor, meta) in tensors.iter().zip(&self.outputs) {
            let values = match meta.element {
                Element::I8 => Values::I8(tensor.data()),
                Element::U8 => Values::U8(tensor.data()),
                Element::F32 => Values::F32(tensor.data()),
                Element::Other(_) => Values::Other,
            };
            views.push(view(values, meta)?);
        }
        read(&views);
        Ok(())
    }
}

fn failed(error: tflitec::Error) -> EngineError {
    EngineError(error.to_string())
}
