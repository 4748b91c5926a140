//! mDNS with another's resolver (python-zeroconf) in a network of two machines, which Linux' network namespaces make. Skips, out
//! loud, where they cannot be made.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Reaped, on_path, root, skip, spotter};

const SOON: Duration = Duration::from_secs(90);
const KINDS: [&str; 5] =
    ["_spotter._tcp", "_rtmp._tcp", "_mqtt._tcp", "_secure-mqtt._tcp", "_http._tcp"];

/// Two machines with a cable between them: 10.77.0.1 and 10.77.0.2.
struct Network {
    names: [String; 2],
}

impl Network {
    fn new() -> Result<Self, String> {
        if !on_path("ip") {
            return Err("no program ip; run ./setup.sh --test".into());
        }
        static NETWORKS: AtomicU32 = AtomicU32::new(0);
        let n = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let names = ["a", "b"].map(|end| format!("spotter-{}-{n}{end}", std::process::id()));
        let network = Self { names };
        let [a, b] = &network.names;
        for name in [a, b] {
            ip(&format!("netns add {name}"))?;
            ip(&format!("-n {name} link set lo up"))?;
        }
        ip(&format!("-n {a} link add cable type veth peer name cable netns {b}"))?;
        for (name, address) in [(a, "10.77.0.1"), (b, "10.77.0.2")] {
            ip(&format!("-n {name} addr add {address}/24 dev cable"))?;
            ip(&format!("-n {name} link set cable up"))?;
            ip(&format!("-n {name} route add default dev cable"))?;
        }
        Ok(network)
    }

    fn inside(&self, at: usize, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.names[at]]).arg(command.get_program());
        inside.args(command.get_args()).current_dir(root());
        inside
    }

    fn spotter(&self, at: usize, dir: &Path) -> Spotter {
        let config = dir.join("spotter.toml");
        let state = dir.join("state");
        let (certificate, key) = (dir.join("own.pem"), dir.join("own.key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-subj", "/CN=barn-1.local", "-out"]);
        openssl.arg(&certificate).arg("-keyout").arg(&key).stderr(Stdio::null());
        assert!(openssl.status().unwrap().success());
        fs::write(
            &config,
            format!(
                "[node]\nname = \"barn_1\"\nstate_dir = {state:?}\n[detect]\nbackend = \"fake\"\n\
                 [mqtt.tls]\ncertificate = {certificate:?}\nkey = {key:?}\n"
            ),
        )
        .unwrap();
        let mut command = spotter();
        command.arg("run").arg("--config").arg(&config);
        let log = dir.join("log");
        let out = fs::File::create(&log).unwrap();
        let process = Reaped::start(self.inside(at, &command).stdout(Stdio::null()).stderr(out));
        Spotter { process, log, state }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&format!("netns del {name}"));
        }
    }
}

struct Spotter {
    process: Reaped,
    log: PathBuf,
    state: PathBuf,
}

impl Spotter {
    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

fn ip(args: &str) -> Result<(), String> {
    let output = Command::new("ip").args(args.split(' ')).output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("ip {args}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// What the other machine hears.
struct Heard {
    _process: Reaped,
    lines: Receiver<String>,
    all: Vec<String>,
}

impl Heard {
    fn begin(network: &Network) -> Self {
        let mut python = Command::new(root().join(".venv/bin/python"));
        python.args(["tests/announce_listener.py", "10.77.0.2", "barn-1.local."]);
        let mut process = Reaped::start(network.inside(1, &python).stdout(Stdio::piped()));
        let out = BufReader::new(process.0.stdout.take().unwrap());
        let (tx, lines) = sync_channel(1000);
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|l| tx.send(l)));
        Self { _process: process, lines, all: Vec::new() }
    }

    /// The first message from now on that is wanted.
    fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + SOON;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line =
                line.unwrap_or_else(|e| panic!("{what} was not heard ({e}): {:#?}", self.all));
            let message: Value = serde_json::from_str(&line).unwrap();
            self.all.push(line);
            if wanted(&message) {
                return message;
            }
        }
    }
}

