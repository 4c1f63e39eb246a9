//! A command from its information unit to its response.

pub(crate) mod admit;
mod execute;
mod inline;
mod passed;
pub(crate) mod request;
