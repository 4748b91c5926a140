//! ONNX Runtime as an engine, its library opened at run time, with one of its execution providers. Knows tensors, not pictures or boxes.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider, ExecutionProviderDispatch};
use ort::session::Session;
use ort::value::{Outlet, Tensor, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::compiled;
use super::engine::{Engine, EngineError, Facts, Opened, view};
use super::locate;
use super::tensor::{Element, Quant, TensorMeta, TensorMut, Values, View};
use crate::config::Provider;

/// A process can open one ONNX Runtime, and has it for ever.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The library that is open.
#[derive(Clone)]
pub(super) struct Runtime {
    environment: &'static Environment,
    path: PathBuf,
    version: String,
}

impl Runtime {
    /// The first of these places where a library opens, or the one that is open already.
    ///
    /// # Errors
    /// Each place's reason.
    pub(super) fn first(candidates: Vec<PathBuf>) -> Result<Self, Vec<String>> {
        let mut loaded = LOADED.lock();
        let mut refusals = Vec::new();
        for path in candidates {
            if let Some(open) = &*loaded {
                if open.path == path {
                    return Ok(open.clone());
                }
                let open = open.path.display();
                refusals.push(format!(
                    "{}: {open} is open already, and there can be only one; restart spotter",
                    path.display()
                ));
                continue;
            }
            match Self::load(path.clone()) {
                Ok(runtime) => return Ok(loaded.insert(runtime).clone()),
                Err(reason) => refusals.push(format!("{}: {reason}", path.display())),
            }
        }
        Err(refusals)
    }

    fn load(path: PathBuf) -> Result<Self, String> {
        // A bare name is for the system's loader to find.
        if path.components().count() > 1
            && let Some(fault) = locate::library_fault(&path)
        {
            return Err(fault);
        }
        let environment = ort::init_from(&path)
            .map_err(|e| e.to_string())?
            .with_name("spotter")
            .with_telemetry(false)
            .build()
            .map_err(|e| e.to_string())?;
        let version = version(&path).unwrap_or_else(|| ort::info().to_owned());
        Ok(Self { environment: Box::leak(Box::new(environment)), path, version })
    }

    /// Name, version and place, as shown to users.
    pub(super) fn named(&self) -> String {
        format!("ONNX Runtime {} ({})", self.version, self.path.display())
    }
}

/// The version of a library that is loaded; its build information need not have it.
#[allow(unsafe_code)]
fn version(path: &Path) -> Option<String> {
    let name = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: the name is a C string, and the library is loaded already, so none of its code runs.
    let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD) };
    if handle.is_null() {
        return None;
    }
    // SAFETY: the handle is open and the name a C string.
    let symbol = unsafe { libc::dlsym(handle, c"OrtGetApiBase".as_ptr()) };
    if symbol.is_null() {
        return None;
    }
    // SAFETY: ONNX Runtime declares it so; ort called it the same way when it loaded the library.
    let base: unsafe extern "C" fn() -> *const ort::sys::OrtApiBase =
        unsafe { std::mem::transmute(symbol) };
    // SAFETY: it returns a static structure or null, which is tested; the version is a static string.
    unsafe {
        let base = base().as_ref()?;
        let text = (base.GetVersionString)();
        (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
    }
}

/// A model in a session.
struct Onnx {
    session: Session,
    /// Fed to every run; its memory is the session's input.
    tensor: Tensor<f32>,
    input: TensorMeta,
    outputs: Vec<TensorMeta>,
}

/// Loads a model's bytes for a provider, `None` being the CPU.
pub(super) fn open(
    runtime: &Runtime,
    bytes: &[u8],
    threads: usize,
    provider: Option<Provider>,
    options: &BTreeMap<String, String>,
) -> Result<Opened, String> {
    if bytes.get(4..8) == Some(b"TFL3") {
        return Err("not an ONNX model but a TensorFlow Lite model".into());
    }
    if let Some(what) = compiled::foreign(bytes).filter(|what| *what != "an ONNX model") {
        return Err(format!("not an ONNX model but {what}"));
    }
    let session = session(runtime, bytes, threads, provider, options).map_err(|e| {
        let said = e.to_string();
        match said.contains("in this build") {
            true => format!(
                "{}; name a build of ONNX Runtime that has it in detect.onnx.library",
                said.trim_end_matches(['.', ' '])
            ),
            false => said,
        }
    })?;
    let [outlet] = session.inputs() else {
        return Err(format!("expected 1 input, found {}", session.inputs().len()));
    };
    let input = meta(outlet)?;
    if input.element != Element::F32 {
        return Err(format!(
            "input \"{}\" is {}, expected float32",
            input.name,
            input.element.name()
        ));
    }
    let shape: Vec<i64> = input.shape.iter().map(|side| *side as i64).collect();
    let tensor =
        Tensor::from_array((shape, vec![0f32; input.volume()])).map_err(|e| e.to_string())?;
    let mut engine = Onnx { session, tensor, input, outputs: Vec::new() };
    // Once before the first picture: weights are packed, kernels compiled, and shapes known that the model leaves open.
    engine.outputs = engine.first_run()?;
    let facts = Facts {
        backend: match provider {
            None => "onnx",
            Some(Provider::Tensorrt) => "onnx-tensorrt",
            Some(Provider::Cuda) => "onnx-cuda",
            Some(Provider::Openvino) => "onnx-openvino",
        },
        library: runtime.named(),
        ..Facts::default()
    };
    Ok(Opened { engine: Box::new(engine), facts })
}

