//! The exit to MQTT: our client, and the broker we bring along.
