//! Root's side of an update: looks into a bundle, compares versions, has RAUC install it, and says how far it is. Whether the
//! signature is right is RAUC's to judge.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use super::rauc;
pub use super::rauc::RaucError;
use super::{
    BUNDLE, LastUpdate, MAX_FILE, PROGRESS, Progress, REQUEST, Request, SYSTEM, Step, System,
    UpdateResult, dir, older,
};
use crate::files;

/// Whether an older version may take the place of a newer one.
#[derive(Debug, Clone, Copy)]
pub enum Downgrade {
    Refuse,
    Allow,
    /// With the installed and the offered version.
    Ask(fn(&str, &str) -> bool),
}

#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("{0}")]
    Rauc(#[from] RaucError),
    #[error("this bundle is for {bundle}, and this box is {own}: take the bundle for this board")]
    OtherBoard { bundle: String, own: String },
    #[error(
        "{offered} is older than the installed {installed}: allow the downgrade, if you want it"
    )]
    Downgrade { installed: String, offered: String },
    #[error("{path}: {reason}")]
    Bundle { path: PathBuf, reason: String },
    #[error("there is no request in {0}")]
    NoRequest(PathBuf),
}

/// Where the image says how the last update fared.
const LAST_UPDATE: &str = "/var/lib/spotter-image/last-update";

/// What this box runs, from RAUC and from the system's own words.
pub fn system() -> Result<System, RaucError> {
    let mut system = rauc::status()?;
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    // What runs knows best what it is; the slot's bundle is known only where one was installed.
    if let Some(version) = image_version(&release) {
        system.version = version;
    } else if system.version.is_empty() {
        system.version = env!("CARGO_PKG_VERSION").into();
    }
    system.last_update =
        std::fs::read_to_string(LAST_UPDATE).ok().and_then(|text| last_update(&text));
    Ok(system)
}

/// One line of the image's: `good`, `fell-back` or `interrupted`, version, slot, seconds since 1970.
fn last_update(text: &str) -> Option<LastUpdate> {
    let mut words = text.split_whitespace();
    let result = match words.next()? {
        "good" => UpdateResult::Good,
        "fell-back" => UpdateResult::FellBack,
        "interrupted" => UpdateResult::Interrupted,
        _ => return None,
    };
    let version = words.next()?.chars().take(64).collect();
    Some(LastUpdate { version, result, at: words.nth(1)?.parse().ok()? })
}

