//! Arguments to configuration to running target.

use std::process::ExitCode;

use clap::Parser;
use srpt_tgt::app;
use srpt_tgt::cli::Options;
use srpt_tgt::config::Config;

fn main() -> ExitCode {
    match app::run(Config::from(Options::parse())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("srpt_tgt: {error:#}");
            ExitCode::FAILURE
        }
    }
}
