//! `spotter url`: where the page is and where to publish to, with the owner's token, again: on standard output, for the box's
//! own screen, or for its card. Whoever has the screen or the card before them owns the box. Nothing of it is logged.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use spotter::app::{Failure, state};
use spotter::auth::{self, Guard};
use spotter::board::own_address;
use spotter::config::Config;
use spotter::files::{self, Replaced};
use spotter::setup;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// In the form of /etc/issue: getty puts the box's address in and follows its changes.
    #[arg(long, conflicts_with = "card")]
    issue: bool,
    /// Write spotter-start.txt there, if it changed.
    #[arg(long, value_name = "DIR")]
    card: Option<PathBuf>,
    /// Where `spotter setup` put its files.
    #[arg(long, value_name = "DIR", default_value = setup::SET_UP)]
    set_up: PathBuf,
}

const ON_CARD: &str = "spotter-start.txt";

pub(crate) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    let dir = state::dir(config)?;
    // Only the service makes it: made by root, the service could not read it.
    if !dir.join(auth::FILE_NAME).exists() {
        return Err(Failure::unavailable(format!(
            "there is no token in {} yet: start spotter once",
            dir.display()
        )));
    }
    let (guard, _) = Guard::open(&dir, &config.auth).map_err(Failure::config)?;
    let owner = guard.owner();
    let token = owner.as_ref().map_or("", |secret| secret.expose());
    let node = state::node_name(config, &dir)?;
    let name = format!("{}.local", setup::host_name(&node));
    if args.issue {
        print!("{}", issue(config, token, &name, &args.set_up));
        return Ok(());
    }
    let Some(card) = &args.card else {
        print!("{}", urls(config, token, &own_address().to_string()));
        return Ok(());
    };
    let file = card.join(ON_CARD);
    let text = on_card(config, token, &name, &args.set_up).replace('\n', "\r\n");
    match write(&file, &text) {
        Ok(Replaced::Written) => eprintln!("spotter: wrote {}", file.display()),
        Ok(Replaced::AsItWas) => {}
        Err(e) => {
            return Err(Failure::unavailable(format!("cannot write {}: {e}", file.display())));
        }
    }
    Ok(())
}

fn urls(config: &Config, token: &str, host: &str) -> String {
    let mut text = String::new();
    if config.web.enabled {
        let port = config.web.listen.port();
        let _ = writeln!(text, "see it at             http://{host}:{port}/?token={token}");
    }
    let port = config.ingest.listen.port();
    let _ = writeln!(text, "point the glasses at  rtmp://{host}:{port}/live/stream?token={token}");
    text
}

/// `\4` is the address, as getty knows it at the moment (agetty(8)). A token has no backslash.
fn issue(config: &Config, token: &str, name: &str, set_up: &Path) -> String {
    let mut text =
        format!("spotter {} \\l\n\n{}", env!("CARGO_PKG_VERSION"), urls(config, token, "\\4"));
    let _ = writeln!(text, "or by its name        {name}");
    if let Some(problem) = setup::problem_beside(Some(&set_up.join(setup::CONFIG))) {
        let _ = writeln!(text, "\n{}", problem.replace('\\', "\\\\"));
    }
    text.push('\n');
    text
}

fn on_card(config: &Config, token: &str, name: &str, set_up: &Path) -> String {
    let mut text = format!(
        "This box is called {name}. Whoever has these addresses may do everything with it.\n\n{}",
        urls(config, token, name)
    );
    let passphrase = files::read(&set_up.join(setup::AP_PASSPHRASE), 100).ok();
    if let Some(passphrase) = passphrase.and_then(|bytes| String::from_utf8(bytes).ok()) {
        let ssid = name.trim_end_matches(".local");
        let _ = writeln!(
            text,
            "\nWhere it finds no network it opens one of its own: {ssid}, password {}\nJoin that with your phone, then open the first address and choose your network.",
            passphrase.trim()
        );
    }
    text
}

/// FAT has no links and takes no rights: the file is written in place, and taken away if that fails.
fn write(file: &Path, text: &str) -> std::io::Result<Replaced> {
    if files::read(file, 64 << 10).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(Replaced::AsItWas);
    }
    files::write_in_place(file, text.as_bytes()).map(|()| Replaced::Written)
}
