//! `spotter update`: installs a bundle into the other slot and tells what runs. `requested` and `describe` are what the image's
//! units run as root for the service.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Subcommand;
use serde::Serialize;
use spotter::app::{Failure, state};
use spotter::config::Config;
use spotter::update::fetch::{self, Place};
use spotter::update::install::{self, Downgrade, InstallError};
use spotter::update::{INSTEAD, Progress, Slot, Step, System, UpdateResult};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Install a bundle, from a file or by https:// or http://, into the slot that does not run.
    Install {
        #[arg(value_name = "FILE|URL")]
        bundle: String,
        /// Take a version that is older than the installed one.
        #[arg(long)]
        allow_downgrade: bool,
        /// Start the box anew when it is in.
        #[arg(long)]
        reboot: bool,
    },
    /// What runs, and what is in the slots.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Do what the service asked for; run as root by spotter-update.service.
    #[command(hide = true)]
    Requested,
    /// Tell the service what this box is; run as root by spotter-describe.service.
    #[command(hide = true)]
    Describe,
}

pub(crate) fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let run_dir = &config.machine.run_dir;
    match args.action {
        Action::Install { bundle, allow_downgrade, reboot } => {
            let local = local(&bundle, config)?;
            let downgrade = match allow_downgrade {
                true => Downgrade::Allow,
                false if std::io::stdin().is_terminal() => Downgrade::Ask(ask_on_terminal),
                false => Downgrade::Refuse,
            };
            let done = carry_out(&local.file, downgrade, String::new(), run_dir, reboot);
            if local.fetched {
                let _ = std::fs::remove_file(&local.file);
            }
            done
        }
        Action::Status { json } => status(json),
        Action::Requested => {
            let dir = state::dir(config)?;
            let asked = install::requested(&dir).map_err(Failure::usage)?;
            let downgrade =
                if asked.allow_downgrade { Downgrade::Allow } else { Downgrade::Refuse };
            let done = carry_out(&asked.bundle, downgrade, asked.id, run_dir, true);
            let _ = std::fs::remove_file(&asked.bundle);
            done
        }
        Action::Describe => {
            install::describe(run_dir).map(drop).map_err(|e| Failure::unavailable(e.to_string()))
        }
    }
}

/// A bundle that is on this machine.
struct Local {
    file: PathBuf,
    fetched: bool,
}

fn local(bundle: &str, config: &Config) -> Result<Local, Failure> {
    let web = bundle.contains("://");
    if !web {
        let file = Path::new(bundle).canonicalize();
        let file = file.map_err(|e| Failure::usage(format!("cannot read {bundle}: {e}")))?;
        return Ok(Local { file, fetched: false });
    }
    let place = Place::parse(bundle).map_err(Failure::usage)?;
    let file = state::dir(config)?.join(".console.raucb");
    let mut told = None;
    eprintln!("spotter: fetching {}", place.shown());
    fetch::copy(&place, &file, &config.update, |done, long| {
        let percent = long.filter(|l| *l > 0).map(|long| done * 10 / long);
        if percent != told {
            told = percent;
            eprintln!("spotter: {} MiB", done >> 20);
        }
    })
    .map_err(Failure::unavailable)?;
    Ok(Local { file, fetched: true })
}

