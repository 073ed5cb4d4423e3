//! The partitions of a disk with what they hold, for pictures and for verdicts.

use payload::disk::PartitionTable;
use payload::disk::contents::{Contents, ContentsError, Kind};
use payload::disk::table::{TableEntry, TableError};
use payload::idsig::Idsig;
use payload::labels::{self, Role};
use payload::metadata::Metadata;
use payload::{ReadAt, Section};

/// What a partition's bytes are read through.
pub type PartSource<'a> = Section<&'a dyn ReadAt>;

/// A partition.
pub struct Part<'a> {
    /// Its entry in the table.
    pub entry: TableEntry,
    /// What its label says that it is.
    pub role: Option<Role>,
    /// Its bytes, when they are all on the disk.
    pub source: Option<PartSource<'a>>,
    /// What they are.
    pub contents: Option<Result<Contents, ContentsError>>,
    disk: &'a dyn ReadAt,
}

/// A disk that was read.
pub struct Disk<'a> {
    /// Its table.
    pub table: PartitionTable,
    /// Its partitions in the order of the table.
    pub parts: Vec<Part<'a>>,
}

impl<'a> Disk<'a> {
    /// Reads table and partitions; archives are found and not opened.
    pub fn read(reader: &'a dyn ReadAt) -> Result<Self, TableError> {
        let table = PartitionTable::read(reader)?;
        let parts = table.partitions.iter().map(|entry| Part::read(entry, reader)).collect();
        Ok(Self { table, parts })
    }

    /// What the disk says of itself.
    pub fn metadata(&self) -> Option<&Metadata> {
        self.parts.iter().find_map(|part| match part.contents.as_ref()?.as_ref().ok()?.kind {
            Kind::Metadata(ref metadata) => Some(metadata),
            _ => None,
        })
    }

    /// The partition of this label.
    pub fn find(&self, label: &str) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| part.entry.label == label)
    }

    /// The archives that a VM would mount, with their hash trees.
    pub fn archives(&self) -> impl Iterator<Item = (&Part<'a>, Option<&Part<'a>>)> {
        self.parts.iter().filter_map(|part| {
            let idsig = match part.role? {
                Role::Apk => labels::APK_IDSIG.to_owned(),
                Role::ExtraApk(index) => labels::extra_idsig(index),
                _ => return None,
            };
            Some((part, self.find(&idsig)))
        })
    }

    /// What does not fit: in the table, in the partitions, and between them. Nothing is hashed for it.
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = self.table.problems.iter().map(ToString::to_string).collect();
        for part in &self.parts {
            let label = &part.entry.label;
            match &part.contents {
                None => problems.push(format!("partition {label:?} is not all on the disk")),
                Some(Err(error)) => {
                    problems.push(format!("partition {label:?}: {}", crate::fault::causes(error).join(": ")));
                }
                Some(Ok(_)) => {}
            }
        }
        let is_payload_disk =
            self.parts.iter().any(|part| matches!(part.role, Some(Role::Apk | Role::Apex(_))));
        match self.metadata() {
            Some(metadata) => self.compare(metadata, &mut problems),
            None if is_payload_disk => problems.push("there is no readable metadata partition".into()),
            None => {}
        }
        for (apk, idsig) in self.archives() {
            let label = &apk.entry.label;
            let Some(idsig) = idsig else {
                problems.push(format!("there is no hash tree for {label:?}"));
                continue;
            };
            if let (Some(archive), Some(idsig)) = (apk.archive(), idsig.idsig())
                && let Err(error) = idsig.check_apk(&archive)
            {
                let why = crate::fault::causes(&error).join(": ");
                problems.push(format!("the hash tree for {label:?}: {why}"));
            }
        }
        problems
    }

    /// Whether the partitions that the metadata names are there.
    fn compare(&self, metadata: &Metadata, problems: &mut Vec<String>) {
        let apk =
            metadata.apk.iter().flat_map(|apk| [&apk.payload_partition_name, &apk.idsig_partition_name]);
        let apexes = metadata.apexes.iter().map(|apex| &apex.partition_name);
        for label in apk.chain(apexes).filter(|label| !label.is_empty()) {
            if self.find(label).is_none() {
                problems.push(format!("the metadata names a partition {label:?}, which is not there"));
            }
        }
    }
}

impl<'a> Part<'a> {
    fn read(entry: &TableEntry, reader: &'a dyn ReadAt) -> Self {
        let place = entry.start().zip(entry.len());
        let source = place.and_then(|(start, len)| Section::new(reader, start, len).ok());
        let contents = source.as_ref().map(|source| Contents::read(&entry.label, source));
        Self { entry: entry.clone(), role: Role::of(&entry.label), source, contents, disk: reader }
    }

    /// What it holds, when that is what its label says.
    pub fn good(&self) -> Option<&Contents> {
        self.contents.as_ref()?.as_ref().ok()
    }

    /// The archive in it, without filler.
    pub fn archive(&self) -> Option<PartSource<'a>> {
        let contents = self.good().filter(|contents| contents.kind == Kind::Archive)?;
        self.content(contents.len)
    }

    /// Its first `len` bytes.
    fn content(&self, len: u64) -> Option<PartSource<'a>> {
        Section::new(self.disk, self.entry.start()?, len).ok()
    }

    /// The hash tree in it.
    pub fn idsig(&self) -> Option<&Idsig> {
        match &self.good()?.kind {
            Kind::Idsig(idsig) => Some(idsig),
            _ => None,
        }
    }
}
