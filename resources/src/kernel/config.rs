//! Whether a configuration fragment took effect: kconfig drops what it does not know or cannot have, silently.

use std::collections::BTreeMap;

/// The lines of `fragment` that do not hold in the configuration kconfig made of it.
pub fn lost(fragment: &str, config: &str) -> Vec<String> {
    let have: BTreeMap<&str, &str> = config.lines().filter_map(setting).collect();
    // Of two lines about one option the later one counts.
    let want: BTreeMap<&str, (usize, &str)> = (0..)
        .zip(fragment.lines())
        .filter_map(|(number, line)| setting(line).map(|(name, value)| (name, (number, value))))
        .collect();
    let mut lost: Vec<(usize, String)> = want
        .iter()
        .filter(|(name, (_, value))| have.get(*name).copied().unwrap_or("n") != *value)
        // An option whose menu is off has no value, which is as good as an empty one.
        .filter(|(name, (_, value))| *value != "\"\"" || have.contains_key(*name))
        .map(|(name, (number, value))| (*number, format!("{name}={value}")))
        .collect();
    lost.sort();
    lost.into_iter().map(|(_, line)| line).collect()
}

/// `CONFIG_A=v`, or `# CONFIG_A is not set` for the value n.
fn setting(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if let Some(name) = line.strip_prefix("# ").and_then(|rest| rest.strip_suffix(" is not set")) {
        return name.starts_with("CONFIG_").then_some((name, "n"));
    }
    line.split_once('=').filter(|(name, _)| name.starts_with("CONFIG_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# Linux/x86\nCONFIG_A=y\n# CONFIG_B is not set\nCONFIG_N=0\nCONFIG_S=\"a b\"\n";

    #[test]
    fn what_holds_is_not_lost() {
        let fragment =
            "# about A\nCONFIG_A=y\nCONFIG_B=n\n# CONFIG_ABSENT is not set\nCONFIG_N=0\nCONFIG_S=\"a b\"\n\n";
        assert!(lost(fragment, CONFIG).is_empty());
        assert!(lost("CONFIG_EMPTY=\"\"\n", CONFIG).is_empty());
    }

    #[test]
    fn what_does_not_hold_is_named_in_order() {
        let fragment =
            "CONFIG_Z=y\nCONFIG_B=y\n# CONFIG_A is not set\nCONFIG_N=1\nCONFIG_S=\"\"\nCONFIG_A_B=m\n";
        let expected =
            ["CONFIG_Z=y", "CONFIG_B=y", "CONFIG_A=n", "CONFIG_N=1", "CONFIG_S=\"\"", "CONFIG_A_B=m"];
        assert_eq!(lost(fragment, CONFIG), expected);
    }

    #[test]
    fn the_later_of_two_lines_counts() {
        assert!(lost("CONFIG_A=n\nCONFIG_A=y\n", CONFIG).is_empty());
        assert_eq!(lost("CONFIG_A=y\nCONFIG_A=n\n", CONFIG), ["CONFIG_A=n"]);
    }
}
