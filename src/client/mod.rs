//! The WebSocket client on tokio-uring.
