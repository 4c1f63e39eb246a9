mod config;
mod methods;
mod parameters;
mod server;
