//! Arguments to configuration to running target.

use std::process::ExitCode;

use clap::Parser;
use srpt_tgt::app;
use srpt_tgt::cli::Options;
use srpt_tgt::config::Config;
use srpt_tgt::logs;

fn main() -> ExitCode {
    match app::run(Config::from(Options::parse())) {
        Ok(()) => {
            logs::end();
            ExitCode::SUCCESS
        }
        Err(error) => {
            logs::end_with(format_args!("srpt_tgt: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
