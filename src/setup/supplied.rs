//! Files that lie on the card beside `spotter.toml` and are named in it: a password, certificates, a relay's address. The service
//! may not read the card, so they are copied to where it may, and its configuration names the copies. It judges nothing of what
//! is in them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{CONFIG, system};
use crate::config::Fault;
use crate::files::{self, Replaced};

/// Where the copies are, in the directory that is set up.
pub(super) const DIR: &str = "from-card";
/// More than a chain of certificates has.
const MAX_BYTES: u64 = 64 << 10;

/// Keys that name a file; a `*` is each of an array.
const KEYS: [&[&str]; 11] = [
    &["mqtt", "password_file"],
    &["mqtt", "ca_file"],
    &["mqtt", "client_cert_file"],
    &["mqtt", "client_key_file"],
    &["mqtt", "tls", "certificate"],
    &["mqtt", "tls", "key"],
    &["ingest", "tls", "certificate"],
    &["ingest", "tls", "key"],
    &["relay", "*", "url_file"],
    &["relay", "*", "ca_file"],
    &["update", "ca_file"],
];

/// A path in a configuration's text.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    /// As in "relay.0.url_file"; what the copy is called, too.
    key: String,
    /// Of the value with its quotation marks.
    span: Range<usize>,
    path: String,
}

/// A file of the card that the configuration names.
#[derive(Debug)]
pub(super) struct Supplied {
    key: String,
    span: Range<usize>,
    on_card: PathBuf,
    bytes: Vec<u8>,
}

/// The files of the card that `text` names, or what is wrong with them. A path that leads elsewhere is left as it is.
pub(super) fn find(text: &str, card: &Path) -> Result<Vec<Supplied>, Vec<Fault>> {
    let (mut found, mut faults) = (Vec::new(), Vec::new());
    for Named { key, span, path } in named(text) {
        let Some(on_card) = on_card(&path, card) else { continue };
        match on_card.and_then(|on_card| Ok((read(&on_card)?, on_card))) {
            Ok((bytes, on_card)) => found.push(Supplied { key, span, on_card, bytes }),
            Err(why) => {
                let line = text[..span.start].bytes().filter(|b| *b == b'\n').count() + 1;
                faults.push(Fault { line: Some(line), message: format!("{key}: {path}: {why}") });
            }
        }
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// The text with the files' places on the card, to be judged by.
pub(super) fn as_on_card(text: &str, files: &[Supplied]) -> String {
    rewritten(text, files, |file| file.on_card.clone())
}

/// The text with the places of the copies.
pub(super) fn as_copied(text: &str, files: &[Supplied], to: &Path) -> String {
    rewritten(text, files, |file| to.join(DIR).join(&file.key))
}

/// Makes the copies, for the service's group to read.
pub(super) fn copy(files: &[Supplied], to: &Path) -> Vec<(PathBuf, io::Result<Replaced>)> {
    let dir = to.join(DIR);
    if !files.is_empty()
        && let Err(e) = system::make_dir(&dir, 0o750)
    {
        return vec![(dir, Err(e))];
    }
    let copy = |file: &Supplied| {
        let path = dir.join(&file.key);
        let done = files::replace(&path, &file.bytes, 0o640);
        (path, done)
    };
    files.iter().map(copy).collect()
}

/// Takes copies away that none of these configurations names any more: some are secrets.
pub(super) fn prune(to: &Path, configurations: &[String]) {
    let dir = to.join(DIR);
    let all = configurations.iter().flat_map(|text| named(text));
    let named: BTreeSet<_> = all.map(|named| PathBuf::from(named.path)).collect();
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        if !named.contains(&entry.path()) {
            let _ = files::remove(&entry.path());
        }
    }
}

/// Every path of `KEYS` in the text, in the text's order.
fn named(text: &str) -> Vec<Named> {
    fn walk(
        value: &DeValue<'_>,
        span: Range<usize>,
        way: &[&str],
        key: String,
        out: &mut Vec<Named>,
    ) {
        match (value, way) {
            (DeValue::String(path), []) if !path.is_empty() => {
                out.push(Named { key, span, path: path.to_string() });
            }
            (DeValue::Table(table), [name, rest @ ..]) => {
                if let Some((_, value)) = table.iter().find(|(k, _)| k.get_ref() == name) {
                    walk(value.get_ref(), value.span(), rest, format!("{key}.{name}"), out);
                }
            }
            (DeValue::Array(all), ["*", rest @ ..]) => {
                for (n, value) in all.iter().enumerate() {
                    walk(value.get_ref(), value.span(), rest, format!("{key}.{n}"), out);
                }
            }
            _ => {}
        }
    }
    let Ok(root) = DeTable::parse(text) else { return Vec::new() };
    let mut out = Vec::new();
    for way in KEYS {
        let [section, way @ ..] = way else { continue };
        if let Some((_, value)) = root.get_ref().iter().find(|(k, _)| k.get_ref() == section) {
            walk(value.get_ref(), value.span(), way, (*section).to_owned(), &mut out);
        }
    }
    out.sort_by_key(|named| named.span.start);
    out
}

/// Where this path is on the card; `None` where it leads elsewhere, which is the owner's business.
fn on_card(path: &str, card: &Path) -> Option<Result<PathBuf, String>> {
    let path = Path::new(path);
    let inside = match path.is_absolute() {
        true => path.strip_prefix(card).ok()?,
        false => path,
    };
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    Some(match inside.components().all(plain) {
        true => Ok(card.join(inside)),
        false => Err("does not lie on the card: copy it there, and give its name".into()),
    })
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    files::read(file, MAX_BYTES).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            format!(
                "there is no such file on the card: put it beside {CONFIG}, or correct the name"
            )
        }
        ErrorKind::InvalidInput => "is no file: put a file of this name on the card".into(),
        ErrorKind::FileTooLarge => format!("{e}: that is no password, address or certificate"),
        _ => format!("cannot be read: {e}; copy it to the card again"),
    })
}

