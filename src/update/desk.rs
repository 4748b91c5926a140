//! The service's side of updates: takes a wish for one from the page, the API or MQTT, gets the bundle, leaves the request for
//! root, and knows how it stands. It has no rights of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::fetch::{self, FetchError, Intake, News, Place};
use super::{
    BUNDLE, INSTEAD, MAX_FILE, PROGRESS, Progress, REQUEST, Request, SYSTEM, Status, Step, System,
    older,
};
use crate::config;
use crate::files;

/// How often is looked how far root is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Root takes a request up at once, where its unit is enabled.
const UNHEARD: Duration = Duration::from_secs(60);
/// Longer than the unit of root's part may run.
const SILENT: Duration = Duration::from_secs(2 * 3600);
/// The first look for a newer version; the network is up by then.
const FIRST_CHECK: Duration = Duration::from_secs(120);

#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("{INSTEAD}")]
    NotHere,
    #[error("an update is under way: wait for its end")]
    Busy,
    #[error("no newer version is known: name a bundle, or set update.url")]
    NoNews,
    #[error("{0}")]
    Fetch(#[from] FetchError),
}

/// What is to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The newest that is known of.
    Newest,
    From(Place),
}

/// An older version in the place of a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Older {
    Refused,
    Welcome,
}

/// Where wishes are taken.
#[derive(Debug)]
pub struct Desk {
    dir: PathBuf,
    run_dir: PathBuf,
    config: config::Update,
    state: Mutex<State>,
    status: watch::Sender<Arc<Status>>,
}

#[derive(Debug, Default)]
struct State {
    system: Option<System>,
    news: Option<News>,
    check_error: Option<String>,
    /// Ours, until root takes over.
    own: Option<Progress>,
    /// When the request was left.
    left: Option<Instant>,
    /// As root told it last.
    told: Progress,
}

