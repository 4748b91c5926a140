//! First start: takes the card's `spotter.toml`, judges it as `spotter check` does, and lays down plain files that the
//! image's parts read; and the card's `mentra-app.env`, for the app that an image may carry. It runs as root, before the
//! service, and changes nothing of the running system itself.
//!
//! A file that is bad or absent changes nothing: what was taken last stays. Every file is replaced whole, so that a power
//! cut leaves the old one or the new one, and only when it differs, so that a start writes nothing.

mod card; // what lies on the card
mod mask; // a configuration without its Wi-Fi passwords
mod mentra_app; // what the app for MentraOS is told
mod networks; // Wi-Fi networks chosen on the card and on the page
mod supplied; // files of the card that the configuration names
mod system; // what the image's parts read

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::app::foresee::{self, Facts, Rights};
use crate::app::state;
use crate::config::{self, Config, Fault};
use crate::files::{self, Replaced};
use card::{Card, Kind, Refused};
use supplied::Supplied;

pub use card::PROBLEM;
pub use networks::{CHOSEN, ChooseError, choose, chosen};
pub use system::{AP_PASSPHRASE, HOST_NAME, host_name};

/// Where a box keeps what it was set up with.
pub const SET_UP: &str = "/var/lib/spotter-box";
/// The configuration, in the directory that is set up.
pub const CONFIG: &str = "spotter.toml";
/// A copy of that with which the service became ready last; the image keeps it, and goes back to it.
const LAST_GOOD: &str = "spotter.toml.good";
/// The networks of the card, with their passwords.
const CARD_NETWORKS: &str = "card-wifi.toml";

/// What the app for MentraOS is told, in the directory that is set up: there is no app without it.
pub const APP_ENVIRONMENT: &str = "mentra-app.env";

const CONFIG_ON_CARD: Kind = Kind {
    names: [CONFIG, "spotter.toml.txt"],
    explained: "Every setting is explained in spotter.toml.example on this card, and in docs/spotter.toml of the project.",
};
const APP_ON_CARD: Kind = Kind {
    names: [APP_ENVIRONMENT, "mentra-app.env.txt"],
    explained: "Every variable is explained in docs/glasses.md of the project.",
};

/// More than a configuration may have.
const MAX_BYTES: u64 = 1 << 20;

/// How a set-up went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What changed and what was noticed, one line each; never a secret.
    pub said: Vec<String>,
    /// What could not be written.
    pub failed: Vec<String>,
    /// A file on the card is bad: what was before is in force.
    pub refused: bool,
}

impl Outcome {
    fn wrote(&mut self, what: &Path, done: io::Result<Replaced>) {
        match done {
            Ok(Replaced::Written) => self.said.push(format!("wrote {}", what.display())),
            Ok(Replaced::AsItWas) => {}
            Err(e) => self.failed.push(format!("cannot write {}: {e}", what.display())),
        }
    }

    fn failed(&mut self, what: &str, error: impl Display) {
        self.failed.push(format!("{what}: {error}"));
    }
}

/// Sets the box up in `to` from what is in `card`, for a service with these rights.
pub fn run(card: &Path, to: &Path, rights: &Rights) -> Outcome {
    let mut outcome = Outcome::default();
    if let Err(e) = system::make_dir(to, 0o755) {
        outcome.failed(&format!("cannot make {}", to.display()), e);
        return outcome;
    }
    let mut refused = Vec::new();
    refused.extend(take(card, to, rights, &mut outcome));
    refused.extend(take_app(card, to, &mut outcome));
    outcome.refused = !refused.is_empty();
    tell(card, to, card::problem(&refused).as_deref(), &mut outcome);
    let Some(config) = in_force(to) else {
        let file = to.join(CONFIG);
        outcome
            .failed(&file.display().to_string(), "cannot be read; what it led to stays as it is");
        return outcome;
    };
    let (name, state_dir) = name(&config, &mut outcome);
    let mut networks = networks::read(&to.join(CARD_NETWORKS), &mut outcome.said);
    if let Some(dir) = &state_dir {
        networks.add(networks::read(&dir.join(CHOSEN), &mut outcome.said));
    }
    for (file, done) in system::lay_down(to, &config, &name, &networks) {
        outcome.wrote(&file, done);
    }
    outcome
}

