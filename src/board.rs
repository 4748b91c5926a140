//! What this machine is and has, read from the kernel's own files; what it runs best by default.
//! Everything is read below a root directory, so that tests can show it another machine.

mod drivers; // what stands behind a device node
pub mod button; // contacts -> presses (pure)
pub mod follow; // animals in view -> an output's level (pure)
pub mod hands; // the thread behind lamps, outputs and the button
pub mod lamp; // mood and time -> the lamp's level (pure)
pub mod pins; // lines behind embedded-hal's traits
mod sensors; // temperature, throttling, memory in use

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;

use serde::Serialize;

pub use drivers::{DelegateReport, driver_of, kernel_drivers, nvidia_driver};
pub use sensors::{Zone, since_boot, tells_throttling, temperature_c, throttled, zones};

use crate::decode::{self, DecoderReport};
use crate::source::{self, CameraReport};
use pins::ChipReport;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoardKind {
    Pi3,
    Pi4,
    Pi5,
    Zero2,
    JetsonOrin,
    JetsonOther,
    GenericArm64,
    X86,
    Other,
}

/// What a kind of board runs unless the owner says otherwise; docs/boards.md has the reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Profile {
    /// A manifest's name.
    pub model: &'static str,
    /// Threads of the interpreter.
    pub threads: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Board {
    pub kind: BoardKind,
    /// As the device tree or the firmware names it.
    pub model: String,
    /// "x86_64", "aarch64".
    pub arch: &'static str,
    pub cores: usize,
    /// MiB.
    pub memory_mib: u64,
}

/// Everything `spotter probe` tells of the machine but the detectors, which the caller adds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    pub board: Board,
    pub profile: Profile,
    pub kernel: String,
    pub decoders: Vec<DecoderReport>,
    /// Of cameras that give no H.264.
    pub encoders: Vec<DecoderReport>,
    /// Set when decoders could not be looked for at all.
    pub decoders_error: Option<String>,
    /// TFLite delegates that spotter has heard of.
    pub delegates: Vec<DelegateReport>,
    pub cameras: Vec<CameraReport>,
    /// Set when cameras could not be looked for at all.
    pub cameras_error: Option<String>,
    pub gpio: Vec<ChipReport>,
    /// Why there is no chip.
    pub gpio_error: Option<String>,
    /// The warmest zone, and all of them.
    pub temperature_c: Option<f32>,
    pub zones: Vec<Zone>,
    /// Whether the machine tells what slows its processor; what does now, and what did since it was started.
    pub tells_throttling: bool,
    pub throttled: Vec<String>,
    pub throttled_before: Vec<String>,
}

/// This machine.
pub fn board() -> Board {
    Board::read(Path::new("/"), std::env::consts::ARCH)
}

/// The TFLite delegates that this machine might use.
pub fn delegates() -> Vec<DelegateReport> {
    drivers::delegates(Path::new("/"))
}

/// This machine and what is attached to it. Opens decoders for a moment.
pub fn probe() -> Probe {
    let root = Path::new("/");
    let board = board();
    let (decoders, decoders_error) = match decode::inspect() {
        Ok(found) => (found, None),
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    let encoders = source::encoders();
    let (cameras, cameras_error) = told(source::cameras());
    let (gpio, gpio_error) = told(pins::chips().map_err(|e| e.to_string()));
    Probe {
        profile: board.kind.profile(),
        board,
        kernel: text(&root.join("proc/sys/kernel/osrelease")).unwrap_or_default(),
        decoders,
        encoders,
        decoders_error,
        delegates: drivers::delegates(root),
        cameras,
        cameras_error,
        gpio,
        gpio_error,
        temperature_c: temperature_c(root),
        zones: zones(root),
        tells_throttling: tells_throttling(root),
        throttled: throttled(root),
        throttled_before: since_boot(root),
    }
}

fn told<T>(looked: Result<Vec<T>, String>) -> (Vec<T>, Option<String>) {
    match looked {
        Ok(found) => (found, None),
        Err(why) => (Vec::new(), Some(why)),
    }
}

impl Board {
    /// Reads the machine whose `/proc` and `/sys` lie below `root`.
    pub fn read(root: &Path, arch: &'static str) -> Self {
        let cpuinfo = text(&root.join("proc/cpuinfo")).unwrap_or_default();
        let field = |name: &str| {
            let line =
                cpuinfo.lines().find(|l| l.split(':').next().is_some_and(|k| k.trim() == name));
            line.and_then(|l| l.split_once(':')).map(|(_, v)| v.trim().to_string())
        };
        let tree = text(&root.join("proc/device-tree/model"));
        let desktop = || text(&root.join("sys/class/dmi/id/product_name"));
        let model = tree.clone().or_else(|| field("Model")).or_else(desktop);
        let model = model.or_else(|| field("model name")).unwrap_or_else(|| "unknown".into());
        let cores = cpuinfo.lines().filter(|l| l.starts_with("processor")).count();
        Self {
            kind: kind(&model, arch),
            model,
            arch,
            cores: cores.max(1),
            memory_mib: memory_mib(root),
        }
    }
}

impl BoardKind {
    /// YOLOv4-tiny where it holds ten pictures a second at half the processor, PicoDet elsewhere.
    pub fn profile(self) -> Profile {
        let (model, threads) = match self {
            Self::Pi5 | Self::JetsonOrin | Self::GenericArm64 => ("yolov4-tiny-416", 2),
            Self::Pi4 | Self::JetsonOther => ("picodet-s-416", 2),
            Self::Pi3 | Self::Zero2 => ("picodet-s-320", 2),
            // One core is enough, and threads that wait for each other cost more of it.
            Self::X86 | Self::Other => ("yolov4-tiny-416", 1),
        };
        Profile { model, threads }
    }
}

/// Tells the board from its name (pure).
fn kind(model: &str, arch: &str) -> BoardKind {
    let has = |part: &str| model.contains(part);
    if has("Raspberry Pi") {
        return if has("Zero 2") {
            BoardKind::Zero2
        } else if has("Pi 5") || has("Compute Module 5") {
            BoardKind::Pi5
        } else if has("Pi 4") || has("Compute Module 4") {
            BoardKind::Pi4
        } else if has("Pi 3") || has("Compute Module 3") {
            BoardKind::Pi3
        } else {
            BoardKind::Other
        };
    }
    if has("Orin") {
        return BoardKind::JetsonOrin;
    }
    if has("Jetson") || has("NVIDIA") && arch == "aarch64" {
        return BoardKind::JetsonOther;
    }
    match arch {
        "aarch64" => BoardKind::GenericArm64,
        "x86_64" => BoardKind::X86,
        _ => BoardKind::Other,
    }
}

fn memory_mib(root: &Path) -> u64 {
    let meminfo = text(&root.join("proc/meminfo")).unwrap_or_default();
    let total = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

/// A small text file without its end of line or, in the device tree, its end of string.
fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!text.is_empty()).then(|| text.to_string())
}

