//! The exit to WebSocket: the demo protocol, and detections by subscription.
