mod config;
mod discovery;
mod meters;
mod methods;
mod options;
mod parameters;
mod server;
