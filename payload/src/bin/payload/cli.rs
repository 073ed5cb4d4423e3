//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Pack, sign, inspect and verify what a payload VM is made of: APKs, hash trees, APEXes and disks
#[derive(Debug, Parser)]
#[command(name = "payload", version, after_help = STATUS)]
pub struct Cli {
    /// Show no progress, notes or results; errors and what was asked for are shown
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const STATUS: &str = "\
Exit status:
  0  good
  1  what was looked at is damaged or does not verify
  2  wrong usage, or a file that cannot be read or written; files are written whole or not at all";

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Draw what is in a file, and say whether it verifies
    #[command(after_help = INSPECT)]
    Inspect(InspectArgs),
    /// Verify APKs, APEXes, hash trees and disks, and say who signed them
    #[command(after_help = VERIFY)]
    Verify(VerifyArgs),
    /// Make an installable, signed APK of native libraries and assets
    #[command(after_help = PACK)]
    Pack(PackArgs),
    /// Make the hash tree (APK Signature Scheme v4) by which a VM verifies an APK's blocks when it reads them
    #[command(after_help = CREATE_IDSIG)]
    CreateIdsig(CreateIdsigArgs),
    /// Make an empty partition: a raw one, or an instance image
    #[command(after_help = CREATE_PARTITION)]
    CreatePartition(CreatePartitionArgs),
}

const INSPECT: &str = "\
The kind of file is found in its content: APK, APEX, idsig, disk image, composite disk,
instance image, metadata partition. The picture is as wide as the terminal, or as COLUMNS
says; NO_COLOR=1 turns colours off.

Example:
  payload inspect hello.apk
  payload inspect --json hello.apk | jq .signers

The JSON document is one object. Always there: kind (apk, apex, idsig, disk, instance,
metadata), file, size (bytes), good (whether it verifies, as far as one file can tell) and
problems (sentences). The other keys depend on the kind; keys are added, never changed.
Digests are in hexadecimal, sizes and offsets in bytes.";

const VERIFY: &str = "\
An APK is good when every signer of its best scheme (v3.1, v3, v2) vouches for all of it;
an idsig when its tree, and its signature if it has one, are of the APK; a disk when its
partition tables are clean and each APK on it fits its idsig.

Examples:
  payload verify hello.apk
  payload verify hello.apk --idsig hello.apk.idsig
  payload verify --sdk 28 --sdk 35 rotated.apk     # good for both Android API levels?
  payload verify --json *.apk

The JSON document is {\"good\": .., \"files\": [{kind, file, good, sdk, scheme, signers, errors}]}.";

const PACK: &str = "\
Libraries go to lib/ABI/, assets to assets/. Everything is stored as it is, libraries at page
boundaries, so that a VM maps them from the verified disk. The APK is signed by schemes v2
and v3 (Android 7 and later), and by v4 with --idsig. Equal inputs and keys give equal files.

Examples:
  payload pack --package com.example.hello --version-code 1 \\
      --lib x86_64=libhello.so --config vm_config.json --generate-key key.pem hello.apk
  payload pack --package com.example.hello --version-code 2 --key key.pem --idsig \\
      --lib build/libs --asset models --asset notes.txt=doc/notes.txt hello.apk

ABIs: arm64-v8a, armeabi-v7a, riscv64, x86, x86_64. A VM knows an application by its signer:
sign every version of it with one key, and keep that key to yourself.";

const CREATE_IDSIG: &str = "\
Example:
  payload create-idsig hello.apk hello.apk.idsig

Without --key nobody vouches for the tree but the APK itself, which a VM verifies anyway.";

const CREATE_PARTITION: &str = "\
SIZE is in bytes, or with K, M or G for multiples of 1024. OUT and SIZE may change places.
The file takes no room on the disk until it is written to.

Examples:
  payload create-partition storage.img 64M
  payload create-partition --type instance instance.img 10M";

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// File to look into
    pub file: PathBuf,
    /// Print one JSON document instead of a picture
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Files to verify
    #[arg(required = true)]
    pub files: Vec<PathBuf>,
    /// Hash tree to verify against the one APK in FILES
    #[arg(long, value_name = "FILE")]
    pub idsig: Option<PathBuf>,
    /// Android API level at which signers count; several must all be good [default: 35]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub sdk: Vec<u32>,
    /// Print one JSON document instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `pack`.
#[derive(Debug, Args)]
pub struct PackArgs {
    /// APK to write
    pub out: PathBuf,
    /// Package name, such as com.example.hello
    #[arg(long, value_name = "NAME")]
    pub package: String,
    /// Version that VMs compare: never lower than that of the version before
    #[arg(long, value_name = "N")]
    pub version_code: u64,
    /// Version that people read [default: the version code]
    #[arg(long, value_name = "TEXT")]
    pub version_name: Option<String>,
    /// Library for an ABI, or a directory with libraries in ABI/ or lib/ABI/
    #[arg(long, value_name = "ABI=FILE|DIR")]
    pub lib: Vec<String>,
    /// Asset, with the path below assets/ if it is not to be its name; or a directory of them
    #[arg(long, value_name = "FILE[=PATH]|DIR")]
    pub asset: Vec<String>,
    /// Payload configuration, which becomes assets/vm_config.json
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Private key to sign with, in PEM; without it, a new P-256 key signs
    #[arg(long, value_name = "PEM", conflicts_with = "generate_key")]
    pub key: Option<PathBuf>,
    /// Certificate of the key, in PEM; without it, one is made
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,
    /// File to keep the new key in; it must not be there yet
    #[arg(long, value_name = "PEM")]
    pub generate_key: Option<PathBuf>,
    /// Write the APK's signed hash tree as well [default file: OUT.idsig]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub idsig: Option<Option<PathBuf>>,
}

/// Arguments of `create-idsig`.
#[derive(Debug, Args)]
pub struct CreateIdsigArgs {
    /// APK to hash
    pub apk: PathBuf,
    /// Idsig to write
    pub out: PathBuf,
    /// Take an APK that is unsigned, or signed by nothing but DSA
    #[arg(long)]
    pub force: bool,
    /// Up to 64 bytes that stand before each block that is hashed
    #[arg(long, value_name = "HEX", default_value = "")]
    pub salt: String,
    /// Private key to sign the tree with, in PEM
    #[arg(long, value_name = "PEM")]
    pub key: Option<PathBuf>,
    /// Certificate of the key, in PEM; without it, one is made
    #[arg(long, value_name = "PEM", requires = "key")]
    pub cert: Option<PathBuf>,
}

/// Arguments of `create-partition`.
#[derive(Debug, Args)]
pub struct CreatePartitionArgs {
    /// What it is made for
    #[arg(long = "type", value_enum, default_value_t = PartitionType::Raw)]
    pub kind: PartitionType,
    /// File to write
    pub out: String,
    /// Its size
    pub size: String,
}

/// What an empty partition is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartitionType {
    /// Zeros
    Raw,
    /// The sealed records of a VM's identity
    Instance,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_teaches_by_an_example() {
        for subcommand in Cli::command().get_subcommands() {
            let help = subcommand.get_after_help().expect("there is some").to_string();
            assert!(help.contains("Example") && help.contains("  payload "), "{}", subcommand.get_name());
            assert!(help.lines().all(|line| line.len() <= 96), "{}", subcommand.get_name());
        }
    }
}
