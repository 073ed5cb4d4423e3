//! Names shared by the host, which lays the payload disk out, and the guest, which finds its partitions.

/// Label of the metadata partition.
pub const METADATA: &str = "payload-metadata";

/// Label of the metadata partition in the `2021-06` layout; readers accept it.
pub const METADATA_2021_06: &str = "metadata";

/// Label of the application archive's partition.
pub const APK: &str = "microdroid-apk";

/// Label of the partition with the application archive's hash tree (idsig).
pub const APK_IDSIG: &str = "microdroid-apk-idsig";

/// Most partitions one disk can hold: the entries of its GUID partition table.
pub const MAX_PARTITIONS: usize = 128;

/// Where the guest mounts the application archive's contents.
pub const APK_MOUNT: &str = "/mnt/apk";

/// Where the guest mounts the encrypted store.
pub const ENCRYPTED_STORE_MOUNT: &str = "/mnt/encryptedstore";

/// Label of shared component `index`.
pub fn apex(index: usize) -> String {
    format!("microdroid-apex-{index}")
}

/// Label of extra archive `index`.
pub fn extra_apk(index: usize) -> String {
    format!("extra-apk-{index}")
}

/// Label of the hash tree of extra archive `index`.
pub fn extra_idsig(index: usize) -> String {
    format!("extra-idsig-{index}")
}

/// Where the guest mounts the contents of extra archive `index`.
pub fn extra_apk_mount(index: usize) -> String {
    format!("/mnt/extra-apk/{index}")
}

/// What a partition is for, by its label in any of the layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// What the disk says of itself.
    Metadata,
    /// A shared component, by its number.
    Apex(usize),
    /// The application's archive.
    Apk,
    /// Its hash tree.
    ApkIdsig,
    /// An extra archive, by its number.
    ExtraApk(usize),
    /// Its hash tree.
    ExtraIdsig(usize),
}

impl Role {
    /// The role of a partition labelled so; nothing for any other label.
    pub fn of(label: &str) -> Option<Self> {
        let numbered = |prefix: &str, whole: fn(usize) -> String| {
            let number = label.strip_prefix(prefix)?.parse().ok()?;
            // Neither signs nor leading zeros.
            (whole(number) == label).then_some(number)
        };
        match label {
            METADATA | METADATA_2021_06 => Some(Self::Metadata),
            APK => Some(Self::Apk),
            APK_IDSIG => Some(Self::ApkIdsig),
            _ => numbered("microdroid-apex-", apex)
                .map(Self::Apex)
                .or_else(|| numbered("extra-apk-", extra_apk).map(Self::ExtraApk))
                .or_else(|| numbered("extra-idsig-", extra_idsig).map(Self::ExtraIdsig)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_roles() {
        for (label, role) in [
            (METADATA.to_string(), Role::Metadata),
            (METADATA_2021_06.to_string(), Role::Metadata),
            (APK.to_string(), Role::Apk),
            (APK_IDSIG.to_string(), Role::ApkIdsig),
            (apex(10), Role::Apex(10)),
            (extra_apk(0), Role::ExtraApk(0)),
            (extra_idsig(127), Role::ExtraIdsig(127)),
        ] {
            assert_eq!(Role::of(&label), Some(role));
        }
        for label in ["", "extra-apk-", "extra-apk-01", "extra-apk-+1", "microdroid-apex-x", "home"] {
            assert_eq!(Role::of(label), None, "{label}");
        }
    }

    #[test]
    fn numbered_labels_count_from_zero() {
        assert_eq!(apex(0), "microdroid-apex-0");
        assert_eq!(extra_apk(1), "extra-apk-1");
        assert_eq!(extra_idsig(12), "extra-idsig-12");
        assert_eq!(extra_apk_mount(0), "/mnt/extra-apk/0");
    }
}
