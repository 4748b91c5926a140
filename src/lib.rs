//! spotter: RTMP from smart glasses in, animal detections over MQTT and WebSocket out.
//!
//! The modules in the order data flows through them; ARCHITECTURE.md walks the same way.

pub mod config; // what the owner asked for, checked
pub mod control; // what is switched while it runs
pub mod pause; // nothing is seen or recorded for a while
pub mod auth; // who may come through which door
pub mod tls; // a door that encrypts

pub mod ingest; // RTMP connections -> access units
pub mod source; // cameras of this machine -> access units
pub mod media; // access units, the GOP ring, the list of streams
pub mod live; // access units -> fragmented MP4 for many viewers, HLS
pub mod decode; // access units -> pictures
pub mod detect; // pictures -> detections
pub mod track; // detections -> animals: ids, events, counts
pub mod jpeg; // pictures, with or without boxes -> JPEG
pub mod snapshots; // the newest picture of each stream as JPEG, while somebody looks
pub mod wire; // detections -> the JSON everyone reads
pub mod mqtt; // the JSON -> MQTT, and the embedded broker
pub mod ws; // the JSON -> WebSocket, and pictures sent in by hand
pub mod store; // visits and their pictures, the recordings' index, what the disk can take
pub mod record; // access units -> files, clips, and what goes when room is short
pub mod relay; // access units -> RTMP readers, and on to other servers
pub mod web; // everything -> browsers: the viewer, the HTTP API, live video

pub mod announce; // who we are -> the local network, by mDNS
pub mod update; // a newer system -> RAUC

pub mod adapt; // less under strain, more again after it
pub mod app; // the only file that knows every stage
pub mod board; // what this machine is and has; lamps and buttons
pub mod files; // small files, read and replaced whole
pub mod setup; // the box's first start
pub mod health; // counters and latencies
pub mod reload; // a changed configuration, judged before anyone sees it
pub mod supervise; // restart with back-off
