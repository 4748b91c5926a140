//! Which ways there are to run a model, and in which order they are tried (pure). Opens none.

use std::fmt;

use crate::config::{self, DetectBackend};

/// One way to run a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// TensorFlow Lite with an external delegate; what that leaves is XNNPACK's.
    Delegate(config::Delegate),
    /// TensorFlow Lite on the CPU.
    Tflite,
}

impl Way {
    /// Whether a device and its driver take part, which may be missing, fail, hang and come back.
    pub fn is_accelerated(&self) -> bool {
        matches!(self, Self::Delegate(_))
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delegate(delegate) => write!(f, "delegate {}", delegate.path.display()),
            Self::Tflite => write!(f, "TensorFlow Lite on the CPU"),
        }
    }
}

/// The ways that the configuration means, best first. `found` are the accelerators of this machine in the board's order.
pub fn ways(cfg: &config::Detect, found: &[Way]) -> Vec<Way> {
    let configured = cfg.delegate.iter().cloned().map(Way::Delegate);
    match cfg.backend {
        DetectBackend::Fake => Vec::new(),
        DetectBackend::Tflite => configured.chain([Way::Tflite]).collect(),
        DetectBackend::Auto => {
            let mut ways: Vec<_> = configured.collect();
            // One that the owner configured is not tried twice.
            let new = |way: &&Way| match (way, &cfg.delegate) {
                (Way::Delegate(found), Some(asked)) => {
                    found.path.file_name() != asked.path.file_name()
                }
                _ => true,
            };
            ways.extend(found.iter().filter(new).cloned());
            ways.push(Way::Tflite);
            ways
        }
    }
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
        assert_eq!(ways(&auto, &found), [found[0].clone(), Way::Tflite]);
        let own = delegate("/opt/mine.so");
        let cfg = config::Detect { delegate: Some(own.clone()), ..auto.clone() };
        assert_eq!(ways(&cfg, &found), [Way::Delegate(own), found[0].clone(), Way::Tflite]);
        let same = delegate("libedgetpu.so.1");
        let cfg = config::Detect { delegate: Some(same.clone()), ..auto.clone() };
        assert_eq!(ways(&cfg, &found), [Way::Delegate(same), Way::Tflite]);
        let cpu = config::Detect { backend: DetectBackend::Tflite, ..auto };
        assert_eq!(ways(&cpu, &found), [Way::Tflite]);
    }
}
