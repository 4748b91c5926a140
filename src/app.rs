//! The only room that knows every stage: here the channels are built and the stages started; `running` reloads and ends them.

mod decoders; // one decoding task a stream
mod detector; // the detector's thread
mod doors; // the sockets we listen on
mod failure; // how a command ends badly
pub mod foresee; // what would keep the service from starting
mod left_open; // the last words about visits that a crash cut off
mod local; // cameras, lamps and the pause
mod manager; // what the service manager hears
mod pacing; // strain -> the scheduler's rates and the model
mod pictures; // pictures sent in by hand -> the scheduler
mod report; // what the node says of itself
mod running; // what is started: told of changes, ended in order
mod signals; // what ends and reloads us
pub mod state; // the state directory and the node's name
mod tracking; // detections -> visits

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use failure::Failure;

use crate::auth::{Guard, Places};
use crate::board;
use crate::config::{Config, Loaded};
use crate::control::Control;
use crate::decode::{Fit, Frame};
use crate::detect::scheduler::Scheduler;
use crate::detect::{self, Detections, Detector};
use crate::ingest;
use crate::ingest::srt::SrtContext;
use crate::live::Live;
use crate::media::Streams;
use crate::media::stream::StreamLimits;
use crate::mqtt;
use crate::relay::Relays;
use crate::snapshots::Snapshots;
use crate::store::Store;
use crate::supervise::{BackOff, supervise};
use crate::update::Desk;
use crate::wire::{Encoded, LinkState};
use crate::{announce, record, setup, web, ws};
use decoders::Decoders;
use detector::DetectorThread;
use doors::Doors;
use local::Local;
use report::{Groups, Identity, Statistics, json};
use running::{Running, Stops, Tasks};
use signals::Signals;
use tracking::Tracking;

pub use tracking::AllCounts;

/// Messages an exit may fall behind before it loses the oldest: about six seconds of four streams.
const EXIT_BACKLOG: usize = 256;

