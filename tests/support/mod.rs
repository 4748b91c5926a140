//! What the end-to-end tests share: a running spotter, its readers, and what the demo clip shows when.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test file uses its own part

pub mod api;
pub mod clip;
pub mod line;
pub mod mount;
pub mod ports;
pub mod readers;
mod skip;

pub(crate) use ports::free_port;
pub(crate) use skip::skip;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The program under test: $SPOTTER_BIN (the arm64 binary under QEMU, say) or the one cargo built.
pub fn spotter() -> Command {
    let built = env!("CARGO_BIN_EXE_spotter");
    let mut command = Command::new(std::env::var("SPOTTER_BIN").unwrap_or(built.into()));
    command.current_dir(root());
    command
}

/// Whether the program runs many times slower than it would by itself.
pub fn emulated() -> bool {
    std::env::var_os("SPOTTER_BIN").is_some()
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What the real pipeline needs: the runtime library, the models and the clip, which setup.sh fetches and makes.
pub fn missing_parts() -> Option<String> {
    let library = format!("runtime/lib/{}/libtensorflowlite_c.so", arch());
    let parts = [library.as_str(), "demo/clip.mp4", "demo/photos/dog.jpg", "models/coco.txt"];
    let missing: Vec<_> = parts.into_iter().filter(|p| !root().join(p).exists()).collect();
    (!missing.is_empty()).then(|| format!("no {}; run ./setup.sh --test", missing.join(", no ")))
}

/// What the spotter under test is made for.
pub fn arch() -> &'static str {
    if emulated() { "aarch64" } else { std::env::consts::ARCH }
}

pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// The ffmpeg of the Python package imageio-ffmpeg, which speaks enhanced RTMP.
pub fn new_ffmpeg() -> Option<PathBuf> {
    let pythons = std::fs::read_dir(root().join(".venv/lib")).ok()?.flatten();
    let folders = pythons.map(|p| p.path().join("site-packages/imageio_ffmpeg/binaries"));
    let files = folders.filter_map(|f| std::fs::read_dir(f).ok()).flatten().flatten();
    files
        .map(|f| f.path())
        .find(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ffmpeg")))
}

/// A child process that does not outlive the test.
pub struct Reaped(pub Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Reaped {
    pub fn start(command: &mut Command) -> Self {
        let child = command.spawn();
        Self(child.unwrap_or_else(|e| panic!("cannot start {command:?}: {e}")))
    }

    pub fn terminate(&self) {
        signal(self.0.id(), "TERM");
    }

    /// Waits for the end, at most so long.
    pub fn wait(&mut self, at_most: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + at_most;
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

pub fn signal(pid: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status();
    assert!(status.unwrap().success());
}

/// Starts spotter with this configuration; what it logs goes into `log`.
fn run(mut spotter: Command, config: &Path, log: &Arc<Mutex<Vec<String>>>) -> Reaped {
    let mut process = Reaped::start(
        spotter
            .args(["run", "--log", "info,spotter=debug", "--config"])
            .arg(config)
            .stderr(Stdio::piped()),
    );
    let lines = BufReader::new(process.0.stderr.take().unwrap()).lines();
    let kept = Arc::clone(log);
    std::thread::spawn(move || {
        lines.map_while(Result::ok).for_each(|l| kept.lock().unwrap().push(l))
    });
    process
}

/// A running service with every door on loopback and a state directory of its own.
pub struct Service {
    pub process: Reaped,
    pub rtmp: u16,
    pub websocket: u16,
    pub mqtt: u16,
    pub web: u16,
    pub dir: tempfile::TempDir,
    pub config: PathBuf,
    log: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Starts spotter with `extra` TOML after the doors' sections and waits until they answer. Sections that the doors
    /// use (ingest, mqtt, websocket, node) take their extra keys through `doors`.
    pub fn start(extra: &str) -> Self {
        Self::start_with(|_| extra.to_owned())
    }

    pub fn start_with(extra: impl FnOnce(&Path) -> String) -> Self {
        Self::start_by(spotter(), extra)
    }

    /// The same by a command that becomes spotter.
    pub fn start_by(spotter: Command, extra: impl FnOnce(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [rtmp, websocket, mqtt, web] = [(); 4].map(|()| free_port());
        let config = dir.path().join("spotter.toml");
        let extra = extra(dir.path());
        let mut text = format!(
            "node.name = \"test\"\nnode.state_dir = {:?}\ningest.listen = \"127.0.0.1:{rtmp}\"\n\
             websocket.listen = \"127.0.0.1:{websocket}\"\nmqtt.listen = \"127.0.0.1:{mqtt}\"\n\
             web.listen = \"127.0.0.1:{web}\"\n",
            dir.path().join("state")
        );
        text.push_str(&extra);
        std::fs::write(&config, text).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let process = run(spotter, &config, &log);
        let mut service = Self { process, rtmp, websocket, mqtt, web, dir, config, log };
        service.wait_for_doors();
        service
    }

    fn wait_for_doors(&mut self) {
        let patience = Duration::from_secs(if emulated() { 180 } else { 60 });
        let doors = [self.rtmp, self.websocket, self.mqtt, self.web];
        let answers = |p: &u16| std::net::TcpStream::connect(("127.0.0.1", *p)).is_ok();
        let until = Instant::now() + patience;
        while !doors.iter().all(answers) {
            let ended = self.process.0.try_wait().unwrap();
            assert!(ended.is_none(), "spotter ended: {ended:?}\n{}", self.log());
            assert!(Instant::now() < until, "spotter did not open its doors\n{}", self.log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends it in good order and starts it again on the same ports and state after `pause`.
    pub fn restart(&mut self, pause: Duration) {
        self.process.terminate();
        let status = self.process.wait(Duration::from_secs(20));
        assert!(status.is_some_and(|s| s.success()), "{status:?}\n{}", self.log());
        std::thread::sleep(pause);
        self.start_again();
    }

    /// Starts it anew on the same ports and state, however the last run ended.
    pub fn start_again(&mut self) {
        self.process = run(spotter(), &self.config, &self.log);
        self.wait_for_doors();
    }

    pub fn url(&self, stream: &str) -> String {
        format!("rtmp://127.0.0.1:{}/live/{stream}", self.rtmp)
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Ends the service as a service manager does; it must drain and end with 0.
    pub fn stop(mut self) {
        self.process.terminate();
        let status = self.process.wait(Duration::from_secs(if emulated() { 60 } else { 20 }));
        assert!(status.is_some_and(|s| s.success()), "{status:?}\n{}", self.log());
    }

    /// Peak resident memory in bytes (VmHWM).
    pub fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id()));
        let status = status.unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// A file system in memory in a directory's place.
pub struct Mounted(PathBuf);

impl Mounted {
    /// `None`, said out loud, where nothing can be mounted.
    pub fn new(at: &Path, options: &str) -> Option<Self> {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(at).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(at.to_owned())),
            Ok(output) => {
                skip(&format!(
                    "cannot mount a file system in memory: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                ));
                None
            }
            Err(e) => {
                skip(&format!("cannot mount a file system in memory: {e}"));
                None
            }
        }
    }

    pub fn make_read_only(&self) {
        let mount = Command::new("mount").args(["-o", "remount,ro"]).arg(&self.0).status();
        assert!(mount.unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