impl Desk {
    pub fn new(state_dir: &Path, config: &config::Config) -> Arc<Self> {
        let desk = Self {
            dir: super::dir(state_dir),
            run_dir: config.machine.run_dir.clone(),
            config: config.update.clone(),
            state: Mutex::default(),
            status: watch::Sender::new(Arc::new(State::default().status())),
        };
        // What is left of a run that was cut off; a request that root has not taken yet stays.
        if !desk.dir.join(REQUEST).exists() {
            let _ = files::remove(&desk.dir.join(BUNDLE));
        }
        let _ = files::remove(&desk.dir.join(BUNDLE).with_extension("part"));
        desk.look();
        Arc::new(desk)
    }

    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.subscribe()
    }

    /// Follows what root says, and asks for newer versions where it is told to, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let follow = async {
            let mut tick = tokio::time::interval(LOOK_EVERY);
            loop {
                tick.tick().await;
                let desk = Arc::clone(&self);
                let _ = tokio::task::spawn_blocking(move || desk.look()).await;
            }
        };
        let check = async {
            if self.config.url.is_empty() {
                return std::future::pending().await;
            }
            tokio::time::sleep(first_check()).await;
            loop {
                let desk = Arc::clone(&self);
                let _ = tokio::task::spawn_blocking(move || desk.check()).await;
                tokio::time::sleep(Duration::from_secs(3600 * self.config.check_interval_h)).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
            () = check => {}
        }
    }

    /// Begins an update; how it goes on is in the status.
    pub fn begin(self: &Arc<Self>, wish: Wish, older: Older) -> Result<(), Refused> {
        let (place, version) = {
            let mut state = self.state.lock();
            let (place, version) = match wish {
                Wish::From(place) => (place, None),
                Wish::Newest => {
                    let newest = state.newest().ok_or(Refused::NoNews)?;
                    (newest.bundle.clone(), Some(newest.version.clone()))
                }
            };
            state.take_place("fetching the bundle")?;
            (place, version)
        };
        tracing::info!(from = place.shown(), version, "an update is wanted");
        self.tell();
        let desk = Arc::clone(self);
        std::thread::Builder::new()
            .name("update".into())
            .spawn(move || desk.fetch(&place, older))
            .map_err(|e| {
                self.fail(e.to_string());
                Refused::Busy
            })?;
        Ok(())
    }

    /// Opens the place for a bundle that is sent in; `long` is how long it will be.
    pub fn receive(self: &Arc<Self>, long: Option<u64>) -> Result<Receipt, Refused> {
        self.state.lock().take_place("the bundle is sent in")?;
        self.tell();
        let mut receipt = Receipt { desk: Arc::clone(self), intake: None, long, told: 0 };
        receipt.intake = Some(self.intake(long)?);
        Ok(receipt)
    }

    fn intake(&self, long: Option<u64>) -> Result<Intake, FetchError> {
        std::fs::create_dir_all(&self.dir)
            .map_err(|reason| FetchError::Write { path: self.dir.clone(), reason })?;
        Intake::open(&self.dir.join(BUNDLE), self.config.max_bundle_bytes, long)
    }

    fn fetch(&self, place: &Place, older: Older) {
        let to = self.dir.join(BUNDLE);
        let mut told = 0;
        let fetched = self.make_dir().and_then(|()| {
            fetch::copy(place, &to, &self.config, |done, long| {
                self.percent(done, long, &mut told);
            })
        });
        match fetched.and_then(|()| self.request(older)) {
            Ok(()) => self.tell(),
            Err(error) => self.fail(error.to_string()),
        }
    }

    fn make_dir(&self) -> Result<(), FetchError> {
        std::fs::create_dir_all(&self.dir)
            .map_err(|reason| FetchError::Write { path: self.dir.clone(), reason })
    }

    /// Leaves the request beside the bundle that is there now.
    fn request(&self, older: Older) -> Result<(), FetchError> {
        let id = format!("{:016x}", rand::rng().random::<u64>());
        let request = Request { id: id.clone(), allow_downgrade: older == Older::Welcome };
        let json = serde_json::to_vec(&request).expect("two plain fields are JSON");
        {
            let mut state = self.state.lock();
            state.left = Some(Instant::now());
            if let Some(own) = &mut state.own {
                *own = Progress {
                    id,
                    step: Step::Checking,
                    message: "waiting for root's part".into(),
                    ..Progress::default()
                };
            }
        }
        let file = self.dir.join(REQUEST);
        files::replace(&file, &json, 0o600)
            .map(drop)
            .map_err(|reason| FetchError::Write { path: file, reason })
    }

    fn percent(&self, done: u64, long: Option<u64>, told: &mut u8) {
        let Some(long) = long.filter(|long| *long > 0) else { return };
        let percent = u8::try_from((done.saturating_mul(100) / long).min(100)).unwrap_or(100);
        if percent != *told {
            *told = percent;
            if let Some(own) = &mut self.state.lock().own {
                own.percent = percent;
            }
            self.tell();
        }
    }

    fn fail(&self, why: String) {
        tracing::warn!(error = why, "the update failed");
        let mut state = self.state.lock();
        state.left = None;
        state.own = Some(Progress { step: Step::Failed, message: why, ..Progress::default() });
        drop(state);
        let _ = files::remove(&self.dir.join(BUNDLE));
        self.tell();
    }

    /// Asks for the newest version. Blocks.
    pub fn check(&self) {
        let asked = Place::parse(&self.config.url)
            .and_then(|place| fetch::news(&place, &self.config.ca_file));
        let mut state = self.state.lock();
        match asked {
            Ok(news) => {
                tracing::debug!(version = news.version, "the newest version");
                state.news = Some(news);
                state.check_error = None;
            }
            Err(error) => {
                tracing::debug!(%error, "the newest version is not known");
                state.check_error = Some(error.to_string());
            }
        }
        drop(state);
        self.tell();
    }

    /// Reads what root said. Blocks for two small files.
    fn look(&self) {
        let system: Option<System> = read(&self.run_dir.join(SYSTEM));
        let mut told: Progress = read(&self.run_dir.join(PROGRESS)).unwrap_or_default();
        if told.step.is_under_way() && is_old(&self.run_dir.join(PROGRESS)) {
            told.step = Step::Failed;
            told.message = "root's part fell silent: see journalctl -u spotter-update".into();
        }
        let mut state = self.state.lock();
        state.system = system;
        state.told = told;
        // Root speaks of our request: it has it now.
        let taken =
            state.left.is_some() && state.own.as_ref().is_some_and(|own| own.id == state.told.id);
        if taken {
            state.own = None;
            state.left = None;
        }
        let unheard = state.left.is_some_and(|since| since.elapsed() > UNHEARD);
        drop(state);
        if unheard {
            let _ = files::remove(&self.dir.join(REQUEST));
            self.fail("nobody took the request up: enable spotter-update.path".into());
        }
        self.tell();
    }

    fn tell(&self) {
        let status = self.state.lock().status();
        self.status.send_if_modified(|old| {
            let differs = **old != status;
            if differs {
                *old = Arc::new(status);
            }
            differs
        });
    }
}

