//! `spotter setup` and `spotter url` as the image runs them: on cards that are full, read-only, or written by other systems. Cards
//! are file systems in memory here; skips, out loud, where they cannot be mounted.
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Mounted, skip, spotter};

/// Everything of one box.
struct Rig {
    dir: tempfile::TempDir,
}

const SECRET: &str = "hush hush hush";

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["card", "state"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, rest: &str) {
        let text = format!(
            "[box]\nhostname = \"barn\"\nwifi = [{{ name = \"home\", password = \"{SECRET}\" }}]\n[node]\nstate_dir = {:?}\n{rest}",
            self.path("state")
        );
        fs::write(self.path("card/spotter.toml"), text).unwrap();
    }

    /// Exit code and every word said.
    fn spotter(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = spotter().args(args).output().unwrap();
        let words =
            String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        (output.status.code(), words)
    }

    fn setup(&self) -> (Option<i32>, String) {
        let (card, to) = (self.path("card"), self.path("box"));
        let done = self.spotter(&[
            "setup",
            "--from",
            card.to_str().unwrap(),
            "--to",
            to.to_str().unwrap(),
        ]);
        assert!(!done.1.contains("hush"), "{}", done.1);
        done
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }
}

#[test]
fn a_card_is_taken_at_each_start_and_its_mistakes_are_written_back() {
    let rig = Rig::new();
    rig.put("[detect]\nrate_hz = 2.0\n");
    let (code, words) = rig.setup();
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(rig.read("box/hostname"), "barn\n");
    assert!(rig.read("box/wpa_supplicant.conf").contains("\tssid=686f6d65\n"));
    assert!(!rig.read("box/spotter.toml").contains("hush"));
    assert_eq!(rig.setup(), (Some(0), String::new()), "a second start has nothing to say");
    // What was taken is what the service is checked with.
    let (code, words) = rig.spotter(&["check", rig.path("box/spotter.toml").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");

    rig.put("[detect]\nrate_hz = \"fast\"\n");
    let (code, words) = rig.setup();
    assert_eq!(code, Some(78), "{words}");
    let problem = rig.read("card/spotter-problem.txt");
    assert!(problem.contains("Line 7:") && problem.contains("fast"), "{problem}");
    assert!(rig.read("box/spotter.toml").contains("rate_hz = 2.0"));
    rig.put("");
    assert_eq!(rig.setup().0, Some(0));
    assert!(!rig.path("card/spotter-problem.txt").exists());
}

#[test]
fn a_full_card_and_a_read_only_one_change_nothing_else() {
    let rig = Rig::new();
    rig.put("[detect]\nrate_hz = 2.0\n");
    assert_eq!(rig.setup().0, Some(0));
    let Some(card) = Mounted::new(&rig.path("card"), "size=16k") else { return };
    rig.put("[detect]\nspeed = 2.0\n");
    let filled = fs::write(rig.path("card/filler"), vec![0; 1 << 20]);
    assert!(filled.is_err(), "the card is full");
    let (code, words) = rig.setup();
    assert!(
        code == Some(78) && words.contains("cannot write spotter-problem.txt to the card"),
        "{words}"
    );
    assert!(!rig.path("card/spotter-problem.txt").exists(), "rather none than half of one");
    assert!(rig.read("box/spotter-problem.txt").contains("speed"));

    fs::remove_file(rig.path("card/filler")).unwrap();
    card.make_read_only();
    let (code, words) = rig.setup();
    assert!(
        code == Some(78) && words.contains("cannot write spotter-problem.txt to the card"),
        "{words}"
    );
    assert!(rig.read("box/spotter.toml").contains("rate_hz = 2.0"));
}

#[test]
fn a_full_box_keeps_what_it_has() {
    let rig = Rig::new();
    fs::create_dir(rig.path("box")).unwrap();
    let Some(_box) = Mounted::new(&rig.path("box"), "size=64k") else { return };
    rig.put("[detect]\nrate_hz = 2.0\n");
    assert_eq!(rig.setup().0, Some(0));
    let before = rig.read("box/spotter.toml");
    assert!(fs::write(rig.path("box/filler"), vec![0; 1 << 20]).is_err());
    rig.put(&format!("[detect]\nrate_hz = 3.0\n# {}\n", "long ".repeat(2000)));
    let (code, words) = rig.setup();
    assert!(code == Some(1) && words.contains("cannot write"), "{code:?} {words}");
    assert_eq!(rig.read("box/spotter.toml"), before);
    fs::remove_file(rig.path("box/filler")).unwrap();
    assert_eq!(rig.setup().0, Some(0));
    assert!(rig.read("box/spotter.toml").contains("rate_hz = 3.0"));
    let drafts: Vec<_> = fs::read_dir(rig.path("box"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("draft"))
        .collect();
    assert!(drafts.is_empty(), "{drafts:?}");
}

#[test]
fn the_addresses_are_shown_again() {
    let rig = Rig::new();
    rig.put("[web]\nlisten = \"0.0.0.0:8088\"\n");
    assert_eq!(rig.setup().0, Some(0));
    let (config, set_up) = (rig.path("box/spotter.toml"), rig.path("box"));
    let url = |more: &[&str]| {
        let common =
            ["url", "--config", config.to_str().unwrap(), "--set-up", set_up.to_str().unwrap()];
        rig.spotter(&[&common, more].concat())
    };
    // Before the service's first start there is no token, and none is made.
    let (code, words) = url(&[]);
    assert!(code == Some(69) && words.contains("start spotter once"), "{words}");
    assert!(!rig.path("state/tokens.toml").exists());
    let made = rig.spotter(&["token", "list", "--config", config.to_str().unwrap()]);
    assert_eq!(made.0, Some(0), "{}", made.1);
    let tokens = rig.read("state/tokens.toml");
    let token =
        tokens.lines().find_map(|l| l.strip_prefix("secret = \"")?.strip_suffix('"')).unwrap();

    let (code, words) = url(&[]);
    assert_eq!(code, Some(0), "{words}");
    assert!(words.contains(&format!(":8088/?token={token}")), "{words}");
    assert!(words.contains(&format!(":1935/live/stream?token={token}")), "{words}");
    let (_, issue) = url(&["--issue"]);
    assert!(issue.contains(&format!("http://\\4:8088/?token={token}")), "{issue}");
    assert!(issue.contains("barn.local"), "{issue}");

    let card = rig.path("card");
    let (code, words) = url(&["--card", card.to_str().unwrap()]);
    assert!(code == Some(0) && !words.contains(token), "{words}");
    let start = rig.read("card/spotter-start.txt");
    let passphrase = rig.read("box/ap-passphrase");
    assert!(start.contains(&format!("http://barn.local:8088/?token={token}\r\n")), "{start}");
    assert!(start.contains(passphrase.trim()) && !start.contains("hush"), "{start}");
    assert_eq!(
        url(&["--card", card.to_str().unwrap()]),
        (Some(0), String::new()),
        "nothing is written twice"
    );
    let (code, words) = url(&["--card", "/nowhere"]);
    assert!(code == Some(69) && !words.contains(token), "{words}");
}

/// wpa_supplicant itself reads what we wrote; a wire is enough for that.
#[test]
fn wpa_supplicant_understands_every_network() {
    if !support::on_path("wpa_supplicant") && !Path::new("/sbin/wpa_supplicant").exists() {
        return skip("no wpa_supplicant; run ./setup.sh --test");
    }
    let rig = Rig::new();
    let state = rig.path("state");
    // Everything that means something to somebody: TOML, shells, wpa_supplicant.
    fs::write(
        rig.path("card/spotter.toml"),
        format!(
            "[node]\nstate_dir = {state:?}\n[box]\nwifi_country = \"DE\"\nwifi = [\n{{ name = \"caf\u{e9} \\\"}}#1\", password = 'a\"}}#b \\x $(c)' }},\n\
             {{ name = \"open\" }},\n{{ name = \"hex\", password = \"{}\" }},\n{{ name = \"plain\", password = \"password\" }},\n]\n",
            "ab".repeat(32)
        ),
    )
    .unwrap();
    assert_eq!(rig.setup().0, Some(0));
    // Its sockets go where nobody else's are.
    let own = rig.read("box/wpa_supplicant.conf");
    let own = own.replace("/run/wpa_supplicant", rig.path("control").to_str().unwrap());
    fs::write(rig.path("own.conf"), own).unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut command = Command::new("timeout");
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).args([
        "2",
        "wpa_supplicant",
        "-D",
        "wired",
        "-i",
        "lo",
        "-dd",
        "-K",
        "-c",
    ]);
    let output = command.arg(rig.path("own.conf")).output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "id=0 ssid='caf\\xc3\\xa9 \\\"}#1'",
        "id=1 ssid='open'",
        "id=2 ssid='hex'",
        "id=3 ssid='plain'",
        "country='DE'",
    ] {
        assert!(words.contains(line), "no {line}: {words}");
    }
    for bad in ["Invalid", "invalid", "failed to parse", "unknown"] {
        assert!(!words.contains(bad), "{bad}: {words}");
    }
    // As a hexdump shows it.
    let password = "61 22 7d 23 62 20 5c 78 20 24 28 63 29";
    assert!(words.contains(password), "the password did not arrive: {words}");
}
