//! The program: arguments, logging, configuration, one command, exit code. What a command does is in `cli/` and in
//! `spotter::app`.

mod cli;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use spotter::app::Failure;
use spotter::config;
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(version, about, after_help = EXIT_CODES)]
struct Args {
    /// Configuration file; without it $SPOTTER_CONFIG, /etc/spotter/spotter.toml, ./spotter.toml, or none.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What to log, as in "info" or "warn,spotter::ingest=debug".
    #[arg(long, global = true, env = "SPOTTER_LOG", default_value = LOG, value_name = "FILTER")]
    log: String,
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// What the MQTT library has to say is either normal, or said by us with its remedy.
const LOG: &str = "info,rumqttc=error";

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong arguments, 69 a port or device cannot be had, \
70 a stage failed too often, 78 the configuration, model or library is bad.";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service.
    Run,
    /// Validate a configuration file.
    Check { file: Option<PathBuf> },
    /// Tell what this board has: decoders, detectors, cameras, GPIO; each found, or why not.
    Probe(cli::probe::Args),
    /// Find animals in pictures or a video file.
    Detect(cli::detect::Args),
    /// Measure detector and pipeline on this board.
    Bench(cli::bench::Args),
    /// Take spotter.toml from the card and lay down what the box's parts read; run by the SD image at each start.
    Setup(cli::setup::Args),
    /// Print the page's and the publisher's addresses, with the owner's token, again.
    Url(cli::url::Args),
    /// Install a newer system, and tell what is installed.
    Update(cli::update::Args),
    /// Show, add and revoke the credentials of callers from elsewhere.
    Token(cli::token::Args),
}

fn main() -> ExitCode {
    share_one_heap();
    let args = Args::parse();
    if let Err(e) = log(&args.log, args.log_format) {
        eprintln!("spotter: {e}");
        return ExitCode::from(2);
    }
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("spotter: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// All threads take memory from one heap. glibc would give each its own, and what one has given back the others
/// cannot use: that costs 3 MB, and a quarter more for each RTMP reader. We ask for memory too rarely to wait for a lock.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
fn share_one_heap() {
    // SAFETY: mallopt has no requirement but to come before other threads allocate, and there are none yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn share_one_heap() {}

fn run(args: Args) -> Result<(), Failure> {
    if let Command::Check { file } = &args.command {
        return cli::check::run(file.as_deref().or(args.config.as_deref()));
    }
    if let Command::Setup(args) = &args.command {
        return cli::setup::run(args);
    }
    if let Command::Update(a) = args.command {
        // A configuration that a new version no longer takes must not keep the next one out.
        let config = config::load(args.config.as_deref()).map(|loaded| loaded.config);
        let config = config.unwrap_or_else(|error| {
            eprintln!("spotter: {error}\nspotter: for an update the defaults serve");
            config::Config::default()
        });
        return cli::update::run(a, &config);
    }
    let loaded = config::load(args.config.as_deref())?;
    match args.command {
        Command::Run => spotter::app::run(loaded, args.config.as_deref()),
        Command::Check { .. } | Command::Setup(_) | Command::Update(_) => {
            unreachable!("handled above, before a bad file could stop it")
        }
        Command::Url(a) => cli::url::run(&a, &loaded.config),
        Command::Probe(a) => cli::probe::run(&a, &loaded.config),
        Command::Detect(a) => cli::detect::run(&a, &loaded.config),
        Command::Bench(a) => cli::bench::run(&a, &loaded.config),
        Command::Token(a) => cli::token::run(a, &loaded.config),
    }
}

fn log(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        format!(
            "--log {filter:?} is not a filter: {e}; try \"info\" or \"warn,spotter::ingest=debug\""
        )
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}
