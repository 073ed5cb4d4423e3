//! The command `payload`: packs, signs, inspects and verifies what a payload VM is made of.
#![forbid(unsafe_code)]

mod cli;
mod create;
mod draw;
mod fault;
mod input;
mod inspect;
mod kind;
mod output;
mod pack;
mod parts;
mod progress;
mod screen;
mod text;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use cli::{Cli, Command};
use fault::Outcome;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Inspect(args) => inspect::run(args, cli.quiet),
        Command::Verify(args) => verify::run(args, cli.quiet),
        Command::Pack(args) => pack::run(args, cli.quiet),
        Command::CreateIdsig(args) => create::idsig(args, cli.quiet),
        Command::CreatePartition(args) => create::partition(args),
    };
    let outcome = result.unwrap_or_else(|error| {
        screen::complain(&fault::sentences(&error));
        fault::outcome_of(&error)
    });
    match outcome {
        Outcome::Good => ExitCode::SUCCESS,
        Outcome::Refused => ExitCode::from(1),
        Outcome::Failed => ExitCode::from(2),
    }
}
