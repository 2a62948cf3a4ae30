//! The platform as a whole: the law as a property, real events against another engine's answers, and the rules of the
//! repository itself.

mod growth;
mod law;
mod layers;
mod oracles;
