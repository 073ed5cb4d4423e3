#![no_main]
//! Specifications of composite disks: what is read is a disk, and is read again as it was written.

use libfuzzer_sys::fuzz_target;
use payload::disk::composite::{COMPOSITE_MAGIC, CompositeError, CompositeSpec};
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    // The magic number is no puzzle.
    let bytes = [COMPOSITE_MAGIC.as_slice(), data].concat();
    let _ = CompositeSpec::read(&data.to_vec());
    let Ok(spec) = CompositeSpec::read(&bytes) else { return };
    assert!(spec.components().is_sorted_by(|a, b| a.offset < b.offset));
    let written = spec.to_bytes().expect("paths that were read are text");
    assert_eq!(CompositeSpec::read(&written).expect("what was written"), spec);
    for file_len in [0, 4096, u64::MAX] {
        let extents = spec.extents(Path::new("/d"), |_, _| Ok::<_, CompositeError>(file_len));
        let Ok(extents) = extents else { continue };
        let end = extents.iter().fold(0, |at, extent| {
            assert_eq!(extent.start, at);
            assert!(extent.len > 0);
            at + extent.len
        });
        assert_eq!(end, spec.len());
    }
});
