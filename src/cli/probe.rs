//! `spotter probe`: what this board has, each thing found or why not. Shows no secrets.

use serde::Serialize;
use spotter::app::{self, Failure};
use spotter::board::{self, Probe};
use spotter::config::{Config, DetectBackend};
use spotter::detect::DetectorInfo;

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
    let report = Report { machine: board::probe(), detectors: detectors(config) };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).map_err(Failure::usage)?);
    } else {
        print(&report);
    }
    Ok(())
}

/// The configured detector, and the CPU by itself where a delegate is configured.
fn detectors(config: &Config) -> Vec<DetectorReport> {
    let mut asked = vec![("configured".to_owned(), config.clone())];
    if config.detect.delegate.is_some() || config.detect.backend != DetectBackend::Tflite {
        let mut cpu = config.clone();
        cpu.detect.delegate = None;
        cpu.detect.backend = DetectBackend::Tflite;
        asked.push(("tflite on the CPU".to_owned(), cpu));
    }
    asked
        .into_iter()
        .map(|(name, config)| match app::open_detector(&config) {
            Ok(d) => {
                DetectorReport { name, present: true, info: Some(d.info().clone()), reason: None }
            }
            Err(e) => {
                DetectorReport { name, present: false, info: None, reason: Some(e.to_string()) }
            }
        })
        .collect()
}

fn print(report: &Report) {
    let m = &report.machine;
    let b = &m.board;
    println!("board      {} ({}, {} cores, {} MiB)", b.model, b.arch, b.cores, b.memory_mib);
    println!("kernel     {}", m.kernel);
    println!("defaults   model {}, {} threads", m.profile.model, m.profile.threads);
    match m.temperature_c {
        Some(t) => println!("temperature {t:.0} C"),
        None => println!("temperature not told by this machine"),
    }
    for t in &m.throttled {
        println!("throttled  {t}");
    }
    println!("video decoders");
    if let Some(e) = &m.decoders_error {
        println!("  none: {e}");
    }
    for d in &m.decoders {
        let mark = if d.present { "yes" } else { "no " };
        let kind = if d.hardware { "hardware" } else { "software" };
        println!("  {mark} {:<16} {:<12} {kind}  {}", d.element, d.codecs.join(" "), d.detail);
    }
    println!("detectors");
    for d in &report.detectors {
        match (&d.info, &d.reason) {
            (Some(i), _) => {
                println!(
                    "  yes {}: {} with {}, {} threads, {}",
                    d.name, i.backend, i.model, i.threads, i.library
                );
                i.refusals.iter().for_each(|r| println!("      {r}"));
            }
            (None, reason) => {
                println!("  no  {}: {}", d.name, reason.as_deref().unwrap_or_default())
            }
        }
    }
    list("cameras", &m.cameras);
    list("gpio", &m.gpio);
}

fn list(title: &str, items: &[String]) {
    println!("{title}");
    if items.is_empty() {
        println!("  none found");
    }
    items.iter().for_each(|i| println!("  {i}"));
}
