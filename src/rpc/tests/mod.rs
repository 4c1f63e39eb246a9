mod config;
mod methods;
mod options;
mod parameters;
mod server;
