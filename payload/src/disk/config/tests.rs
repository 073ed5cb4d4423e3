use proptest::prelude::*;

use super::*;

fn refused(text: &str) -> String {
    PayloadConfig::parse(text.as_bytes()).unwrap_err().to_string()
}

/// Section 1: the published example has a trailing comma, and spells one key unlike the others.
#[test]
fn the_published_example_is_read() {
    let text = r#"{
      "apexes": [
        { "name": "com.my.hello", "path": "hello.apex", },
        { "name": "com.my.world", "path": "/abs/world.apex" },
      ],
      "apk": {
        "name": "com.my.app",
        "path": "app.apk",
        "idsigPath": "app.apk.idsig",
      },
      "payload_config_path": "/mnt/apk/assets/vm_config.json",
    }"#;
    let config = PayloadConfig::parse(text.as_bytes()).unwrap();
    assert_eq!(config.payload_config_path.as_deref(), Some("/mnt/apk/assets/vm_config.json"));
    let config = config.resolve(Path::new("/dir"), None).unwrap();
    assert_eq!(config.apexes[0].path, Path::new("/dir/hello.apex"));
    assert_eq!(config.apexes[1].path, Path::new("/abs/world.apex"));
    let apk = config.apk.unwrap();
    assert_eq!((apk.name.as_str(), apk.idsig_path), ("com.my.app", PathBuf::from("/dir/app.apk.idsig")));

    let other = text.replace("idsigPath", "idsig_path");
    assert!(PayloadConfig::parse(other.as_bytes()).unwrap().apk.is_some());
    assert_eq!(PayloadConfig::parse(b"{}").unwrap(), PayloadConfig::default());
}

#[test]
fn components_of_the_system_are_files_of_a_directory() {
    let config = PayloadConfig::parse(
        br#"{"apexes": [{"name": "a", "path": "a"}], "system_apexes": ["com.android.adbd"]}"#,
    )
    .unwrap();
    let found = config.clone().resolve(Path::new("d"), Some(Path::new("/system"))).unwrap();
    assert_eq!((found.apexes.len(), found.system_apexes.len()), (2, 0));
    assert_eq!(found.apexes[1].name, "com.android.adbd");
    assert_eq!(found.apexes[1].path, Path::new("/system/com.android.adbd.apex"));
    assert_eq!(config.resolve(Path::new("d"), None), Err(ConfigError::NoApexDirectory));
    for name in ["", "a/b", "../x", "a\0"] {
        let config = PayloadConfig { system_apexes: vec![name.into()], ..PayloadConfig::default() };
        let error = config.resolve(Path::new("d"), Some(Path::new("/s"))).unwrap_err();
        assert_eq!(error, ConfigError::SystemApex { index: 0, name: name.into() });
    }
}

#[test]
fn errors_name_key_line_and_column() {
    assert_eq!(
        refused("{\n \"apexes\": [\n  {\"nmae\": \"x\", \"path\": \"p\"}]}"),
        "unknown key \"apexes[0].nmae\", did you mean \"name\"?, line 3 column 9"
    );
    assert_eq!(
        refused("{\"apk\": {\"name\": \"a\", \"path\": \"b\", \"idsigpath\": \"c\"}}"),
        "unknown key \"apk.idsigpath\", did you mean \"idsigPath\"?, line 1 column 46"
    );
    assert_eq!(refused("{\"zzzz\": 1}"), "unknown key \"zzzz\", line 1 column 7");
    assert_eq!(
        refused("{\"apexes\": [{\"name\": \"x\",\n \"path\": 5}]}"),
        "\"apexes[0].path\": expected a string, line 2 column 10"
    );
    for (text, start) in [
        ("{\"apexes\": [{\"name\": \"x\"}]}", "\"apexes[0].path\": missing, line 1"),
        ("{\"apexes\": {}}", "\"apexes\": expected a list, line 1"),
        ("{\"apexes\": [[\"name\", \"path\"]]}", "\"apexes[0]\": expected an object, line 1"),
        ("{\"apk\": [\"name\", \"path\", \"c\"]}", "\"apk\": expected an object, line 1"),
        ("{\"apk\": {\"name\": \"a\", \"path\": \"b\"}}", "\"apk.idsigPath\": missing, line 1"),
        ("{\"system_apexes\": [\"a\", 1]}", "\"system_apexes[1]\": expected a string, line 1"),
        ("{\"payload_config_path\": []}", "\"payload_config_path\": expected a string, line 1"),
        ("[]", "\"the configuration\": expected an object, line 1"),
        ("[[], []]", "\"the configuration\": expected an object, line 1"),
        ("{\n\"apexes\": \n", "EOF while parsing a value at line 3"),
        ("", "EOF while parsing a value at line 1"),
    ] {
        let message = refused(text);
        assert!(message.starts_with(start), "{text}: {message}");
    }
    let twice =
        refused("{\"apk\": {\"name\": \"a\", \"path\": \"b\", \"idsigPath\": \"c\", \"idsig_path\": \"d\"}}");
    assert!(twice.starts_with("duplicate field `idsigPath` at line 1"), "{twice}");
    assert_eq!(PayloadConfig::parse(b"{\"a\xff").unwrap_err(), ConfigError::Text(3));
}

#[test]
fn only_a_comma_behind_a_value_may_trail() {
    for bad in ["[,]", "{,}", "[1,,]", "[1,,2]", "[,1]", "{\"a\":,}", "[1", "[1,", ",", "{\"a\": 1,,}"] {
        let mut text = bad.as_bytes().to_vec();
        blank_trailing_commas(&mut text);
        assert!(serde_json::from_slice::<Value>(&text).is_err(), "{bad}");
    }
    for (given, wanted) in [
        (r#"["a,]", "b\",}" , ]"#, r#"["a,]", "b\",}"   ]"#),
        (r#"{"a": [1,],}"#, r#"{"a": [1 ] }"#),
        (r#"["\\",]"#, r#"["\\" ]"#),
        ("[{},\n\t[],\r\n]", "[{},\n\t[] \r\n]"),
    ] {
        let mut text = given.as_bytes().to_vec();
        blank_trailing_commas(&mut text);
        assert_eq!(String::from_utf8(text).unwrap(), wanted);
    }
}

proptest! {
    /// What is JSON already stays as it is.
    #[test]
    fn json_is_not_changed(strings in prop::collection::vec(".{0,9}", 0..4), n in any::<i64>()) {
        let value = serde_json::json!({ "a": strings, "b": [n, null, { "c,]": strings }], ",}": [[], {}] });
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let mut bytes = text.clone().into_bytes();
            blank_trailing_commas(&mut bytes);
            prop_assert_eq!(bytes, text.into_bytes());
        }
    }

    #[test]
    fn anything_is_read_or_refused(text in r#"([\[\]{},:"\\ a]|apk|"name"|"path"){0,40}"#) {
        let _ = PayloadConfig::parse(text.as_bytes());
    }
}
