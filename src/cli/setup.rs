//! `spotter setup`: the box's first start and every other, run by the image before the service. See `spotter::setup`.

use std::path::PathBuf;

use spotter::app::Failure;
use spotter::app::foresee::Rights;
use spotter::setup;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the card's FAT partition is mounted; spotter.toml and mentra-app.env are taken from there.
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Where the files go that the service and the system read.
    #[arg(long, value_name = "DIR", default_value = setup::SET_UP)]
    to: PathBuf,
    /// Where the service may write, as its unit has it; as often as you like. Anywhere, if you leave it out.
    #[arg(long, value_name = "DIR")]
    writable: Vec<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let outcome = setup::run(&args.from, &args.to, &Rights::of_service(&args.writable));
    for line in &outcome.said {
        eprintln!("spotter: {line}");
    }
    if !outcome.failed.is_empty() {
        return Err(Failure::usage(outcome.failed.join("\nspotter: ")));
    }
    match outcome.refused {
        true => Err(Failure::config("a file on the card has a mistake; the box goes on as before")),
        false => Ok(()),
    }
}
