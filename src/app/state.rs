//! The state directory and the node's name, which is made once and kept there.

use std::path::{Path, PathBuf};

use rand::Rng;

use super::Failure;
use crate::config::Config;

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
    if !config.node.name.is_empty() {
        return Ok(config.node.name.clone());
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
    let name = format!("spotter-{:04x}", rand::rng().random::<u16>());
    std::fs::write(&file, format!("{name}\n"))
        .map_err(|e| Failure::unavailable(format!("cannot write {}: {e}", file.display())))?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

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
