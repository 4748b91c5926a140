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
        print!("{}", issue(config, token, &name, &args.set_up, has_address()));
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

/// Whether this machine is in a network, other than the one that it makes itself.
fn has_address() -> bool {
    let trie = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    has_local_address(&trie)
}

/// Of /proc/net/fib_trie: an address that is this machine's stands in the line before its "/32 host LOCAL".
fn has_local_address(trie: &str) -> bool {
    let own = |address: &str| !address.starts_with("127.") && address != AP_ADDRESS;
    let address = |line: &str| line.trim().strip_prefix("|-- ").map(str::to_owned);
    let pairs = trie.lines().zip(trie.lines().skip(1));
    pairs
        .filter(|(_, next)| next.trim() == "/32 host LOCAL")
        .any(|(line, _)| address(line).is_some_and(|address| own(&address)))
}

/// Of the box in its own network, as the image has it.
const AP_ADDRESS: &str = "10.42.0.1";

/// `\4` is the address, as getty knows it at the moment (agetty(8)); without one it would show one of the machine to itself. A
/// token has no backslash.
fn issue(config: &Config, token: &str, name: &str, set_up: &Path, has_address: bool) -> String {
    let mut text = format!("spotter {} \\l\n\n", env!("CARGO_PKG_VERSION"));
    if has_address {
        text.push_str(&urls(config, token, "\\4"));
        let _ = writeln!(text, "or by its name        {name}");
    } else {
        let _ = writeln!(text, "{name} is in no network yet: its addresses are shown when it is.");
    }
    text.push_str(&access_point(config, token, name, set_up));
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
    text.push_str(&access_point(config, token, name, set_up));
    text
}

/// How it is reached where there is no network; nothing where it makes none.
fn access_point(config: &Config, token: &str, name: &str, set_up: &Path) -> String {
    let passphrase = files::read(&set_up.join(setup::AP_PASSPHRASE), 100).ok();
    let passphrase = passphrase.and_then(|bytes| String::from_utf8(bytes).ok());
    let Some(passphrase) = passphrase.filter(|_| config.web.enabled) else {
        return String::new();
    };
    let (ssid, passphrase) = (name.trim_end_matches(".local"), passphrase.trim());
    let port = config.web.listen.port();
    format!(
        "\nWhere it finds no network it opens a Wi-Fi of its own, if it has the radio for it:\n\
         \x20 name {ssid}, password {passphrase}\n\
         Join that with your phone, open http://{AP_ADDRESS}:{port}/?token={token}\n\
         and choose your network there (the cube, top right).\n"
    )
}

/// FAT has no links and takes no rights: the file is written in place, and taken away if that fails.
fn write(file: &Path, text: &str) -> std::io::Result<Replaced> {
    if files::read(file, 64 << 10).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(Replaced::AsItWas);
    }
    files::write_in_place(file, text.as_bytes()).map(|()| Replaced::Written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_its_own_is_found() {
        let trie = |address: &str| {
            format!(
                "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- {address}\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\n"
            )
        };
        assert!(has_local_address(&trie("10.0.2.15")) && has_local_address(&trie("169.254.7.1")));
        assert!(!has_local_address(&trie("127.0.1.1")) && !has_local_address(&trie(AP_ADDRESS)));
        assert!(!has_local_address(""));
    }

    #[test]
    fn the_screen_shows_the_box_s_own_network_and_no_address_where_there_is_none() {
        let set_up = tempfile::tempdir().unwrap();
        std::fs::write(set_up.path().join(setup::AP_PASSPHRASE), "abcd efgh\n").unwrap();
        let config = Config::default();
        let alone = issue(&config, "t", "barn.local", set_up.path(), false);
        let own = ["name barn, password abcd efgh\n", "http://10.42.0.1:8080/?token=t\n"];
        assert!(own.iter().all(|words| alone.contains(words)) && !alone.contains("\\4"), "{alone}");
        let connected = issue(&config, "t", "barn.local", set_up.path(), true);
        assert!(connected.contains("http://\\4:8080/?token=t\n") && connected.contains(own[0]));
    }
}