#[test]
fn a_box_that_gets_its_address_later_tells_that_one() {
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => return skip(&why),
    };
    let a = &network.names[0];
    ip(&format!("-n {a} addr del 10.77.0.1/24 dev cable")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let box_ = network.spotter(0, dir.path());
    let address = || {
        let mut curl = Command::new("curl");
        curl.args(["-s", "http://127.0.0.1:8080/api/v1/status"]);
        let said = network.inside(0, &curl).output().unwrap().stdout;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        said["addresses"]["rtmp"].as_str().unwrap_or_default().to_owned()
    };
    let until = |wanted: &str| {
        let end = Instant::now() + SOON;
        while address() != wanted {
            assert!(Instant::now() < end, "{wanted} is not told: {}\n{}", address(), box_.log());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    until("127.0.0.1:1935");
    ip(&format!("-n {a} addr add 10.77.0.1/24 dev cable")).unwrap();
    ip(&format!("-n {a} route replace default dev cable")).unwrap();
    until("10.77.0.1:1935");
}

#[test]
fn another_machine_finds_the_box_and_hears_it_go() {
    let probe =
        Command::new(root().join(".venv/bin/python")).args(["-c", "import zeroconf"]).output();
    if !probe.is_ok_and(|p| p.status.success()) {
        return skip("no zeroconf in .venv; run ./setup.sh --test");
    }
    if !on_path("openssl") {
        return skip("no openssl; run ./setup.sh --test");
    }
    let network = match Network::new() {
        Ok(network) => network,
        Err(why) => return skip(&format!("no network namespaces here: {why}")),
    };
    let mut heard = Heard::begin(&network);
    let dir = tempfile::tempdir().unwrap();
    let mut it = network.spotter(0, dir.path());

    let mut missing: Vec<_> = KINDS.into();
    let mut own = Value::Null;
    while !missing.is_empty() {
        let found = heard.until(&format!("{missing:?}"), |m| m["what"] == "added");
        let kind = found["kind"].as_str().unwrap();
        assert_eq!(found["name"], format!("barn_1.{kind}"), "{found}");
        assert_eq!(found["server"], "barn-1.local.", "{found}");
        assert!(found["addresses"].to_string().contains("10.77.0.1"), "{found}");
        assert!(!found["addresses"].to_string().contains("127.0.0.1"), "{found}");
        missing.retain(|k| *k != kind.trim_end_matches(".local."));
        if kind.starts_with("_spotter") {
            own = found;
        }
    }
    assert_eq!(own["port"], 8080);
    let properties = &own["properties"];
    assert_eq!(properties["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&properties["rtmp"], &properties["ws"]), (&"1935".into(), &"8765".into()));
    assert_eq!(
        (&properties["mqtts"], &properties["stream"]),
        (&"8883".into(), &"/live/stream".into())
    );
    heard.until("the host's name", |m| {
        m["what"] == "host" && m["addresses"].to_string().contains("10.77.0.1")
    });

    // Another address, as a router gives one.
    ip(&format!("-n {} addr add 10.77.0.9/24 dev cable", network.names[0])).unwrap();
    heard.until("the new address", |m| m["addresses"].to_string().contains("10.77.0.9"));

    // A second box of the same name gives way, and says so.
    let other_dir = tempfile::tempdir().unwrap();
    let second = network.spotter(1, other_dir.path());
    let end = Instant::now() + SOON;
    while !second.log().contains("another machine in the network has this name") {
        assert!(Instant::now() < end, "the second box did not give way: {}", second.log());
        std::thread::sleep(Duration::from_millis(200));
    }
    drop(second);
    assert!(!it.log().contains("another machine"), "who was first keeps its name: {}", it.log());

    // It says goodbye, so that nobody waits for its records to grow old.
    let log_before = it.log();
    it.process.terminate();
    heard.until("the goodbye", |m| {
        m["what"] == "removed" && m["name"] == "barn_1._spotter._tcp.local."
    });
    assert!(it.process.wait(SOON).is_some_and(|s| s.success()), "{}", it.log());

    let tokens = fs::read_to_string(it.state.join("tokens.toml")).unwrap();
    let token =
        tokens.lines().find_map(|l| l.strip_prefix("secret = \"")).unwrap().trim_end_matches('"');
    assert!(token.len() > 20 && log_before.contains("first start"));
    assert!(heard.all.iter().all(|line| !line.contains(token)));
}
