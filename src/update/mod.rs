//! Updates of a box as a whole, by signed bundles into the slot that is not running. RAUC judges signatures and writes slots;
//! here is what leads there and what is told of it.
//!
//! Two sides with a directory between them. The service (`desk.rs`) has no rights: it fetches or receives a bundle into
//! `<state_dir>/update/` and leaves a request beside it. A systemd path unit then starts `spotter update requested` as root
//! (`install.rs`), which takes nothing from the request but whether an older version is welcome, asks RAUC, and says how far
//! it is in `box.run_dir`, where only root writes. So the most that a broken service can do is to have a rightly signed bundle installed.

pub mod desk; // the service's side
pub mod fetch; // what comes over the network or from a file
pub mod install; // root's side
mod rauc; // what RAUC says, read
mod version; // which one is older

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use desk::Desk;
pub use version::older;

/// Below the state directory.
pub const DIR: &str = "update";
const BUNDLE: &str = "bundle.raucb";
const REQUEST: &str = "request.json";
/// Below `box.run_dir`.
const SYSTEM: &str = "system.json";
const PROGRESS: &str = "progress.json";
const MAX_FILE: u64 = 64 << 10;

/// A box with slots, as root told of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct System {
    /// Of the system that runs.
    pub version: String,
    /// Which boxes a bundle must be for.
    pub compatible: String,
    /// The slot that runs, as "A".
    pub booted: String,
    pub slots: Vec<Slot>,
    /// How the last update ended, where the image tells.
    pub last_update: Option<LastUpdate>,
}

/// How the newest update fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UpdateResult {
    /// Its system became ready.
    Good,
    /// It did not become ready, and the box went back to the system before.
    FellBack,
    /// The power went while it was being written: it was never tried.
    Interrupted,
}

/// How the newest system that was installed fared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastUpdate {
    pub version: String,
    pub result: UpdateResult,
    /// Seconds since 1970.
    pub at: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Slot {
    /// As in "rootfs.0".
    pub name: String,
    pub bootname: String,
    /// "booted" or "inactive".
    pub state: String,
    /// "good" or "bad".
    pub boot_status: Option<String>,
    /// Of the bundle that it was written from.
    pub version: Option<String>,
}

/// How far an update is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    #[default]
    Idle,
    /// The bundle comes.
    Fetching,
    Checking,
    Installing,
    /// It is in, and the box starts anew with it.
    Restarting,
    /// It is in, and takes effect with the next start.
    Installed,
    Failed,
}

impl Step {
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::Fetching | Self::Checking | Self::Installing | Self::Restarting)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Progress {
    /// Of the request; empty: of somebody at the console.
    pub id: String,
    pub step: Step,
    /// Of this step.
    pub percent: u8,
    /// What is being done, or what went wrong and what to do.
    pub message: String,
    /// That is being installed.
    pub version: Option<String>,
}

/// What the service tells of updates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Status {
    pub installed_version: String,
    /// The newest that is known of; the installed one where nothing is.
    pub latest_version: String,
    pub in_progress: bool,
    pub progress: Progress,
    /// Absent where the box is not updated as a whole.
    pub system: Option<System>,
    /// How to update it then.
    pub instead: Option<String>,
    /// Why the newest version is not known.
    pub check_error: Option<String>,
}

/// What the service asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    id: String,
    allow_downgrade: bool,
}

/// What to do where there are no slots.
pub const INSTEAD: &str = "this spotter is no image with slots: update its package (apt install ./spotter_<new version>.deb), or put the new program in its place";

/// The bundle under way, for both sides.
fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join(DIR)
}
