//! TensorFlow Lite as an engine, its C library opened at run time. Knows tensors, not pictures or boxes.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::path::{Path, PathBuf};

use edgefirst_tflite::{Delegate, Interpreter, InterpreterBuilder, Library, Model, TensorType};
use parking_lot::Mutex;

use super::compiled;
use super::delegate::{self, Share};
use super::engine::{Engine, EngineError, Facts, Opened, view};
use super::locate;
use super::tensor::{Element, Quant, TensorMeta, TensorMut, Values, View};
use crate::config;

/// Libraries by path, loaded once each and never unloaded: TFLite and its delegates leave threads and
/// destructors behind that run after the last handle is gone, so unmapping their code is never safe.
static LOADED: Mutex<BTreeMap<PathBuf, &'static Library>> = Mutex::new(BTreeMap::new());

/// Opens the library at `path`, or gives the one already open.
fn library(path: &Path) -> Result<&'static Library, String> {
    let mut loaded = LOADED.lock();
    if let Some(&library) = loaded.get(path) {
        return Ok(library);
    }
    // A bare name is for the system's loader to find.
    if path.components().count() > 1
        && let Some(fault) = locate::library_fault(path)
    {
        return Err(fault);
    }
    let library = Library::from_path(path).map_err(|e| e.to_string())?;
    if let Some(symbol) = missing_symbol(&library) {
        return Err(format!("has no function {symbol}, so it is not TensorFlow Lite's C library"));
    }
    let library = Box::leak(Box::new(library));
    loaded.insert(path.to_path_buf(), library);
    Ok(library)
}

/// The first function spotter calls that the library lacks; calling it anyway would panic.
fn missing_symbol(library: &Library) -> Option<&'static str> {
    let sys = library.as_sys();
    macro_rules! first_missing {
        ($($name:ident),* $(,)?) => { $(if sys.$name.is_err() { return Some(stringify!($name)); })* };
    }
    first_missing!(
        TfLiteModelCreate,
        TfLiteModelDelete,
        TfLiteInterpreterOptionsCreate,
        TfLiteInterpreterOptionsDelete,
        TfLiteInterpreterOptionsSetNumThreads,
        TfLiteInterpreterOptionsAddDelegate,
        TfLiteInterpreterCreate,
        TfLiteInterpreterDelete,
        TfLiteInterpreterAllocateTensors,
        TfLiteInterpreterInvoke,
        TfLiteInterpreterGetInputTensorCount,
        TfLiteInterpreterGetInputTensor,
        TfLiteInterpreterGetOutputTensorCount,
        TfLiteInterpreterGetOutputTensor,
        TfLiteTensorType,
        TfLiteTensorName,
        TfLiteTensorNumDims,
        TfLiteTensorDim,
        TfLiteTensorByteSize,
        TfLiteTensorData,
        TfLiteTensorQuantizationParams,
    );
    None
}

/// A library that is open.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) library: &'static Library,
    pub(super) path: PathBuf,
    /// The places before it that had none, each with the reason.
    pub(super) refusals: Vec<String>,
}