/// The text of a file of the card, judged: what it means, `None` where there is none, or what is wrong with it.
fn judged<T>(
    card: &Path,
    kind: &Kind,
    judge: impl FnOnce(&str, &str) -> Result<T, Vec<Fault>>,
) -> Result<Option<(String, T)>, Refused> {
    let (name, done) = match card::read(card, kind) {
        Card::Absent => return Ok(None),
        Card::Unreadable { name, fault } => (name, Err(vec![fault])),
        Card::Text { name, text } => (name, judge(name, &text).map(|meant| (text, meant))),
    };
    done.map(Some).map_err(|faults| Refused { name, explained: kind.explained, faults })
}

/// A configuration with the files of the card that it names, judged as `spotter check` does and by what the service may do.
fn judge(
    card: &Path,
    rights: &Rights,
    name: &str,
    text: &str,
) -> Result<(Config, Vec<Supplied>), Vec<Fault>> {
    let supplied = supplied::find(text, card)?;
    let on_card = supplied::as_on_card(text, &supplied);
    let config = config::parse(name, &on_card).map_err(|bad| bad.faults)?;
    let problems = foresee::judge(&config, &Facts::of(&config), rights);
    match problems.is_empty() {
        true => Ok((config, supplied)),
        false => Err(config::placed(text, problems)),
    }
}

/// Takes the card's configuration over, or says what is wrong with it.
fn take(card: &Path, to: &Path, rights: &Rights, outcome: &mut Outcome) -> Option<Refused> {
    let judge = |name: &str, text: &str| judge(card, rights, name, text);
    let (text, (config, supplied)) = match judged(card, &CONFIG_ON_CARD, judge) {
        Ok(taken) => taken?,
        Err(refused) => return Some(refused),
    };
    let mut copied = true;
    for (file, done) in supplied::copy(&supplied, to) {
        copied &= done.is_ok();
        outcome.wrote(&file, done);
    }
    if !copied {
        return None;
    }
    // The networks first: what is masked below must be written somewhere before.
    let networks = networks::of(&config.machine);
    let file = to.join(CARD_NETWORKS);
    let kept = networks.write(&file);
    let safe = kept.is_ok();
    outcome.wrote(&file, kept);
    if safe {
        let file = to.join(CONFIG);
        let taken = mask::masked(&supplied::as_copied(&text, &supplied, to));
        outcome.wrote(&file, files::replace(&file, taken.as_bytes(), 0o640));
        let read = |name: &str| files::read(&to.join(name), MAX_BYTES).ok();
        let kept = [CONFIG, LAST_GOOD].into_iter().filter_map(read);
        let kept: Vec<_> = kept.filter_map(|bytes| String::from_utf8(bytes).ok()).collect();
        supplied::prune(to, &kept);
    }
    None
}

/// Takes over what the app for MentraOS is told, or says what is wrong with it. A file that tells it nothing switches it off.
fn take_app(card: &Path, to: &Path, outcome: &mut Outcome) -> Option<Refused> {
    match judged(card, &APP_ON_CARD, |_, text| mentra_app::judge(text)) {
        Ok(None) => {}
        Ok(Some((_, environment))) => {
            let file = to.join(APP_ENVIRONMENT);
            let done = match environment {
                Some(text) => files::replace(&file, text.as_bytes(), 0o600),
                None => files::remove(&file),
            };
            outcome.wrote(&file, done);
        }
        Err(refused) => return Some(refused),
    }
    None
}

/// Says what is wrong beside the card's files and in `to`, or takes it back.
fn tell(card: &Path, to: &Path, problem: Option<&str>, outcome: &mut Outcome) {
    let ours = to.join(PROBLEM);
    match problem {
        Some(text) => {
            outcome.wrote(&ours, files::replace(&ours, text.as_bytes(), 0o644));
            outcome.said.push(format!("not all of the card is taken: see {}", ours.display()));
        }
        None => outcome.wrote(&ours, files::remove(&ours)),
    }
    // A card that is full, read-only or gone is no fault of the box.
    match card::tell(card, problem) {
        Ok(Replaced::Written) => outcome.said.push(format!("{PROBLEM} on the card is up to date")),
        Ok(Replaced::AsItWas) => {}
        Err(e) => outcome.said.push(format!("cannot write {PROBLEM} to the card: {e}")),
    }
}

