//! Absurd input through the real HTTP API: a clear refusal or the right answer, and never a neighbour lost.
//!
//! Every answer is asked for four times: from the realtime view, from the batch view, from both, and after a restart.

mod bodies;
mod names;
mod panics;
mod site;
mod sizes;
mod values;
