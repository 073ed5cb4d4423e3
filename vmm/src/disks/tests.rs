use super::*;

#[test]
fn what_is_no_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = FileSet::default();
    for path in [dir.path().to_path_buf(), dir.path().join("absent"), "/dev/null".into()] {
        let error = files.open("disk image", &path, false).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_file_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [1; 8192]).unwrap();
    let mut files = FileSet::default();
    assert_eq!(files.open("a", &path, false).unwrap(), 8192);
    let first = files.get(&path).unwrap().clone();
    files.open("b", &path, false).unwrap();
    assert!(Arc::ptr_eq(&first, files.get(&path).unwrap()));
}

#[test]
fn a_composite_disk_is_planned_from_the_open_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [7; 5000]).unwrap();
    let config = DiskConfig {
        partitions: vec![PartitionConfig {
            label: "a".into(),
            path: Some(path),
            filler: FillerConfig::Zero,
            ..Default::default()
        }],
        ..Default::default()
    };
    let disk = FileSet::default().from_config(&config, "vda").unwrap();
    assert!(disk.read_only);
    assert_eq!(disk.disk.len() % 65536, 0);
}

/// A disk of a read-only component and one that may be written, and the directory it is in.
fn composite_disk(dir: &Path) -> PathBuf {
    use payload::disk::Component;
    std::fs::write(dir.join("head"), [1; 4096]).unwrap();
    std::fs::write(dir.join("data"), [2; 8192]).unwrap();
    let components = vec![
        Component { path: "head".into(), offset: 0, file_offset: 0, writable: false },
        Component { path: "data".into(), offset: 4096, file_offset: 4096, writable: true },
    ];
    let spec = CompositeSpec::new(Default::default(), components, 8192).unwrap();
    let path = dir.join("disk");
    std::fs::write(&path, spec.to_bytes().unwrap()).unwrap();
    path
}

/// The files of the disk in this order that are open for writing.
fn writable_files(files: &FileSet) -> Vec<&Path> {
    files.open.iter().filter(|(_, (_, writable))| *writable).map(|(path, _)| path.as_path()).collect()
}

#[test]
fn an_image_that_describes_a_composite_disk_is_served_as_that_disk() {
    let dir = tempfile::tempdir().unwrap();
    let image = composite_disk(dir.path());
    for writable in [false, true] {
        let mut files = FileSet::default();
        let config = DiskConfig { image: Some(image.clone()), writable, ..Default::default() };
        let disk = files.from_config(&config, "vda").unwrap();
        assert_eq!(disk.disk.len(), 8192);
        assert_eq!(disk.read_only, !writable);
        // Only what the specification lets the guest write is open for it, and only on a writable disk.
        let data = dir.path().join("data");
        assert_eq!(writable_files(&files), if writable { vec![data.as_path()] } else { vec![] });
    }
}

#[test]
fn components_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let image = composite_disk(dir.path());
    let config = DiskConfig { image: Some(image.clone()), writable: true, ..Default::default() };
    let refused = || {
        let error = FileSet::default().from_config(&config, "vda").err().unwrap();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        format!("{error}: {source}")
    };
    let data = dir.path().join("data");
    File::options().write(true).open(&data).unwrap().set_len(8191).unwrap();
    let short = refused();
    assert!(short.contains("component 1 (\"data\")") && short.contains("8192, and it has 8191"), "{short}");
    std::fs::remove_file(&data).unwrap();
    assert!(refused().contains("/data"));
    std::fs::create_dir(&data).unwrap();
    assert!(refused().contains("/data"));
    std::fs::write(&image, b"composite_disk\x1d\xff").unwrap();
    assert!(refused().contains("/disk\": decode"), "{}", refused());
}

#[test]
fn a_writable_image_is_one_vms_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [0; 8192]).unwrap();
    let open = |writable| {
        let config = DiskConfig { image: Some(path.clone()), writable, ..Default::default() };
        let mut files = FileSet::default();
        files.from_config(&config, "vda").map(|disk| (files, disk))
    };
    let text = |error: OpenDiskError| {
        let reason = std::error::Error::source(&error).unwrap().to_string();
        (error.to_string(), reason)
    };
    let (first, second) = (open(false).unwrap(), open(false).unwrap());
    let (what, reason) = text(open(true).map(drop).unwrap_err());
    assert!(what.contains(path.to_str().unwrap()) && reason.contains("stop the VM"), "{what}: {reason}");
    drop((first, second));
    let writer = open(true).unwrap();
    for writable in [false, true] {
        let (_, reason) = text(open(writable).map(drop).unwrap_err());
        assert!(reason.contains("stop"), "{reason}");
    }
    drop(writer);
    open(true).unwrap();
}