/// What of the configuration taken now or last is the box's own; the defaults where nothing was ever taken. It was judged then
/// and is not judged again: a file that another section names may be gone since, and that must lock nobody out.
fn in_force(to: &Path) -> Option<Config> {
    #[derive(Deserialize)]
    struct Own {
        #[serde(default)]
        node: config::Node,
        #[serde(default, rename = "box")]
        machine: config::Machine,
    }
    let file = to.join(CONFIG);
    let text = match files::read(&file, MAX_BYTES) {
        Ok(bytes) => config::decode(&bytes).ok()?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(_) => return None,
    };
    let own: Own = toml::from_str(&text).ok()?;
    Some(Config { node: own.node, machine: own.machine, ..Config::default() })
}

/// The box's name, made of the board's own number at its first start; and the state directory.
fn name(config: &Config, outcome: &mut Outcome) -> (String, Option<PathBuf>) {
    let made = state::stable_name(Path::new("/"));
    let named = state::dir(config)
        .and_then(|dir| Ok((state::node_name_or(config, &dir, made.as_deref())?, Some(dir))));
    named.unwrap_or_else(|e| {
        outcome.failed("no state directory", e);
        (made.unwrap_or_else(|| "spotter".into()), None)
    })
}

/// What is wrong with the card's files, as it was written beside the configuration in force.
pub fn problem_beside(config: Option<&Path>) -> Option<String> {
    let file = match config {
        // A link that leads to nothing: nothing good was there ever.
        Some(config) => {
            config.canonicalize().unwrap_or_else(|_| config.into()).with_file_name(PROBLEM)
        }
        // Nothing good was there ever.
        None => Path::new(SET_UP).join(PROBLEM),
    };
    let text = String::from_utf8(files::read(&file, 64 << 10).ok()?).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ3sQmVwq6y0Zb0n5o3G1iZ8n8q0c0c0c0c0c0c0c0c0 me@laptop";

    struct Rig {
        dir: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("card")).unwrap();
            Self { dir }
        }

        fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
            fs::write(self.dir.path().join("card").join(name), bytes).unwrap();
        }

        fn with_state(&self, rest: &str) -> String {
            format!("[node]\nstate_dir = {:?}\n{rest}", self.dir.path().join("state"))
        }

        fn run(&self) -> Outcome {
            run(&self.dir.path().join("card"), &self.to(), &Rights::default())
        }

        fn to(&self) -> PathBuf {
            self.dir.path().join("box")
        }

        fn read(&self, name: &str) -> Option<String> {
            fs::read_to_string(self.to().join(name)).ok()
        }

        fn problem(&self) -> Option<String> {
            let on_card = fs::read_to_string(self.dir.path().join("card").join(PROBLEM)).ok();
            assert_eq!(on_card, self.read(PROBLEM));
            on_card
        }
    }

    #[test]
    fn a_card_is_taken_and_a_second_start_writes_nothing() {
        let rig = Rig::new();
        let text = rig.with_state(
            "[box]\nhostname = \"barn\"\nwifi_country = \"DE\"\ntime_zone = \"\"\n\
             wifi = [{ name = \"home\", password = \"hush \\\" hush\" }]\n[detect]\nrate_hz = 2.0\n",
        );
        rig.put("spotter.toml", format!("\u{feff}{}", text.replace('\n', "\r\n")));
        let first = rig.run();
        assert!(!first.refused && first.failed.is_empty(), "{first:?}");
        let taken = rig.read(CONFIG).unwrap();
        assert!(taken.contains("rate_hz = 2.0") && !taken.contains("hush"), "{taken}");
        assert_eq!(config::parse("f", &taken).unwrap().detect.rate_hz, 2.0);
        assert_eq!(rig.read("hostname").unwrap(), "barn\n");
        let wpa = rig.read("wpa_supplicant.conf").unwrap();
        assert!(
            wpa.contains("\\x68\\x75\\x73\\x68\\x20\\x22") && wpa.contains("ssid=686f6d65"),
            "{wpa}"
        );
        for (name, mode) in
            [("wpa_supplicant.conf", 0o600), (CARD_NETWORKS, 0o600), (CONFIG, 0o640)]
        {
            let meta = fs::metadata(rig.to().join(name)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o777, mode, "{name}");
        }
        assert!(!format!("{first:?}").contains("hush"));
        assert_eq!(rig.problem(), None);
        let second = rig.run();
        assert!(second.said.is_empty() && second.failed.is_empty(), "{second:?}");
    }

    #[test]
    fn a_mistake_is_written_back_and_what_was_before_stays() {
        let rig = Rig::new();
        let good = rig.with_state("[detect]\nrate_hz = 3.0\n[box]\nwifi = [{ name = \"home\", password = \"hush hush\" }]\n");
        rig.put("spotter.toml", &good);
        rig.run();
        let (config, wpa) = (rig.read(CONFIG), rig.read("wpa_supplicant.conf"));
        rig.put("spotter.toml", good.replace("rate_hz", "rate_herz"));
        assert!(rig.run().refused);
        let problem = rig.problem().unwrap();
        assert!(problem.contains("Line 4") && problem.contains("rate_herz"), "{problem}");
        assert!(problem.contains("\r\n"));
        assert_eq!((rig.read(CONFIG), rig.read("wpa_supplicant.conf")), (config, wpa));
        let told = problem_beside(Some(&rig.to().join(CONFIG))).unwrap();
        assert!(told.contains("rate_herz"), "{told}");
        // Nor does what another section names lock anybody out when it is gone.
        let named = rig.dir.path().join("ca.pem");
        fs::write(&named, "x").unwrap();
        let with_keys = format!("{good}ssh_keys = [\"{KEY}\"]\n[mqtt]\nca_file = {named:?}\n");
        rig.put("spotter.toml", &with_keys);
        assert!(!rig.run().refused);
        fs::remove_file(&named).unwrap();
        let outcome = rig.run();
        assert!(outcome.refused && outcome.failed.is_empty(), "{outcome:?}");
        assert_eq!(rig.read("authorized_keys").unwrap(), format!("{KEY}\n"));
        rig.put("spotter.toml", good.replace("rate_hz", "rate_herz"));
        rig.run();
        // Again: nothing is written.
        assert!(rig.run().said.iter().all(|s| !s.contains("wrote")));
        rig.put("spotter.toml", &good);
        assert!(!rig.run().refused);
        assert_eq!(rig.problem(), None);
        assert_eq!(problem_beside(Some(&rig.to().join(CONFIG))), None);
    }

    #[test]
    fn whatever_an_editor_makes_is_named() {
        let rig = Rig::new();
        let utf16: Vec<u8> = [0xfeff]
            .into_iter()
            .chain("[node]\n".encode_utf16())
            .flat_map(u16::to_le_bytes)
            .collect();
        let huge = vec![b'#'; 2 << 20];
        let cases: [(&[u8], &str); 5] = [
            (&utf16, "UTF-16"),
            (&huge, "shorter"),
            (b"[box]\n# caf\xe9\n", "Line 2"),
            (b"\0\0\0\0", "text editor"),
            (b"[detect\nrate_hz = 3\n", "Line 1"),
        ];
        for (bytes, words) in cases {
            rig.put("spotter.toml", bytes);
            assert!(rig.run().refused);
            let problem = rig.problem().unwrap();
            assert!(
                problem.contains(words) && problem.contains("spotter.toml"),
                "{words}: {problem}"
            );
        }
        fs::remove_file(rig.dir.path().join("card/spotter.toml")).unwrap();
        fs::create_dir(rig.dir.path().join("card/spotter.toml")).unwrap();
        assert!(rig.run().refused);
        assert!(rig.problem().unwrap().contains("folder"));
    }

    #[test]
    fn the_app_s_keys_are_taken_for_root_alone_and_switched_off_by_an_empty_file() {
        let rig = Rig::new();
        rig.put("spotter.toml", rig.with_state("[detect]\nrate_hz = 2.0\n"));
        rig.run();
        assert_eq!(rig.read(APP_ENVIRONMENT), None);
        rig.put(
            "mentra-app.env.txt",
            "\u{feff}PACKAGE_NAME=com.example.spotter\r\nMENTRAOS_API_KEY=hush\r\n",
        );
        let first = rig.run();
        assert!(!first.refused && first.failed.is_empty(), "{first:?}");
        assert!(!format!("{first:?}").contains("hush"));
        let taken = rig.read(APP_ENVIRONMENT).unwrap();
        assert!(taken.ends_with("MENTRAOS_API_KEY=\"hush\"\n"), "{taken}");
        let meta = fs::metadata(rig.to().join(APP_ENVIRONMENT)).unwrap();
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert!(rig.run().said.is_empty());

        // Mistakes in both files are told at once, and each leaves the other alone.
        rig.put("mentra-app.env", "PACKAGE_NAME=com.example.spotter\nKEY=hush\n");
        let outcome = rig.run();
        assert!(outcome.refused && outcome.failed.is_empty(), "{outcome:?}");
        let problem = rig.problem().unwrap();
        for words in [
            "did not take mentra-app.env:",
            "Line 2",
            "MENTRAOS_API_KEY is not set",
            "docs/glasses.md",
        ] {
            assert!(problem.contains(words), "{words}: {problem}");
        }
        assert!(!problem.contains("hush") && !problem.contains("spotter.toml"), "{problem}");
        rig.put("spotter.toml", rig.with_state("[detect]\nrate_herz = 2.0\n"));
        rig.run();
        let problem = rig.problem().unwrap();
        assert!(problem.contains("rate_herz") && problem.contains("Line 2"), "{problem}");
        assert_eq!(rig.read(APP_ENVIRONMENT), Some(taken.clone()));
        fs::remove_file(rig.dir.path().join("card/mentra-app.env")).unwrap();
        fs::remove_file(rig.dir.path().join("card/mentra-app.env.txt")).unwrap();
        rig.run();
        assert_eq!(rig.read(APP_ENVIRONMENT), Some(taken), "no file changes nothing");
        rig.put("mentra-app.env", "# nothing\n");
        rig.run();
        assert_eq!(rig.read(APP_ENVIRONMENT), None);
    }

    #[test]
    fn notepad_s_second_ending_is_taken_too() {
        let rig = Rig::new();
        rig.put("spotter.toml.txt", rig.with_state("name = \"barn\"\n"));
        assert!(!rig.run().refused);
        assert_eq!(rig.read("hostname").unwrap(), "barn\n");
    }

    #[test]
    fn a_card_that_is_not_there_is_no_mistake() {
        let rig = Rig::new();
        rig.put("spotter.toml", rig.with_state("name = \"barn\"\n"));
        rig.run();
        let outcome = run(&rig.dir.path().join("nowhere"), &rig.to(), &Rights::default());
        assert!(!outcome.refused && outcome.failed.is_empty(), "{outcome:?}");
        assert_eq!(rig.read("hostname").unwrap(), "barn\n");
    }

    #[test]
    fn networks_of_the_page_join_those_of_the_card() {
        let rig = Rig::new();
        rig.put(
            "spotter.toml",
            rig.with_state("[box]\nwifi = [{ name = \"home\", password = \"hush hush\" }]\n"),
        );
        rig.run();
        let state = rig.dir.path().join("state");
        let network =
            config::Network { name: "barn".into(), password: config::Password::new("other words") };
        choose(&state, network).unwrap();
        rig.run();
        let wpa = rig.read("wpa_supplicant.conf").unwrap();
        assert!(wpa.contains("\\x68\\x75\\x73") && wpa.contains("\\x6f\\x74\\x68"), "{wpa}");
        assert_eq!(rig.read("networks").unwrap(), "2\n");
        // What a broken service might leave there reaches no file of root's.
        fs::write(state.join(CHOSEN), "[[wifi]]\nname = \"a\\nb\"\npassword = \"x\"\n").unwrap();
        let outcome = rig.run();
        assert!(
            outcome.failed.is_empty() && !format!("{outcome:?}").contains("hush"),
            "{outcome:?}"
        );
        assert_eq!(rig.read("networks").unwrap(), "1\n");
    }
}
