use super::*;
use crate::instance::tests::golden_record;

fn apk(name: &str, version_code: u64) -> ApkData {
    ApkData { root_hash: vec![1], cert_hash: vec![2], package_name: name.into(), version_code }
}

/// Section 6: what is an upgrade and what is another payload.
#[test]
fn upgrades_are_told_from_changes() {
    let old = ManagerRecord {
        extra_apks_data: vec![apk("x", 1), apk("y", 1)],
        apk_data: apk("a", 5),
        ..golden_record()
    };
    let with = |change: &dyn Fn(&mut ManagerRecord)| {
        let mut new = old.clone();
        change(&mut new);
        compare(&old, &new)
    };
    assert_eq!(with(&|_| {}), Comparison::Same);
    assert_eq!(with(&|new| new.salt = vec![7]), Comparison::Same);
    assert_eq!(with(&|new| new.apex_data[0].last_update_seconds = 1), Comparison::Same);
    assert_eq!(with(&|new| new.apex_data[0].is_factory = false), Comparison::Same);

    let upgrades: [&dyn Fn(&mut ManagerRecord); 6] = [
        &|new| new.apk_data.version_code = 6,
        &|new| new.apk_data.root_hash = vec![9],
        &|new| new.extra_apks_data[1].version_code = 2,
        &|new| new.apex_data[0].manifest_version = Some(301),
        &|new| new.apex_data[0].root_digest = vec![9],
        &|new| new.apex_data[1].manifest_name = Some("known now".into()),
    ];
    for upgrade in upgrades {
        assert_eq!(with(upgrade), Comparison::Upgrade);
    }

    let changed = |change: &dyn Fn(&mut ManagerRecord)| match with(change) {
        Comparison::Changed(change) => change.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(changed(&|new| new.apk_data.version_code = 4), "the APK has version 4, where it had 5");
    assert_eq!(changed(&|new| new.apk_data.cert_hash = vec![]), "the APK has another signer");
    assert_eq!(
        changed(&|new| new.apk_data.package_name = "b".into()),
        "the APK is \"b\", where it was \"a\""
    );
    assert_eq!(changed(&|new| drop(new.extra_apks_data.pop())), "there are 1 extra APKs, where there were 2");
    assert_eq!(changed(&|new| new.extra_apks_data.reverse()), "the extra APK 0 is \"y\", where it was \"x\"");
    assert_eq!(
        changed(&|new| new.extra_apks_data[1].version_code = 0),
        "the extra APK 1 has version 0, where it had 1"
    );
    assert_eq!(changed(&|new| drop(new.apex_data.pop())), "there are 1 APEXes, where there were 2");
    assert_eq!(changed(&|new| new.apex_data.reverse()), "the APEX 0 is \"c\", where it was \"a\"");
    assert_eq!(changed(&|new| new.apex_data[0].public_key = vec![]), "the APEX 0 has another signer");
    assert_eq!(
        changed(&|new| new.apex_data[0].manifest_version = None),
        "the APEX 0 has version -1, where it had 300"
    );
    assert_eq!(
        changed(&|new| new.apex_data[0].manifest_name = None),
        "the APEX 0 is \"\", where it was \"b\""
    );
}
