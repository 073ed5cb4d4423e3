//! Is this the payload that ran before, an upgrade of it, or something else?

use std::fmt;

use super::{ApexData, ApkData, ManagerRecord};

/// How a payload relates to the one that ran before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// The same, byte for byte.
    Same,
    /// Of the same owners under the same names, and nothing of it is older: the record is to be written anew.
    Upgrade,
    /// Something else: it must not have this instance's secrets.
    Changed(Change),
}

/// A part of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// The application.
    Apk,
    /// The extra archive of this number.
    ExtraApk(usize),
    /// The shared component of this number.
    Apex(usize),
}

/// What makes a payload another one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Change {
    /// More or fewer extra archives.
    #[error("there are {new} extra APKs, where there were {old}")]
    ExtraApks {
        /// Before.
        old: usize,
        /// Now.
        new: usize,
    },
    /// More or fewer shared components.
    #[error("there are {new} APEXes, where there were {old}")]
    Apexes {
        /// Before.
        old: usize,
        /// Now.
        new: usize,
    },
    /// Another name: another component, or another order.
    #[error("the {part} is {new:?}, where it was {old:?}")]
    Name {
        /// Of what.
        part: Part,
        /// Before.
        old: String,
        /// Now.
        new: String,
    },
    /// Another owner.
    #[error("the {part} has another signer")]
    Signer {
        /// Of what.
        part: Part,
    },
    /// An older version, or none where there was one.
    #[error("the {part} has version {new}, where it had {old}")]
    Version {
        /// Of what.
        part: Part,
        /// Before.
        old: i128,
        /// Now; -1 for none.
        new: i128,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Apk => f.write_str("APK"),
            Self::ExtraApk(number) => write!(f, "extra APK {number}"),
            Self::Apex(number) => write!(f, "APEX {number}"),
        }
    }
}

/// Compares the payload of this boot with the recorded one. Salt, times of update and where a component came from are
/// nobody's word and not compared. The debug mode is not in the record, because it is in the key it is sealed with.
pub fn compare(old: &ManagerRecord, new: &ManagerRecord) -> Comparison {
    if let Err(change) = check(old, new) {
        return Comparison::Changed(change);
    }
    let apexes = old.apex_data.iter().zip(&new.apex_data);
    let same = old.apk_data == new.apk_data
        && old.extra_apks_data == new.extra_apks_data
        && apexes.into_iter().all(|(old, new)| verified(old) == verified(new));
    if same { Comparison::Same } else { Comparison::Upgrade }
}

/// What is verified of a component.
fn verified(apex: &ApexData) -> (&str, Option<&str>, Option<i64>, &[u8], &[u8]) {
    let (key, root) = (&apex.public_key, &apex.root_digest);
    (&apex.name, apex.manifest_name.as_deref(), apex.manifest_version, key, root)
}

fn check(old: &ManagerRecord, new: &ManagerRecord) -> Result<(), Change> {
    let extra = (old.extra_apks_data.len(), new.extra_apks_data.len());
    if extra.0 != extra.1 {
        return Err(Change::ExtraApks { old: extra.0, new: extra.1 });
    }
    let apexes = (old.apex_data.len(), new.apex_data.len());
    if apexes.0 != apexes.1 {
        return Err(Change::Apexes { old: apexes.0, new: apexes.1 });
    }
    check_apk(Part::Apk, &old.apk_data, &new.apk_data)?;
    for (number, (old, new)) in old.extra_apks_data.iter().zip(&new.extra_apks_data).enumerate() {
        check_apk(Part::ExtraApk(number), old, new)?;
    }
    for (number, (old, new)) in old.apex_data.iter().zip(&new.apex_data).enumerate() {
        check_apex(Part::Apex(number), old, new)?;
    }
    Ok(())
}

fn check_apk(part: Part, old: &ApkData, new: &ApkData) -> Result<(), Change> {
    if old.package_name != new.package_name {
        return Err(renamed(part, &old.package_name, &new.package_name));
    }
    if old.cert_hash != new.cert_hash {
        return Err(Change::Signer { part });
    }
    if new.version_code < old.version_code {
        return Err(Change::Version { part, old: old.version_code.into(), new: new.version_code.into() });
    }
    Ok(())
}

fn check_apex(part: Part, old: &ApexData, new: &ApexData) -> Result<(), Change> {
    if old.name != new.name {
        return Err(renamed(part, &old.name, &new.name));
    }
    // What was not known before may be known now, but not the other way round.
    if let Some(name) = &old.manifest_name
        && new.manifest_name.as_ref() != Some(name)
    {
        return Err(renamed(part, name, new.manifest_name.as_deref().unwrap_or_default()));
    }
    if old.public_key != new.public_key {
        return Err(Change::Signer { part });
    }
    if new.manifest_version < old.manifest_version {
        let number = |version: Option<i64>| version.map_or(-1, i128::from);
        let (old, new) = (number(old.manifest_version), number(new.manifest_version));
        return Err(Change::Version { part, old, new });
    }
    Ok(())
}

fn renamed(part: Part, old: &str, new: &str) -> Change {
    Change::Name { part, old: old.into(), new: new.into() }
}

#[cfg(test)]
mod tests;
