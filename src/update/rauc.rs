//! The program `rauc`: what it is asked, and what its answers mean (RAUC 1.8 to 1.15).

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use serde::Deserialize;
use serde_json::Value;

use super::{Slot, System};

/// More than it ever says.
const MAX_ANSWER: u64 = 1 << 20;
const MAX_WORDS: u64 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum RaucError {
    #[error("there is no program rauc: {0}", super::INSTEAD)]
    Absent,
    #[error("cannot run rauc: {0}")]
    Run(io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("rauc said what is not understood: {0}")]
    Words(String),
}

impl From<io::Error> for RaucError {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::NotFound { Self::Absent } else { Self::Run(e) }
    }
}

/// What a bundle says of itself, once its signature is found right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Info {
    pub(super) compatible: String,
    #[serde(default)]
    pub(super) version: String,
}

/// Looks into a bundle; a signature that is not trusted is an error.
pub(super) fn info(bundle: &Path) -> Result<Info, RaucError> {
    let answer = ask(&["info", "--output-format=json"], Some(bundle))?;
    serde_json::from_slice(&answer).map_err(|e| RaucError::Words(e.to_string()))
}

pub(super) fn status() -> Result<System, RaucError> {
    let answer = ask(&["status", "--detailed", "--output-format=json"], None)?;
    let all = serde_json::from_slice(&answer).map_err(|e| RaucError::Words(e.to_string()))?;
    Ok(system(&all))
}

/// Its slots are an array of objects of one key each.
fn system(all: &Value) -> System {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let given = |v: &Value| v.as_str().filter(|t| !t.is_empty()).map(str::to_owned);
    let named =
        all["slots"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten();
    let mut slots: Vec<Slot> = named
        .map(|(name, slot)| Slot {
            name: name.clone(),
            bootname: text(&slot["bootname"]),
            state: text(&slot["state"]),
            boot_status: given(&slot["boot_status"]),
            version: given(&slot["slot_status"]["bundle"]["version"]),
        })
        .collect();
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    let booted = slots.iter().find(|s| s.state == "booted");
    System {
        version: booted.and_then(|s| s.version.clone()).unwrap_or_default(),
        compatible: text(&all["compatible"]),
        booted: booted.map_or_else(|| text(&all["booted"]), |s| s.bootname.clone()),
        slots,
        last_update: None,
    }
}

/// Installs a bundle; `told` hears percent and step as they come.
pub(super) fn install(bundle: &Path, mut told: impl FnMut(u8, &str)) -> Result<(), RaucError> {
    let (mut child, complaints) = start(&["install"], Some(bundle))?;
    let mut error = None;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout.take(MAX_ANSWER)).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            match read(&line) {
                Said::Progress(percent, step) => told(percent, step),
                Said::Error(why) => error = Some(why.to_owned()),
                Said::Nothing => {}
            }
        }
    }
    let complaints = complaints.join().unwrap_or_default();
    match child.wait()?.success() {
        true => Ok(()),
        false => Err(RaucError::Refused(explain(&error.unwrap_or(complaints)))),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Said<'a> {
    Progress(u8, &'a str),
    Error(&'a str),
    Nothing,
}

/// One line of `rauc install`: ` 40% Verifying signature done.` or `LastError: ...`.
fn read(line: &str) -> Said<'_> {
    if let Some(why) = line.trim().strip_prefix("LastError:").map(str::trim)
        && !why.is_empty()
    {
        return Said::Error(why);
    }
    match line.trim().split_once("% ") {
        Some((percent, step)) => match percent.parse::<u8>() {
            Ok(percent @ 0..=100) => Said::Progress(percent, step.trim()),
            _ => Said::Nothing,
        },
        None => Said::Nothing,
    }
}

fn ask(args: &[&str], file: Option<&Path>) -> Result<Vec<u8>, RaucError> {
    let (mut child, complaints) = start(args, file)?;
    let mut answer = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER).read_to_end(&mut answer)?;
    }
    let complaints = complaints.join().unwrap_or_default();
    match child.wait()?.success() {
        true => Ok(answer),
        false => Err(RaucError::Refused(explain(&complaints))),
    }
}