fn session(
    runtime: &Runtime,
    bytes: &[u8],
    threads: usize,
    provider: Option<Provider>,
    options: &BTreeMap<String, String>,
) -> ort::Result<Session> {
    let mut builder = Session::builder(runtime.environment)?.with_intra_threads(threads)?;
    // Threads that spin between pictures would take whole cores for ten pictures a second.
    builder = builder.with_config_entry("session.intra_op.allow_spinning", "0")?;
    if let Some(provider) = provider {
        builder = builder.with_execution_providers([dispatch(provider, options)])?;
    }
    builder.commit_from_memory(bytes)
}

/// The provider, which must take part: ONNX Runtime by itself would go on without it and say so in its log only.
fn dispatch(provider: Provider, options: &BTreeMap<String, String>) -> ExecutionProviderDispatch {
    fn with<E: ArbitrarilyConfigurableExecutionProvider>(
        provider: E,
        options: &BTreeMap<String, String>,
    ) -> E {
        options.iter().fold(provider, |p, (key, value)| p.with_arbitrary_config(key, value))
    }
    let provider = match provider {
        Provider::Tensorrt => with(ep::TensorRT::default(), options).build(),
        Provider::Cuda => with(ep::CUDA::default(), options).build(),
        Provider::Openvino => with(ep::OpenVINO::default(), options).build(),
    };
    provider.error_on_failure()
}

/// What the model says of one of its ends. A batch of open size is a batch of one.
fn meta(outlet: &Outlet) -> Result<TensorMeta, String> {
    let name = outlet.name().to_owned();
    let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else {
        return Err(format!("\"{name}\" is no tensor"));
    };
    let side = |(at, side): (usize, &i64)| match (at, *side) {
        (0, -1) => Ok(1),
        (_, side) => usize::try_from(side)
            .map_err(|_| format!("\"{name}\" has no fixed size; export the model with one")),
    };
    let shape = shape.iter().enumerate().map(side).collect::<Result<_, _>>()?;
    let element = match ty {
        TensorElementType::Float32 => Element::F32,
        // Integers come without a scale that would tell what they mean.
        TensorElementType::Int8 => Element::Other("int8"),
        TensorElementType::Uint8 => Element::Other("uint8"),
        TensorElementType::Float16 => Element::Other("float16"),
        TensorElementType::Int64 => Element::Other("int64"),
        _ => Element::Other("another type"),
    };
    Ok(TensorMeta { name, shape, element, quant: Quant::NONE })
}

impl Onnx {
    fn first_run(&mut self) -> Result<Vec<TensorMeta>, String> {
        let mut metas: Vec<TensorMeta> = Vec::new();
        let found = self.session.run([(&self.tensor).into()]).map_err(|e| e.to_string())?;
        for (name, value) in found.iter() {
            let told = match value.try_extract_tensor::<f32>() {
                Ok((shape, _)) => TensorMeta {
                    name: name.to_owned(),
                    shape: shape.iter().map(|side| *side as usize).collect(),
                    element: Element::F32,
                    quant: Quant::NONE,
                },
                Err(_) => TensorMeta {
                    name: name.to_owned(),
                    shape: Vec::new(),
                    element: Element::Other("another type"),
                    quant: Quant::NONE,
                },
            };
            metas.push(told);
        }
        Ok(metas)
    }
}

impl Engine for Onnx {
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
        let (_, values) = self.tensor.try_extract_tensor_mut::<f32>().map_err(failed)?;
        fill(TensorMut::F32(values));
        let found = self.session.run([(&self.tensor).into()]).map_err(failed)?;
        let mut views = Vec::with_capacity(self.outputs.len());
        for meta in &self.outputs {
            let value = found
                .get(&meta.name)
                .ok_or_else(|| EngineError(format!("no output \"{}\"", meta.name)))?;
            let values = match meta.element {
                Element::F32 => Values::F32(value.try_extract_tensor::<f32>().map_err(failed)?.1),
                _ => Values::Other,
            };
            views.push(view(values, meta)?);
        }
        read(&views);
        Ok(())
    }
}

fn failed(error: ort::Error) -> EngineError {
    EngineError(error.to_string())
}
