//! Updates with the real RAUC: its service on a bus of its own, slots that are files, bundles signed by keys made here. Skips,
//! out loud, where a part is missing. (The image's own tests restart into a slot; this is what leads there.)
#![allow(clippy::unwrap_used)] // a test may end at the first surprise

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spotter::update::fetch::{FetchError, Intake};
use support::{Mounted, Reaped, Service, on_path, skip, spotter};

const BOARD: &str = "spotter-test-board";

/// RAUC with two slots, the first of which "runs" 1.0.0.
struct Box {
    dir: tempfile::TempDir,
    bus: String,
    _processes: Vec<Reaped>,
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {words}");
    output
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// `None`, said out loud, where this machine lacks a part.
fn new_box() -> Option<Box> {
    let missing: Vec<_> = ["rauc", "dbus-daemon", "openssl", "mksquashfs"]
        .into_iter()
        .filter(|p| !on_path(p))
        .collect();
    if !missing.is_empty() {
        skip(&format!("{missing:?} not installed; run ./setup.sh --test"));
        return None;
    }
    let id = run(Command::new("id").arg("-u"));
    if id.stdout != b"0\n" {
        skip("RAUC mounts bundles, which takes root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_owned();
    for name in ["bin", "run", "mnt", "boot", "try"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    if let Err(why) = try_loop(&at) {
        skip(&format!("RAUC mounts bundles, and here nothing can be: {why}"));
        return None;
    }
    for key in ["good", "other"] {
        run(Command::new("openssl").current_dir(&at).args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "30",
            "-subj",
            "/CN=spotter-test",
            "-keyout",
            &format!("{key}.key"),
            "-out",
            &format!("{key}.pem"),
        ]));
    }
    for slot in ["slot0", "slot1"] {
        fs::write(at.join(slot), vec![0; 1 << 20]).unwrap();
    }
    let shown = at.display();
    script(
        &at.join("backend.sh"),
        &format!(
            "cd {shown}/boot\ncase $1 in\nget-primary) cat primary 2>/dev/null || echo A ;;\nset-primary) echo $2 >primary ;;\n\
             get-state) cat state-$2 2>/dev/null || echo good ;;\nset-state) echo $3 >state-$2 ;;\nget-current) echo A ;;\nesac\n"
        ),
    );
    fs::write(
        at.join("system.conf"),
        format!(
            "[system]\ncompatible={BOARD}\nbootloader=custom\nstatusfile={shown}/status.raucs\nmountprefix={shown}/mnt\n\
             [handlers]\nbootloader-custom-backend={shown}/backend.sh\n[keyring]\npath={shown}/good.pem\n\
             [slot.rootfs.0]\ndevice={shown}/slot0\ntype=raw\nbootname=A\n\
             [slot.rootfs.1]\ndevice={shown}/slot1\ntype=raw\nbootname=B\n"
        ),
    )
    .unwrap();
    fs::write(
        at.join("status.raucs"),
        "[slot.rootfs.0]\nbundle.compatible=x\nbundle.version=1.0.0\n",
    )
    .unwrap();
    // The real one, with our configuration in place of /etc/rauc/system.conf.
    script(
        &at.join("bin/rauc"),
        &format!("exec {} -c {shown}/system.conf \"$@\"\n", real_rauc().display()),
    );
    script(&at.join("bin/systemctl"), &format!("echo \"$@\" >>{shown}/systemctl.log\n"));

    let mut daemon = Reaped::start(
        Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    );
    let mut bus = String::new();
    BufReader::new(daemon.0.stdout.take().unwrap()).read_line(&mut bus).unwrap();
    let bus = bus.trim().to_owned();
    let mut made = Box { dir, bus, _processes: vec![daemon] };
    let mut service = made.with(Command::new("rauc"));
    let log = fs::File::create(at.join("rauc.log")).unwrap();
    service
        .args(["--override-boot-slot=A", "service"])
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    made._processes.push(Reaped::start(&mut service));
    let end = Instant::now() + Duration::from_secs(20);
    while !made.with(Command::new("rauc")).arg("status").output().unwrap().status.success() {
        assert!(Instant::now() < end, "rauc's service did not come up: {}", made.text("rauc.log"));
        std::thread::sleep(Duration::from_millis(100));
    }
    Some(made)
}

/// Whether a file can be mounted, as RAUC does with a bundle.
fn try_loop(at: &Path) -> Result<(), String> {
    let (image, on) = (at.join("try.squashfs"), at.join("try"));
    run(Command::new("mksquashfs").arg(&on).arg(&image).arg("-quiet"));
    let mount = Command::new("mount")
        .args(["-t", "squashfs", "-o", "loop,ro"])
        .arg(&image)
        .arg(&on)
        .output();
    let mount = mount.map_err(|e| e.to_string())?;
    if !mount.status.success() {
        return Err(String::from_utf8_lossy(&mount.stderr).trim().to_owned());
    }
    run(Command::new("umount").arg(&on));
    Ok(())
}

fn real_rauc() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    std::env::split_paths(&path).map(|dir| dir.join("rauc")).find(|p| p.is_file()).unwrap()
}

impl Box {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// In the box's own world.
    fn with(&self, mut command: Command) -> Command {
        let path = std::env::var("PATH").unwrap();
        let bin = self.path("bin");
        // `Command` looks a program up in the path of this process.
        let shim = bin.join(command.get_program());
        if shim.is_file() {
            command = Command::new(shim);
        }
        command
            .env("PATH", format!("{}:{path}", bin.display()))
            .env("DBUS_STARTER_BUS_TYPE", "session")
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            .env("SPOTTER__BOX__RUN_DIR", self.path("run"))
            .env("SPOTTER__NODE__STATE_DIR", self.path("state"));
        command
    }

