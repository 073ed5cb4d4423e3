use std::path::Path;

use super::app::{APP_KEYS, AppConfig, DebugLevel};
use super::raw::{ConsoleInputDevice, DiskConfig, PartitionConfig, RAW_KEYS, RawConfig};
use super::vsock::{Backend, VSOCK_KEYS, VsockKeys};
use super::{ConfigError, CpuTopology, Keys, parse};

fn app(text: &str) -> Result<AppConfig, ConfigError> {
    parse(Path::new("app.json"), text, &APP_KEYS)
}

fn keys_of(value: &impl serde::Serialize) -> Vec<String> {
    serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
}

fn assert_same_keys(value: &impl serde::Serialize, keys: &Keys) {
    let mut known: Vec<_> = keys.known.iter().map(ToString::to_string).collect();
    known.sort();
    let mut have = keys_of(value);
    have.sort();
    assert_eq!(have, known);
}

#[test]
fn the_known_keys_are_the_fields() {
    assert_same_keys(&AppConfig::default(), &APP_KEYS);
    assert_same_keys(&RawConfig::default(), &RAW_KEYS);
    let disks = RAW_KEYS.nested[0].1;
    assert_same_keys(&DiskConfig::default(), disks);
    assert_same_keys(&PartitionConfig::default(), disks.nested[0].1);
    assert_same_keys(&VsockKeys::default(), &VSOCK_KEYS);
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    let message = app(r#"{"apk": "a.apk", "memroy_mib": 64}"#).unwrap_err().to_string();
    assert_eq!(message, "app.json: unknown key \"memroy_mib\", did you mean \"memory_mib\"?");
    let message = app(r#"{"zzzzzzzzzz": 1}"#).unwrap_err().to_string();
    assert_eq!(message, "app.json: unknown key \"zzzzzzzzzz\"");
    let raw = parse::<RawConfig>(
        Path::new("vm.json"),
        r#"{"disks": [{"partitions": [{"lable": "x"}]}]}"#,
        &RAW_KEYS,
    );
    assert_eq!(
        raw.unwrap_err().to_string(),
        "vm.json: unknown key \"disks[0].partitions[0].lable\", did you mean \"label\"?"
    );
}

#[test]
fn the_socket_device_is_checked() {
    let raw = |vsock: &str| {
        let text = format!(r#"{{"kernel": "k", "vsock": {vsock}}}"#);
        let config = parse::<RawConfig>(Path::new("vm.json"), &text, &RAW_KEYS).map_err(|e| e.to_string())?;
        let vsock = config.vsock.clone().unwrap();
        vsock.check(Path::new("vm.json")).map(|()| vsock).map_err(|e| e.to_string())
    };
    assert_eq!(raw("{}").unwrap(), VsockKeys::default());
    let vhost = raw(r#"{"backend": "vhost", "cid": 3}"#).unwrap();
    assert_eq!((vhost.backend, vhost.cid), (Backend::Vhost, Some(3)));
    for (text, expected) in [
        (r#"{"cid": 2}"#, "vm.json: \"vsock\": \"cid\" is 2, expected 3 to 4294967294"),
        (r#"{"cid": 4294967295}"#, "expected 3 to 4294967294"),
        (r#"{"backend": "vhost", "socket": "v"}"#, "\"socket\" is for the backend \"user\""),
        (r#"{"backend": "kernel"}"#, "unknown variant `kernel`"),
        (r#"{"socet": "v"}"#, "unknown key \"vsock.socet\", did you mean \"socket\"?"),
    ] {
        let error = raw(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn the_console_that_is_typed_into_is_one_of_two() {
    let raw = |device: &str| {
        let text = format!(r#"{{"kernel": "k", "console_input_device": {device}}}"#);
        parse::<RawConfig>(Path::new("vm.json"), &text, &RAW_KEYS)
    };
    assert_eq!(raw(r#""ttyS0""#).unwrap().console_input_device, ConsoleInputDevice::Serial);
    assert_eq!(raw(r#""hvc0""#).unwrap().console_input_device, ConsoleInputDevice::Virtio);
    assert_eq!(RawConfig::default().console_input_device, ConsoleInputDevice::Serial);
    for device in [r#""ttyS1""#, r#""""#, r#""HVC0""#, r#""hvc0\u001b""#] {
        let error = raw(device).unwrap_err().to_string();
        assert!(error.starts_with("vm.json: \"console_input_device\": \""), "{error}");
        assert!(error.contains("expected \"ttyS0\" or \"hvc0\" at line 1 column"), "{error}");
    }
    for device in ["0", "null", r#"["hvc0"]"#] {
        assert!(raw(device).unwrap_err().to_string().contains("expected a string at line 1"));
    }
}

#[test]
fn an_array_is_no_configuration() {
    for text in ["[]", r#"["name", "a.apk"]"#, "1", "null"] {
        let message = app(text).unwrap_err().to_string();
        assert!(message.contains("expected an object"), "{message}");
    }
    for text in [r#"{"disks": [["a"]]}"#, r#"{"disks": [1]}"#] {
        let message = parse::<RawConfig>(Path::new("vm.json"), text, &RAW_KEYS).unwrap_err().to_string();
        assert_eq!(message, "vm.json: \"disks[0]\": expected an object");
    }
}

#[test]
fn keys_of_avf_that_we_lack_are_refused_by_name() {
    let message =
        parse::<RawConfig>(Path::new("vm.json"), r#"{"gpu": {}}"#, &RAW_KEYS).unwrap_err().to_string();
    assert!(message.starts_with("vm.json: \"gpu\" is not supported"), "{message}");
}

#[test]
fn syntax_and_type_errors_have_line_and_column() {
    for text in ["{\n  \"apk\": ,\n}", "{\n\"apk\": \"a\",\n\"memory_mib\": \"x\"}"] {
        let message = app(text).unwrap_err().to_string();
        assert!(message.contains("line ") && message.contains("column "), "{message}");
    }
}

#[test]
fn values_out_of_range_name_the_key() {
    let check = |config: AppConfig| config.check_for_test().unwrap_err().to_string();
    let base =
        AppConfig { apk: "a.apk".into(), payload_binary_name: Some("lib.so".into()), ..Default::default() };
    base.check_for_test().unwrap();
    let low = check(AppConfig { memory_mib: Some(31), ..base.clone() });
    assert!(low.contains("\"memory_mib\": 31 MiB, expected 32 to "), "{low}");
    assert!(check(AppConfig { memory_mib: Some(1 << 40), ..base.clone() }).contains("memory_mib"));
    assert!(check(AppConfig { config_path: Some("x".into()), ..base.clone() }).contains("config_path"));
    assert!(
        check(AppConfig { payload_binary_name: Some("a/b".into()), ..base.clone() })
            .contains("payload_binary_name")
    );
    assert!(check(AppConfig { os_name: Some("../x".into()), ..base.clone() }).contains("os_name"));
    assert!(check(AppConfig { apk: "".into(), ..base.clone() }).contains("apk"));
    assert!(check(AppConfig { cpu_topology: CpuTopology::Count(33), ..base }).contains("cpu_topology"));
}

#[test]
fn values_are_read() {
    let config =
        app(r#"{"apk": "a.apk", "config_path": "c", "debug_level": "full", "cpu_topology": 1}"#).unwrap();
    assert_eq!(config.debug_level, DebugLevel::Full);
    assert_eq!(config.cpu_topology, CpuTopology::Count(1));
    assert_eq!(app(r#"{"cpu_topology": "match_host"}"#).unwrap().cpu_topology, CpuTopology::MatchHost);
}

#[test]
fn initrd_is_a_path_or_a_list() {
    let raw = |text: &str| parse::<RawConfig>(Path::new("vm.json"), text, &RAW_KEYS);
    let initrd = |value: &str| raw(&format!("{{\"initrd\": {value}}}")).unwrap().initrd;
    assert_eq!(initrd("\"a\""), [Path::new("a")]);
    assert_eq!(initrd("[\"a\", \"b\"]"), [Path::new("a"), Path::new("b")]);
    assert!(initrd("null").is_empty());
    let message = raw("{\"initrd\":\n 5}").unwrap_err().to_string();
    assert!(message.contains("a path or a list of paths") && message.contains("line 2"), "{message}");
}

#[test]
fn bootconfig_keys_have_types() {
    let raw = |text: &str| parse::<RawConfig>(Path::new("vm.json"), text, &RAW_KEYS);
    let text = r#"{"bootconfig": {"a.b": null, "c": true, "d": -3, "e": "x y", "f": ["1", "2"]}}"#;
    let config = raw(text).unwrap().bootconfig().unwrap();
    assert_eq!(config.text(), "a.b\nc = true\nd = -3\ne = \"x y\"\nf = \"1\", \"2\"\n");
    let message = raw(r#"{"bootconfig": {"a": 1.5}}"#).unwrap_err().to_string();
    assert!(message.contains("expected null, a boolean, an integer, a text or a list of texts"), "{message}");
    assert!(raw(r#"{"bootconfig": {"a b": 1}}"#).unwrap().bootconfig().is_err());
}

#[test]
fn vcpus_are_counted() {
    let raw = |text: &str| parse::<RawConfig>(Path::new("vm.json"), text, &RAW_KEYS);
    let count = |value: &str| raw(&format!("{{\"cpu_topology\": {value}}}")).unwrap().cpu_topology;
    assert_eq!((count("\"one_cpu\"").vcpus(), count("1").vcpus(), count("32").vcpus()), (1, 1, 32));
    let host = std::thread::available_parallelism().unwrap().get();
    assert_eq!(usize::from(count("\"match_host\"").vcpus()), host.min(32));
    for wrong in [CpuTopology::Count(0), CpuTopology::Count(33), CpuTopology::Count(255)] {
        let message = wrong.check(Path::new("vm.json")).unwrap_err().to_string();
        assert!(message.contains("cpu_topology") && message.contains("1 to 32"), "{message}");
    }
    assert!(raw(r#"{"cpu_topology": 256}"#).is_err());
}