fn rewritten(text: &str, files: &[Supplied], place: impl Fn(&Supplied) -> PathBuf) -> String {
    let mut out = text.to_owned();
    // They are in the text's order: from its end on, so that what is before stays where it was.
    for file in files.iter().rev() {
        let path = toml::Value::String(place(file).display().to_string()).to_string();
        out.replace_range(file.span.clone(), &path);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_configuration_that_names_a_file_is_known() {
        // Those of the machine itself, or of the software on it, are no card's.
        let others = ["state_dir", "model_dir", "library", "dir", "board_file", "run_dir"];
        let doc = include_str!("../../docs/spotter.toml").replace("# url_file", "url_file");
        let all: toml::Table = doc
            .replace("# [[relay]]", "[[relay]]")
            .replace("# ca_file", "ca_file")
            .parse()
            .unwrap();
        fn paths(at: &str, value: &toml::Value, out: &mut Vec<String>) {
            match value {
                toml::Value::Table(table) => {
                    table.iter().for_each(|(key, value)| paths(&format!("{at}.{key}"), value, out));
                }
                toml::Value::Array(all) => {
                    all.iter().for_each(|value| paths(&format!("{at}.*"), value, out))
                }
                toml::Value::String(_) => out.push(at.trim_start_matches('.').to_owned()),
                _ => {}
            }
        }
        let mut found = Vec::new();
        paths("", &toml::Value::Table(all), &mut found);
        let file = |key: &&String| {
            let last = key.rsplit('.').next().unwrap();
            !others.contains(&last)
                && (last.ends_with("_file") || ["certificate", "key"].contains(&last))
        };
        let mut found: Vec<_> = found.iter().filter(file).cloned().collect();
        let mut known: Vec<_> = KEYS.iter().map(|way| way.join(".")).collect();
        found.sort();
        known.sort();
        assert_eq!(found, known);
    }

    #[test]
    fn names_and_paths_of_the_card_are_found_and_others_left() {
        let dir = tempfile::tempdir().unwrap();
        let card = dir.path();
        fs::create_dir(card.join("certs")).unwrap();
        for name in ["secret.txt", "certs/ca.pem", "url"] {
            fs::write(card.join(name), name).unwrap();
        }
        let text = format!(
            "mqtt.password_file = 'secret.txt' # c\n[[relay]]\nurl_file = {:?}\n[[relay]]\nurl_file = \"/etc/other\"\nca_file = \"\"\n[ingest]\ntls = {{ certificate = \"./certs/ca.pem\" }}\n",
            card.join("url")
        );
        let files = find(&text, card).unwrap();
        let keys: Vec<_> = files.iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys, ["mqtt.password_file", "relay.0.url_file", "ingest.tls.certificate"]);
        let copied = as_copied(&text, &files, Path::new("/box"));
        assert_eq!(copied.lines().count(), text.lines().count());
        let meant: toml::Table = copied.parse().unwrap();
        assert_eq!(
            meant["mqtt"]["password_file"].as_str(),
            Some("/box/from-card/mqtt.password_file")
        );
        assert_eq!(meant["relay"][1]["url_file"].as_str(), Some("/etc/other"));
        assert!(copied.contains("mqtt.password_file\" # c\n"), "{copied}");
    }

    #[test]
    fn what_cannot_be_taken_is_told_with_line_and_remedy() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("folder")).unwrap();
        fs::write(dir.path().join("huge"), vec![b'x'; 65 << 10]).unwrap();
        for (path, words) in [
            ("gone", "no such file on the card"),
            ("folder", "is no file"),
            ("huge", "more than 65536 bytes"),
            ("../etc/shadow", "does not lie on the card"),
        ] {
            let faults = find(&format!("[mqtt]\nca_file = {path:?}\n"), dir.path()).unwrap_err();
            assert!(faults[0].line == Some(2) && faults[0].message.contains(words), "{faults:?}");
        }
    }
}
