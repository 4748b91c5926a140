//! `spotter probe`: what this board has, each thing found or why not. Shows no secrets.

use serde::Serialize;
use spotter::app::{self, Failure};
use spotter::board::{self, Probe, Zone};
use spotter::config::Config;
use spotter::decode::DecoderReport;
use spotter::detect::{Detector, DetectorInfo, catalogue};
use spotter::source::CameraReport;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    machine: Probe,
    detectors: Vec<DetectorReport>,
}

#[derive(Serialize)]
struct DetectorReport {
    name: String,
    present: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<DetectorInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(crate) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    let report = Report { machine: board::probe(), detectors: detectors(config)? };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::usage)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The configured detector, and every backend by itself.
fn detectors(config: &Config) -> Result<Vec<DetectorReport>, Failure> {
    let paths = app::detector_paths(config)?;
    let configured = DetectorReport::of("configured", app::open_detector(config));
    let alone = catalogue::backends(&config.detect, &paths).into_iter().map(|backend| {
        let opened = match &backend.way {
            Ok(way) => catalogue::open_only(&config.detect, &paths, way).map_err(|e| e.to_string()),
            Err(why) => Err((*why).to_owned()),
        };
        DetectorReport::of(&backend.name, opened)
    });
    Ok([configured].into_iter().chain(alone).collect())
}

impl DetectorReport {
    fn of(name: &str, opened: Result<Box<dyn Detector>, impl std::fmt::Display>) -> Self {
        let (info, reason) = match opened {
            Ok(detector) => (Some(detector.info().clone()), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Self { name: name.to_owned(), present: info.is_some(), info, reason }
    }
}

fn print(report: &Report) {
    let m = &report.machine;
    let b = &m.board;
    println!("board      {} ({}, {} cores, {} MiB)", b.model, b.arch, b.cores, b.memory_mib);
    println!("kernel     {}", m.kernel);
    println!("defaults   model {}, {} threads", m.profile.model, m.profile.threads);
    match m.temperature_c {
        Some(t) => {
            let zone = |z: &Zone| format!("{} {:.0}", z.name, z.temperature_c);
            let zones: Vec<_> = m.zones.iter().map(zone).collect();
            println!("temperature {t:.0} C ({})", zones.join(", "));
        }
        None => println!("temperature not told by this machine"),
    }
    let list = |all: &[String]| if all.is_empty() { "no".to_owned() } else { all.join(", ") };
    match m.tells_throttling {
        true => {
            let (now, before) = (list(&m.throttled), list(&m.throttled_before));
            println!("throttled  {now}; since the start: {before}");
        }
        false => println!("throttling not told by this machine"),
    }
    println!("video decoders");
    if let Some(e) = &m.decoders_error {
        println!("  none: {e}");
    }
    m.decoders.iter().for_each(codec);
    println!("video encoders, for cameras that give no H.264");
    m.encoders.iter().for_each(codec);
    println!("detectors");
    for d in &report.detectors {
        match (&d.info, &d.reason) {
            (Some(i), _) => {
                println!(
                    "  yes {}: {} with {}, {} threads, {}",
                    d.name, i.backend, i.model, i.threads, i.library
                );
                i.refusals.iter().for_each(|r| println!("      {r}"));
                for a in i.accelerators.iter().filter(|a| a.reason.is_none()) {
                    let takes = a.takes.as_ref().map(|t| format!(", runs {t}")).unwrap_or_default();
                    println!("      {}{takes}; {}", a.name, a.versions.join("; "));
                }
            }
            (None, reason) => {
                println!("  no  {}: {}", d.name, reason.as_deref().unwrap_or_default())
            }
        }
    }
    println!("delegates");
    for d in &m.delegates {
        let mark = if d.path.is_some() { "yes" } else { "no " };
        let drivers: String = d.drivers.iter().map(|d| format!("; {d}")).collect();
        let library = d.path.as_deref().unwrap_or(d.library);
        println!("  {mark} {library} for {}: {}{drivers}", d.of, d.detail);
    }
    println!("cameras");
    none_found(m.cameras.is_empty(), m.cameras_error.as_deref(), "no /dev/video*");
    m.cameras.iter().for_each(camera);
    println!("gpio");
    none_found(m.gpio.is_empty(), m.gpio_error.as_deref(), "no chip");
    for chip in &m.gpio {
        match (&chip.error, chip.lines) {
            (Some(error), _) => println!("  no  {}: {error}", chip.chip),
            (None, lines) => {
                println!("  yes {}: {}, {} lines", chip.chip, chip.label, lines.unwrap_or(0));
                chip.named.iter().for_each(|line| println!("      {line}"));
            }
        }
    }
}

fn codec(d: &DecoderReport) {
    let mark = if d.present { "yes" } else { "no " };
    let kind = if d.hardware { "hardware" } else { "software" };
    let driver = d.driver.as_ref().map(|d| format!(", driver {d}")).unwrap_or_default();
    let codecs = d.codecs.join(" ");
    println!("  {mark} {:<16} {codecs:<12} {kind}  {}{driver}", d.element, d.detail);
}

fn none_found(empty: bool, error: Option<&str>, usual: &str) {
    if empty {
        println!("  none: {}", error.unwrap_or(usual));
    }
}

fn camera(c: &CameraReport) {
    let mark = if c.reason.is_none() { "yes" } else { "no " };
    let place = [&c.driver, &c.bus].into_iter().filter(|t| !t.is_empty()).cloned();
    let place: Vec<_> = place.chain(c.by_id.clone()).collect();
    let reason = c.reason.as_ref().map(|r| format!(": {r}")).unwrap_or_default();
    println!("  {mark} {} {:?} {}{reason}", c.node, c.name, place.join(", "));
    for f in &c.formats {
        let not = if f.usable { "" } else { " (not taken)" };
        println!("      {}{not} {}", f.fourcc, f.sizes.join(", "));
    }
}