fn ask_on_terminal(installed: &str, offered: &str) -> bool {
    eprint!("spotter: {offered} is older than the installed {installed}. Install it? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    let _ = std::io::stdin().lock().read_line(&mut answer);
    ["y", "yes"].contains(&answer.trim().to_lowercase().as_str())
}

fn carry_out(
    bundle: &Path,
    downgrade: Downgrade,
    id: String,
    run_dir: &Path,
    reboot: bool,
) -> Result<(), Failure> {
    let mut told = |now: Progress| {
        println!("{:3}% {}", now.percent, now.message);
        install::report(run_dir, &Progress { id: id.clone(), ..now });
    };
    match install::install(bundle, downgrade, &mut told) {
        Ok(version) => {
            // The other slot has it from now on; the box still runs what it ran.
            if run_dir.is_dir()
                && let Err(error) = install::describe(run_dir)
            {
                eprintln!("spotter: {error}");
            }
            let say = |step, message: String| {
                let version = Some(version.clone());
                told(Progress { step, percent: 100, message, version, ..Progress::default() });
            };
            if !reboot {
                say(Step::Installed, format!("{version} is in: restart the box to run it"));
                return Ok(());
            }
            say(Step::Restarting, format!("{version} is in: the box starts anew"));
            let asked = Command::new("systemctl").arg("reboot").status();
            if asked.is_ok_and(|status| status.success()) {
                return Ok(());
            }
            let why =
                format!("{version} is in, and systemctl reboot failed: restart the box by hand");
            say(Step::Installed, why.clone());
            Err(Failure::unavailable(why))
        }
        Err(error) => {
            let message = error.to_string();
            told(Progress { step: Step::Failed, message, ..Progress::default() });
            Err(match error {
                InstallError::Rauc(_) | InstallError::NoRequest(_) => Failure::unavailable(error),
                _ => Failure::usage(error),
            })
        }
    }
}

#[derive(Serialize)]
struct Report {
    installed_version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    system: Option<System>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instead: Option<String>,
}

fn status(json: bool) -> Result<(), Failure> {
    let report = match install::system() {
        Ok(system) => Report {
            installed_version: system.version.clone(),
            system: Some(system),
            instead: None,
        },
        Err(error) => Report {
            installed_version: env!("CARGO_PKG_VERSION").into(),
            system: None,
            instead: Some(match error {
                spotter::update::install::RaucError::Absent => INSTEAD.to_owned(),
                other => other.to_string(),
            }),
        },
    };
    if json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::usage)?);
        return Ok(());
    }
    println!("installed  {}", report.installed_version);
    if let Some(instead) = report.instead {
        println!("slots      none: {instead}");
    }
    if let Some(system) = report.system {
        println!("board      {}", system.compatible);
        let booted = system.slots.iter().find(|slot| slot.state == "booted");
        let as_flashed = booted.is_some_and(|slot| slot.version.is_none());
        for row in system.slots.iter().filter_map(|slot| row(slot, as_flashed)) {
            println!("{row}");
        }
        if let Some(last) = system.last_update {
            let result = match last.result {
                UpdateResult::Good => "became ready",
                UpdateResult::FellBack => "did not become ready: the box went back",
                UpdateResult::Interrupted => "was cut short while it was written: install it again",
            };
            println!("last       {} {result}", last.version);
        }
    }
    Ok(())
}

/// A slot as a person is told of it; none for the half that belongs to one, which has no name of its own. Where the system that
/// runs is the one that was flashed, the other slot was never written.
fn row(slot: &Slot, as_flashed: bool) -> Option<String> {
    if slot.bootname.is_empty() {
        return None;
    }
    let name = &slot.bootname;
    let booted = slot.state == "booted";
    let status = slot.boot_status.as_deref().unwrap_or("-");
    if slot.version.is_none() && !booted && (as_flashed || status != "good") {
        return Some(format!("slot {name:<5} empty"));
    }
    let version = slot.version.as_deref().unwrap_or("as it was flashed");
    Some(format!("slot {name:<5} {:<9} {status:<5} {version}", slot.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_told_by_name_and_an_empty_one_as_such() {
        let slot = |bootname: &str, state: &str, status: &str, version: Option<&str>| Slot {
            name: "root.0".into(),
            bootname: bootname.into(),
            state: state.into(),
            boot_status: Some(status.into()),
            version: version.map(str::to_owned),
        };
        let rows = [
            slot("A", "booted", "good", None),
            slot("B", "inactive", "bad", None),
            slot("B", "inactive", "bad", Some("1.1")),
            slot("", "inactive", "", Some("1.1")),
        ];
        let rows: Vec<_> = rows.iter().filter_map(|slot| row(slot, false)).collect();
        assert_eq!(row(&slot("B", "inactive", "good", None), true).unwrap(), "slot B     empty");
        assert_eq!(
            rows,
            [
                "slot A     booted    good  as it was flashed",
                "slot B     empty",
                "slot B     inactive  bad   1.1"
            ]
        );
    }
}