/// Runs it, with a thread that waits for what it will have complained of.
fn start(args: &[&str], file: Option<&Path>) -> io::Result<(Child, JoinHandle<String>)> {
    let mut child = Command::new("rauc")
        .args(args)
        .args(file)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stderr = child.stderr.take();
    Ok((child, std::thread::spawn(move || words(stderr))))
}

/// The last thing said that is no message of progress; the pipe is read to its end so that nobody waits.
fn words(from: Option<impl Read>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut text = Vec::new();
    let _ = (&mut from).take(MAX_WORDS).read_to_end(&mut text);
    let _ = io::copy(&mut from, &mut io::sink());
    let text = String::from_utf8_lossy(&text);
    let telling = |line: &&str| !line.trim().is_empty() && !line.starts_with("rauc-Message");
    text.lines().rev().find(telling).unwrap_or("rauc gave no reason").trim().to_owned()
}

/// RAUC's reason with what to do about it.
fn explain(why: &str) -> String {
    let small = why.to_lowercase();
    let is = |words: &[&str]| words.iter().any(|w| small.contains(w));
    let remedy = if is(&["signature verification failed", "verify error", "failed to load keyring"])
    {
        "it is not signed by whom this box trusts: take a bundle of your spotter's maker"
    } else if is(&[
        "signature size",
        "invalid bundle format",
        "failed to seek",
        "not a rauc bundle",
    ]) {
        "it is no bundle, or was cut short: fetch it again"
    } else if is(&["compatible"]) {
        "it is for another board: take the bundle for this one"
    } else if is(&["no space left"]) {
        "there is no room for it: delete recordings"
    } else if is(&["already processing", "busy"]) {
        "another update is under way: wait for it"
    } else if is(&["d-bus", "dbus", "error creating proxy"]) {
        "rauc's service does not run: start rauc.service"
    } else {
        "nothing was changed: the box goes on with what it has"
    };
    format!("{why}; {remedy}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn its_lines_are_read() {
        assert_eq!(
            read(" 40% Verifying signature done."),
            Said::Progress(40, "Verifying signature done.")
        );
        assert_eq!(read("100% Installing failed."), Said::Progress(100, "Installing failed."));
        assert_eq!(read("LastError: no room"), Said::Error("no room"));
        for none in ["installing", "", "LastError: ", "400% x", "-1% x", "idle"] {
            assert_eq!(read(none), Said::Nothing, "{none}");
        }
    }

    #[test]
    fn its_status_is_read_as_1_8_and_as_1_13_say_it() {
        // As RAUC 1.8 of Debian 12 printed it.
        let old = json!({"compatible":"spotter-generic-arm64","variant":"","booted":"A","boot_primary":null,"slots":[
            {"rootfs.1":{"class":"rootfs","device":"/x/slot1","type":"raw","bootname":"B","state":"inactive","parent":null,
             "mountpoint":null,"boot_status":"bad","slot_status":{"bundle":{"compatible":null}}}},
            {"rootfs.0":{"class":"rootfs","device":"/x/slot0","type":"raw","bootname":"A","state":"booted","parent":null,
             "mountpoint":null,"boot_status":"good","slot_status":{"bundle":{"compatible":"c","version":"1.1.0"}}}}]});
        let system = system(&old);
        assert_eq!((&*system.version, &*system.booted), ("1.1.0", "A"));
        assert_eq!(
            system.slots.iter().map(|s| &*s.name).collect::<Vec<_>>(),
            ["rootfs.0", "rootfs.1"]
        );
        assert_eq!(system.slots[1].version, None);
        assert_eq!(super::system(&json!({"slots": [3, {"a": 1}], "compatible": 7})).slots.len(), 1);
    }

    #[test]
    fn reasons_come_with_a_remedy() {
        for (why, remedy) in [
            ("signature verification failed: Verify error: self-signed certificate", "not signed"),
            (
                "Invalid bundle format: Signature size (17386394902438310049) exceeds bundle size",
                "cut short",
            ),
            ("Compatible mismatch: Expected 'a' but bundle manifest has 'b'", "another board"),
            ("something else", "nothing was changed"),
        ] {
            let text = explain(why);
            assert!(text.starts_with(why) && text.contains(remedy), "{text}");
        }
    }
}