/// `IMAGE_VERSION` of os-release(5).
fn image_version(release: &str) -> Option<String> {
    let value = release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Tells the service what this box is.
pub fn describe(run_dir: &Path) -> Result<System, InstallError> {
    let system = system()?;
    write(&run_dir.join(SYSTEM), &system).map_err(|reason| bundle(run_dir, reason))?;
    Ok(system)
}

/// Looks into the bundle, judges its version, installs it. `told` hears how far it is, without the request's number.
pub fn install(
    file: &Path,
    downgrade: Downgrade,
    told: &mut dyn FnMut(Progress),
) -> Result<String, InstallError> {
    let mut say = |step, percent, message: &str, version: Option<&str>| {
        let (message, version) = (message.to_owned(), version.map(str::to_owned));
        told(Progress { id: String::new(), step, percent, message, version });
    };
    say(Step::Checking, 0, "looking into the bundle", None);
    // RAUC is given the file itself: a link may point elsewhere by the time it opens it.
    let meta = file.symlink_metadata().map_err(|e| bundle(file, e))?;
    if !meta.is_file() {
        return Err(bundle(file, "is no file: give the bundle itself"));
    }
    let own = system()?;
    let info = rauc::info(file)?;
    if info.compatible != own.compatible {
        return Err(InstallError::OtherBoard { bundle: info.compatible, own: own.compatible });
    }
    if older(&info.version, &own.version) {
        let allowed = match downgrade {
            Downgrade::Allow => true,
            Downgrade::Refuse => false,
            Downgrade::Ask(ask) => ask(&own.version, &info.version),
        };
        if !allowed {
            let (installed, offered) = (own.version, info.version);
            return Err(InstallError::Downgrade { installed, offered });
        }
    }
    let version = info.version;
    say(Step::Installing, 0, "installing", Some(&version));
    rauc::install(file, |percent, step| say(Step::Installing, percent, step, Some(&version)))?;
    Ok(version)
}

/// What the service asked for.
#[derive(Debug)]
pub struct Requested {
    pub bundle: PathBuf,
    pub id: String,
    pub allow_downgrade: bool,
}

/// Takes up the one request there may be; it is gone by that, so that nothing is tried twice.
pub fn requested(state_dir: &Path) -> Result<Requested, InstallError> {
    let dir = dir(state_dir);
    let file = dir.join(REQUEST);
    let bytes = files::read(&file, MAX_FILE);
    let _ = files::remove(&file);
    let request = bytes.ok().and_then(|bytes| serde_json::from_slice::<Request>(&bytes).ok());
    let request = request.ok_or_else(|| InstallError::NoRequest(dir.clone()))?;
    let id = request.id.chars().filter(char::is_ascii_alphanumeric).take(32).collect();
    Ok(Requested { bundle: dir.join(BUNDLE), id, allow_downgrade: request.allow_downgrade })
}

/// Says how far an update is, where the service looks for it. That there is no such place is no reason to stop.
pub fn report(run_dir: &Path, progress: &Progress) {
    if run_dir.is_dir()
        && let Err(error) = write(&run_dir.join(PROGRESS), progress)
    {
        tracing::warn!(error, "cannot say how far the update is");
    }
}

fn write(file: &Path, what: &impl serde::Serialize) -> Result<(), String> {
    let json = serde_json::to_vec(what).map_err(|e| e.to_string())?;
    files::replace(file, &json, 0o644)
        .map(drop)
        .map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn bundle(path: &Path, reason: impl Display) -> InstallError {
    InstallError::Bundle { path: path.into(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_system_s_version_is_found() {
        let release = "ID=debian\nIMAGE_ID=spotter\nIMAGE_VERSION=\"1.2.0+20261125\"\n";
        assert_eq!(image_version(release).unwrap(), "1.2.0+20261125");
        assert_eq!(image_version("IMAGE_VERSION=\nID=x\n"), None);
    }

    #[test]
    fn how_the_last_update_fared_is_read() {
        let fell_back = last_update("fell-back 1.2.0 B 1795439400\n").unwrap();
        assert_eq!((&*fell_back.version, fell_back.at), ("1.2.0", 1_795_439_400));
        assert_eq!(fell_back.result, UpdateResult::FellBack);
        let result = |text: &str| last_update(text).map(|last| last.result);
        assert_eq!(result("good 1.2.0 B 1795439400"), Some(UpdateResult::Good));
        assert_eq!(result("interrupted 1.2.0 B 1795439400"), Some(UpdateResult::Interrupted));
        for none in ["good", "", "odd 1.2.0 B 1795439400"] {
            assert_eq!(result(none), None);
        }
    }

    #[test]
    fn a_request_is_taken_once_and_links_are_not_followed() {
        let state = tempfile::tempdir().unwrap();
        let at = dir(state.path());
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join(REQUEST), r#"{"id":"ab../12","allow_downgrade":true}"#).unwrap();
        let taken = requested(state.path()).unwrap();
        assert_eq!((&*taken.id, taken.allow_downgrade), ("ab12", true));
        assert!(requested(state.path()).is_err());
        let elsewhere = state.path().join("elsewhere");
        std::fs::write(&elsewhere, r#"{"id":"a","allow_downgrade":true}"#).unwrap();
        std::os::unix::fs::symlink(&elsewhere, at.join(REQUEST)).unwrap();
        assert!(requested(state.path()).is_err());
        std::os::unix::fs::symlink(&elsewhere, &taken.bundle).unwrap();
        let refused = install(&taken.bundle, Downgrade::Allow, &mut |_| {}).unwrap_err();
        assert!(refused.to_string().contains("is no file"), "{refused}");
    }
}
