mod config;
mod discovery;
mod methods;
mod options;
mod parameters;
mod server;