impl State {
    fn take_place(&mut self, message: &str) -> Result<(), Refused> {
        if self.system.is_none() {
            return Err(Refused::NotHere);
        }
        if self.progress().step.is_under_way() {
            return Err(Refused::Busy);
        }
        self.own =
            Some(Progress { step: Step::Fetching, message: message.into(), ..Progress::default() });
        Ok(())
    }

    fn progress(&self) -> &Progress {
        self.own.as_ref().unwrap_or(&self.told)
    }

    fn installed(&self) -> &str {
        self.system.as_ref().map_or(env!("CARGO_PKG_VERSION"), |s| &s.version)
    }

    /// What is newer than what runs.
    fn newest(&self) -> Option<&News> {
        self.news.as_ref().filter(|news| older(self.installed(), &news.version))
    }

    fn status(&self) -> Status {
        let progress = self.progress().clone();
        let newest = self.newest().map_or(self.installed(), |news| &news.version);
        Status {
            installed_version: self.installed().to_owned(),
            latest_version: newest.to_owned(),
            in_progress: progress.step.is_under_way(),
            progress,
            system: self.system.clone(),
            instead: self.system.is_none().then(|| INSTEAD.to_owned()),
            check_error: self.check_error.clone(),
        }
    }
}

/// A bundle that is being sent in. Let go before its end, it is forgotten.
#[derive(Debug)]
pub struct Receipt {
    desk: Arc<Desk>,
    intake: Option<Intake>,
    long: Option<u64>,
    told: u8,
}

impl Receipt {
    /// Blocks.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        let Some(intake) = &mut self.intake else { return Ok(()) };
        intake.write(bytes)?;
        let done = intake.written();
        self.desk.percent(done, self.long, &mut self.told);
        Ok(())
    }

    /// All of it is there: leaves the request. Blocks.
    pub fn finish(mut self, older: Older) -> Result<(), FetchError> {
        let Some(intake) = self.intake.take() else { return Ok(()) };
        let done = intake.finish().and_then(|()| self.desk.request(older));
        match &done {
            Ok(()) => self.desk.tell(),
            Err(error) => self.desk.fail(error.to_string()),
        }
        done
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let fetching = |own: &Progress| own.step == Step::Fetching;
        let left_alone = self.desk.state.lock().own.as_ref().is_some_and(fetching);
        if left_alone {
            self.intake = None;
            self.desk.fail("the bundle did not come to its end: send it again".into());
        }
    }
}

/// Nothing was written for longer than the unit may run.
fn is_old(file: &Path) -> bool {
    let modified = std::fs::metadata(file).and_then(|meta| meta.modified());
    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > SILENT))
}

/// Boxes that start together do not ask together.
fn first_check() -> Duration {
    FIRST_CHECK.mul_f64(rand::rng().random_range(0.5..1.5))
}

