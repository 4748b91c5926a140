//! What our client does at a word from others: a command, Home Assistant's birth, another node of our name.

use std::sync::Arc;
use std::time::Instant;

use super::client::Client;
use super::command::Word;
use super::link::LinkError;
use super::report::Report;
use super::voice::Line;
use crate::control::{Control, ControlError, Setting};
use crate::media::StreamId;
use crate::update::desk::{Older, Wish};

impl Client<'_> {
    pub(super) async fn obey(
        &mut self,
        word: Word,
        line: &Line<'_>,
        report: &mut Report<'_>,
    ) -> Result<(), LinkError> {
        let counters = &self.side.counters;
        match word {
            Word::Set(stream, setting) => {
                counters.commands.inc();
                match set(&self.ctx.control, &stream, setting).await {
                    // The change itself comes by the settings.
                    Ok(()) => self.voice.unchanged(line, &stream).await,
                    Err(error) => {
                        self.not_obeyed("it cannot be done", error.to_string());
                        self.voice.unchanged(line, &stream).await
                    }
                }
            }
            Word::Nonsense { stream, topic, remedy } => {
                let topic: String = topic.chars().take(200).collect();
                self.not_obeyed(remedy, format!("{topic}: {remedy}"));
                match stream {
                    Some(stream) => self.voice.unchanged(line, &stream).await,
                    None => Ok(()),
                }
            }
            Word::Pause(to) => {
                counters.commands.inc();
                let pause = Arc::clone(&self.ctx.pause);
                // What goes wrong with its file is said where it happens.
                let _ = tokio::task::spawn_blocking(move || pause.set(to, "mqtt")).await;
                self.voice.pause_again(line).await
            }
            Word::BadPause => {
                self.not_obeyed("pause", "pause/set: say ON or OFF".into());
                self.voice.pause_again(line).await
            }
            Word::Update => {
                counters.commands.inc();
                let begun = self.ctx.update.begin(Wish::Newest, Older::Refused);
                if let Err(error) = begun {
                    self.not_obeyed("update", format!("update/set: {error}"));
                }
                self.voice.update_unchanged(line).await
            }
            Word::Birth => self.voice.birth(line).await,
            Word::RetainedOnline(stream) => {
                self.voice.left_online(stream);
                let now = self.streams.borrow().clone();
                self.voice.streams(line, &now).await
            }
            Word::Instance { id, retained } => {
                // What is retained before ours is there is an earlier run's.
                self.named |= id == self.voice.instance;
                let foreign = !id.is_empty() && id != self.voice.instance;
                if foreign && (self.named || !retained) {
                    report.contested();
                }
                Ok(())
            }
            Word::Discovered(message) => self.voice.discovered(line, &message).await,
        }
    }
}

impl Client<'_> {
    fn not_obeyed(&mut self, cause: &'static str, what: String) {
        self.side.counters.bad_commands.inc();
        if let Some(line) = self.causes.say(cause, what, Instant::now()) {
            line.log();
        }
    }
}

/// Writes a small file, so not where sockets are served.
async fn set(
    control: &Arc<Control>,
    stream: &StreamId,
    setting: Setting,
) -> Result<(), ControlError> {
    let (control, id) = (Arc::clone(control), stream.clone());
    match tokio::task::spawn_blocking(move || control.set(&id, setting)).await {
        Ok(Ok(_)) | Err(_) => Ok(()),
        Ok(Err(error)) => Err(error),
    }
}
