//! May this kernel, with this initrd, run? What the first stage of a protected VM asks.
//!
//! The kernel is an image with a footer. Its vbmeta has one hash descriptor `boot`, of the kernel itself, and at most
//! one each of `initrd_normal` and `initrd_debug`: whichever the initrd is decides whether the VM may be debugged.
//! Properties may stand beside them. Every other descriptor is refused, since whoever signed it expected something of
//! it that is not done here.

use crate::ReadAt;

use super::{AvbError, Descriptor, HashDescriptor, verify_footer};

/// Partition name of the kernel's own descriptor.
pub const KERNEL: &str = "boot";

/// Which of the two initrds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InitrdKind {
    /// The one that lets nobody look in.
    Normal,
    /// The one that does.
    Debug,
}

impl InitrdKind {
    /// Partition name of its descriptor.
    pub fn partition_name(self) -> &'static str {
        match self {
            Self::Normal => "initrd_normal",
            Self::Debug => "initrd_debug",
        }
    }
}

/// Why a kernel may not run.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Its vbmeta is not believed.
    #[error("verify the kernel's vbmeta")]
    VbMeta(#[source] AvbError),
    /// Signed by somebody else.
    #[error("the kernel is signed with another key than the trusted one")]
    Key,
    /// Older than a version that ran before.
    #[error("the kernel's rollback index {found} is below the stored one, {stored}")]
    Rollback {
        /// Its index.
        found: u64,
        /// The least that is accepted.
        stored: u64,
    },
    /// A hash descriptor for something else.
    #[error("the kernel's vbmeta has an unknown hash descriptor {0:?}")]
    UnknownPartition(String),
    /// Two descriptors for one image.
    #[error("the kernel's vbmeta has two hash descriptors {0:?}")]
    Duplicate(String),
    /// A descriptor that is neither hash nor property.
    #[error("the kernel's vbmeta has a descriptor of another kind than hash and property")]
    Kind,
    /// No descriptor of the kernel itself.
    #[error("the kernel's vbmeta has no hash descriptor \"boot\"")]
    NoKernel,
    /// The kernel is another.
    #[error("verify the kernel")]
    Kernel(#[source] AvbError),
    /// The initrd cannot be read, or is hashed in a way that is not supported.
    #[error("verify the initrd")]
    Initrd(#[source] AvbError),
    /// The initrd has no descriptor, or another content than it.
    #[error("the initrd is none that the kernel's vbmeta has a hash descriptor of")]
    UnknownInitrd,
    /// The vbmeta expects an initrd and there is none.
    #[error("there is no initrd, though the kernel's vbmeta has a hash descriptor of one")]
    NoInitrd,
}

/// A kernel that may run, and what its owner says about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedBoot {
    /// Bytes of the kernel: nothing behind them in the image is verified.
    pub kernel_size: u64,
    /// The kernel's digest, salt included.
    pub kernel_digest: Vec<u8>,
    /// Which initrd it is, and its digest; nothing when it has none.
    pub initrd: Option<(InitrdKind, Vec<u8>)>,
    /// The rollback index, at least the stored one.
    pub rollback_index: u64,
    /// Names with values.
    pub properties: Vec<(String, Vec<u8>)>,
}

/// Judges the kernel in `image` together with `initrd`. Only `trusted_key` (in AVB's encoding, [`super::PublicKey`])
/// may have signed them, with a rollback index of at least `stored_rollback_index`.
///
/// # Errors
/// [`BootError`] unless every byte that is to run was signed.
pub fn verify_boot(
    image: &dyn ReadAt,
    initrd: Option<&dyn ReadAt>,
    trusted_key: &[u8],
    stored_rollback_index: u64,
) -> Result<VerifiedBoot, BootError> {
    let (_, vbmeta) = verify_footer(image).map_err(BootError::VbMeta)?;
    if vbmeta.public_key != trusted_key {
        return Err(BootError::Key);
    }
    vbmeta.refuse_flags().map_err(BootError::VbMeta)?;
    if vbmeta.rollback_index < stored_rollback_index {
        return Err(BootError::Rollback { found: vbmeta.rollback_index, stored: stored_rollback_index });
    }
    let described = Described::of(vbmeta.descriptors)?;
    let kernel = described.kernel.ok_or(BootError::NoKernel)?;
    kernel.verify(image).map_err(BootError::Kernel)?;
    let initrd = match initrd {
        Some(initrd) => Some(which(&described.initrds, initrd)?),
        None if described.initrds.is_empty() => None,
        None => return Err(BootError::NoInitrd),
    };
    Ok(VerifiedBoot {
        kernel_size: kernel.image_size,
        kernel_digest: kernel.digest,
        initrd,
        rollback_index: vbmeta.rollback_index,
        properties: described.properties,
    })
}

/// The descriptors of a kernel's vbmeta.
#[derive(Default)]
struct Described {
    kernel: Option<HashDescriptor>,
    initrds: Vec<(InitrdKind, HashDescriptor)>,
    properties: Vec<(String, Vec<u8>)>,
}

impl Described {
    fn of(descriptors: Vec<Descriptor>) -> Result<Self, BootError> {
        let mut described = Self::default();
        for descriptor in descriptors {
            match descriptor {
                Descriptor::Property { key, value } => described.properties.push((key, value)),
                Descriptor::Hash(hash) => described.add(hash)?,
                _ => return Err(BootError::Kind),
            }
        }
        Ok(described)
    }

    fn add(&mut self, hash: HashDescriptor) -> Result<(), BootError> {
        let name = hash.partition_name.as_str();
        if name == KERNEL {
            return match self.kernel.replace(hash) {
                None => Ok(()),
                Some(_) => Err(BootError::Duplicate(KERNEL.into())),
            };
        }
        let kind = [InitrdKind::Normal, InitrdKind::Debug].into_iter().find(|it| it.partition_name() == name);
        let kind = kind.ok_or_else(|| BootError::UnknownPartition(name.into()))?;
        if self.initrds.iter().any(|(other, _)| *other == kind) {
            return Err(BootError::Duplicate(name.into()));
        }
        self.initrds.push((kind, hash));
        Ok(())
    }
}

/// Which initrd it is, all of it: a kernel would unpack what is behind the end as well.
fn which(
    known: &[(InitrdKind, HashDescriptor)],
    initrd: &dyn ReadAt,
) -> Result<(InitrdKind, Vec<u8>), BootError> {
    let len = initrd.len().map_err(|error| BootError::Initrd(AvbError::Read(error)))?;
    for (kind, descriptor) in known.iter().filter(|(_, descriptor)| descriptor.image_size == len) {
        match descriptor.verify(initrd) {
            Ok(()) => return Ok((*kind, descriptor.digest.clone())),
            Err(AvbError::Digest { .. }) => {}
            Err(error) => return Err(BootError::Initrd(error)),
        }
    }
    Err(BootError::UnknownInitrd)
}
