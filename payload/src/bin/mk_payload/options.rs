//! The command line.

use std::path::PathBuf;

use clap::Parser;
use payload::disk::Layout;

const EXAMPLE: &str = "\
CONFIG is JSON; every key may be left out, a comma may stand behind the last of several, and relative paths are
relative to CONFIG's directory:

  {
    \"apexes\": [{\"name\": \"com.example.shared\", \"path\": \"shared.apex\"}],
    \"system_apexes\": [\"com.android.adbd\"],
    \"apk\": {\"name\": \"my_apk\", \"path\": \"my.apk\", \"idsigPath\": \"my.apk.idsig\"},
    \"payload_config_path\": \"/mnt/apk/assets/vm_config.json\",
  }

Written are OUT, the specification of a composite disk that names the files above, and beside it what they lack:

  OUT-header    partition table              OUT-filler-N  what follows file N on the disk, where anything does
  OUT-metadata  what is on the disk          OUT-footer    the partition table's backup

If OUT has an extension, they have it too: disk.img, disk-header.img. A VM that is given OUT as a disk's \"image\" sees
the whole disk. When anything fails nothing is changed.

Exit status: 0, or 2 when an option, CONFIG or a file is wrong.";

/// Makes a payload disk of an APK, its idsig and APEXes
#[derive(Debug, Parser)]
#[command(name = "mk_payload", version, after_help = EXAMPLE)]
pub struct Options {
    /// Write only what the metadata partition holds, into OUT itself
    #[arg(long, conflicts_with_all = ["raw", "seed"])]
    pub metadata_only: bool,

    /// Write one flat image into OUT instead, with holes for zeros
    #[arg(long)]
    pub raw: bool,

    /// Labels and fillers: 2021-06, 2021-08, or kapsel (2021-08 with APEXes that tell their size)
    #[arg(long, value_name = "NAME", default_value = "2021-08")]
    pub layout: Layout,

    /// Make the disk's GUIDs from TEXT, so that the same files give the same disk
    #[arg(long, value_name = "TEXT")]
    pub seed: Option<String>,

    /// Where NAME.apex is for each name in "system_apexes"
    #[arg(long, value_name = "DIR")]
    pub apex_dir: Option<PathBuf>,

    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,

    /// What goes on the disk
    pub config: PathBuf,

    /// The disk
    pub out: PathBuf,
}
