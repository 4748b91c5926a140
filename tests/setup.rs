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
        self.setup_with(&[])
    }

    fn setup_with(&self, more: &[&str]) -> (Option<i32>, String) {
        let (card, to) = (self.path("card"), self.path("box"));
        let args = ["setup", "--from", card.to_str().unwrap(), "--to", to.to_str().unwrap()];
        let done = self.spotter(&[&args, more].concat());
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
fn what_would_keep_the_service_from_starting_is_a_mistake_too() {
    let rig = Rig::new();
    rig.put("[detect]\nrate_hz = 2.0\n");
    assert_eq!(rig.setup().0, Some(0));
    let before = rig.read("box/spotter.toml");
    let state = rig.path("state");
    let writable = ["--writable", state.to_str().unwrap()];
    for (mistake, words) in [
        (
            "[detect]\nmodel = \"yolov4-tini-416\"\nbackend = \"auto\"\n",
            "Line 7: detect.model: no model \"yolov4-tini-416\"",
        ),
        (
            "[detect]\nmodel = \"yolov4-tini-416\"\nbackend = \"auto\"\n",
            "picodet-s-320, picodet-s-416, yolov4-tiny-416",
        ),
        (
            "[detect]\nanimals = [\"unicorn\"]\nbackend = \"auto\"\n",
            "Line 7: detect.animals: none of",
        ),
        (
            "[web]\nlisten = \"0.0.0.0:80\"\n",
            "Line 7: web.listen: 0.0.0.0:80 is a port that the service has no right to",
        ),
        (
            "[record]\ndir = \"/mnt/usb\"\n",
            "Line 7: record.dir: the service may not write to /mnt/usb",
        ),
        (
            "[detect]\nmodel = \u{201c}auto\u{201d}\n",
            "Line 7: model: \u{201c} and \u{201d} are quotation marks of typography",
        ),
    ] {
        let low = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
        if words.contains("no right") && low.is_ok_and(|port| port.trim() != "1024") {
            skip("here every port is everybody's");
            continue;
        }
        rig.put(mistake);
        let (code, said) = rig.setup_with(&writable);
        assert_eq!(code, Some(78), "{mistake}: {said}");
        let problem = rig.read("card/spotter-problem.txt");
        assert!(problem.contains(words) && problem.contains("spotter.toml.example"), "{problem}");
        assert_eq!(rig.read("box/spotter.toml"), before);
    }
    rig.put("[record]\ndir = \"on-the-card-s-disk\"\n");
    let (code, said) = rig.setup_with(&writable);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn files_of_the_card_reach_the_service() {
    use std::os::unix::fs::PermissionsExt;
    let rig = Rig::new();
    fs::write(rig.path("card/broker password.txt"), format!("{SECRET}\n")).unwrap();
    let url = rig.path("card/cloud-url");
    fs::write(&url, "rtmp://127.0.0.1/live/hush\n").unwrap();
    rig.put(&format!(
        "[mqtt]\npassword_file = \"broker password.txt\" # beside this\n[[relay]]\nname = \"cloud\"\nstream = \"s\"\nurl_file = {url:?}\n"
    ));
    let (code, said) = rig.setup();
    assert_eq!(code, Some(0), "{said}");
    let (copy, other) =
        (rig.path("box/from-card/mqtt.password_file"), rig.path("box/from-card/relay.0.url_file"));
    assert_eq!(fs::read_to_string(&copy).unwrap(), format!("{SECRET}\n"));
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(other.is_file());
    let taken = rig.read("box/spotter.toml");
    assert!(taken.contains(&format!("password_file = {copy:?} # beside this\n")), "{taken}");
    let (code, said) = rig.spotter(&["check", rig.path("box/spotter.toml").to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(rig.setup(), (Some(0), String::new()), "a second start has nothing to say");

    // A file of the same name with other words is taken at the next start.
    fs::write(rig.path("card/broker password.txt"), "other\n").unwrap();
    assert_eq!(rig.setup().0, Some(0));
    assert_eq!(fs::read_to_string(&copy).unwrap(), "other\n");

    // One that is missing is a mistake in the configuration, and changes nothing.
    fs::remove_file(rig.path("card/broker password.txt")).unwrap();
    assert_eq!(rig.setup().0, Some(78));
    let problem = rig.read("card/spotter-problem.txt");
    assert!(
        problem.contains(
            "Line 7: mqtt.password_file: broker password.txt: there is no such file on the card"
        ),
        "{problem}"
    );
    assert!(copy.is_file() && rig.read("box/spotter.toml") == taken);

    // What is named no longer is no longer kept; but what the box may go back to is.
    fs::write(rig.path("box/spotter.toml.good"), &taken).unwrap();
    rig.put("");
    assert_eq!(rig.setup().0, Some(0));
    assert!(copy.is_file() && other.is_file());
    fs::remove_file(rig.path("box/spotter.toml.good")).unwrap();
    assert_eq!(rig.setup().0, Some(0));
    assert!(!copy.exists() && !other.exists());
}

/// The image's script, with a systemd and a journal that say what is asked for here.
struct Rescue<'a> {
    rig: &'a Rig,
}

impl Rescue<'_> {
    fn new(rig: &Rig) -> Rescue<'_> {
        use std::os::unix::fs::PermissionsExt;
        fs::create_dir(rig.path("bin")).unwrap();
        let asked = rig.path("asked");
        for (name, script) in [
            ("systemctl", format!("echo \"$@\" >>{asked:?}\n")),
            ("journalctl", format!("[ \"$1\" = --sync ] || cat {:?}\n", rig.path("journal"))),
        ] {
            let file = rig.path("bin").join(name);
            fs::write(&file, format!("#!/bin/sh\n{script}")).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(
            rig.path("trial.sh"),
            "booted() { echo A; }\nread_trial() { trial_slot=$TRIAL; }\n",
        )
        .unwrap();
        fs::create_dir_all(rig.path("box")).unwrap();
        Rescue { rig }
    }

    /// What systemd was asked for since the last time.
    fn run(&self, args: &[&str], trial: &str) -> String {
        let script = support::root().join("board/image/rootfs/usr/lib/spotter-image/rescue");
        let path = format!("{}:{}", self.rig.path("bin").display(), std::env::var("PATH").unwrap());
        let output = Command::new("sh")
            .arg(script)
            .args(args)
            .env("PATH", path)
            .env("TRIAL", trial)
            .env("SPOTTER_BOX", self.rig.path("box"))
            .env("SPOTTER_CARD", self.rig.path("card"))
            .env("SPOTTER_RESCUED", self.rig.path("rescued"))
            .env("SPOTTER_TRIAL", self.rig.path("trial.sh"))
            .env("SPOTTER_WITH_CARD", "")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let asked = fs::read_to_string(self.rig.path("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.rig.path("asked"));
        asked
    }
}

#[test]
fn a_box_whose_service_ends_goes_back_to_what_was_good_once() {
    const RESTART: &str = "--no-block restart spotter.service";
    let rig = Rig::new();
    let rescue = Rescue::new(&rig);
    let journal = "spotter:   see it at http://127.0.0.1/?token=hush\n2026-11-26T08:00:00Z  INFO spotter: started\n\
        spotter: none of the stars is right\n";
    fs::write(rig.path("journal"), journal).unwrap();
    for (name, text) in [("spotter.toml", "bad"), ("spotter.toml.good", "good")] {
        fs::write(rig.path("box").join(name), text).unwrap();
    }
    // An update on trial is helped by what was good before it, and by nothing else: then it goes back as a whole.
    fs::rename(rig.path("box/spotter.toml.good"), rig.path("good")).unwrap();
    assert!(!rescue.run(&[], "A").contains(RESTART));
    assert!(
        rig.path("rescued/given-up").exists() && !rig.path("card/spotter-problem.txt").exists()
    );
    fs::remove_dir_all(rig.path("rescued")).unwrap();
    fs::rename(rig.path("good"), rig.path("box/spotter.toml.good")).unwrap();
    assert!(rescue.run(&[], "A").contains(RESTART));
    assert!(!rig.path("rescued/given-up").exists());
    fs::remove_dir_all(rig.path("rescued")).unwrap();
    fs::remove_file(rig.path("card/spotter-problem.txt")).unwrap();
    fs::write(rig.path("box/spotter.toml"), "bad").unwrap();
    fs::write(rig.path("box/spotter-problem.txt"), "There is a typo besides.\r\n").unwrap();
    let asked = rescue.run(&[], "B");
    assert!(asked.contains(RESTART), "{asked}");
    assert_eq!(rig.read("box/spotter.toml"), "good");
    let problem = rig.read("card/spotter-problem.txt");
    assert_eq!(problem, rig.read("box/spotter-problem.txt"));
    assert!(problem.contains("  none of") || problem.contains("none of the stars is right\r\n"));
    assert!(
        problem.ends_with("There is a typo besides.\r\n") && !problem.contains("hush"),
        "{problem}"
    );

    // It is not done twice: no loop.
    let asked = rescue.run(&[], "");
    assert!(!asked.contains(RESTART) && rig.path("rescued/given-up").exists(), "{asked}");
    // A set-up meanwhile takes the same configuration up again, and another is left alone.
    fs::write(rig.path("box/spotter.toml"), "bad").unwrap();
    rescue.run(&["again"], "");
    assert_eq!(rig.read("box/spotter.toml"), "good");
    fs::write(rig.path("box/spotter.toml"), "mended").unwrap();
    rescue.run(&["again"], "");
    assert_eq!(rig.read("box/spotter.toml"), "mended");

    // Where none was ever good, the defaults serve, under the box's name.
    fs::write(rig.path("box/hostname"), "barn\n").unwrap();
    fs::remove_dir_all(rig.path("rescued")).unwrap();
    fs::remove_file(rig.path("box/spotter.toml.good")).unwrap();
    assert!(rescue.run(&[], "").contains(RESTART));
    assert_eq!(rig.read("box/spotter.toml"), "[node]\nname = \"barn\"\n");
    // Where what was good once does not serve either, nothing is started again.
    fs::copy(rig.path("box/spotter.toml"), rig.path("box/spotter.toml.good")).unwrap();
    fs::remove_dir_all(rig.path("rescued")).unwrap();
    assert!(!rescue.run(&[], "").contains(RESTART));
    assert!(rig.read("card/spotter-problem.txt").contains("what is set in spotter.toml. It said"));
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
    // Where the machine is in no network there is no address to show.
    let shown = issue.contains(&format!("http://\\4:8088/?token={token}"));
    assert!(shown || issue.contains("is in no network yet"), "{issue}");
    let passphrase = rig.read("box/ap-passphrase");
    assert!(issue.contains(&format!("name barn, password {passphrase}")), "{issue}");
    assert!(issue.contains(&format!("http://10.42.0.1:8088/?token={token}\n")), "{issue}");

    let card = rig.path("card");
    let (code, words) = url(&["--card", card.to_str().unwrap()]);
    assert!(code == Some(0) && !words.contains(token), "{words}");
    let start = rig.read("card/spotter-start.txt");
    assert!(start.contains(&format!("http://10.42.0.1:8088/?token={token}\r\n")), "{start}");
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