fn read<T: DeserializeOwned>(file: &Path) -> Option<T> {
    serde_json::from_slice(&files::read(file, MAX_FILE).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Rig {
        dir: tempfile::TempDir,
        desk: Arc<Desk>,
    }

    fn rig(change: impl FnOnce(&mut config::Config)) -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config::Config::default();
        config.machine.run_dir = dir.path().join("run");
        std::fs::create_dir(&config.machine.run_dir).unwrap();
        change(&mut config);
        let desk = Desk::new(&dir.path().join("state"), &config);
        Rig { dir, desk }
    }

    impl Rig {
        fn root_says<T: serde::Serialize>(&self, file: &str, what: &T) {
            let json = serde_json::to_vec(what).unwrap();
            std::fs::write(self.dir.path().join("run").join(file), json).unwrap();
            self.desk.look();
        }

        fn is_image(&self) {
            let system = System { version: "1.0".into(), booted: "A".into(), ..System::default() };
            self.root_says(SYSTEM, &system);
        }

        fn now(&self) -> Arc<Status> {
            self.desk.status().borrow().clone()
        }

        fn request(&self) -> Option<Request> {
            read(&self.dir.path().join("state/update").join(REQUEST))
        }

        fn until(&self, holds: impl Fn(&Status) -> bool) {
            let end = Instant::now() + Duration::from_secs(20);
            while !holds(&self.now()) {
                assert!(Instant::now() < end, "{:?}", self.now());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    #[test]
    fn a_package_says_what_to_do_instead() {
        let rig = rig(|_| {});
        let now = rig.now();
        assert!(now.instead.as_ref().unwrap().contains("apt") && !now.in_progress);
        assert_eq!(
            (&*now.installed_version, &*now.latest_version),
            (env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_VERSION"))
        );
        assert!(matches!(
            rig.desk.begin(Wish::Newest, Older::Refused),
            Err(Refused::NoNews | Refused::NotHere)
        ));
        assert!(matches!(rig.desk.receive(None), Err(Refused::NotHere)));
    }

    #[test]
    fn the_newest_is_fetched_requested_and_followed() {
        let rig = rig(|c| c.update.url = "/nowhere".into());
        rig.is_image();
        assert!(matches!(rig.desk.begin(Wish::Newest, Older::Refused), Err(Refused::NoNews)));
        let news = |version: &str| News {
            version: version.into(),
            bundle: Place::File(rig.dir.path().join("b")),
        };
        rig.desk.check();
        assert!(rig.now().check_error.as_ref().unwrap().contains("/nowhere"));
        rig.desk.state.lock().news = Some(news("0.9"));
        assert!(matches!(rig.desk.begin(Wish::Newest, Older::Refused), Err(Refused::NoNews)));
        rig.desk.state.lock().news = Some(news("1.1"));
        rig.desk.tell();
        assert_eq!(rig.now().latest_version, "1.1");
        std::fs::write(rig.dir.path().join("b"), b"a bundle").unwrap();
        rig.desk.begin(Wish::Newest, Older::Refused).unwrap();
        assert!(matches!(rig.desk.begin(Wish::Newest, Older::Refused), Err(Refused::Busy)));
        rig.until(|now| now.progress.step == Step::Checking);
        let request = rig.request().unwrap();
        assert!(!request.allow_downgrade);
        let mut told =
            Progress { id: request.id, step: Step::Installing, percent: 40, ..Progress::default() };
        rig.root_says(PROGRESS, &told);
        assert_eq!((rig.now().progress.percent, rig.now().in_progress), (40, true));
        assert!(matches!(rig.desk.receive(None), Err(Refused::Busy)));
        (told.step, told.message) = (Step::Failed, "not signed".into());
        rig.root_says(PROGRESS, &told);
        assert!(!rig.now().in_progress && rig.now().progress.message == "not signed");
        // Another try is allowed then.
        rig.desk.begin(Wish::Newest, Older::Refused).unwrap();
    }

    #[test]
    fn a_bundle_that_is_sent_in_half_is_forgotten() {
        let rig = rig(|c| c.update.max_bundle_bytes = 1 << 20);
        rig.is_image();
        let mut receipt = rig.desk.receive(Some(10)).unwrap();
        receipt.write(b"half").unwrap();
        assert_eq!(rig.now().progress.percent, 40);
        drop(receipt);
        assert_eq!(rig.now().progress.step, Step::Failed);
        assert!(rig.request().is_none());
        let mut receipt = rig.desk.receive(None).unwrap();
        let long = vec![0; (1 << 20) + 1];
        assert!(matches!(receipt.write(&long), Err(FetchError::TooLong(_))));
        drop(receipt);
        assert!(matches!(rig.desk.receive(Some(2 << 20)), Err(Refused::Fetch(_))));
        assert!(!rig.now().in_progress, "{:?}", rig.now());
        let mut receipt = rig.desk.receive(Some(3)).unwrap();
        receipt.write(b"abc").unwrap();
        receipt.finish(Older::Welcome).unwrap();
        assert!(rig.request().unwrap().allow_downgrade);
        assert_eq!(
            std::fs::read(rig.dir.path().join("state/update").join(BUNDLE)).unwrap(),
            b"abc"
        );
    }

    #[test]
    fn a_request_that_nobody_takes_up_is_said() {
        let rig = rig(|_| {});
        rig.is_image();
        std::fs::write(rig.dir.path().join("b"), b"a bundle").unwrap();
        rig.desk.begin(Wish::From(Place::File(rig.dir.path().join("b"))), Older::Refused).unwrap();
        rig.until(|now| now.progress.step == Step::Checking);
        rig.desk.state.lock().left = Instant::now().checked_sub(UNHEARD * 2);
        rig.desk.look();
        assert!(rig.now().progress.message.contains("spotter-update.path"));
        assert!(rig.request().is_none());
    }
}