    fn spotter(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.with(spotter()).args(args).stdin(Stdio::null()).output().unwrap();
        let words = [&output.stdout[..], &output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&words).into_owned())
    }

    fn bundle(&self, version: &str, board: &str, key: &str) -> PathBuf {
        let file = self.path(&format!("{version}-{board}-{key}.raucb"));
        let content = self.path(&format!("content-{version}-{board}-{key}"));
        fs::create_dir(&content).unwrap();
        let image: Vec<u8> = (0..300_000_u32)
            .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
            .take(300_000)
            .collect();
        fs::write(content.join("root.img"), [version.as_bytes(), &image].concat()).unwrap();
        fs::write(
            content.join("manifest.raucm"),
            format!("[update]\ncompatible={board}\nversion={version}\n[image.rootfs]\nfilename=root.img\n"),
        )
        .unwrap();
        let (cert, key) = (self.path(&format!("{key}.pem")), self.path(&format!("{key}.key")));
        run(Command::new(real_rauc())
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .arg("bundle")
            .arg(&content)
            .arg(&file));
        file
    }

    fn other_slot(&self) -> Vec<u8> {
        fs::read(self.path("slot1")).unwrap()[..5].to_vec()
    }
}

#[test]
fn the_right_bundle_is_installed_and_every_other_refused() {
    let Some(it) = new_box() else { return };
    let install = |bundle: &Path, more: &[&str]| {
        let args = [&["update", "install", bundle.to_str().unwrap()], more].concat();
        it.spotter(&args)
    };
    let (code, text) = it.spotter(&["update", "status", "--json"]);
    assert_eq!(code, Some(0), "{text}");
    let status: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&status["installed_version"], &status["system"]["booted"]),
        (&"1.0.0".into(), &"A".into())
    );

    let unsigned = it.bundle("1.1.0", BOARD, "other");
    let foreign = it.bundle("1.1.0", "spotter-other-board", "good");
    let older = it.bundle("0.9.0", BOARD, "good");
    let good = it.bundle("1.1.0", BOARD, "good");
    let cut = it.path("cut.raucb");
    fs::write(&cut, &fs::read(&good).unwrap()[..100_000]).unwrap();
    let noise = it.path("noise.raucb");
    fs::write(&noise, b"no bundle").unwrap();
    for (bundle, words) in [
        (&unsigned, "not signed by whom this box trusts"),
        (&foreign, "spotter-other-board"),
        (&older, "0.9.0 is older than the installed 1.0.0"),
        (&cut, "cut short"),
        (&noise, "no bundle"),
        (&it.path("nowhere.raucb"), "cannot read"),
    ] {
        let (code, text) = install(bundle, &[]);
        assert!(code != Some(0) && text.contains(words), "{bundle:?} {code:?}: {text}");
        assert_eq!(it.other_slot(), [0; 5], "{bundle:?}");
    }

    let (code, text) = install(&good, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("Copying image to rootfs.1"), "{text}");
    assert_eq!(it.other_slot(), b"1.1.0");
    assert!(it.text("boot/primary").contains('B') && it.text("systemctl.log").is_empty());
    let progress: Value = serde_json::from_str(&it.text("run/progress.json")).unwrap();
    assert_eq!((&progress["step"], &progress["version"]), (&"installed".into(), &"1.1.0".into()));

    let (code, text) = install(&older, &["--allow-downgrade", "--reboot"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((it.other_slot(), it.text("systemctl.log")), (b"0.9.0".to_vec(), "reboot\n".into()));

    // By its address: whole, cut short, and not there.
    let bytes = fs::read(&good).unwrap();
    let url = serve(bytes);
    let (code, text) = it.spotter(&["update", "install", &format!("{url}/whole.raucb?key=hush")]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(it.other_slot(), b"1.1.0");
    for (path, words) in
        [("cut.raucb", "127.0.0.1"), ("404", "no such file"), ("huge", "update.max_bundle_bytes")]
    {
        let (code, text) = it.spotter(&["update", "install", &format!("{url}/{path}?key=hush")]);
        assert!(
            code == Some(69) && text.contains(words) && !text.contains("hush"),
            "{path}: {code:?} {text}"
        );
    }
    over_https(&it, &good);
    assert_eq!(it.other_slot(), b"1.1.0");
    // On a terminal it asks.
    for (answer, slot) in [("n", b"1.1.0"), ("y", b"0.9.0")] {
        let words = on_terminal(&it, &["update", "install", older.to_str().unwrap()], answer);
        assert!(words.contains("Install it? [y/N]"), "{words}");
        assert_eq!(&it.other_slot(), slot, "{words}");
    }
    let left = fs::read_dir(it.path("state")).unwrap().count();
    assert_eq!(left, 0, "what was fetched does not stay");
}

/// Runs spotter on a terminal that somebody types `answer` into.
fn on_terminal(it: &Box, args: &[&str], answer: &str) -> String {
    let program = spotter().get_program().to_str().unwrap().to_owned();
    let line = format!("{program} {}", args.join(" "));
    let mut typist = it.with(Command::new("script"));
    typist.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut typist = typist.spawn().unwrap();
    let mut keys = typist.stdin.take().unwrap();
    writeln!(keys, "{answer}").unwrap();
    let output = typist.wait_with_output().unwrap();
    drop(keys);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// From a server whose certificate is trusted, and from one whose is not.
fn over_https(it: &Box, bundle: &Path) {
    let request = it.path("request.cnf");
    fs::write(
        &request,
        "[req]\ndistinguished_name=dn\nx509_extensions=v3\nprompt=no\n[dn]\nCN=spotter-test\n\
         [v3]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n",
    )
    .unwrap();
    run(Command::new("openssl")
        .current_dir(it.dir.path())
        .args(["req", "-x509", "-config"])
        .arg(&request)
        .args([
            "-newkey", "rsa:2048", "-nodes", "-days", "30", "-keyout", "web.key", "-out", "web.pem",
        ]));
    let port = support::free_port();
    let mut server = Command::new("openssl");
    server
        .current_dir(it.dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let server = server.args(["s_server", "-quiet", "-WWW", "-cert", "web.pem", "-key", "web.key"]);
    let _server = Reaped::start(server.args(["-accept", &format!("127.0.0.1:{port}")]));
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "openssl s_server did not open its door");
        std::thread::sleep(Duration::from_millis(100));
    }
    let url = format!("https://127.0.0.1:{port}/{}", bundle.file_name().unwrap().to_str().unwrap());
    let (code, text) = it.spotter(&["update", "install", &url]);
    assert!(code == Some(69) && text.contains("certificate"), "{code:?} {text}");
    let mut trusting = it.with(spotter());
    trusting.env("SPOTTER__UPDATE__CA_FILE", it.path("web.pem")).args(["update", "install", &url]);
    let output = trusting.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Serves `bundle`, and what is wrong with servers.
fn serve(bundle: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            let mut head = [0; 4096];
            let n = socket.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..n]).into_owned();
            let long = bundle.len();
            let (line, body) = match () {
                () if head.starts_with("GET /whole") => {
                    (format!("200 OK\r\nContent-Length: {long}"), &bundle[..])
                }
                () if head.starts_with("GET /cut") => {
                    (format!("200 OK\r\nContent-Length: {long}"), &bundle[..1000])
                }
                () if head.starts_with("GET /huge") => {
                    (format!("200 OK\r\nContent-Length: {}", 2_u64 << 40), &[][..])
                }
                () => ("404 Not Found\r\nContent-Length: 0".to_owned(), &[][..]),
            };
            let _ = write!(socket, "HTTP/1.1 {line}\r\nConnection: close\r\n\r\n");
            let _ = socket.write_all(body);
        }
    });
    url
}

