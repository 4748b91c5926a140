//! Sections of what leaves the pipeline: MQTT, WebSocket, HTTP, relays.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Tls, any};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    pub enabled: bool,
    /// Empty: the embedded broker; else mqtt://host:port or mqtts://host:port, ws://host:port/path or wss://...
    pub broker: String,
    /// The embedded broker runs beside the configured one and gets the same.
    pub embedded: bool,
    /// Of the protocol: 4 (that is 3.1.1) or 5.
    pub version: u8,
    pub username: String,
    /// A file with the password, so that it is never in this one.
    pub password_file: PathBuf,
    pub ca_file: PathBuf,
    pub client_cert_file: PathBuf,
    pub client_key_file: PathBuf,
    /// First part of every topic.
    pub base_topic: String,
    /// The embedded broker's door and limits.
    pub listen: SocketAddr,
    pub tls: MqttTls,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub max_packet_bytes: usize,
    pub stats_interval_s: u64,
    /// Events that wait for the broker; over either bound the oldest goes.
    pub outbox_events: usize,
    pub outbox_bytes: usize,
    /// Whether Home Assistant is told of this node.
    pub home_assistant: bool,
    pub discovery_prefix: String,
    /// A whole picture of each live stream every so many seconds, for Home Assistant's camera; 0: none.
    pub camera_interval_s: u64,
}

/// The embedded broker's door with TLS: the same as [`Tls`], at another port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttTls {
    pub listen: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl MqttTls {
    pub fn as_tls(&self) -> Tls {
        let (certificate, key) = (self.certificate.clone(), self.key.clone());
        Tls { listen: self.listen, certificate, key }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocket {
    pub enabled: bool,
    pub listen: SocketAddr,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// One message, bytes; a base64 picture is a message.
    pub max_message_bytes: usize,
    /// A picture sent in for detection, pixels in all.
    pub max_picture_pixels: u64,
    /// Pictures waiting for the detector, over all connections.
    pub max_waiting_pictures: usize,
    /// A reader that takes nothing for so long is closed.
    pub stall_timeout_s: u64,
}

/// The viewer, the HTTP API and live video.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Web {
    pub enabled: bool,
    /// TCP for pages and the API; WebRTC takes UDP on the same port.
    pub listen: SocketAddr,
    pub webrtc: bool,
    /// WebRTC viewers at a time.
    pub max_webrtc: usize,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    /// One request's body, bytes.
    pub max_body_bytes: usize,
    /// A viewer that takes nothing for so long is closed.
    pub stall_timeout_s: u64,
}

/// One stream pushed to one RTMP server.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// What it is called in status and metrics.
    pub name: String,
    pub stream: String,
    /// rtmp://host/app/key or rtmps://...; its path and query are secret.
    #[serde(default)]
    pub url: String,
    /// A file with the URL, so that its key is not in this one.
    #[serde(default)]
    pub url_file: PathBuf,
    /// Certificates to trust with rtmps in place of the system's.
    #[serde(default)]
    pub ca_file: PathBuf,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, stream) = (&self.name, &self.stream);
        f.debug_struct("Relay").field("name", name).field("stream", stream).finish_non_exhaustive()
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            enabled: true,
            broker: String::new(),
            embedded: false,
            version: 4,
            username: String::new(),
            password_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            client_cert_file: PathBuf::new(),
            client_key_file: PathBuf::new(),
            base_topic: "spotter".into(),
            listen: any(1883),
            tls: MqttTls::default(),
            max_connections: 64,
            max_connections_per_address: 32,
            max_packet_bytes: 1 << 20,
            stats_interval_s: 10,
            outbox_events: 10_000,
            outbox_bytes: 16 << 20,
            home_assistant: true,
            discovery_prefix: "homeassistant".into(),
            camera_interval_s: 0,
        }
    }
}

impl Default for MqttTls {
    fn default() -> Self {
        Self { listen: any(8883), certificate: PathBuf::new(), key: PathBuf::new() }
    }
}

impl Default for WebSocket {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: any(8765),
            max_connections: 64,
            max_connections_per_address: 32,
            max_message_bytes: 16 << 20,
            max_picture_pixels: 16_000_000,
            max_waiting_pictures: 16,
            stall_timeout_s: 10,
        }
    }
}

impl Default for Web {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: any(8080),
            webrtc: true,
            max_webrtc: 16,
            max_connections: 512,
            max_connections_per_address: 128,
            max_body_bytes: 256 << 10,
            stall_timeout_s: 5,
        }
    }
}
