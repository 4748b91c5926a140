//! Finds, reads and merges the configuration: a file, then the environment over it, then a judgement of every value.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::{Config, Problem};
use crate::files;

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// `None`: no file was found and the defaults serve.
    pub file: Option<PathBuf>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// What the faults are in: a file, or the environment.
    pub place: String,
    pub faults: Vec<Fault>,
}

/// One fault, with its line where there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub line: Option<usize>,
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, fault) in self.faults.iter().enumerate() {
            let line = fault.line.map(|l| format!(":{l}")).unwrap_or_default();
            let end = if n + 1 < self.faults.len() { "\n" } else { "" };
            write!(f, "{}{line}: {}{end}", self.place, fault.message)?;
        }
        Ok(())
    }
}

/// The file to read: the one asked for, $SPOTTER_CONFIG, /etc/spotter/spotter.toml or ./spotter.toml, else none.
pub fn locate(asked: Option<&Path>) -> Option<PathBuf> {
    if let Some(asked) = asked {
        return Some(asked.to_owned());
    }
    if let Some(named) = std::env::var_os("SPOTTER_CONFIG").filter(|v| !v.is_empty()) {
        return Some(named.into());
    }
    ["/etc/spotter/spotter.toml", "spotter.toml"].iter().map(PathBuf::from).find(|p| p.exists())
}

/// Locates and reads the configuration, puts `SPOTTER__SECTION__KEY` variables over it and judges the result.
///
/// # Errors
/// Names file, line, key, value and remedy of everything that is wrong.
pub fn load(asked: Option<&Path>) -> Result<Loaded, ConfigError> {
    let file = locate(asked);
    let text = match &file {
        Some(path) => {
            let place = path.display().to_string();
            let bytes = read(path).map_err(|message| one(&place, message))?;
            decode(&bytes).map_err(|fault| ConfigError { place, faults: vec![fault] })?
        }
        None => String::new(),
    };
    let place = file.as_ref().map_or("defaults".to_owned(), |p| p.display().to_string());
    let env = std::env::vars().filter(|(k, _)| k.starts_with(ENV_PREFIX)).collect::<Vec<_>>();
    Ok(Loaded { config: merge(&place, &text, &env)?, file })
}

/// Nobody writes so long a configuration.
const MAX_BYTES: u64 = 1 << 20;

fn read(path: &Path) -> Result<Vec<u8>, String> {
    // What it links to is the file: an image keeps it on its data partition.
    let real = path.canonicalize();
    real.and_then(|real| files::read(&real, MAX_BYTES)).map_err(|e| match e.kind() {
        ErrorKind::InvalidInput => {
            "is a folder or a device: put a text file in its place".to_owned()
        }
        ErrorKind::FileTooLarge => format!("{e}: that is no configuration, make it shorter"),
        _ => format!("cannot read the file: {e}; check its path and rights"),
    })
}

/// The text of a file that any editor may have written, Windows' Notepad too.
pub fn decode(bytes: &[u8]) -> Result<String, Fault> {
    let whole = |message: &str| Fault { line: None, message: message.to_owned() };
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(whole(
            "is saved as UTF-16 (\"Unicode\"): save it again as UTF-8; in Notepad by Save as, Encoding: UTF-8",
        ));
    }
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    if bytes.starts_with(b"{\\rtf") {
        return Err(whole(
            "is saved as RTF, with fonts in it: save it again as plain text; in TextEdit by Format, Make Plain Text, in WordPad by Save as, Text Document",
        ));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        Ok(_) => Err(whole("is no text file: write it with a text editor, and save it as UTF-8")),
        Err(bad) => Err(Fault {
            line: Some(bytes[..bad.valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1),
            message: "holds a character that is not saved as UTF-8: save the file again as UTF-8; in Notepad by \
                Save as, Encoding: UTF-8"
                .to_owned(),
        }),
    }
}

/// Parses and judges one file's text, without the environment.
pub fn parse(place: &str, text: &str) -> Result<Config, ConfigError> {
    merge(place, text, &[])
}

const ENV_PREFIX: &str = "SPOTTER__";

/// What editors and telephones make of a plain quotation mark.
const TYPOGRAPHIC: [char; 8] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{201a}', '\u{ab}', '\u{bb}'];