/// The names in a directory in order; none when it is not there.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<_> =
        found.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort_by_key(|n| (n.len(), n.clone()));
    names
}

/// This machine's address on the network it would use to reach others. Sends nothing: connecting a UDP socket only asks
/// the routing table. 192.0.2.1 is reserved for documentation (RFC 5737).
pub fn own_address() -> IpAddr {
    let ask = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        Ok(socket.local_addr()?.ip())
    };
    ask().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine made of files.
    pub(super) fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    #[test]
    fn boards_are_told_by_their_names() {
        use BoardKind::*;
        for (model, arch, expected) in [
            ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", Pi5),
            ("Raspberry Pi 500 Rev 1.0", "aarch64", Pi5),
            ("Raspberry Pi Compute Module 5 Rev 1.0", "aarch64", Pi5),
            ("Raspberry Pi 4 Model B Rev 1.4", "aarch64", Pi4),
            ("Raspberry Pi 400 Rev 1.0", "aarch64", Pi4),
            ("Raspberry Pi 3 Model B Plus Rev 1.3", "aarch64", Pi3),
            ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", Zero2),
            ("Raspberry Pi Zero W Rev 1.1", "arm", Other),
            ("NVIDIA Jetson Orin Nano Developer Kit", "aarch64", JetsonOrin),
            ("NVIDIA Jetson Nano Developer Kit", "aarch64", JetsonOther),
            ("linux,dummy-virt", "aarch64", GenericArm64),
            ("ThinkPad X1", "x86_64", X86),
            ("", "riscv64", Other),
        ] {
            assert_eq!(kind(model, arch), expected, "{model}");
        }
    }

    #[test]
    fn a_pi_is_read_from_its_files() {
        let root = machine(&[
            ("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.4\0"),
            ("proc/cpuinfo", "processor\t: 0\nprocessor\t: 1\nprocessor\t: 2\nprocessor\t: 3\n"),
            ("proc/meminfo", "MemTotal:        3884360 kB\nMemFree:  1 kB\n"),
        ]);
        let board = Board::read(root.path(), "aarch64");
        let expected = Board {
            kind: BoardKind::Pi4,
            model: "Raspberry Pi 4 Model B Rev 1.4".into(),
            arch: "aarch64",
            cores: 4,
            memory_mib: 3793,
        };
        assert_eq!(board, expected);
        assert_eq!(board.kind.profile().model, "picodet-s-416");
    }

    #[test]
    fn an_empty_machine_is_no_error() {
        let root = machine(&[]);
        let board = Board::read(root.path(), "x86_64");
        assert_eq!((board.kind, board.cores, board.model.as_str()), (BoardKind::X86, 1, "unknown"));
    }

    #[test]
    fn the_probe_is_json() {
        let probe = probe();
        let json = serde_json::to_value(&probe).unwrap();
        assert_eq!(json["board"]["arch"], std::env::consts::ARCH);
        assert!(probe.decoders_error.is_some() || !probe.decoders.is_empty());
    }
}
