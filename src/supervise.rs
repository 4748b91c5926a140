//! Restarts what fails, with jittered back-off, and gives up when it must.
