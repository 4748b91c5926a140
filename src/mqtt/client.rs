//! Our client: connects, says what is, publishes as it comes, obeys, and begins again when the connection breaks.
//! Detections and pictures of a time without a broker are dropped and counted; events wait in the outbox.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::cameras::Cameras;
use super::care::Care;
use super::carrier::{self, Connection, Happened, Keeping, Promise, Sender};
use super::causes::{self, Causes};
use super::complaints::{Complaints, Stall, Trouble};
use super::ledger::NotSent;
use super::link::{self, Ended, Endpoint, LinkError, Options, Session, Stage};
use super::outbox::{self, Given, Outbox};
use super::poll::{Connected, Poll, note_refusal};
use super::report::Report;
use super::voice::{Line, PATIENCE, Voice};
use super::words::Words;
use super::{AllCounts, Context, Counters};
use crate::config::Config;
use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::snapshots::Portrait;
use crate::store::clock::Clock;
use crate::track::Event;
use crate::update::Status;
use crate::wire::{self, Encoded, LinkState};

const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long after connecting the broker may still hand us what an earlier run left retained.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// How long is waited for what a broker has retained on a topic, when one is suspect.
const LISTEN: Duration = Duration::from_millis(400);

/// Which broker a client is for, and what is its own.
pub(super) struct Side {
    /// The embedded broker's address, when that is the one.
    pub(super) own: Option<SocketAddr>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) counters: Arc<Counters>,
    pub(super) link: Arc<watch::Sender<LinkState>>,
    /// What is wrong at a broker that we are connected to.
    pub(super) complaints: Arc<Complaints>,
}

/// Publishes until `shutdown`.
pub(super) async fn run(ctx: &Context, side: &Side, shutdown: &CancellationToken) {
    let mut client = Client {
        ctx,
        side,
        detections: ctx.detections.subscribe(),
        events: ctx.events.subscribe(),
        portraits: ctx.snapshots.portraits.subscribe(),
        status: ctx.status.clone(),
        streams: ctx.streams.watch(),
        counts: ctx.counts.clone(),
        settings: ctx.control.settings(),
        known: ctx.control.known(),
        update: ctx.update.status(),
        clock: ctx.clock.clone(),
        voice: Voice::new(ctx, &side.counters),
        spare: None,
        handed: Given::default(),
        care: Care::default(),
        since: None,
        named: false,
        causes: Causes::default(),
        stall: Stall::default(),
    };
    let endpoint = match side.own {
        Some(address) => Ok(Endpoint::own(address)),
        None => Endpoint::parse(&ctx.config.broker),
    };
    let shown = match (&side.own, &endpoint) {
        (Some(_), _) => "embedded".to_owned(),
        (None, Ok(endpoint)) => endpoint.to_string(),
        (None, Err(_)) => "none".to_owned(),
    };
    let mut report = Report::new(side, &ctx.node, shown);
    let mut wait = BACK_OFF.0;
    while !shutdown.is_cancelled() {
        let began = Instant::now();
        let attempt = async {
            let endpoint = endpoint.clone()?;
            let available = client.voice.topic("available");
            let is_own = side.own.is_some();
            let session = if client.care.begin() { Session::Anew } else { Session::GoesOn };
            let options =
                link::options(&ctx.config, &endpoint, is_own, &ctx.node, &available, session)?;
            client.session(options, &endpoint, &mut report, shutdown).await
        };
        let Err(error) = attempt.await else { break };
        report.down(&error);
        // A connection that held for a while was a good one: begin patiently anew.
        let held = began.elapsed() > BACK_OFF.1;
        // So was one that taught us something.
        let learnt =
            matches!(error, LinkError::TooLarge { bytes, .. } if client.care.too_large(bytes));
        if held || learnt {
            wait = BACK_OFF.0;
        }
        // Two nodes that throw each other out do so more slowly.
        let wait_now = if report.is_contested() { BACK_OFF.1 / 3 } else { wait };
        tokio::select! {
            () = sleep(wait_now.mul_f64(rand::random_range(0.75..1.25))) => {}
            () = client.absent() => {}
            () = shutdown.cancelled() => {}
        }
        wait = (wait * 2).min(BACK_OFF.1);
    }
    client.collect();
    let outbox = Arc::clone(&side.outbox);
    let _ = tokio::task::spawn_blocking(move || outbox.write(Duration::ZERO)).await;
}

