//! What the property tests share: random events and views, and what is true of them.

pub(crate) mod events;
pub(crate) mod one_pass;
pub(crate) mod views;
