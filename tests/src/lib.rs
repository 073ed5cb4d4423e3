//! Fixtures of the tests that see every crate.