/// The mistakes of those who do not know TOML, which the parser tells for those who do: text without quotation marks, or with
/// those of typography. A value may be secret: of text without quotation marks it is told only where nothing says that it is.
fn unquoted(text: &str, at: usize, said: &str) -> Option<String> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |n| n + 1);
    let line = text.get(start..)?.lines().next()?;
    let (before, rest) = line.split_at_checked(at - start)?;
    let key = before.trim_end().strip_suffix('=')?.trim_end();
    let key = key.rsplit(|c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c))).next()?;
    let key = if key.is_empty() { "it" } else { key };
    let marks: Vec<_> = rest.chars().filter(|c| TYPOGRAPHIC.contains(c)).take(2).collect();
    if rest.starts_with(TYPOGRAPHIC) {
        let shown = marks.iter().map(char::to_string).collect::<Vec<_>>().join(" and ");
        return Some(format!(
            "{key}: {shown} are quotation marks of typography: write plain ones, as in {key} = \"...\""
        ));
    }
    let value = rest.split([',', '}', ']', '#']).next()?.trim();
    if !said.starts_with("string values must be quoted") || value.is_empty() {
        return None;
    }
    let secret = ["password", "passphrase", "url", "token"].iter().any(|word| key.contains(word));
    let shown = if secret || value.len() > 60 { "..." } else { value };
    let what = if secret { "its value".to_owned() } else { format!("{value:.60}") };
    Some(format!(
        "{key}: {what} is text and stands without quotation marks: write {key} = \"{shown}\""
    ))
}

fn merge(place: &str, text: &str, env: &[(String, String)]) -> Result<Config, ConfigError> {
    let config: Config = toml::from_str(text).map_err(|e| {
        let line = e.span().map(|s| line_of(text, s.start));
        let message = e.span().and_then(|span| unquoted(text, span.start, e.message()));
        let message = message.unwrap_or_else(|| e.message().replace('\n', "; "));
        ConfigError { place: place.to_owned(), faults: vec![Fault { line, message }] }
    })?;
    let config = if env.is_empty() { config } else { over(text, env)? };
    let problems = config.validate();
    if problems.is_empty() {
        return Ok(config);
    }
    Err(ConfigError { place: place.to_owned(), faults: placed(text, problems) })
}

/// The problems of what stands in `text`, with their lines.
pub fn placed(text: &str, problems: Vec<Problem>) -> Vec<Fault> {
    let fault = |p: Problem| Fault {
        line: key_line(text, &p.key),
        message: format!("{}: {}", p.key, p.message),
    };
    problems.into_iter().map(fault).collect()
}

