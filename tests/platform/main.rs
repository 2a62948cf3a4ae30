//! The platform as a whole: the law as a property, in order and under faults, real events against another engine's
//! answers, and the rules of the repository itself.

mod bad_input;
mod checkpoints;
mod damage;
mod full_disk;
mod growth;
mod law;
mod layers;
mod model;
mod oracles;
mod producers;
mod running;
mod seeds;
mod simulation;
mod torture;
