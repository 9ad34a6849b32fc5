//! What the tests share: a plain model of a store.
#![allow(dead_code, reason = "each test binary uses a part")]