pub(super) struct Client<'a> {
    pub(super) ctx: &'a Context,
    pub(super) side: &'a Side,
    detections: broadcast::Receiver<Arc<Encoded>>,
    pub(super) events: broadcast::Receiver<Arc<Event>>,
    portraits: broadcast::Receiver<Arc<Portrait>>,
    status: watch::Receiver<Option<Arc<wire::NodeStatus>>>,
    pub(super) streams: watch::Receiver<Arc<[StreamSummary]>>,
    counts: watch::Receiver<AllCounts>,
    settings: watch::Receiver<Arc<Config>>,
    known: watch::Receiver<Arc<[StreamId]>>,
    update: watch::Receiver<Arc<Status>>,
    pub(super) clock: watch::Receiver<Clock>,
    pub(super) voice: Voice<'a>,
    /// The last connection, with what was under way in it.
    spare: Option<(Sender, Connection)>,
    /// The events that this connection has.
    pub(super) handed: Given,
    care: Care,
    /// When this connection was made.
    since: Option<Instant>,
    /// Whether this run heard itself as this node's instance.
    pub(super) named: bool,
    pub(super) causes: Causes,
    pub(super) stall: Stall,
}

impl Client<'_> {
    /// One connection from its attempt to its end; `Ok` after the goodbye at shutdown.
    async fn session(
        &mut self,
        options: Options,
        endpoint: &Endpoint,
        report: &mut Report<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        report.connecting();
        self.since = None;
        let (sender, connection, carried) = self.ready(options);
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let _stop_on_drop = stop.clone().drop_guard();
        let (tx, told) = mpsc::channel(1);
        let words = Arc::<Words>::default();
        let poll = Poll {
            connection,
            topics: self.voice.topics.clone(),
            outbox: Arc::clone(&self.side.outbox),
            counters: Arc::clone(&self.side.counters),
            complaints: Arc::clone(&self.side.complaints),
            words: Arc::clone(&words),
            told: tx,
        };
        let task = tokio::spawn(poll.run(stop.clone(), ended.clone()));
        sender.bound(self.ctx.config.max_packet_bytes, self.care.most(Instant::now()));
        let line = Line {
            sender: sender.clone(),
            endpoint,
            ended: ended.clone(),
            complaints: &self.side.complaints,
            counters: &self.side.counters,
        };
        let outcome = self.talk(&line, (told, &words), carried, report, shutdown).await;
        if outcome.is_ok() {
            // Ends once DISCONNECT is written.
            let _ = timeout(PATIENCE, ended.cancelled()).await;
        }
        stop.cancel();
        let longest = sender.longest();
        match task.await {
            Ok((connection, why)) => {
                // Not so where another node of our name throws us out.
                if let (Some(since), Some(Ended::Io(_) | Ended::Other(_))) = (self.since, &why)
                    && !report.is_contested()
                {
                    self.care.broke(since.elapsed(), longest, Instant::now());
                }
                self.spare = Some((sender, connection));
                match (outcome, why) {
                    (Err(_), Some(why)) => Err(self.explain(why, endpoint)),
                    (outcome, _) => outcome,
                }
            }
            Err(fault) => Err(self.explain(Ended::Other(fault.to_string()), endpoint)),
        }
    }

    fn explain(&self, why: Ended, endpoint: &Endpoint) -> LinkError {
        let stage = if self.since.is_some() { Stage::Connected } else { Stage::Asking };
        link::explain(why, endpoint, stage)
    }

    /// A connection to begin with, and the events that are in it already.
    fn ready(&mut self, options: Options) -> (Sender, Connection, Vec<u64>) {
        if let Some((sender, connection)) = self.spare.take() {
            let (mended, acknowledged) = connection.mend(options.clone());
            let Side { outbox, counters, complaints, .. } = self.side;
            for happened in acknowledged {
                match happened {
                    Happened::Acknowledged(number) => outbox.acknowledged(number),
                    Happened::Refused(it) => note_refusal(it, outbox, counters, complaints),
                    _ => {}
                }
            }
            if let Some((connection, carried)) = mended {
                return (sender, connection, carried);
            }
        }
        let (sender, connection) = carrier::new(options);
        (sender, connection, Vec::new())
    }

    async fn talk(
        &mut self,
        line: &Line<'_>,
        (mut told, words): (mpsc::Receiver<Connected>, &Words),
        carried: Vec<u64>,
        report: &mut Report<'_>,
        shutdown: &CancellationToken,
    ) -> Result<(), LinkError> {
        let mut connected = false;
        let (mut cameras, mut shots) = Cameras::new();
        let mut stats = interval(Duration::from_secs(self.ctx.config.stats_interval_s.max(1)));
        stats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tick = interval(outbox::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = line.ended.cancelled() => {
                    return Err(self.explain(Ended::Other("closed".into()), line.endpoint));
                }
                () = shutdown.cancelled() => {
                    self.collect();
                    if connected {
                        self.last_events(line).await;
                        self.voice.goodbye(line).await?;
                    }
                    return Ok(());
                }
                Some(Connected { resumed }) = told.recv() => {
                    connected = true;
                    self.since = Some(Instant::now());
                    self.handed = Given::default();
                    for number in carried.iter().filter(|_| resumed) {
                        self.side.outbox.give(&mut self.handed, *number);
                    }
                    report.up();
                    self.mark_seen();
                    self.subscribe(line).await?;
                    self.voice.hello(line).await?;
                    self.look_for_leftovers(line).await?;
                    self.asked_all();
                    cameras.follow(self.ctx, &self.streams.borrow());
                    stats.reset();
                    self.hand_over(line);
                }
                word = words.next(), if connected => self.obey(word, line, report).await?,
                received = self.detections.recv() => self.pass_on(received, line, connected),
                received = self.events.recv() => self.take_event(received),
                received = self.portraits.recv() => {
                    if let Some((topic, crop)) = self.take_portrait(received)
                        && connected
                    {
                        self.voice.picture(line, topic, crop);
                    }
                }
                Some((stream, shot)) = shots.recv() => {
                    let topic = self.voice.topic(&format!("{stream}/snapshot"));
                    self.voice.picture(line, topic, shot.jpeg.clone());
                }
                () = self.side.outbox.changed.notified() => {
                    if connected {
                        self.hand_over(line);
                    }
                }
                _ = tick.tick() => {
                    if connected {
                        self.hand_over(line);
                        self.causes.due(Instant::now()).iter().for_each(causes::Line::log);
                        self.look_for_a_stall();
                        report.refresh();
                        if self.care.is_due(Instant::now()) {
                            return Err(LinkError::Look(line.endpoint.to_string()));
                        }
                    }
                    let older = if connected { outbox::GRACE } else { Duration::ZERO };
                    self.side.outbox.tick(older);
                }
                Ok(()) = self.streams.changed(), if connected => {
                    let now = self.streams.borrow_and_update().clone();
                    cameras.follow(self.ctx, &now);
                    self.voice.streams(line, &now).await?;
                }
                Ok(()) = self.status.changed(), if connected => {
                    self.status.mark_unchanged();
                    self.voice.status(line).await?;
                    self.voice.discovery(line).await?;
                }
                Ok(()) = self.counts.changed(), if connected => {
                    self.counts.mark_unchanged();
                    self.voice.counts(line).await?;
                }
                Ok(()) = self.settings.changed(), if connected => {
                    self.settings.mark_unchanged();
                    self.voice.settings(line).await?;
                    self.voice.counts(line).await?;
                    self.voice.discovery(line).await?;
                }
                Ok(()) = self.known.changed(), if connected => {
                    self.known.mark_unchanged();
                    self.voice.settings(line).await?;
                    self.voice.counts(line).await?;
                    self.voice.discovery(line).await?;
                }
                Ok(()) = self.update.changed(), if connected => {
                    self.update.mark_unchanged();
                    self.voice.update(line).await?;
                }
                Ok(()) = self.clock.changed() => self.mend(),
                _ = stats.tick(), if connected => {
                    let stats = wire::node_stats(&self.ctx.node, &(self.ctx.stats)());
                    let _ = line.sender.publish(&self.voice.topic("stats"), Promise::None, stats, None);
                }
            }
        }
    }

    fn mark_seen(&mut self) {
        self.streams.mark_unchanged();
        self.status.mark_unchanged();
        self.counts.mark_unchanged();
        self.settings.mark_unchanged();
        self.known.mark_unchanged();
        self.update.mark_unchanged();
    }

    /// Before anything is retained anew, so that what an earlier run left is heard.
    async fn subscribe(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        for (topic, keeping) in self.voice.topics.subscriptions() {
            self.ask(line, &topic, keeping).await?;
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        line: &Line<'_>,
        topic: &str,
        keeping: Keeping,
    ) -> Result<(), LinkError> {
        if !self.care.asks(topic) {
            return Ok(());
        }
        line.when_room(|| line.sender.subscribe(topic, keeping)).await?;
        if self.care.is_careful() {
            line.when_answered(topic).await?;
            // What is retained comes beside the answer.
            if timeout(LISTEN, line.ended.cancelled()).await.is_ok() {
                return Err(LinkError::Silent(line.endpoint.to_string()));
            }
            self.care.answered();
        }
        Ok(())
    }

    fn asked_all(&mut self) {
        for (topic, bytes) in self.care.asked_all(Instant::now()) {
            self.side.complaints.say(Trouble::LeftOut(topic.clone()), || format!(
                "{bytes} bytes are retained on {topic}, more than is taken, so nothing is heard there until they are gone: mosquitto_sub --retained-only -F %t -t '{topic}' names it, mosquitto_pub -r -n -t THAT_TOPIC removes it; looked at again each hour"
            ));
        }
    }

    /// A run that died left its streams online: they come to us now, and are set right.
    async fn look_for_leftovers(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let statuses = self.voice.topic("+/status");
        self.ask(line, &statuses, Keeping::Nothing).await?;
        let sender = line.sender.clone();
        tokio::spawn(async move {
            sleep(LEFTOVERS).await;
            let _ = sender.unsubscribe(&statuses);
        });
        Ok(())
    }

    fn take_portrait(
        &mut self,
        received: Result<Arc<Portrait>, broadcast::error::RecvError>,
    ) -> Option<(String, Bytes)> {
        match received {
            Ok(p) => {
                let topic = self.voice.best(&p.stream, &p.label, p.crop.clone())?;
                Some((topic, p.crop.clone()))
            }
            Err(broadcast::error::RecvError::Lagged(n)) => {
                self.side.counters.pictures_dropped.add(n);
                None
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }

    fn pass_on(
        &self,
        received: Result<Arc<Encoded>, broadcast::error::RecvError>,
        line: &Line<'_>,
        connected: bool,
    ) {
        use broadcast::error::RecvError;
        let counters = &self.side.counters;
        let message = match received {
            Ok(message) => message,
            Err(RecvError::Lagged(n)) if connected => return counters.dropped_slow.add(n),
            Err(RecvError::Lagged(n)) => return counters.dropped_offline.add(n),
            // The context holds a sender, so this does not come.
            Err(RecvError::Closed) => return,
        };
        if !connected {
            return counters.dropped_offline.inc();
        }
        let topic = self.voice.topic(&format!("{}/detections", message.detections.stream));
        match line.sender.publish(&topic, Promise::None, message.json(), None) {
            Ok(()) => counters.published.inc(),
            Err(NotSent::NoRoom) => counters.dropped_slow.inc(),
            Err(NotSent::TooLarge(what)) => line.left_out(&topic, what),
        }
    }

    /// Keeps events and counts the rest while nobody can have it; never returns.
    async fn absent(&mut self) {
        use broadcast::error::RecvError;
        let mut tick = interval(outbox::TICK);
        loop {
            tokio::select! {
                received = self.detections.recv() => match received {
                    Ok(_) => self.side.counters.dropped_offline.inc(),
                    Err(RecvError::Lagged(n)) => self.side.counters.dropped_offline.add(n),
                    Err(RecvError::Closed) => std::future::pending().await,
                },
                received = self.events.recv() => self.take_event(received),
                received = self.portraits.recv() => drop(self.take_portrait(received)),
                Ok(()) = self.clock.changed() => self.mend(),
                _ = tick.tick() => self.side.outbox.tick(Duration::ZERO),
            }
        }
    }
}
