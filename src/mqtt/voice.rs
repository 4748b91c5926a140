//! What the broker keeps of us, said when it is not as it was last said: availability, status, streams, counts, pictures,
//! switches, and Home Assistant's discovery. The connection is somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::carrier::{Promise, Sender};
use super::command::Topics;
use super::complaints::{Complaints, Trouble};
use super::homeassistant::{self, Device, Platforms};
use super::ledger::{Bound, NotSent, TooLarge};
use super::link::{Endpoint, LinkError};
use super::{AllCounts, Context, Counters, topic_part};
use crate::config::COCO_ANIMALS;
use crate::config::RecordMode;
use crate::media::StreamId;
use crate::media::stream::StreamSummary;
use crate::wire;

/// How long a retained message may wait for room on its way out.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Best pictures remembered for the next connection.
const MAX_BEST: usize = 128;

/// One connection's way out.
pub(super) struct Line<'a> {
    pub(super) sender: Sender,
    pub(super) endpoint: &'a Endpoint,
    pub(super) ended: CancellationToken,
    pub(super) complaints: &'a Complaints,
    pub(super) counters: &'a Counters,
}

impl Line<'_> {
    /// What is too long is left out, and said to be.
    async fn retain(&self, topic: &str, payload: Bytes) -> Result<(), LinkError> {
        let ask = || match self.sender.publish(topic, Promise::Retained, payload.clone(), None) {
            Err(NotSent::TooLarge(what)) => {
                self.left_out(topic, what);
                Ok(())
            }
            asked => asked,
        };
        self.when_room(ask).await
    }

    /// Counts a message that is too long, and says so once a connection.
    pub(super) fn left_out(&self, topic: &str, what: TooLarge) {
        self.counters.dropped_large.inc();
        let TooLarge { bytes, most, by } = what;
        self.complaints.say(Trouble::TooLarge, || match by {
            Bound::Ours => format!(
                "what belongs on {topic} has {bytes} bytes and is left out, mqtt.max_packet_bytes is {most}: raise it, to no more than the broker takes"
            ),
            Bound::Brokers => format!(
                "what belongs on {topic} has {bytes} bytes and is left out, the broker takes {most}: raise its largest packet size (mosquitto: max_packet_size)"
            ),
            Bound::Guessed => format!(
                "the broker closed the connection over and over soon after a long message, so what has more than {most} bytes is left out for an hour, as {topic}: raise the broker's largest packet size, or set mqtt.max_packet_bytes to that"
            ),
        });
    }

    /// Asks until there is room.
    pub(super) async fn when_room(
        &self,
        ask: impl Fn() -> Result<(), NotSent>,
    ) -> Result<(), LinkError> {
        let until = Instant::now() + PATIENCE;
        while ask().is_err() {
            if Instant::now() >= until || self.ended.is_cancelled() {
                return Err(LinkError::Silent(self.endpoint.to_string()));
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Waits for the broker's answer to a subscription.
    pub(super) async fn when_answered(&self, topic: &str) -> Result<(), LinkError> {
        let answered = || self.sender.is_answered(topic).then_some(()).ok_or(NotSent::NoRoom);
        self.when_room(answered).await
    }
}

/// Where Home Assistant looks for us.
fn discovery_topic(ctx: &Context) -> String {
    format!("{}/device/{}/config", ctx.config.discovery_prefix, ctx.node)
}

pub(super) struct Voice<'a> {
    ctx: &'a Context,
    counters: &'a Counters,
    pub(super) base: String,
    pub(super) topics: Topics,
    /// Names this run of this node among others that may have its name.
    pub(super) instance: String,
    /// What this connection's broker retains of us, as far as we said it.
    said: BTreeMap<String, Bytes>,
    /// Streams whose status the broker retains as online.
    online: BTreeSet<String>,
    /// Streams that anything is retained of.
    announced: BTreeSet<String>,
    /// Labels that were seen and are not in the configuration's list.
    seen: BTreeSet<String>,
    /// The best picture of each stream and label.
    best: BTreeMap<String, Bytes>,
    entities: Platforms,
}

impl<'a> Voice<'a> {
    pub(super) fn new(ctx: &'a Context, counters: &'a Counters) -> Self {
        let base = format!("{}/{}", ctx.config.base_topic, ctx.node);
        let birth = format!("{}/status", ctx.config.discovery_prefix);
        let (birth, discovery) = match ctx.config.home_assistant {
            true => (Some(birth), Some(discovery_topic(ctx))),
            false => (None, None),
        };
        Self {
            ctx,
            counters,
            topics: Topics { base: base.clone(), birth, discovery },
            base,
            instance: format!("{:016x}", rand::random::<u64>()),
            said: BTreeMap::new(),
            online: BTreeSet::new(),
            announced: BTreeSet::new(),
            seen: BTreeSet::new(),
            best: BTreeMap::new(),
            entities: Platforms::new(),
        }
    }

    pub(super) fn topic(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }

    /// Everything a broker that knows nothing of us must know; it holds nothing of what we told the one before.
    pub(super) async fn hello(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        self.said.clear();
        self.keep(line, "available", Bytes::from_static(b"online")).await?;
        self.keep(line, "instance", self.instance.clone().into()).await?;
        self.status(line).await?;
        let streams = self.ctx.streams.watch().borrow().clone();
        self.online.retain(|told| !streams.iter().any(|s| s.id.as_str() == told));
        self.streams(line, &streams).await?;
        self.settings(line).await?;
        self.counts(line).await?;
        for (topic, crop) in self.best.clone() {
            self.keep(line, &topic, crop).await?;
        }
        self.update(line).await?;
        if !self.ctx.config.home_assistant {
            // It was told of us before perhaps, and would keep us for ever.
            return line.retain(&discovery_topic(self.ctx), Bytes::new()).await;
        }
        self.discovery(line).await
    }

    pub(super) async fn goodbye(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let offline = Bytes::from_static(b"offline");
        for stream in std::mem::take(&mut self.online) {
            self.keep(line, &format!("{stream}/status"), offline.clone()).await?;
        }
        self.keep(line, "available", offline).await?;
        line.when_room(|| line.sender.disconnect()).await
    }

    pub(super) async fn status(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let Some(status) = self.ctx.status.borrow().clone() else { return Ok(()) };
        self.keep(line, "status", wire::node_status(&self.ctx.node, &status)).await?;
        let paused = status.attached.pause.is_some();
        let state = Bytes::from_static(if paused { b"ON" } else { b"OFF" });
        self.keep(line, "pause/state", state).await
    }

    /// Says how it stands though it may be as it was: somebody has just asked for something.
    pub(super) async fn pause_again(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        self.said.remove(&self.topic("pause/state"));
        let paused = self.ctx.pause.watch().borrow().is_some();
        let state = Bytes::from_static(if paused { b"ON" } else { b"OFF" });
        self.keep(line, "pause/state", state).await
    }

    /// What Home Assistant's update entity shows.
    pub(super) async fn update(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let now = self.ctx.update.status().borrow().clone();
        let percent = now.in_progress.then_some(now.progress.percent);
        let update = serde_json::json!({
            "installed_version": now.installed_version, "latest_version": now.latest_version,
            "in_progress": now.in_progress, "update_percentage": percent,
        });
        self.keep(line, "update", update.to_string().into()).await
    }

    /// Says it again though it is as it was: somebody asked for what cannot be.
    pub(super) async fn update_unchanged(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        self.said.remove(&self.topic("update"));
        self.update(line).await
    }

    /// An earlier run left this one online; the next word on streams sets it right.
    pub(super) fn left_online(&mut self, stream: String) {
        self.said.remove(&self.topic(&format!("{stream}/status")));
        self.online.insert(stream);
    }

    pub(super) async fn streams(
        &mut self,
        line: &Line<'_>,
        now: &[StreamSummary],
    ) -> Result<(), LinkError> {
        let is_here = |told: &&String| now.iter().any(|s| s.id.as_str() == *told);
        let gone: Vec<_> = self.online.iter().filter(|told| !is_here(told)).cloned().collect();
        for id in gone {
            let payload = Bytes::from_static(b"offline");
            self.keep(line, &format!("{id}/status"), payload).await?;
            self.online.remove(&id);
        }
        for stream in now {
            let id = stream.id.as_str();
            self.keep(line, &format!("{id}/status"), Bytes::from_static(b"online")).await?;
            self.online.insert(id.into());
        }
        Ok(())
    }

    /// How many of each label are in view; 0 for those that are not.
    pub(super) async fn counts(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let all: AllCounts = self.ctx.counts.borrow().clone();
        let known = self.known();
        let mut labels: BTreeSet<String> = self.labels().into_iter().collect();
        for label in all.values().flat_map(|counts| counts.keys()) {
            // What a model calls everything must not become topics without end.
            if !labels.contains(&**label) && self.seen.len() < 100 {
                self.seen.insert(label.to_string());
            }
        }
        labels.extend(self.seen.iter().cloned());
        for stream in known.iter() {
            let counts = all.get(stream);
            for label in &labels {
                let n = counts.and_then(|c| c.get(label.as_str())).copied().unwrap_or(0);
                let topic = format!("{stream}/{}", topic_part(label));
                self.keep(line, &topic, n.to_string().into()).await?;
            }
        }
        Ok(())
    }

    /// What is switched, of every stream that is known; and nothing more of those that are not any longer.
    pub(super) async fn settings(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let known = self.known();
        for stream in known.iter() {
            self.states(line, stream).await?;
            self.announced.insert(stream.to_string());
        }
        let is_known = |name: &&String| known.iter().any(|id| id.as_str() == *name);
        let gone: Vec<_> = self.announced.iter().filter(|n| !is_known(n)).cloned().collect();
        for name in gone {
            let below = self.topic(&format!("{name}/"));
            let topics: Vec<_> =
                self.said.keys().filter(|topic| topic.starts_with(&below)).cloned().collect();
            for topic in topics {
                line.retain(&topic, Bytes::new()).await?;
                self.said.remove(&topic);
            }
            self.best.retain(|topic, _| !topic.starts_with(&format!("{name}/")));
            self.announced.remove(&name);
        }
        Ok(())
    }

    /// Says a stream's switches again though they are as they were: somebody asked for what cannot be.
    pub(super) async fn unchanged(
        &mut self,
        line: &Line<'_>,
        stream: &StreamId,
    ) -> Result<(), LinkError> {
        let known = self.known().contains(stream);
        if !known {
            return Ok(());
        }
        for what in ["detect/state", "recordings/state", "threshold/state"] {
            self.said.remove(&self.topic(&format!("{stream}/{what}")));
        }
        self.states(line, stream).await
    }

    async fn states(&mut self, line: &Line<'_>, stream: &StreamId) -> Result<(), LinkError> {
        let now = self.ctx.control.of(stream);
        let switch = |on: bool| Bytes::from_static(if on { b"ON" } else { b"OFF" });
        let recordings = now.recordings != RecordMode::Off;
        for (what, payload) in [
            ("detect/state", switch(now.detect)),
            ("recordings/state", switch(recordings)),
            ("recordings/mode", Bytes::from_static(now.recordings.name().as_bytes())),
            ("threshold/state", now.threshold.to_string().into()),
        ] {
            self.keep(line, &format!("{stream}/{what}"), payload).await?;
        }
        Ok(())
    }

    /// Remembers the best picture of a label; the caller publishes it if it can. Answers its topic.
    pub(super) fn best(&mut self, stream: &StreamId, label: &str, crop: Bytes) -> Option<String> {
        if crop.len() > self.ctx.config.max_packet_bytes {
            self.counters.pictures_dropped.inc();
            return None;
        }
        let topic = format!("{stream}/{}/snapshot", topic_part(label));
        if self.best.len() < MAX_BEST || self.best.contains_key(&topic) {
            self.best.insert(topic.clone(), crop);
        }
        Some(self.topic(&topic))
    }

    /// A picture that is lost if there is no room: the next one is as good.
    pub(super) fn picture(&mut self, line: &Line<'_>, topic: String, jpeg: Bytes) {
        match line.sender.publish(&topic, Promise::Retained, jpeg, None) {
            Ok(()) => {
                line.counters.pictures_published.inc();
                // That there is one is enough to know; it is taken away with its stream.
                self.said.insert(topic, Bytes::new());
            }
            Err(why) => {
                line.counters.pictures_dropped.inc();
                if let NotSent::TooLarge(what) = why {
                    line.left_out(&topic, what);
                }
            }
        }
    }

    /// Entities of before that are no more are removed, then the device is said as it is.
    pub(super) async fn discovery(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        let Some(topic) = self.topics.discovery.clone() else { return Ok(()) };
        let now = self.device(&Platforms::new());
        let named = homeassistant::platforms(&now);
        let before = std::mem::take(&mut self.entities);
        let gone: Platforms =
            before.into_iter().filter(|(key, _)| !named.contains_key(key)).collect();
        if !gone.is_empty() {
            line.retain(&topic, self.device(&gone)).await?;
        }
        self.entities = named;
        if self.said.get(&topic) != Some(&now) || !gone.is_empty() {
            line.retain(&topic, now.clone()).await?;
            self.said.insert(topic, now);
        }
        Ok(())
    }

    /// Home Assistant knows nothing any longer.
    pub(super) async fn birth(&mut self, line: &Line<'_>) -> Result<(), LinkError> {
        if let Some(topic) = &self.topics.discovery {
            self.said.remove(topic);
        }
        self.discovery(line).await
    }

    /// An earlier run told Home Assistant of these entities.
    pub(super) async fn discovered(
        &mut self,
        line: &Line<'_>,
        message: &[u8],
    ) -> Result<(), LinkError> {
        for (key, platform) in homeassistant::platforms(message) {
            self.entities.entry(key).or_insert(platform);
        }
        self.discovery(line).await
    }

    fn device(&self, remove: &Platforms) -> Bytes {
        let known = self.known();
        let streams: Vec<_> = known.iter().map(StreamId::as_str).collect();
        let labels = self.labels();
        let labels: Vec<_> = labels.iter().map(String::as_str).collect();
        let status = self.ctx.status.borrow().clone();
        let page = status.as_ref().map(|s| &s.addresses.web).filter(|web| !web.is_empty());
        let page = page.map(|web| format!("http://{web}/"));
        let device = Device {
            node: &self.ctx.node,
            base: &self.base,
            board: status.as_ref().map_or("", |s| &s.board),
            page: page.as_deref(),
            streams: &streams,
            labels: &labels,
            cameras: self.ctx.config.camera_interval_s > 0,
        };
        homeassistant::message(&device, remove)
    }

    /// The labels that are told of though none was seen yet.
    fn labels(&self) -> Vec<String> {
        let settings = self.ctx.control.settings();
        let animals = &settings.borrow().detect.animals;
        match animals.iter().any(|label| label == "*") {
            // Of a model that knows everything, those that people wait for.
            true => COCO_ANIMALS.map(String::from).to_vec(),
            false => animals.clone(),
        }
    }

    fn known(&self) -> Arc<[StreamId]> {
        self.ctx.control.known().borrow().clone()
    }

    async fn keep(&mut self, line: &Line<'_>, rest: &str, payload: Bytes) -> Result<(), LinkError> {
        let topic = self.topic(rest);
        if self.said.get(&topic) == Some(&payload) {
            return Ok(());
        }
        line.retain(&topic, payload.clone()).await?;
        self.said.insert(topic, payload);
        Ok(())
    }
}
