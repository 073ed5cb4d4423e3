#![no_main]
//! Configurations of payload disks.

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use payload::disk::config::PayloadConfig;

fuzz_target!(|data: &[u8]| {
    let Ok(config) = PayloadConfig::parse(data) else { return };
    let Ok(config) = config.resolve(Path::new("/d"), Some(Path::new("/apex"))) else { return };
    assert!(config.system_apexes.is_empty());
    assert!(config.apexes.iter().all(|apex| apex.path.is_absolute()));
});