#[test]
fn the_engine_is_chosen_by_disk() {
    use devices::virtio::blk::EngineChoice;
    let config = |text: &str| serde_json::from_str::<DiskConfig>(text);
    for (name, engine) in [
        ("auto", EngineChoice::Auto),
        ("io_uring", EngineChoice::IoUring),
        ("threads", EngineChoice::Threads),
        ("sync", EngineChoice::Sync),
    ] {
        assert_eq!(config(&format!(r#"{{"image": "f", "engine": "{name}"}}"#)).unwrap().engine, engine);
    }
    assert_eq!(config(r#"{"image": "f"}"#).unwrap().engine, EngineChoice::Auto);
    assert!(config(r#"{"image": "f", "engine": "aio"}"#).unwrap_err().to_string().contains("`io_uring`"));
}

/// What a guest would read.
fn bytes_of(segments: &[Segment]) -> Vec<u8> {
    let mut all = Vec::new();
    for segment in segments {
        assert_eq!(segment.start, all.len() as u64);
        let mut bytes = vec![0; usize::try_from(segment.len).unwrap()];
        match &segment.content {
            Source::Bytes(content) => bytes.copy_from_slice(content),
            Source::File { file, offset, .. } => {
                std::os::unix::fs::FileExt::read_exact_at(&**file, &mut bytes, *offset).unwrap();
            }
            Source::Zeros => {}
        }
        all.append(&mut bytes);
    }
    all
}

/// The disk that `mk_payload` describes is, as it is served, the flat image that it writes otherwise.
#[test]
fn a_composite_disk_is_its_flat_image() {
    use payload::disk::composite::{CompositeFiles, CompositeVersion};
    use payload::disk::{Apex, Layout, PayloadDisk};
    use payload::metadata::{self, ApexPayload};

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, len: usize| {
        let path = dir.path().join(name);
        std::fs::write(&path, (0..len).map(|i| (i % 251).to_le_bytes()[0]).collect::<Vec<_>>()).unwrap();
        Part::File { path, len: len as u64 }
    };
    let apexes = [("a", 8189), ("b", 8192)]
        .map(|(name, len)| Apex { about: ApexPayload::default(), image: file(name, len) });
    for layout in Layout::ALL {
        let disk = PayloadDisk {
            layout,
            apexes: apexes.to_vec(),
            ..PayloadDisk::new(file("apk", 70_000), file("idsig", 5000), metadata::config_path("c"))
        };
        let plan = payload::disk::plan(&disk.partitions(), GuidSource::Seed(b"vmm")).unwrap();
        let flat_file = tempfile::tempfile().unwrap();
        payload::disk::write_flat(&plan.extents, &flat_file, &mut |_| {}).unwrap();
        let mut flat = vec![0; usize::try_from(plan.len).unwrap()];
        std::os::unix::fs::FileExt::read_exact_at(&flat_file, &mut flat, 0).unwrap();
        for version in [CompositeVersion::Absolute, CompositeVersion::Relative] {
            let path = dir.path().join("disk.img");
            let made = CompositeFiles::of_plan(&plan, &path, version).unwrap();
            for new in &made.files {
                new.write(&File::create(&new.path).unwrap()).unwrap();
            }
            std::fs::write(&path, made.spec.to_bytes().unwrap()).unwrap();

            let mut files = FileSet::default();
            let config = DiskConfig { image: Some(path.clone()), ..Default::default() };
            files.from_config(&config, "vda").unwrap();
            let extents = made
                .spec
                .extents(dir.path(), |path, _| Ok::<_, ExtentsError>(files.open("it", path, false)?));
            assert!(bytes_of(&files.segments(extents.unwrap()).unwrap()) == flat, "{layout} {version:?}");
        }
    }
}
