//! What lies on the card's FAT partition: the owner's one text file, and beside it what is wrong with it. It judges
//! nothing.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::MAX_BYTES;
use crate::config::{self, Fault};
use crate::files::{self, Replaced};

/// Where a mistake is written back to.
pub const PROBLEM: &str = "spotter-problem.txt";
/// As it should be called, and as Notepad calls it where Windows hides the endings of names.
const NAMES: [&str; 2] = ["spotter.toml", "spotter.toml.txt"];

pub(super) enum Card {
    Absent,
    Text { name: String, text: String },
    Unreadable { name: String, fault: Fault },
}

pub(super) fn read(dir: &Path) -> Card {
    for name in NAMES {
        let unreadable = |message: String| Card::Unreadable {
            name: name.to_owned(),
            fault: Fault { line: None, message },
        };
        return match files::read(&dir.join(name), MAX_BYTES) {
            Ok(bytes) => match config::decode(&bytes) {
                Ok(text) => Card::Text { name: name.to_owned(), text },
                Err(fault) => Card::Unreadable { name: name.to_owned(), fault },
            },
            Err(e) => match e.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => continue,
                ErrorKind::InvalidInput => unreadable(
                    "is a folder: delete it, and save a text file of this name in its place".into(),
                ),
                ErrorKind::FileTooLarge => {
                    unreadable(format!("{e}: that is no configuration, make it shorter"))
                }
                _ => unreadable(format!(
                    "cannot be read: {e}; copy it to the card again, or flash the card anew"
                )),
            },
        };
    }
    Card::Absent
}

/// Lines end as Notepad wants them.
pub(super) fn problem(name: &str, faults: &[Fault]) -> String {
    let mut lines = vec![
        format!(
            "spotter did not take {name}: there is a mistake in it. The box goes on with what it had before."
        ),
        String::new(),
    ];
    for fault in faults {
        let place = fault.line.map_or_else(|| name.to_owned(), |line| format!("Line {line}"));
        lines.push(format!("  {place}: {}", fault.message));
    }
    lines.push(String::new());
    lines.push(format!(
        "Correct it, save {name}, put the card back and start the box. This file goes away by itself when all is well."
    ));
    lines.push("Every setting is explained in docs/spotter.toml of the project.".into());
    lines.iter().map(|line| format!("{line}\r\n")).collect()
}

/// Writes the problem beside the file, or takes it away. A card may be full: then there is none.
pub(super) fn tell(dir: &Path, problem: Option<&str>) -> io::Result<Replaced> {
    let file = dir.join(PROBLEM);
    let Some(problem) = problem else { return files::remove(&file) };
    if files::read(&file, 64 << 10).is_ok_and(|old| old == problem.as_bytes()) {
        return Ok(Replaced::AsItWas);
    }
    files::write_in_place(&file, problem.as_bytes()).map(|()| Replaced::Written)
}
