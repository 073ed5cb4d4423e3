//! A planned disk written out as one flat image, for judges and for other virtual machine monitors.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{Content, DiskPlan, Extent};

/// Bytes moved at a time.
const CHUNK: usize = 1 << 20;
/// Runs of zeros of this many bytes become holes.
const HOLE: usize = 4096;

/// Writes the whole disk into `out`, whose former contents are lost; long runs of zeros become holes.
///
/// # Errors
/// When a file of the plan cannot be read or is shorter than planned (its path is named), or `out` not written.
pub fn write(plan: &DiskPlan, out: &File) -> io::Result<()> {
    out.set_len(0)?;
    out.set_len(plan.len)?;
    for extent in &plan.extents {
        match &extent.content {
            Content::Bytes(bytes) => write_dense(out, bytes, extent.start)?,
            Content::File { path, offset, .. } => copy_file(path, *offset, extent, out)
                .map_err(|error| io::Error::new(error.kind(), format!("copy {}: {error}", path.display())))?,
            Content::Zeros => {}
        }
    }
    Ok(())
}

fn copy_file(path: &Path, offset: u64, extent: &Extent, out: &File) -> io::Result<()> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut left = extent.len;
    let mut buffer = vec![0; CHUNK];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let chunk = &mut buffer[..wanted];
        file.read_exact(chunk)?;
        write_dense(out, chunk, extent.start + (extent.len - left))?;
        left -= wanted as u64;
    }
    Ok(())
}

/// Writes `bytes` at `start`, but for blocks that are all zeros.
fn write_dense(out: &File, bytes: &[u8], start: u64) -> io::Result<()> {
    let mut at = start;
    for run in bytes.chunks(HOLE).collect::<Vec<_>>().chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        let len: usize = run.iter().map(|block| block.len()).sum();
        if !is_zero(run[0]) {
            let from = usize::try_from(at - start).expect("an offset into a slice");
            out.write_all_at(&bytes[from..from + len], at)?;
        }
        at += len as u64;
    }
    Ok(())
}

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}
