//! Which ways there are to run a model, and in which order they are tried (pure). Opens none.

use std::fmt;

use crate::config::{self, DetectBackend, Provider};

/// One way to run a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// TensorFlow Lite with an external delegate; what that leaves is XNNPACK's.
    Delegate(config::Delegate),
    /// TensorFlow Lite on the CPU.
    Tflite,
    /// TensorFlow Lite on the CPU, linked at build time.
    Tflitec,
    /// ONNX Runtime with one of its providers; `None` is the CPU.
    Onnx(Option<Provider>),
}

impl Way {
    /// Whether a device and its driver take part, which may be missing, fail, hang and come back.
    pub fn is_accelerated(&self) -> bool {
        matches!(self, Self::Delegate(_) | Self::Onnx(Some(_)))
    }

    /// Whether opening takes minutes: TensorRT times kernels for the model, once for each machine.
    pub fn opens_slowly(&self) -> bool {
        matches!(self, Self::Onnx(Some(Provider::Tensorrt)))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delegate(delegate) => write!(f, "delegate {}", delegate.path.display()),
            Self::Tflite => write!(f, "TensorFlow Lite on the CPU"),
            Self::Tflitec => write!(f, "TensorFlow Lite by tflitec"),
            Self::Onnx(None) => write!(f, "ONNX Runtime on the CPU"),
            Self::Onnx(Some(Provider::Tensorrt)) => write!(f, "ONNX Runtime with TensorRT"),
            Self::Onnx(Some(Provider::Cuda)) => write!(f, "ONNX Runtime with CUDA"),
            Self::Onnx(Some(Provider::Openvino)) => write!(f, "ONNX Runtime with OpenVINO"),
        }
    }
}

/// The ways that the configuration means, best first. `found` are the accelerators of this machine in the board's order.
pub fn ways(cfg: &config::Detect, found: &[Way]) -> Vec<Way> {
    let delegate = cfg.delegate.iter().cloned().map(Way::Delegate);
    let providers = cfg.onnx.providers.iter().map(|provider| Way::Onnx(Some(*provider)));
    match cfg.backend {
        DetectBackend::Fake => Vec::new(),
        DetectBackend::Tflite => delegate.chain([Way::Tflite]).collect(),
        DetectBackend::Tflitec => vec![Way::Tflitec],
        DetectBackend::Onnx => providers.chain([Way::Onnx(None)]).collect(),
        DetectBackend::Auto => {
            let mut ways: Vec<_> = delegate.chain(providers).collect();
            // What the owner configured is not tried twice.
            let new = |way: &&Way| match (way, &cfg.delegate) {
                (Way::Delegate(found), Some(asked)) => {
                    found.path.file_name() != asked.path.file_name()
                }
                _ => !ways.contains(way),
            };
            let found: Vec<_> = found.iter().filter(new).cloned().collect();
            ways.extend(found);
            ways.extend(on_cpu());
            ways
        }
    }
}

/// The CPU's runtimes in this program, best first.
pub(super) fn on_cpu() -> impl Iterator<Item = Way> {
    let built = [
        (cfg!(feature = "tflite"), Way::Tflite),
        (cfg!(feature = "tflitec"), Way::Tflitec),
        (cfg!(feature = "onnx"), Way::Onnx(None)),
    ];
    built.into_iter().filter_map(|(here, way)| here.then_some(way))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delegate(path: &str) -> config::Delegate {
        config::Delegate { path: path.into(), model: String::new(), options: Default::default() }
    }

    #[test]
    fn the_owner_s_delegate_comes_first_and_the_cpu_last() {
        let found = [Way::Delegate(delegate("/usr/lib/libedgetpu.so.1"))];
        let auto = config::Detect { backend: DetectBackend::Auto, ..Default::default() };
        let then = |first: &[Way]| first.iter().cloned().chain(on_cpu()).collect::<Vec<_>>();
        assert_eq!(ways(&auto, &found), then(&[found[0].clone()]));
        let own = delegate("/opt/mine.so");
        let cfg = config::Detect { delegate: Some(own.clone()), ..auto.clone() };
        assert_eq!(ways(&cfg, &found), then(&[Way::Delegate(own), found[0].clone()]));
        let same = delegate("libedgetpu.so.1");
        let cfg = config::Detect { delegate: Some(same.clone()), ..auto.clone() };
        assert_eq!(ways(&cfg, &found), then(&[Way::Delegate(same)]));
        let cuda = Way::Onnx(Some(Provider::Cuda));
        let mut cfg = auto.clone();
        cfg.onnx.providers = vec![Provider::Cuda];
        assert_eq!(ways(&cfg, std::slice::from_ref(&cuda)), then(std::slice::from_ref(&cuda)));
        cfg.backend = DetectBackend::Onnx;
        assert_eq!(ways(&cfg, &found), [cuda, Way::Onnx(None)]);
        let cpu = config::Detect { backend: DetectBackend::Tflite, ..auto };
        assert_eq!(ways(&cpu, &found), [Way::Tflite]);
    }
}