#[test]
fn a_machine_without_rauc_is_told_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    for args in
        [&["update", "status"][..], &["update", "install", "Cargo.toml"], &["update", "describe"]]
    {
        let output = spotter()
            .args(args)
            .env("PATH", dir.path())
            .env("SPOTTER__NODE__STATE_DIR", &state)
            .env("SPOTTER__BOX__RUN_DIR", dir.path())
            .output()
            .unwrap();
        let words =
            String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
        assert!(words.contains("apt install"), "{args:?}: {words}");
        assert_eq!(output.status.success(), args[1] == "status", "{args:?}: {words}");
    }
    // A configuration that is bad now is no reason not to have the next version.
    let bad =
        spotter().args(["update", "status"]).env("SPOTTER__DETECT__SPEED", "1").output().unwrap();
    let words = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(bad.status.success() && words.contains("SPOTTER__DETECT__SPEED"), "{words}");
    let service = Service::start("[detect]\nbackend = \"fake\"\n[box]\nrun_dir = \"/nowhere\"\n");
    let (status, body) =
        ask(&service, "POST", "/api/v1/update", br#"{"url":"http://127.0.0.1:1/x"}"#);
    assert_eq!((status, &body["error"]["code"]), (409, &"no_slots".into()), "{body}");
    let (status, body) = ask(&service, "POST", "/api/v1/setup/wifi", br#"{"name":"x"}"#);
    assert_eq!((status, &body["error"]["code"]), (409, &"no_wifi".into()), "{body}");
    let (_, body) = ask(&service, "GET", "/api/v1/update", b"");
    assert!(body["instead"].as_str().unwrap().contains("apt install"), "{body}");
    service.stop();
}

/// One exchange over HTTP.
fn ask(service: &Service, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let mut socket = TcpStream::connect(("127.0.0.1", service.web)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        service.web,
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    let _ = socket.write_all(body);
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[test]
fn the_service_asks_root_and_shows_how_far_it_is() {
    let Some(it) = new_box() else { return };
    let news = it.path("news.json");
    let service = Service::start(&format!(
        "[detect]\nbackend = \"fake\"\n[update]\nurl = {news:?}\n[box]\nrun_dir = {:?}\n",
        it.path("run")
    ));
    let state = || ask(&service, "GET", "/api/v1/update", b"").1;
    let until = |what: &str, holds: &dyn Fn(&Value) -> bool| {
        let end = Instant::now() + Duration::from_secs(30);
        while !holds(&state()) {
            assert!(Instant::now() < end, "waited too long for {what}: {}", state());
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    // As the image's units do it: once at the start, and whenever there is a request.
    let as_root = |args: &[&str]| {
        let mut command = it.with(spotter());
        command.env_remove("SPOTTER__NODE__STATE_DIR").args(["--config"]).arg(&service.config);
        let output = command.args(args).output().unwrap();
        let words = [&output.stdout[..], &output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&words).into_owned())
    };
    let (fine, words) = as_root(&["update", "describe"]);
    assert!(fine, "{words}");
    until("the slots", &|s| s["system"]["booted"] == "A" && s["installed_version"] == "1.0.0");
    assert_eq!((&state()["may_install"], &state()["in_progress"]), (&true.into(), &false.into()));

    let unsigned = fs::read(it.bundle("1.1.0", BOARD, "other")).unwrap();
    let (status, body) = ask(&service, "POST", "/api/v1/update/bundle", &unsigned);
    assert_eq!((status, &body["in_progress"]), (202, &true.into()), "{body}");
    let (status, body) = ask(&service, "POST", "/api/v1/update/bundle", &unsigned);
    assert_eq!((status, &body["error"]["code"]), (409, &"busy".into()), "{body}");
    assert!(!as_root(&["update", "requested"]).0);
    until("the refusal", &|s| s["progress"]["step"] == "failed");
    assert!(state()["progress"]["message"].as_str().unwrap().contains("not signed"), "{}", state());
    assert_eq!(it.other_slot(), [0; 5]);
    // What was asked for once is not tried twice.
    assert!(as_root(&["update", "requested"]).1.contains("no request"));

    let older = fs::read(it.bundle("0.9.0", BOARD, "good")).unwrap();
    for (query, fine) in [("", false), ("?allow_downgrade=1", true)] {
        let path = format!("/api/v1/update/bundle{query}");
        assert_eq!(ask(&service, "POST", &path, &older).0, 202);
        let (done, words) = as_root(&["update", "requested"]);
        assert_eq!(done, fine, "{words}");
        let step = if fine { "restarting" } else { "failed" };
        until("the end", &|s| s["progress"]["step"] == step);
    }
    assert_eq!((it.other_slot(), it.text("systemctl.log")), (b"0.9.0".to_vec(), "reboot\n".into()));
    let left: Vec<_> = fs::read_dir(service.dir.path().join("state/update")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    service.stop();
}

#[test]
fn a_full_disk_is_said_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = Mounted::new(dir.path(), "size=1m") else { return };
    let to = dir.path().join("bundle.raucb");
    // How long it is may be known before, or not.
    let known = Intake::open(&to, 1 << 30, Some(2 << 20)).unwrap_err();
    assert!(matches!(known, FetchError::NoRoom { free, .. } if free <= 1 << 20), "{known}");
    let mut intake = Intake::open(&to, 1 << 30, None).unwrap();
    let error = (0..32).find_map(|_| intake.write(&[7; 64 << 10]).err()).unwrap();
    assert!(matches!(error, FetchError::NoRoom { .. }), "{error}");
    assert!(error.to_string().contains("delete recordings"), "{error}");
    drop(intake);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "what was cut short does not stay");
}
