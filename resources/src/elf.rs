//! Which shared libraries a dynamic program needs, found as the dynamic loader would find them.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::elf::{self, FileHeader64};
use object::read::elf::{Dyn, FileHeader, ProgramHeader};
use object::{Endianness, StringTable};

/// What an ELF file asks of the loader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// The loader itself; absent in static programs and in libraries.
    pub interpreter: Option<String>,
    /// Names of libraries.
    pub libraries: Vec<String>,
    /// Directories to search first, with `$ORIGIN` as it stands in the file.
    pub search: Vec<String>,
}

/// Reads what a 64-bit ELF file needs; `None` when it is not one.
///
/// # Errors
/// When it is one, but a broken one.
pub fn needs(data: &[u8]) -> Result<Option<Needs>> {
    if !data.starts_with(&elf::ELFMAG) || data.get(4) != Some(&elf::ELFCLASS64.0) {
        return Ok(None);
    }
    let header = FileHeader64::<Endianness>::parse(data)?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, data)?;
    let mut needs = Needs::default();
    for segment in segments {
        if let Some(name) = segment.interpreter(endian, data)? {
            needs.interpreter = Some(String::from_utf8_lossy(name).into_owned());
        }
    }
    let Some(entries) = segments.iter().find_map(|s| s.dynamic(endian, data).transpose()).transpose()? else {
        return Ok(Some(needs));
    };
    let value = |tag: elf::DynamicTag| entries.iter().find(|e| e.tag(endian) == tag).map(|e| e.d_val(endian));
    let (Some(address), Some(size)) = (value(elf::DT_STRTAB), value(elf::DT_STRSZ)) else {
        return Ok(Some(needs));
    };
    let names = segments.iter().find_map(|s| s.data_range(endian, data, address, size).ok().flatten());
    let names = names.context("Its dynamic names are outside of it")?;
    let table = StringTable::new(names, 0, u64::try_from(names.len())?);
    for entry in entries {
        let name = || -> Result<String> {
            let name = entry.string(endian, table).ok().context("A dynamic name is outside of it")?;
            Ok(String::from_utf8_lossy(name).into_owned())
        };
        match entry.tag(endian) {
            elf::DT_NEEDED => needs.libraries.push(name()?),
            elf::DT_RUNPATH | elf::DT_RPATH => {
                needs.search.extend(name()?.split(':').filter(|dir| !dir.is_empty()).map(str::to_owned));
            }
            _ => {}
        }
    }
    Ok(Some(needs))
}

/// Where this machine's loader looks on its own.
pub fn library_dirs() -> Vec<PathBuf> {
    let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
    ["/lib", "/usr/lib"]
        .iter()
        .flat_map(|dir| {
            [Path::new(dir).join(&multiarch), Path::new(&format!("{dir}64")).to_path_buf(), dir.into()]
        })
        .collect()
}

/// The first of `dirs` that has the library.
pub fn find_library(name: &str, dirs: &[PathBuf]) -> Option<PathBuf> {
    dirs.iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The loader and libraries that running `programs` takes, and `libraries` with what these need: where each is found, which is
/// also where the loader looks for it. Files that are not programs (no ELF, or no interpreter) need nothing.
///
/// # Errors
/// When a file cannot be read, is a broken ELF, or needs a library that is not there.
pub fn runtime(programs: &[PathBuf], libraries: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let (mut found, mut queue) = (BTreeSet::new(), VecDeque::new());
    for program in programs {
        if let Some(needs) = read_needs(program)?
            && let Some(interpreter) = &needs.interpreter
        {
            found.insert(PathBuf::from(interpreter));
            queue.push_back((program.clone(), needs));
        }
    }
    let libraries = libraries.iter().map(|name| (*name).to_owned()).collect();
    queue.push_back((PathBuf::from("/"), Needs { libraries, ..Needs::default() }));
    while let Some((file, needs)) = queue.pop_front() {
        let origin = file.parent().unwrap_or(Path::new("/")).display().to_string();
        let own =
            needs.search.iter().map(|dir| dir.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &origin));
        let dirs: Vec<PathBuf> = own.map(PathBuf::from).chain(library_dirs()).collect();
        for name in &needs.libraries {
            // The loader is named by libc too; it is there under its own path.
            if found.iter().any(|path| path.file_name().is_some_and(|known| known == name.as_str())) {
                continue;
            }
            let Some(path) = find_library(name, &dirs) else {
                bail!(
                    "{} needs {name}, which is in none of this machine's library directories",
                    file.display()
                );
            };
            queue.push_back((path.clone(), read_needs(&path)?.unwrap_or_default()));
            found.insert(path);
        }
    }
    Ok(found)
}

fn read_needs(path: &Path) -> Result<Option<Needs>> {
    let data = fs::read(path).with_context(|| format!("Read {}", path.display()))?;
    needs(&data).with_context(|| format!("Read the ELF file {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_program_gets_its_loader_and_libraries() {
        let exe = std::env::current_exe().unwrap();
        let found = runtime(std::slice::from_ref(&exe), &[]).unwrap();
        let names: Vec<String> =
            found.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned()).collect();
        for expected in ["libc.so.6", "libgcc_s.so.1", "ld-linux"] {
            assert!(names.iter().any(|name| name.starts_with(expected)), "{expected} in {names:?}");
        }
        assert!(found.iter().all(|path| path.is_file()));
        assert!(!found.contains(&exe));
    }

    #[test]
    fn files_that_are_no_programs_need_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        fs::write(&text, "#!/bin/sh\n").unwrap();
        assert!(runtime(&[text], &[]).unwrap().is_empty());
        assert_eq!(needs(b"\x7fELF\x01").unwrap(), None);
        assert!(needs(b"\x7fELF\x02\x01\x01").is_err(), "cut short");
        assert!(runtime(&[dir.path().join("absent")], &[]).is_err());
    }

    #[test]
    fn libraries_bring_what_they_need() {
        let found = runtime(&[], &["libm.so.6"]).unwrap();
        assert!(
            found.iter().any(|path| path.ends_with("libm.so.6"))
                && found.iter().any(|path| path.ends_with("libc.so.6"))
        );
        let error = runtime(&[], &["libabsent.so.1"]).unwrap_err().to_string();
        assert!(error.contains("libabsent.so.1"), "{error}");
    }
}
