//! The versioned JSON of MQTT and WebSocket, held by golden files.