impl Found {
    /// The first of these places where a library opens.
    ///
    /// # Errors
    /// Each place's reason.
    pub(super) fn first(candidates: Vec<PathBuf>) -> Result<Self, Vec<String>> {
        let mut refusals = Vec::new();
        for path in candidates {
            match library(&path) {
                Ok(library) => return Ok(Self { library, path, refusals }),
                Err(reason) => refusals.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(refusals)
    }

    /// Name, version and place, as shown to users.
    pub(super) fn named(&self) -> String {
        let version = version(self.library).map_or(String::new(), |v| format!(" {v}"));
        format!("TensorFlow Lite{version} ({})", self.path.display())
    }
}

/// The library's own version, where it tells.
#[allow(unsafe_code)]
fn version(library: &Library) -> Option<String> {
    let sys = library.as_sys();
    if sys.TfLiteVersion.is_err() {
        return None;
    }
    // SAFETY: the symbol is there, takes nothing and returns a static string of the library, which stays
    // loaded; null is tested before reading.
    let text = unsafe {
        let text = sys.TfLiteVersion();
        if text.is_null() {
            return None;
        }
        CStr::from_ptr(text)
    };
    Some(text.to_string_lossy().into_owned())
}

/// A model in an interpreter.
#[derive(Debug)]
pub(super) struct Tflite {
    /// Before the model: the interpreter reads the model's bytes until it is dropped.
    interpreter: Interpreter<'static>,
    _model: Model<'static>,
    input: TensorMeta,
    outputs: Vec<TensorMeta>,
}

/// Loads a model's bytes for the CPU.
pub(super) fn on_cpu(found: &Found, bytes: Vec<u8>, threads: usize) -> Result<Opened, String> {
    let model = model(found.library, bytes)?;
    let threads = i32::try_from(threads).unwrap_or(i32::MAX);
    let mut refusals = Vec::new();
    let (builder, backend) = match Delegate::xnnpack(found.library, threads) {
        Ok(xnnpack) => (builder(found.library, threads)?.delegate(xnnpack), "tflite-xnnpack"),
        Err(e) => {
            refusals.push(format!("xnnpack: {e}; the model runs several times slower"));
            (builder(found.library, threads)?, "tflite")
        }
    };
    let interpreter = build(builder, &model)?;
    let facts = Facts { backend, library: found.named(), refusals, ..Facts::default() };
    Ok(Opened { engine: Box::new(Tflite::new(interpreter, model)?), facts })
}

/// Loads a model's bytes for an external delegate, with XNNPACK for what that leaves to the CPU.
pub(super) fn on_delegate(
    found: &Found,
    bytes: Vec<u8>,
    threads: usize,
    wanted: &config::Delegate,
) -> Result<Opened, String> {
    let model = model(found.library, bytes)?;
    let threads = i32::try_from(threads).unwrap_or(i32::MAX);
    let external = delegate::load(wanted)?;
    let counted = delegate::Counted::begin(&external);
    let mut builder = builder(found.library, threads)?.delegate(external);
    if let Ok(xnnpack) = Delegate::xnnpack(found.library, threads) {
        builder = builder.delegate(xnnpack);
    }
    let interpreter = build(builder, &model);
    let share = counted.end();
    let interpreter = interpreter?;
    if let Some(Share { taken: 0, of }) = share {
        return Err(format!(
            "takes none of the model's {of} operations, so the CPU would do all the work; use a model that was made for it (detect.delegate.model)"
        ));
    }
    let facts = Facts {
        backend: "tflite-delegate",
        library: found.named(),
        takes: share.map(|s| format!("{} of {} operations", s.taken, s.of)),
        refusals: Vec::new(),
    };
    Ok(Opened { engine: Box::new(Tflite::new(interpreter, model)?), facts })
}

fn model(library: &'static Library, bytes: Vec<u8>) -> Result<Model<'static>, String> {
    compiled::is_tflite(&bytes)?;
    Model::from_bytes(library, bytes).map_err(|_| "not a whole TensorFlow Lite model".to_string())
}

fn builder(library: &'static Library, threads: i32) -> Result<InterpreterBuilder<'static>, String> {
    Ok(Interpreter::builder(library).map_err(|e| e.to_string())?.num_threads(threads))
}

/// Builds an interpreter and runs it once: a delegate may fail only then, shapes may be known only then,
/// and the first picture need not wait for weights to be packed.
fn build(
    builder: InterpreterBuilder<'static>,
    model: &Model<'static>,
) -> Result<Interpreter<'static>, String> {
    let mut interpreter = builder.build(model).map_err(|e| e.to_string())?;
    for mut input in interpreter.inputs_mut().map_err(|e| e.to_string())? {
        input.as_bytes_mut().map_err(|e| e.to_string())?.fill(0);
    }
    interpreter.invoke().map_err(|e| e.to_string())?;
    Ok(interpreter)
}

impl Tflite {
    fn new(interpreter: Interpreter<'static>, model: Model<'static>) -> Result<Self, String> {
        let inputs = interpreter.inputs().map_err(|e| e.to_string())?;
        let inputs: Vec<_> = inputs.iter().map(meta).collect::<Result<_, _>>()?;
        let [input] = <[TensorMeta; 1]>::try_from(inputs)
            .map_err(|all| format!("expected 1 input, found {}", all.len()))?;
        let outputs = interpreter.outputs().map_err(|e| e.to_string())?;
        let outputs = outputs.iter().map(meta).collect::<Result<_, _>>()?;
        Ok(Self { interpreter, _model: model, input, outputs })
    }
}

fn meta(tensor: &edgefirst_tflite::Tensor<'_>) -> Result<TensorMeta, String> {
    let element = match tensor.tensor_type() {
        TensorType::Int8 => Element::I8,
        TensorType::UInt8 => Element::U8,
        TensorType::Float32 => Element::F32,
        TensorType::Float16 => Element::Other("float16"),
        TensorType::Int16 => Element::Other("int16"),
        TensorType::Int32 => Element::Other("int32"),
        TensorType::Int64 => Element::Other("int64"),
        _ => Element::Other("another type"),
    };
    let quant = match element {
        Element::I8 | Element::U8 => {
            let params = tensor.quantization_params();
            Quant { scale: params.scale, zero_point: params.zero_point }
        }
        _ => Quant::NONE,
    };
    let shape = tensor.shape().map_err(|e| e.to_string())?;
    Ok(TensorMeta { name: tensor.name().to_string(), shape, element, quant })
}

impl Engine for Tflite {
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
        let mut inputs = self.interpreter.inputs_mut().map_err(failed)?;
        let input = inputs.first_mut().ok_or_else(|| EngineError("no input".into()))?;
        match self.input.element {
            Element::F32 => fill(TensorMut::F32(input.as_mut_slice().map_err(failed)?)),
            _ => fill(TensorMut::Bytes(input.as_bytes_mut().map_err(failed)?)),
        }
        drop(inputs);
        self.interpreter.invoke().map_err(failed)?;
        let tensors = self.interpreter.outputs().map_err(failed)?;
        let mut views = Vec::with_capacity(tensors.len());
        for (tensor, meta) in tensors.iter().zip(&self.outputs) {
            let values = match meta.element {
                Element::I8 => Values::I8(tensor.as_slice().map_err(failed)?),
                Element::U8 => Values::U8(tensor.as_slice().map_err(failed)?),
                Element::F32 => Values::F32(tensor.as_slice().map_err(failed)?),
                Element::Other(_) => Values::Other,
            };
            views.push(view(values, meta)?);
        }
        read(&views);
        Ok(())
    }
}

fn failed(error: edgefirst_tflite::Error) -> EngineError {
    EngineError(error.to_string())
}
