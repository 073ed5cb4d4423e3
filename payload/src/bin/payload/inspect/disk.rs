//! A disk: its partitions drawn to scale, and what each holds.

use payload::apex::Apex;
use payload::apk::Apk;
use payload::disk::contents::Kind as Held;
use payload::disk::table::Copy;
use payload::disk::{DiskReader, Filler, SECTOR_SIZE};
use payload::labels::Role;
use payload::{ReadAt, disk};
use serde::Serialize;

use super::{apk, metadata};
use crate::draw::{Mark, Page, Segment};
use crate::fault::causes;
use crate::kind::{self, Kind};
use crate::parts::{Disk, Part};
use crate::text::{count, hex, size};

/// Components that are listed.
const LISTED: usize = 16;

/// What is on a disk.
#[derive(Debug, Serialize)]
pub struct DiskFacts {
    /// Length of the disk, wherever its bytes are.
    disk_size: u64,
    disk_guid: String,
    /// Which copy of the partition table was read.
    table: &'static str,
    /// First and last sector that partitions may have.
    usable: (u64, u64),
    composite: Option<CompositeFacts>,
    partitions: Vec<PartitionFacts>,
}

/// The specification file.
#[derive(Debug, Serialize)]
struct CompositeFacts {
    components: Vec<ComponentFacts>,
}

#[derive(Debug, Serialize)]
struct ComponentFacts {
    file: String,
    offset: u64,
    file_offset: u64,
    writable: bool,
}

/// A partition.
#[derive(Debug, Serialize)]
struct PartitionFacts {
    number: usize,
    label: String,
    first_lba: u64,
    last_lba: u64,
    offset: u64,
    size: u64,
    /// Bytes of what it holds.
    content_size: Option<u64>,
    /// How the end of that is told: none, zero or size.
    filler: Option<&'static str>,
    type_guid: String,
    guid: String,
    holds: Holds,
    problem: Option<String>,
}

/// What a partition holds.
#[derive(Debug, Default, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Holds {
    Apk {
        package: String,
        version_code: u64,
    },
    Apex {
        name: String,
        version: i64,
        root_digest: String,
    },
    Idsig {
        root_hash: String,
    },
    Metadata {
        payload: String,
        apexes: Vec<String>,
    },
    Instance,
    #[default]
    Other,
}

/// Looks at a disk that is open; with what is wrong with it. Nothing is hashed.
///
/// # Errors
/// When it has no partition table.
pub fn gather(reader: &DiskReader) -> Result<(DiskFacts, Vec<String>), disk::table::TableError> {
    let disk = Disk::read(reader)?;
    let mut problems = disk.problems();
    let partitions: Vec<PartitionFacts> = disk.parts.iter().map(PartitionFacts::of).collect();
    for partition in &partitions {
        if let Some(problem) = &partition.problem {
            problems.push(format!("partition {:?}: {problem}", partition.label));
        }
    }
    let composite = reader.composite().map(|spec| CompositeFacts {
        components: spec
            .components()
            .iter()
            .map(|component| ComponentFacts {
                file: component.path.display().to_string(),
                offset: component.offset,
                file_offset: component.file_offset,
                writable: component.writable,
            })
            .collect(),
    });
    let facts = DiskFacts {
        disk_size: reader.len().unwrap_or(0),
        disk_guid: disk.table.disk_guid.to_string(),
        table: match disk.table.copy {
            Copy::Primary => "primary",
            Copy::Backup => "backup",
        },
        usable: disk.table.usable,
        composite,
        partitions,
    };
    Ok((facts, problems))
}

impl PartitionFacts {
    fn of(part: &Part<'_>) -> Self {
        let entry = &part.entry;
        let (holds, problem) = match holds(part) {
            Ok(holds) => (holds, None),
            Err(problem) => (Holds::Other, Some(problem)),
        };
        Self {
            number: entry.number,
            label: entry.label.clone(),
            first_lba: entry.first_lba,
            last_lba: entry.last_lba,
            offset: entry.start().unwrap_or(u64::MAX),
            size: entry.len().unwrap_or(0),
            content_size: part.good().map(|contents| contents.len),
            filler: part.good().map(|contents| match contents.filler {
                Filler::None => "none",
                Filler::Zero => "zero",
                Filler::Size => "size",
            }),
            type_guid: entry.type_guid.to_string(),
            guid: entry.guid.to_string(),
            holds,
            problem,
        }
    }

    /// What follows the content.
    fn tail(&self) -> String {
        let rest = self.size.saturating_sub(self.content_size.unwrap_or(self.size));
        match (self.filler, rest) {
            (None, _) => "?".into(),
            (_, 0) => "-".into(),
            (Some("size"), rest) => format!("size {}", size(rest)),
            (_, rest) => format!("zero {}", size(rest)),
        }
    }
}