/// Runs the service until it is told to end or a stage gives up.
pub fn run(loaded: Loaded, asked: Option<&Path>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("io")
        .enable_all()
        .build()
        .map_err(Failure::unavailable)?;
    let outcome = runtime.block_on(serve(loaded, asked.map(Path::to_owned)));
    // A blocking task that hangs, in a decoder's driver say, must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// Opens the detector that `config` asks for on this board.
pub fn open_detector(config: &Config) -> Result<Box<dyn Detector>, Failure> {
    detect::open(&config.detect, &detector_paths(config)?).map_err(Failure::config)
}

/// What opening a detector needs to know of this machine.
pub fn detector_paths(config: &Config) -> Result<detect::Paths, Failure> {
    Ok(detector::paths(&board::board(), state::dir(config)?))
}

/// How large the detector that `config` asks for wants pictures; none where it looks closer at parts of them.
pub fn fit(config: &Config) -> Result<Option<Fit>, Failure> {
    Ok(detector::fit(&config.detect, &detector_paths(config)?))
}

async fn serve(loaded: Loaded, asked: Option<PathBuf>) -> Result<(), Failure> {
    // Before anything takes time, so that no signal finds its default action.
    let mut signals = Signals::new()?;
    let mut running = start(&loaded).await?;
    let outcome = running.follow(loaded, asked, &mut signals).await;
    running.finish(&mut signals).await;
    outcome
}

/// Takes the doors, builds the channels, starts the stages.
async fn start(loaded: &Loaded) -> Result<Running, Failure> {
    let config = loaded.config.clone();
    let dir = state::dir(&config)?;
    let node: Arc<str> = state::node_name(&config, &dir)?.into();
    let board = board::board();
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %node, board = board.model, state_dir = %dir.display(), config = ?loaded.file, "spotter starts");
    let (guard, first_start) = Guard::open(&dir, &config.auth).map_err(Failure::config)?;
    let guard = Arc::new(guard);
    let doors = Doors::bind(&config).await?;
    if let Some(first) = first_start {
        doors.print_owner_urls(&first);
    }
    let who = Identity {
        bound: doors.bound(&config),
        max_streams: config.ingest.max_streams,
        board: board.clone(),
    };

    let announcement = announce::Context::new(
        Arc::clone(&node),
        setup::host_name(&node),
        doors.services(&node, &config),
    );

    let streams = Streams::new(StreamLimits {
        max_streams: config.ingest.max_streams,
        gop_budget_bytes: config.ingest.gop_budget_bytes,
        grace: Duration::from_secs(config.ingest.reconnect_grace_s),
    });
    let scheduler = Scheduler::new(config.websocket.max_waiting_pictures);
    let detections = broadcast::Sender::new(EXIT_BACKLOG);
    let mut groups = Groups::default();
    groups.read("denied", {
        let guard = Arc::clone(&guard);
        move || json(&guard.denials)
    });
    let snapshots = Snapshots::start().map_err(Failure::unavailable)?;
    groups.read("snapshots", {
        let snapshots = Arc::clone(&snapshots);
        move || json(&snapshots.counters)
    });
    // What is in force now, overrides included, also for the stages that follow it by themselves.
    let control = Control::open(&dir, config.clone());
    groups.shared("control", &control.counters);
    let store = Store::start(dir.clone(), control.settings()).map_err(Failure::unavailable)?;
    groups.read("storage", {
        let store = Arc::clone(&store);
        move || store.counters()
    });
    let tracking = Tracking::new(&config, Arc::clone(&streams), Arc::clone(&store));
    let keys = (Arc::clone(&guard), who.bound.clone());
    let local = Local::new(&config, &dir, &board, &streams, tracking.counts.subscribe(), keys);
    groups.read("sources", {
        let sources = Arc::clone(&local.sources);
        move || sources.counters()
    });
    let emit = {
        let (node, out, snapshots) =
            (Arc::clone(&node), detections.clone(), Arc::clone(&snapshots));
        let tracking = Arc::clone(&tracking);
        move |frame: &Frame, mut found: Detections| {
            let better = tracking.observe(&mut found);
            let found = Arc::new(found);
            // The message first: a picture is copied for those who want one, and the message need not wait for that.
            // No exit listens: nothing is lost that anyone wanted.
            let _ = out.send(Encoded::new(Arc::clone(&node), Arc::clone(&found)));
            snapshots.portray(frame, better);
            snapshots.offer_found(frame, &found.items);
        }
    };
    let paths = detector::paths(&board, dir.clone());
    let fit = detector::fit(&config.detect, &paths);
    let detector = DetectorThread::start(&config, paths.clone(), &scheduler, emit)?;
    groups.read("detector", {
        let scheduler = Arc::clone(&scheduler);
        move || {
            serde_json::json!({
                "pictures_refused": scheduler.pictures_refused,
                "threads_left_behind": detect::threads_left_behind(),
            })
        }
    });
    let (rooms, tap) = (Arc::clone(&scheduler), Arc::clone(&snapshots));
    let mut decoders = Decoders::new(config.decode.clone(), board.kind, rooms, tap);
    decoders.fit = fit;

    let (ingest_stop, exits_stop) = (CancellationToken::new(), CancellationToken::new());
    let pacing = pacing::Context {
        scheduler: Arc::clone(&scheduler),
        settings: control.settings(),
        wanted: Arc::clone(&detector.wanted),
        paths: paths.clone(),
    };
    let pace = pacing::start(pacing, exits_stop.clone());
    let ingest_counters = groups.counted("ingest");
    let srt_counters = groups.counted("srt");
    let readers = Places::new(config.ingest.max_readers, config.ingest.max_readers_per_address);
    let reader_counters = groups.counted("readers");
    let relays = Relays::new(Arc::clone(&streams));
    relays.follow(&config.relay);
    groups.read("relays", {
        let relays = Arc::clone(&relays);
        move || relays.counters()
    });
    let update = Desk::new(&dir, &config);
    tokio::spawn(Arc::clone(&update).run(exits_stop.clone()));
    let mqtt_counters = groups.counted("mqtt");
    let embedded_counters = match mqtt::has_both(&config.mqtt) {
        true => groups.counted("mqtt_embedded"),
        false => Arc::default(),
    };
    let broker_counters = groups.counted("broker");
    let outbox = mqtt::open_outbox(&config.mqtt, &dir, &mqtt_counters);
    tokio::spawn(left_open::tell(Arc::clone(&node), Arc::clone(&store), Arc::clone(&outbox)));
    groups.shared("outbox", &outbox);
    let ws_counters = groups.counted("websocket");
    let web_counters = groups.counted("web");
    let webrtc_counters = groups.counted("webrtc");
    let live = Live::new();
    groups.shared("live", &live.counters);
    let (status, status_seen) = watch::channel(None);
    let statistics = Statistics::new(Arc::clone(&streams), pace.clone(), groups);

    let ingest_context = ingest::Context {
        streams: Arc::clone(&streams),
        guard: Arc::clone(&guard) as Arc<dyn ingest::Gate>,
        config: config.ingest.clone(),
        counters: ingest_counters,
        readers,
        reader_counters,
    };
    tokio::spawn(Arc::clone(&tracking).run(exits_stop.clone()));
    let portraits = snapshots.portraits.subscribe();
    let keep = tokio::spawn(Arc::clone(&store).follow(portraits, exits_stop.clone()));
    let record_stop = CancellationToken::new();
    let record_context = record::Context {
        streams: Arc::clone(&streams),
        events: tracking.events.clone(),
        store: Arc::clone(&store),
        settings: control.settings(),
    };
    let record = tokio::spawn(record::run(record_context, record_stop.clone()));
    local.sources.follow(&config.source);
    let entry = ingest_context.entry();
    let srt = doors.srt.map(|door| {
        let (entry, config) = (entry.clone(), config.ingest.clone());
        let context = SrtContext { entry, config, counters: srt_counters };
        door.open(context, ingest_stop.clone())
            .map_err(|error| Failure::unavailable(format!("cannot listen for SRT: {error}")))
    });
    let srt = srt.transpose()?;
    let ingest =
        tokio::spawn(ingest::run(doors.rtmp, doors.rtmps, ingest_context, ingest_stop.clone()));
    let link = watch::Sender::new(LinkState::Disabled);
    let link_seen = link.subscribe();
    let mqtt_context = mqtt::Context {
        node: Arc::clone(&node),
        config: config.mqtt.clone(),
        guard: Arc::clone(&guard),
        detections: detections.clone(),
        events: tracking.events.clone(),
        counts: tracking.counts.subscribe(),
        snapshots: Arc::clone(&snapshots),
        control: Arc::clone(&control),
        pause: Arc::clone(&local.pause),
        clock: store.clock(),
        kept: {
            let store = Arc::clone(&store);
            Arc::new(move |visit| store.kept(visit))
        },
        outbox,
        streams: Arc::clone(&streams),
        update: Arc::clone(&update),
        status: status_seen.clone(),
        stats: statistics.reader(),
        counters: mqtt_counters,
        embedded_counters,
        broker_counters,
        link: Arc::new(link),
    };
    let mqtt = {
        let (door, stop) = (doors.mqtt.map(Arc::new), exits_stop.clone());
        let run = move || mqtt::run(mqtt_context.clone(), door.clone(), stop.clone());
        tokio::spawn(supervise("mqtt", BackOff::default(), exits_stop.clone(), run))
    };
    let announced = config.announce.enabled.then(|| {
        let stop = exits_stop.clone();
        let run = move || announce::run(announcement.clone(), stop.clone());
        tokio::spawn(supervise("announce", BackOff::default(), exits_stop.clone(), run))
    });
    let ws_context = ws::Context {
        node: Arc::clone(&node),
        config: config.websocket.clone(),
        guard: Arc::clone(&guard),
        detections: detections.clone(),
        streams: Arc::clone(&streams),
        pictures: pictures::detector(&scheduler),
        counters: ws_counters,
    };
    let websocket = doors.websocket.map(|door| {
        serve_door("websocket", door, exits_stop.clone(), move |door, stop| {
            ws::run(door, ws_context.clone(), stop)
        })
    });
    let webrtc = doors.webrtc.map(|socket| {
        let webrtc = web::whep::Webrtc::new(socket, config.web.max_webrtc, webrtc_counters);
        Arc::new(webrtc.with_publishers(config.ingest.max_streams))
    });
    let web_context = web::Context {
        node: Arc::clone(&node),
        config: config.web.clone(),
        entry,
        ingest: config.ingest.clone(),
        guard: Arc::clone(&guard),
        detections: detections.clone(),
        streams: Arc::clone(&streams),
        status: status_seen,
        stats: statistics.reader(),
        snapshots: Arc::clone(&snapshots),
        control: Arc::clone(&control),
        pause: Arc::clone(&local.pause),
        live,
        store: Arc::clone(&store),
        settings: control.settings(),
        update,
        state_dir: dir.as_path().into(),
        counters: web_counters,
        webrtc,
    };
    let web = doors.web.map(|door| {
        serve_door("web", door, exits_stop.clone(), move |door, stop| {
            web::run(door, web_context.clone(), stop)
        })
    });
    let at = who.bound.addresses();
    tracing::info!(
        rtmp = at.rtmp,
        rtmps = at.rtmps,
        srt = at.srt,
        websocket = at.websocket,
        mqtt = at.mqtt,
        mqtts = at.mqtts,
        web = at.web,
        "spotter listens"
    );

    Ok(Running {
        who,
        guard,
        streams,
        scheduler,
        detections,
        control,
        store,
        tracking,
        local,
        detector,
        decoders,
        paths,
        pace,
        relays,
        link: link_seen,
        status,
        tasks: Tasks {
            ingest,
            srt,
            record,
            keep,
            mqtt,
            exits: [websocket, web, announced].into_iter().flatten().collect(),
        },
        stops: Stops { ingest: ingest_stop, record: record_stop, exits: exits_stop },
    })
}

/// Keeps an exit with a door of its own running until `stop`.
fn serve_door<F: Future<Output = ()> + Send + 'static>(
    name: &'static str,
    door: TcpListener,
    stop: CancellationToken,
    serve: impl Fn(Arc<TcpListener>, CancellationToken) -> F + Send + 'static,
) -> JoinHandle<()> {
    let (door, stopped) = (Arc::new(door), stop.clone());
    let run = move || {
        let served = serve(Arc::clone(&door), stopped.clone());
        async move {
            served.await;
            Ok::<(), std::convert::Infallible>(())
        }
    };
    tokio::spawn(supervise(name, BackOff::default(), stop, run))
}
