//! The one integration-test binary.

mod webhooks;
