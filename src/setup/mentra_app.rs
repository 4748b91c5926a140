//! The card's `mentra-app.env`: what the app for MentraOS is told, a `NAME=value` a line. It is judged here, where a mistake can
//! still be written back to the card; the app itself is a program of its own, and nothing of it is started here. Pure.

use std::fmt::Write as _;

use crate::config::Fault;

enum Value {
    Text,
    /// From here to there.
    Whole(u32, u32),
    /// Begins with one of these.
    Url(&'static [&'static str]),
    /// Part of a web address that nobody may guess.
    Key,
}

const STREAMS: &[&str] = &["rtmp://", "rtmps://", "srt://", "http://", "https://"];

/// What mentra-app/src/config.ts reads, but DATA_DIR, which the image has a place for. Ports below 1024 are not for it.
const VARIABLES: [(&str, Value); 12] = [
    ("PACKAGE_NAME", Value::Text),
    ("MENTRAOS_API_KEY", Value::Text),
    ("PORT", Value::Whole(1024, 65_535)),
    ("BOX_URL", Value::Url(&["http://", "https://"])),
    ("BOX_TOKEN", Value::Text),
    ("STREAM_URL", Value::Url(STREAMS)),
    ("SSE_PORT", Value::Whole(1024, 65_535)),
    ("SSE_HOST", Value::Text),
    ("STATUS_TOKEN", Value::Text),
    ("WEBHOOK_KEY", Value::Key),
    ("CLOUD_HOSTS", Value::Text),
    ("MAX_WEARERS", Value::Whole(1, 1000)),
];
/// Without these there is no app.
const NEEDED: [(&str, &str); 2] = [
    ("PACKAGE_NAME", "give the app's package name as in the MentraOS console"),
    ("MENTRAOS_API_KEY", "give the app's API key from the MentraOS console"),
];
const OF_THIS_MACHINE: [&str; 3] = ["127.0.0.1", "::1", "localhost"];

/// The same for systemd, which hands it to the app; `None` where nothing is set, which is how the app is switched off.
///
/// # Errors
/// Everything that is wrong, without any value: most of them are secret.
pub(super) fn judge(text: &str) -> Result<Option<String>, Vec<Fault>> {
    let mut faults = Vec::new();
    let mut given: Vec<(&str, &str)> = Vec::new();
    for (n, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match variable(line) {
            Ok((name, _)) if given.iter().any(|(other, _)| *other == name) => {
                faults.push(at(n, format!("{name} is there twice: leave one out")));
            }
            Ok(pair) => given.push(pair),
            Err(message) => faults.push(at(n, message)),
        }
    }
    given.retain(|(_, value)| !value.is_empty());
    if given.is_empty() && faults.is_empty() {
        return Ok(None);
    }
    let value = |name: &str| given.iter().find(|(n, _)| *n == name).map(|(_, value)| *value);
    for (name, remedy) in NEEDED {
        // One whose line is wrong is told of above.
        let wrong = faults.iter().any(|f| f.message.starts_with(&format!("{name} ")));
        if value(name).is_none() && !wrong {
            faults.push(Fault { line: None, message: format!("{name} is not set: {remedy}") });
        }
    }
    let opened = value("SSE_HOST").is_some_and(|host| !OF_THIS_MACHINE.contains(&host));
    if opened && value("STATUS_TOKEN").is_none() {
        let message =
            "SSE_HOST opens the status to other machines: give a STATUS_TOKEN that they must show";
        faults.push(Fault { line: None, message: message.into() });
    }
    if faults.is_empty() { Ok(Some(environment(&given))) } else { Err(faults) }
}

fn at(line: usize, message: String) -> Fault {
    Fault { line: Some(line), message }
}

/// Name and value of a line; an empty value is one that is left out.
fn variable(line: &str) -> Result<(&str, &str), String> {
    let Some((name, value)) = line.split_once('=') else {
        return Err(
            "is no NAME=value: write it like PORT=3000, and a # before what is a remark".into()
        );
    };
    let (name, value) = (name.trim_end(), value.trim_start());
    let Some((name, kind)) = VARIABLES.iter().find(|(known, _)| *known == name) else {
        let known = VARIABLES.map(|(name, _)| name).join(", ");
        // What is no name may be half of a secret.
        let legal =
            name.len() <= 40 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let name = if legal { format!("{name:?}") } else { "of that name".into() };
        return Err(format!("there is no variable {name}: there are {known}"));
    };
    let quoted = ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q));
    let value = quoted.unwrap_or(value);
    if !value.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\'') {
        return Err(format!(
            "{name} holds a space, a quotation mark or a letter that has no place there: write the value alone; a remark has a line of its own"
        ));
    }
    if value.is_empty() {
        return Ok((name, value));
    }
    match kind {
        Value::Text => Ok(()),
        Value::Whole(low, high) => match value.parse::<u32>() {
            Ok(n) if (*low..=*high).contains(&n) => Ok(()),
            _ => Err(format!("{name} is to be a whole number from {low} to {high}")),
        },
        Value::Url(schemes) => match schemes.iter().find_map(|scheme| value.strip_prefix(scheme)) {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(()),
            _ => {
                Err(format!("{name} is to be an address that begins with {}", schemes.join(" or ")))
            }
        },
        Value::Key => {
            let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
            match (16..=128).contains(&value.len()) && value.bytes().all(legal) {
                true => Ok(()),
                false => Err(format!("{name} is to have 16 to 128 letters, digits, - or _")),
            }
        }
    }?;
    Ok((name, value))
}

