//! What stands behind a device node, as the kernel tells it: the driver of a video or render node, the accelerators that are
//! plugged in. It reads; it opens nothing.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{entries, text};

/// The kernel driver behind a node of /dev, as in "uvcvideo".
pub fn driver_of(root: &Path, node: &str) -> Option<String> {
    let name = node.rsplit('/').next()?;
    let class = if name.starts_with("video") || name.starts_with("media") {
        "video4linux"
    } else if name.starts_with("render") || name.starts_with("card") {
        "drm"
    } else {
        return None;
    };
    let link = root.join("sys/class").join(class).join(name).join("device/driver");
    let driver = fs::read_link(link).ok()?;
    Some(driver.file_name()?.to_string_lossy().into_owned())
}

/// A TFLite delegate's library that spotter has heard of: found, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DelegateReport {
    pub library: &'static str,
    pub of: &'static str,
    pub path: Option<String>,
    /// Where its accelerator was found.
    pub accelerator: Option<String>,
    /// The kernel's drivers for it that are loaded, with their versions where they tell.
    pub drivers: Vec<String>,
    /// Whether its accelerator is there, and what is missing to use it.
    pub detail: String,
}

struct Known {
    library: &'static str,
    of: &'static str,
    present: fn(&Path) -> Option<String>,
    comes_with: &'static str,
    /// Kernel modules.
    modules: &'static [&'static str],
}

const KNOWN: &[Known] = &[
    Known {
        library: "libedgetpu.so.1",
        of: "Coral Edge TPU",
        present: coral,
        comes_with: "Google's package libedgetpu1-std",
        modules: &["apex", "gasket"],
    },
    Known {
        library: "libvx_delegate.so",
        of: "NXP i.MX 8M Plus NPU (VeriSilicon)",
        present: |root| node(root, "dev/galcore"),
        comes_with: "NXP's board support package",
        modules: &["galcore"],
    },
    Known {
        library: "libethosu_delegate.so",
        of: "Arm Ethos-U (NXP i.MX 93)",
        present: |root| node(root, "dev/ethosu0"),
        comes_with: "NXP's board support package",
        modules: &["ethosu"],
    },
    Known {
        library: "libarmnnDelegate.so",
        of: "Arm NN (Mali GPU, CPU)",
        // Arm's own driver: on Mesa's, behind a render node, its GPU backend does not run.
        present: |root| node(root, "dev/mali0"),
        comes_with: "Debian's package libarmnn or Arm's release",
        modules: &["mali_kbase"],
    },
    Known {
        library: "libQnnTFLiteDelegate.so",
        of: "Qualcomm Hexagon",
        present: |root| node(root, "dev/fastrpc-cdsp"),
        comes_with: "Qualcomm's AI Engine Direct",
        modules: &["fastrpc"],
    },
];

/// Where libraries lie, beside what the loader is told.
const PLACES: &[&str] = &[
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/arm-linux-gnueabihf",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib",
];

/// Every delegate spotter has heard of.
pub(super) fn delegates(root: &Path) -> Vec<DelegateReport> {
    let one = |known: &Known| {
        let files = PLACES.iter().map(|p| root.join(p).join(known.library));
        let path = files.into_iter().find(|f| f.exists());
        let accelerator = (known.present)(root);
        let detail = match (&path, &accelerator) {
            (Some(_), Some(at)) => format!("its accelerator is at {at}"),
            (Some(_), None) => "the library is there, its accelerator was not found".into(),
            (None, Some(at)) => {
                format!("its accelerator is at {at}; the library comes with {}", known.comes_with)
            }
            (None, None) => "neither library nor accelerator".into(),
        };
        let path = path.map(|p| p.display().to_string());
        let drivers = kernel_modules(root, known);
        DelegateReport { library: known.library, of: known.of, path, accelerator, drivers, detail }
    };
    KNOWN.iter().map(one).collect()
}

/// The loaded drivers behind a delegate's library, by its file name.
pub fn kernel_drivers(library: &Path) -> Vec<String> {
    let file = library.file_name().unwrap_or_default().to_string_lossy();
    let stem = |name: &str| name.split(".so").next().unwrap_or_default().to_owned();
    let known = KNOWN.iter().find(|k| stem(k.library) == stem(&file));
    known.map(|k| kernel_modules(Path::new("/"), k)).unwrap_or_default()
}

/// NVIDIA's driver and its version, where it is loaded.
pub fn nvidia_driver() -> Option<String> {
    let module = Path::new("/sys/module/nvidia");
    let version = text(&module.join("version")).map(|v| format!(" {v}")).unwrap_or_default();
    module.exists().then(|| format!("driver nvidia{version}"))
}

fn kernel_modules(root: &Path, known: &Known) -> Vec<String> {
    let loaded = known.modules.iter().filter_map(|module| {
        let folder = root.join("sys/module").join(module);
        let version = text(&folder.join("version")).map(|v| format!(" {v}")).unwrap_or_default();
        folder.exists().then(|| format!("driver {module}{version}"))
    });
    loaded.collect()
}

fn node(root: &Path, path: &str) -> Option<String> {
    root.join(path).exists().then(|| format!("/{path}"))
}

/// On USB before and after its firmware was loaded, or on PCIe with its driver.
fn coral(root: &Path) -> Option<String> {
    const USB: [(&str, &str); 2] = [("1a6e", "089a"), ("18d1", "9302")];
    let bus = root.join("sys/bus/usb/devices");
    let on_usb = entries(&bus).into_iter().find(|device| {
        let id = |file: &str| text(&bus.join(device).join(file)).unwrap_or_default();
        USB.contains(&(id("idVendor").as_str(), id("idProduct").as_str()))
    });
    on_usb.map(|device| format!("USB {device}")).or_else(|| node(root, "dev/apex_0"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::machine;
    use super::*;

    #[test]
    fn drivers_are_the_ends_of_links() {
        let root = machine(&[("sys/class/video4linux/video10/name", "bcm2835-codec-decode\n")]);
        let device = root.path().join("sys/class/video4linux/video10/device");
        fs::create_dir_all(&device).unwrap();
        std::os::unix::fs::symlink("../../bus/drivers/bcm2835-codec", device.join("driver"))
            .unwrap();
        assert_eq!(driver_of(root.path(), "/dev/video10").as_deref(), Some("bcm2835-codec"));
        assert_eq!(driver_of(root.path(), "/dev/video11"), None);
        assert_eq!(driver_of(root.path(), "/dev/null"), None);
    }

    #[test]
    fn a_coral_is_found_by_its_ids_and_what_is_missing_is_said() {
        let root = machine(&[
            ("sys/bus/usb/devices/1-1/idVendor", "1a6e\n"),
            ("sys/bus/usb/devices/1-1/idProduct", "089a\n"),
        ]);
        let coral = &delegates(root.path())[0];
        assert_eq!(coral.path, None);
        assert!(coral.detail.starts_with("its accelerator is at USB 1-1; the library comes with"));
        let root = machine(&[("usr/lib/aarch64-linux-gnu/libedgetpu.so.1", "")]);
        let coral = &delegates(root.path())[0];
        assert!(coral.path.is_some() && coral.detail.contains("was not found"));
        let nothing = delegates(machine(&[]).path());
        assert!(nothing.iter().all(|d| d.detail == "neither library nor accelerator"));
    }
}
