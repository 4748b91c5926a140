//! The state directory and the node's name, which is made once and kept there.

use std::path::{Path, PathBuf};

use rand::Rng;
use sha2::{Digest, Sha256};

use super::Failure;
use crate::config::Config;
use crate::files;

/// The directory for everything that must survive a restart; made when it is missing.
///
/// The configured one, else /var/lib/spotter where that can be written, else $XDG_STATE_HOME/spotter or
/// ~/.local/state/spotter.
pub fn dir(config: &Config) -> Result<PathBuf, Failure> {
    let configured = &config.node.state_dir;
    if !configured.as_os_str().is_empty() {
        return make(configured.clone()).map_err(Failure::unavailable);
    }
    if let Ok(dir) = make("/var/lib/spotter".into())
        && is_writable(&dir)
    {
        return Ok(dir);
    }
    let home = || std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/state"));
    let xdg = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = xdg.or_else(home).ok_or_else(|| {
        Failure::unavailable("no state directory: set node.state_dir, or the variable HOME")
    })?;
    make(base.join("spotter")).map_err(Failure::unavailable)
}

fn make(dir: PathBuf) -> Result<PathBuf, String> {
    std::fs::create_dir_all(&dir).map_err(|e| {
        format!("cannot make the state directory {}: {e}; set node.state_dir", dir.display())
    })?;
    Ok(dir)
}

fn is_writable(dir: &Path) -> bool {
    let probe = dir.join(format!(".probe-{}", std::process::id()));
    let fine = std::fs::write(&probe, b"").is_ok();
    let _ = std::fs::remove_file(&probe);
    fine
}

/// The configured name, else the one kept in the state directory, else a new `spotter-xxxx`.
pub fn node_name(config: &Config, dir: &Path) -> Result<String, Failure> {
    node_name_or(config, dir, None)
}

/// The same, but a new one is `made`, where there is such.
pub fn node_name_or(config: &Config, dir: &Path, made: Option<&str>) -> Result<String, Failure> {
    for name in [&config.node.name, &config.machine.hostname] {
        if !name.is_empty() {
            return Ok(name.clone());
        }
    }
    let file = dir.join("node-name");
    if let Ok(kept) = std::fs::read_to_string(&file) {
        let kept = kept.trim();
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !kept.is_empty() && kept.len() <= 64 && kept.chars().all(legal) {
            return Ok(kept.to_owned());
        }
        tracing::warn!(file = %file.display(), "the kept node name is damaged, making a new one");
    }
    let random = || format!("spotter-{:04x}", rand::rng().random::<u16>());
    let name = made.map_or_else(random, str::to_owned);
    files::replace(&file, format!("{name}\n").as_bytes(), 0o644)
        .map_err(|e| Failure::unavailable(format!("cannot write {}: {e}", file.display())))?;
    Ok(name)
}

/// A `spotter-xxxx` that a box gets again when its card is flashed anew: from the board's own number, else the machine's.
pub fn stable_name(root: &Path) -> Option<String> {
    const NUMBERS: [&str; 3] = [
        "sys/firmware/devicetree/base/serial-number",
        "sys/class/dmi/id/product_uuid",
        "etc/machine-id",
    ];
    let number = NUMBERS.iter().find_map(|file| {
        let text = std::fs::read_to_string(root.join(file)).ok()?;
        let number = text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned();
        // Boards without a number of their own say noughts; a machine-id is not made yet at its first start.
        let real = number.len() >= 8
            && number.contains(|c: char| c != '0' && c != '-')
            && number != "uninitialized";
        real.then_some(number)
    })?;
    // The number itself is nobody's business.
    let digest = Sha256::digest(format!("spotter {number}"));
    Some(format!("spotter-{:02x}{:02x}", digest[0], digest[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_is_always_called_the_same() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(stable_name(dir.path()), None);
        let base = dir.path().join("sys/firmware/devicetree/base");
        std::fs::create_dir_all(&base).unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(base.join("serial-number"), "0000000000000000\0").unwrap();
        std::fs::write(dir.path().join("etc/machine-id"), "uninitialized\n").unwrap();
        assert_eq!(stable_name(dir.path()), None);
        std::fs::write(base.join("serial-number"), "10000000abcdef01\0").unwrap();
        let name = stable_name(dir.path()).unwrap();
        assert!(name.starts_with("spotter-") && name.len() == 12, "{name}");
        assert_eq!(stable_name(dir.path()).unwrap(), name);
        let kept = dir.path().join("state");
        std::fs::create_dir(&kept).unwrap();
        let mut config = Config::default();
        assert_eq!(node_name_or(&config, &kept, Some(&name)).unwrap(), name);
        assert_eq!(node_name(&config, &kept).unwrap(), name);
        config.machine.hostname = "barn".into();
        assert_eq!(node_name(&config, &kept).unwrap(), "barn");
    }

    #[test]
    fn the_name_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        let made = node_name(&config, dir.path()).unwrap();
        assert!(made.starts_with("spotter-") && made.len() == 12, "{made}");
        assert_eq!(node_name(&config, dir.path()).unwrap(), made);
        config.node.name = "barn".into();
        assert_eq!(node_name(&config, dir.path()).unwrap(), "barn");
        config.node.name.clear();
        std::fs::write(dir.path().join("node-name"), "a/b\n").unwrap();
        assert_ne!(node_name(&config, dir.path()).unwrap(), "a/b");
    }
}
