//! Arguments to configuration to running target.

use clap::Parser;
use srpt_tgt::app;
use srpt_tgt::cli::Options;
use srpt_tgt::config::Config;

fn main() -> anyhow::Result<()> {
    app::run(Config::from(Options::parse()))
}
