//! The archive that Linux unpacks as its root (cpio "newc"), as far as one program needs it.

/// An archive with a root directory, an empty `/dev`, `/proc` and `/sys`, and `program` as `/init`.
pub fn initramfs(program: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for name in [".", "dev", "proc", "sys"] {
        entry(&mut archive, name, 0o040_755, &[]);
    }
    entry(&mut archive, "init", 0o100_755, program);
    entry(&mut archive, "TRAILER!!!", 0, &[]);
    archive
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: u32, content: &[u8]) {
    let inode = archive.len() / 4 + 1;
    archive.extend_from_slice(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device major, minor, rdev major, minor, name size, checksum
    let fields = [inode, mode as usize, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    for field in fields {
        archive.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// Reads an archive by the format's own rules: (name, mode, content) of each entry.
    fn entries(mut rest: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut found = Vec::new();
        loop {
            assert_eq!(&rest[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&rest[6 + 8 * n..14 + 8 * n]).unwrap();
                usize::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = String::from_utf8(rest[110..110 + name_size - 1].to_vec()).unwrap();
            let start = (110 + name_size).next_multiple_of(4);
            found.push((name, u32::try_from(mode).unwrap(), rest[start..start + size].to_vec()));
            if found.last().unwrap().0 == "TRAILER!!!" {
                return found;
            }
            rest = &rest[(start + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn the_program_is_init() {
        let found = entries(&initramfs(b"12345"));
        assert_eq!(found[0], (".".to_owned(), 0o040_755, Vec::new()));
        assert!(found.contains(&("init".to_owned(), 0o100_755, b"12345".to_vec())));
        assert_eq!(found.len(), 6);
    }

    #[test]
    fn cpio_reads_it() {
        let child = Command::new("cpio").arg("-it").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut child) = child else {
            crate::skip("cpio_reads_it", "no cpio command");
            return;
        };
        child.stdin.take().unwrap().write_all(&initramfs(b"12345")).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), ".\ndev\nproc\nsys\ninit\n");
    }
}
