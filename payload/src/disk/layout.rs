//! The layouts that payload disks have had, and what sets them apart (formats: section 1).

use std::fmt;
use std::str::FromStr;

use super::Filler;
use crate::labels;

/// Labels and fillers of a payload disk.
///
/// ```text
///                     kapsel             2021-06      2021-08
///   metadata label    payload-metadata   metadata     payload-metadata
///   APEX              size filler        size filler  zero filler
///   APK               zero filler        zero filler  zero filler
///   idsig, metadata   zeros              undefined    zeros
/// ```
///
/// What is undefined is zeros in what is written here. Readers accept all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// Today's labels, and APEXes that tell their size.
    #[default]
    Kapsel,
    /// The first one.
    V2021_06,
    /// Since August 2021, and now.
    V2021_08,
}

/// A name that is no layout's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no layout {0:?}, expected \"kapsel\", \"2021-06\" or \"2021-08\"")]
pub struct UnknownLayout(String);

impl Layout {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kapsel, Self::V2021_06, Self::V2021_08];

    /// The name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kapsel => "kapsel",
            Self::V2021_06 => "2021-06",
            Self::V2021_08 => "2021-08",
        }
    }

    /// Label of the metadata partition.
    pub fn metadata_label(self) -> &'static str {
        match self {
            Self::Kapsel | Self::V2021_08 => labels::METADATA,
            Self::V2021_06 => labels::METADATA_2021_06,
        }
    }

    /// How an APEX's end is told.
    pub fn apex_filler(self) -> Filler {
        match self {
            Self::Kapsel | Self::V2021_06 => Filler::Size,
            Self::V2021_08 => Filler::Zero,
        }
    }

    /// How an APK's end is told.
    pub fn apk_filler(self) -> Filler {
        Filler::Zero
    }

    /// What follows metadata and hash trees: something, or whatever is there.
    pub fn table_filler(self) -> Filler {
        match self {
            Self::Kapsel | Self::V2021_08 => Filler::Zero,
            Self::V2021_06 => Filler::None,
        }
    }

    /// Whether the metadata names the partition of each APEX.
    pub fn names_apex_partitions(self) -> bool {
        self != Self::V2021_06
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Self, UnknownLayout> {
        Self::ALL
            .into_iter()
            .find(|layout| layout.name() == name)
            .ok_or_else(|| UnknownLayout(name.to_string()))
    }
}