/// In the form of systemd's EnvironmentFile=.
fn environment(given: &[(&str, &str)]) -> String {
    let mut text = String::from(
        "# Made by `spotter setup` from the card's mentra-app.env: changes are lost.\n",
    );
    for (name, value) in given {
        let value = value.replace('\\', "\\\\").replace('$', "\\$").replace('`', "\\`");
        let _ = writeln!(text, "{name}=\"{value}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: &str = "PACKAGE_NAME=com.example.spotter\nMENTRAOS_API_KEY=hush\n";

    fn told(text: &str) -> String {
        let faults = judge(text).unwrap_err();
        faults.iter().map(|f| format!("{:?} {}\n", f.line, f.message)).collect()
    }

    #[test]
    fn keys_are_taken_as_people_write_them() {
        let text = "# keys\r\n\r\n PACKAGE_NAME = com.example.spotter \r\nMENTRAOS_API_KEY='a$b`c\\d'\r\nPORT=\"3001\"\r\nBOX_URL=\r\n";
        let taken = judge(text).unwrap().unwrap();
        let (_, lines) = taken.split_once('\n').unwrap();
        assert_eq!(
            lines,
            "PACKAGE_NAME=\"com.example.spotter\"\nMENTRAOS_API_KEY=\"a\\$b\\`c\\\\d\"\nPORT=\"3001\"\n"
        );
    }

    #[test]
    fn nothing_set_is_no_app() {
        for text in ["", "# nothing\n", "PACKAGE_NAME=\nMENTRAOS_API_KEY=\"\"\n"] {
            assert_eq!(judge(text), Ok(None), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_named_and_no_value_with_it() {
        for (line, words) in [
            ("PORT 3000", "is no NAME=value"),
            ("hush-hush=x", "no variable of that name"),
            (
                "DATA_DIR=/hush",
                "no variable \"DATA_DIR\": there are PACKAGE_NAME, MENTRAOS_API_KEY, PORT",
            ),
            ("export PORT=3001", "no variable of that name"),
            ("PORT=80", "from 1024 to 65535"),
            ("PORT=3000 # hush", "a remark has a line of its own"),
            ("BOX_TOKEN=\"hush", "quotation mark"),
            ("BOX_TOKEN=h\u{fc}sh", "letter that has no place"),
            ("BOX_URL=hush.local", "begins with http://"),
            ("STREAM_URL=rtmp:///hush", "begins with rtmp://"),
            ("WEBHOOK_KEY=hush", "16 to 128"),
            ("PACKAGE_NAME=a", "twice"),
        ] {
            let told = told(&format!("{KEYS}{line}\n"));
            assert!(told.starts_with("Some(3) ") && told.contains(words), "{line}: {told}");
            assert!(!told.contains("hush"), "{told}");
            assert_eq!(told.lines().count(), 1, "{told}");
        }
        assert_eq!(
            told("PORT=3000\n"),
            "None PACKAGE_NAME is not set: give the app's package name as in the MentraOS console\n\
             None MENTRAOS_API_KEY is not set: give the app's API key from the MentraOS console\n"
        );
        assert!(told(&format!("{KEYS}SSE_HOST=0.0.0.0\n")).contains("give a STATUS_TOKEN"));
        assert!(judge(&format!("{KEYS}SSE_HOST=0.0.0.0\nSTATUS_TOKEN=x\n")).is_ok());
        assert!(!told("PACKAGE_NAME=\"a\nMENTRAOS_API_KEY=b\n").contains("not set"));
    }

    #[test]
    fn the_example_and_the_app_know_the_same_variables() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let example = std::fs::read_to_string(root.join("docs/mentra-app.env")).unwrap();
        assert_eq!(judge(&example), Ok(None), "off as it lies on the card");
        let filled = example
            .replace("PACKAGE_NAME=", "PACKAGE_NAME=a")
            .replace("MENTRAOS_API_KEY=", "MENTRAOS_API_KEY=b");
        assert!(judge(&filled).unwrap().is_some());
        let every: String = filled
            .lines()
            .map(|line| line.strip_prefix('#').filter(|l| !l.starts_with(' ')).unwrap_or(line))
            .map(|line| format!("{line}\n"))
            .collect();
        let taken = judge(&every).unwrap().unwrap();

        let source = std::fs::read_to_string(root.join("mentra-app/src/config.ts")).unwrap();
        let calls = ["value(\"", "must(\"", "whole(\"", "url(\""];
        let mut read: Vec<&str> = calls
            .iter()
            .flat_map(|call| source.split(call).skip(1))
            .filter_map(|rest| rest.split('"').next())
            .filter(|name| *name != "DATA_DIR")
            .collect();
        read.sort_unstable();
        read.dedup();
        let mut known = VARIABLES.map(|(name, _)| name);
        known.sort_unstable();
        assert_eq!(read, known);
        for name in known {
            assert!(
                taken.contains(&format!("\n{name}=\"")),
                "{name} is not in docs/mentra-app.env"
            );
        }
    }
}
