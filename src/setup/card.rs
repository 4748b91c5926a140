//! What lies on the card's FAT partition: the owner's text files, and beside them what is wrong with them. It judges
//! nothing.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::MAX_BYTES;
use crate::config::{self, Fault};
use crate::files::{self, Replaced};

/// Where a mistake is written back to.
pub const PROBLEM: &str = "spotter-problem.txt";

/// A file that the owner may put there.
pub(super) struct Kind {
    /// As it should be called, and as Notepad calls it where Windows hides the endings of names.
    pub(super) names: [&'static str; 2],
    pub(super) explained: &'static str,
}

/// A file that was not taken.
pub(super) struct Refused {
    pub(super) name: &'static str,
    pub(super) explained: &'static str,
    pub(super) faults: Vec<Fault>,
}

pub(super) enum Card {
    Absent,
    Text { name: &'static str, text: String },
    Unreadable { name: &'static str, fault: Fault },
}

pub(super) fn read(dir: &Path, kind: &Kind) -> Card {
    for name in kind.names {
        let unreadable =
            |message: String| Card::Unreadable { name, fault: Fault { line: None, message } };
        return match files::read(&dir.join(name), MAX_BYTES) {
            Ok(bytes) => match config::decode(&bytes) {
                Ok(text) => Card::Text { name, text },
                Err(fault) => Card::Unreadable { name, fault },
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

/// `None` where all is well. Lines end as Notepad wants them.
pub(super) fn problem(refused: &[Refused]) -> Option<String> {
    let mut lines = Vec::new();
    for Refused { name, explained, faults } in refused {
        lines.push(format!(
            "spotter did not take {name}: there is a mistake in it. The box goes on with what it had before."
        ));
        lines.push(String::new());
        for fault in faults {
            let place =
                fault.line.map_or_else(|| (*name).to_owned(), |line| format!("Line {line}"));
            lines.push(format!("  {place}: {}", fault.message));
        }
        lines.push(String::new());
        lines.push(format!(
            "Correct it, save {name}, put the card back and start the box. {explained}"
        ));
        lines.push(String::new());
    }
    lines.push("This file goes away by itself when all is well.".into());
    (!refused.is_empty()).then(|| lines.iter().map(|line| format!("{line}\r\n")).collect())
}

/// Writes the problem beside the files, or takes it away. A card may be full: then there is none.
pub(super) fn tell(dir: &Path, problem: Option<&str>) -> io::Result<Replaced> {
    let file = dir.join(PROBLEM);
    let Some(problem) = problem else { return files::remove(&file) };
    if files::read(&file, 64 << 10).is_ok_and(|old| old == problem.as_bytes()) {
        return Ok(Replaced::AsItWas);
    }
    files::write_in_place(&file, problem.as_bytes()).map(|()| Replaced::Written)
}
