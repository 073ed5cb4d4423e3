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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_labels_count_from_zero() {
        assert_eq!(apex(0), "microdroid-apex-0");
        assert_eq!(extra_apk(1), "extra-apk-1");
        assert_eq!(extra_idsig(12), "extra-idsig-12");
        assert_eq!(extra_apk_mount(0), "/mnt/extra-apk/0");
    }
}
