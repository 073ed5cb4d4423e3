#![no_main]
//! Payload configurations: whatever is accepted keeps the rules that its users rely on.

use libfuzzer_sys::fuzz_target;
use payload::apk::config::{PayloadConfig, TaskType, is_os_name};

fuzz_target!(|data: &[u8]| {
    let Ok((config, warnings)) = PayloadConfig::parse(data) else { return };
    assert!(config.os.is_none_or(|os| is_os_name(&os.name)));
    if let Some(task) = config.task {
        assert!(!task.command.is_empty() && !task.command.contains('\0'));
        assert!(task.kind != TaskType::MicrodroidLauncher || !task.command.contains('/'));
    }
    for warning in warnings {
        assert!(!warning.to_string().is_empty());
    }
});
