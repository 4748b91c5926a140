//! Where libraries and manifests may lie, and whether a shared library is one for this machine. Loads none.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The library's file name, which is also what the system's loader knows it by.
pub const LIBRARY: &str = "libtensorflowlite_c.so";

/// Folder of the running program.
fn program_dir() -> Option<PathBuf> {
    std::env::current_exe().ok()?.parent().map(Path::to_path_buf)
}

/// ONNX Runtime's, as its makers name it.
pub const ONNX_LIBRARY: &str = "libonnxruntime.so";

/// Places to look for the TFLite library, best first; `configured` is the only one when it is given.
pub fn libraries(configured: &Path, state_dir: &Path) -> Vec<PathBuf> {
    places(LIBRARY, configured, state_dir)
}

/// The same for ONNX Runtime's.
pub fn onnx_libraries(configured: &Path, state_dir: &Path) -> Vec<PathBuf> {
    let mut places = places(ONNX_LIBRARY, configured, state_dir);
    if configured.as_os_str().is_empty() {
        // The name without a version comes with development packages only.
        places.push("libonnxruntime.so.1".into());
    }
    places
}

fn places(library: &str, configured: &Path, state_dir: &Path) -> Vec<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return vec![configured.to_path_buf()];
    }
    let runtime = Path::new("runtime/lib").join(std::env::consts::ARCH);
    let folders = [
        program_dir(),
        Some(runtime),
        Some(state_dir.join("lib")),
        Some("/usr/lib/spotter".into()),
    ];
    let files = folders.into_iter().flatten().map(|folder| folder.join(library));
    files.filter(|file| file.is_file()).chain([PathBuf::from(library)]).collect()
}

/// Places to look for a manifest: `model` itself when it is a path, else by name in the known folders.
pub fn manifests(model: &str, configured: &Path) -> Vec<PathBuf> {
    if model.contains('/') || model.ends_with(".toml") {
        return vec![PathBuf::from(model)];
    }
    let file = format!("{model}.toml");
    model_folders(configured).into_iter().map(|folder| folder.join(&file)).collect()
}

/// Where manifests lie, best first.
fn model_folders(configured: &Path) -> Vec<PathBuf> {
    if !configured.as_os_str().is_empty() {
        return vec![configured.to_path_buf()];
    }
    let shared = program_dir().map(|dir| dir.join("../share/spotter/models"));
    [Some("models".into()), shared, Some("/usr/share/spotter/models".into())]
        .into_iter()
        .flatten()
        .collect()
}

/// The models that can be named, for who named another.
pub fn models(configured: &Path) -> Vec<String> {
    let files = model_folders(configured).into_iter().filter_map(|dir| dir.read_dir().ok());
    let mut names: Vec<_> = files
        .flatten()
        .filter_map(|file| Some(file.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Why a file cannot be a shared library of this machine.
///
/// The dynamic loader maps what the headers promise without looking at the file's length: touching a page
/// beyond the end of a cut-off file kills the process. So the promise is checked first.
pub fn library_fault(path: &Path) -> Option<String> {
    let check = || -> io::Result<Option<String>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = Vec::new();
        // Program headers follow the file header; a few kilobytes hold them in every real library.
        file.by_ref().take(16 << 10).read_to_end(&mut head)?;
        Ok(elf_fault(&head, length))
    };
    check().unwrap_or_else(|e| Some(e.to_string()))
}

/// Judges the first bytes of a file of `length` bytes as an ELF library (System V ABI, chapters 4 and 5).
fn elf_fault(head: &[u8], length: u64) -> Option<String> {
    let bytes = |at: usize, count: usize| -> Option<u64> {
        let raw = head.get(at..at.checked_add(count)?)?;
        Some(raw.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    };
    if head.get(..4) != Some(b"\x7fELF") {
        return Some("not a shared library".into());
    }
    let cut_off = Some("cut off: shorter than its headers say".to_string());
    let class: u64 = if cfg!(target_pointer_width = "64") { 2 } else { 1 };
    let machine = match std::env::consts::ARCH {
        "x86_64" => 62,
        "aarch64" => 183,
        "arm" => 40,
        "x86" => 3,
        "riscv64" => 243,
        // Left to the loader's own judgement.
        _ => return None,
    };
    if bytes(4, 1) != Some(class) || bytes(5, 1) != Some(1) || bytes(18, 2) != Some(machine) {
        return Some(format!("made for another processor than {}", std::env::consts::ARCH));
    }
    let wide = class == 2;
    let (table, entry_size, entries) = if wide {
        (bytes(32, 8), bytes(54, 2), bytes(56, 2))
    } else {
        (bytes(28, 4), bytes(42, 2), bytes(44, 2))
    };
    let (Some(table), Some(entry_size), Some(entries)) = (table, entry_size, entries) else {
        return cut_off;
    };
    for entry in 0..entries {
        let at = table.saturating_add(entry * entry_size);
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        let field = |wide_at: usize, narrow_at: usize| {
            let (offset, count) = if wide { (wide_at, 8) } else { (narrow_at, 4) };
            bytes(at.checked_add(offset)?, count)
        };
        let (Some(offset), Some(size)) = (field(8, 4), field(32, 16)) else {
            return cut_off;
        };
        if offset.checked_add(size).is_none_or(|end| end > length) {
            return cut_off;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_is_elf_and_its_pieces_are_not() {
        let exe = std::env::current_exe().unwrap();
        assert_eq!(library_fault(&exe), None);
        let whole = std::fs::read(exe).unwrap();
        let head = &whole[..16 << 10];
        // The end may be debug information, which is never mapped; the beginning always is.
        let length = whole.len() as u64;
        for cut in [0, 3, 4, 17, 40, 63, 64, 100, 1000] {
            assert!(elf_fault(&head[..cut], cut as u64).is_some(), "{cut}");
        }
        assert!(elf_fault(head, 20_000).unwrap().contains("cut off"));
        let mut foreign = head.to_vec();
        foreign[18] ^= 0x55;
        assert!(elf_fault(&foreign, length).unwrap().contains("another processor"));
    }

    #[test]
    fn a_configured_place_is_the_only_one() {
        assert_eq!(libraries(Path::new("/x/lib.so"), Path::new("/s")), [Path::new("/x/lib.so")]);
        assert_eq!(libraries(Path::new(""), Path::new("/s")).last().unwrap(), Path::new(LIBRARY));
        assert_eq!(manifests("a/b.toml", Path::new("/m")), [Path::new("a/b.toml")]);
        assert_eq!(manifests("yolo", Path::new("/m")), [Path::new("/m/yolo.toml")]);
        assert_eq!(manifests("yolo", Path::new(""))[0], Path::new("models/yolo.toml"));
    }
}