/// The file's table with the environment's values laid over it.
fn over(text: &str, env: &[(String, String)]) -> Result<Config, ConfigError> {
    let mut table: toml::Table = text.parse().map_err(|e| one("config", format!("{e}")))?;
    for (name, value) in env {
        let path: Vec<String> =
            name[ENV_PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        let Some((key, sections)) = path.split_last().filter(|(_, s)| !s.is_empty()) else {
            return Err(one(name, "name it SPOTTER__SECTION__KEY".to_owned()));
        };
        let mut at = &mut table;
        for section in sections {
            let next =
                at.entry(section.clone()).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            at = next
                .as_table_mut()
                .ok_or_else(|| one(name, format!("{section} is not a section")))?;
        }
        at.insert(key.clone(), env_value(value));
        // Each variable is tried by itself, so that the error can name it.
        Config::deserialize(table.clone())
            .map_err(|e| one(name, e.message().replace('\n', "; ")))?;
    }
    Config::deserialize(table).map_err(|e| one("environment", e.message().to_owned()))
}

/// A variable's text as TOML where it is TOML (numbers, booleans, arrays), else as the string it is.
fn env_value(text: &str) -> toml::Value {
    let parsed = format!("v = {text}").parse::<toml::Table>().ok();
    parsed.and_then(|mut t| t.remove("v")).unwrap_or_else(|| toml::Value::String(text.to_owned()))
}

fn one(place: &str, message: String) -> ConfigError {
    ConfigError { place: place.to_owned(), faults: vec![Fault { line: None, message }] }
}

/// 1-based.
fn line_of(text: &str, byte: usize) -> usize {
    text.as_bytes().iter().take(byte).filter(|b| **b == b'\n').count() + 1
}

/// The line a dotted key stands in, if the file has it.
fn key_line(text: &str, dotted: &str) -> Option<usize> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let (mut line, mut in_array) = (None, false);
    for part in dotted.split('.') {
        // `name[n]`: the n-th of an array.
        let (part, nth) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
            Some((part, n)) => (part, n.parse::<usize>().ok()),
            None => (part, None),
        };
        let Some((key, value)) = table.iter().find(|(k, _)| k.get_ref() == part) else {
            // A key that an entry lacks is missed where the entry is.
            return line.filter(|_| in_array);
        };
        line = Some(line_of(text, key.span().start));
        let value = match (value.get_ref(), nth) {
            (DeValue::Array(all), Some(n)) => {
                let entry = all.get(n)?;
                line = Some(line_of(text, entry.span().start));
                in_array = true;
                Some(entry.get_ref())
            }
            (value, _) => Some(value),
        };
        match value {
            Some(DeValue::Table(inner)) => table = inner,
            _ => break,
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<Fault> {
        parse("f.toml", text).unwrap_err().faults
    }

    #[test]
    fn nothing_at_all_is_a_working_configuration() {
        assert_eq!(parse("f", "").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let f = faults("[detect]\nrate_hz = 5.0\nspeed = 3\n");
        assert_eq!(f[0].line, Some(3));
        assert!(f[0].message.contains("speed") && f[0].message.contains("rate_hz"), "{f:?}");
    }

    #[test]
    fn a_bad_value_is_refused_with_key_value_and_remedy() {
        let f = faults("[detect]\n\nrate_hz = -5.0\n[ingest]\nmax_streams = 0\n");
        assert_eq!(f.iter().map(|f| f.line).collect::<Vec<_>>(), [Some(5), Some(3)]);
        assert!(f[1].message.contains("detect.rate_hz") && f[1].message.contains("-5"), "{f:?}");
    }

    #[test]
    fn the_environment_goes_over_the_file() {
        let env = [
            ("SPOTTER__DETECT__RATE_HZ".to_owned(), "4.5".to_owned()),
            ("SPOTTER__NODE__NAME".to_owned(), "barn".to_owned()),
            ("SPOTTER__INGEST__LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("SPOTTER__DETECT__ANIMALS".to_owned(), "[\"dog\"]".to_owned()),
        ];
        let c = merge("f", "[detect]\nrate_hz = 1.0\nthreads = 2\n", &env).unwrap();
        assert_eq!((c.detect.rate_hz, c.detect.threads), (4.5, 2));
        assert_eq!((c.node.name.as_str(), c.ingest.listen.port()), ("barn", 0));
        assert_eq!(c.detect.animals, ["dog"]);
    }

    #[test]
    fn text_without_plain_quotation_marks_is_named() {
        for (line, words) in [
            (
                "name = \u{201c}garden\u{201d}",
                "name: \u{201c} and \u{201d} are quotation marks of typography: write plain ones, as in name = \"...\"",
            ),
            ("name = \u{2018}garden\u{2019}", "are quotation marks of typography"),
            (
                "name = garden",
                "name: garden is text and stands without quotation marks: write name = \"garden\"",
            ),
            ("name = garden # the box", "write name = \"garden\""),
            ("mqtt.password_file = hush", "password_file: its value is text"),
        ] {
            let f = faults(&format!("[node]\n{line}\n"));
            assert!(f[0].line == Some(2) && f[0].message.contains(words), "{line}: {f:?}");
            assert!(!f[0].message.contains("hush"), "{f:?}");
        }
        let f = faults("[box]\nwifi = [{ name = \"home\", password = hush }]\n");
        assert!(
            f[0].message.starts_with("password: its value") && !f[0].message.contains("hush"),
            "{f:?}"
        );
        assert!(decode(b"{\\rtf1\\ansi [node]}").unwrap_err().message.contains("RTF"));
    }

    #[test]
    fn a_bad_variable_is_named() {
        let env = [("SPOTTER__DETECT__SPEED".to_owned(), "1".to_owned())];
        let e = merge("f", "", &env).unwrap_err();
        assert_eq!(e.place, "SPOTTER__DETECT__SPEED");
    }
}
