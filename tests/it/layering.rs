//! The layers of the source.
