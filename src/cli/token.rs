//! `spotter token`: shows, adds and revokes credentials. A running service takes changes up by itself.

use clap::Subcommand;
use spotter::app::{Failure, state};
use spotter::auth::{Guard, Right};
use spotter::config::Config;
use spotter::media::StreamId;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List names and rights; never the secrets. This is the default.
    List,
    /// Make a token and print it, once.
    Add {
        name: String,
        /// Rights to give: publish, read, admin.
        #[arg(long, value_delimiter = ',', default_value = "read", value_parser = right)]
        rights: Vec<Right>,
        /// The only stream that it may publish.
        #[arg(long)]
        stream: Option<String>,
        /// May take a stream over from a present publisher.
        #[arg(long)]
        takeover: bool,
    },
    /// End a token.
    Revoke { name: String },
    /// Make a new owner token and print it, once; the old one ends.
    Renew,
}

pub(crate) fn run(args: Args, config: &Config) -> Result<(), Failure> {
    let dir = state::dir(config)?;
    let (guard, _) = Guard::open(&dir, &config.auth).map_err(Failure::config)?;
    match args.action.unwrap_or(Action::List) {
        Action::List => {
            for token in guard.list() {
                let rights: Vec<String> =
                    token.rights.iter().map(|r| format!("{r:?}").to_lowercase()).collect();
                let stream = token.stream.map(|s| format!(" stream {s}")).unwrap_or_default();
                let takeover = if token.takeover { " takeover" } else { "" };
                println!("{:<20} {}{stream}{takeover}", token.name, rights.join(","));
            }
        }
        Action::Add { name, rights, stream, takeover } => {
            let stream = stream.map(|s| StreamId::new(&s)).transpose().map_err(Failure::usage)?;
            let secret = guard.add(&name, &rights, stream, takeover).map_err(Failure::usage)?;
            println!("{}", secret.expose());
            eprintln!("spotter: this is shown once; append it to a URL as ?token=...");
        }
        Action::Renew => println!("{}", guard.renew_owner().map_err(Failure::usage)?.expose()),
        Action::Revoke { name } => {
            guard.revoke(&name).map_err(Failure::usage)?;
            println!("{name} is revoked");
        }
    }
    Ok(())
}

fn right(text: &str) -> Result<Right, String> {
    match text {
        "publish" => Ok(Right::Publish),
        "read" => Ok(Right::Read),
        "admin" => Ok(Right::Admin),
        _ => Err(format!("{text:?} is not a right: give publish, read or admin")),
    }
}