/// Opens what the label promises, or what the content looks like where it promises nothing.
fn holds(part: &Part<'_>) -> Result<Holds, String> {
    let Some(contents) = part.good() else { return Ok(Holds::Other) };
    Ok(match (&contents.kind, part.archive(), &part.source) {
        (Held::Metadata(metadata), ..) => {
            let facts = metadata::of(metadata);
            let apexes = facts.apexes.iter().map(|apex| apex.name.clone()).take(LISTED).collect();
            Holds::Metadata { payload: facts.payload(), apexes }
        }
        (Held::Idsig(idsig), ..) => Holds::Idsig { root_hash: hex(&idsig.root_hash) },
        (Held::Archive, Some(archive), _) if matches!(part.role, Some(Role::Apex(_))) => {
            let apex = Apex::open(archive).map_err(|error| causes(&error).join(": "))?;
            let (name, root_digest) = (apex.name.clone(), hex(&apex.root_digest));
            Holds::Apex { name, version: apex.version, root_digest }
        }
        (Held::Archive, Some(archive), _) => {
            let archive = Apk::open(archive).map_err(|error| causes(&error).join(": "))?;
            let manifest = apk::details(&archive)?.manifest;
            Holds::Apk { package: manifest.package, version_code: manifest.version_code }
        }
        (_, _, Some(source)) => match kind::of(source) {
            Ok(Kind::Instance) => Holds::Instance,
            _ => Holds::Other,
        },
        _ => Holds::Other,
    })
}

impl Holds {
    fn sentence(&self) -> Option<String> {
        Some(match self {
            Self::Apk { package, version_code } => format!("APK {package} version {version_code}"),
            Self::Apex { name, version, .. } => format!("APEX {name} version {version}"),
            Self::Idsig { root_hash } => format!("root {root_hash}"),
            Self::Metadata { payload, apexes } if apexes.is_empty() => format!("runs {payload}"),
            Self::Metadata { payload, apexes } => format!("runs {payload} with {}", apexes.join(", ")),
            Self::Instance => "instance image".into(),
            Self::Other => return None,
        })
    }
}

impl DiskFacts {
    /// What kind of disk it is, in words.
    pub fn title(&self) -> &'static str {
        if self.composite.is_some() { "composite disk" } else { "disk" }
    }

    /// Its length, which is not that of a file that only specifies it.
    pub fn len(&self) -> u64 {
        self.disk_size
    }

    /// Draws them.
    pub fn draw(&self, page: &mut Page) {
        page.map(&self.segments(), ("0", &size(self.disk_size)));
        page.gap();
        let rows: Vec<Vec<String>> = self
            .partitions
            .iter()
            .map(|partition| {
                let mut row = vec![
                    partition.number.to_string(),
                    partition.label.clone(),
                    format!("{}-{}", partition.first_lba, partition.last_lba),
                    size(partition.content_size.unwrap_or(partition.size)),
                    partition.tail(),
                ];
                row.extend(partition.holds.sentence());
                row
            })
            .collect();
        page.table(&[">#", "label", "sectors", ">size", "filler"], &rows);
        page.gap();
        page.field("disk GUID", &self.disk_guid);
        if self.table == "backup" {
            page.mark("table", Mark::Note, "read from the backup at the end of the disk");
        }
        if let Some(composite) = &self.composite {
            page.field("composed", &format!("of {}", count(composite.components.len() as u64, "component")));
            for component in &composite.components {
                let mode = if component.writable { "rw" } else { "ro" };
                page.field("", &format!("{mode} from byte {}: {}", component.offset, component.file));
            }
        }
    }

    /// Table, partitions and the room between them, in the order of the disk.
    fn segments(&self) -> Vec<Segment> {
        let mut order: Vec<&PartitionFacts> = self.partitions.iter().filter(|it| it.size > 0).collect();
        order.sort_by_key(|partition| partition.offset);
        let mut segments = Vec::new();
        let mut at = 0;
        for partition in order {
            match at {
                0 => segments.push(frame(partition.offset)),
                _ if partition.offset > at => segments.push(unused(partition.offset - at)),
                _ => {}
            }
            segments.push(Segment {
                tag: partition.number.to_string(),
                len: partition.size,
                used: partition.content_size.unwrap_or(partition.size),
                frame: false,
            });
            at = partition.offset.saturating_add(partition.size).max(at);
        }
        let table =
            self.usable.1.saturating_add(1).saturating_mul(SECTOR_SIZE).clamp(at, self.disk_size.max(at));
        if table > at {
            segments.push(unused(table - at));
        }
        if self.disk_size > table {
            segments.push(frame(self.disk_size - table));
        }
        segments
    }
}

/// A copy of the partition table.
fn frame(len: u64) -> Segment {
    Segment { tag: "GPT".into(), len, used: len, frame: true }
}

/// Room that no partition has.
fn unused(len: u64) -> Segment {
    Segment { tag: String::new(), len, used: 0, frame: false }
}
