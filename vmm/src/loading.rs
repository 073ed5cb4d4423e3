//! What runs first, into guest memory: a kernel with all that is handed over to it, or a ROM.

use std::fs::File;

use boot::{BootSpec, BootState, Cmdline, MmioDevice, Rom};
use vm_memory::GuestMemoryMmap;
use zeroize::Zeroizing;

use crate::attach::{MAX_DISKS, Slot, announce};
use crate::build_error::BuildError;
use crate::config::raw::Discovery;
use crate::spec::{Image, VmSpec};

/// The word by which a kernel looks for a boot configuration behind its ramdisk.
const BOOTCONFIG: &str = "bootconfig";

/// The ROM, where there is one: its pages are to be given to KVM early.
///
/// # Errors
/// When it cannot be read.
pub fn read_rom(image: &Image) -> Result<Option<Rom>, BuildError> {
    match image {
        Image::Kernel(_) => Ok(None),
        Image::Rom(file) => match Rom::read(&file.file) {
            Ok(rom) => Ok(Some(rom)),
            Err(source) => Err(BuildError::Boot { what: "bootloader", path: file.path.clone(), source }),
        },
    }
}

/// Loads kernel or ROM; gives the registers of the first vCPU.
///
/// # Errors
/// When it is not one that can be started, or something does not fit.
pub fn load(memory: &GuestMemoryMmap, spec: &VmSpec, rom: Option<&Rom>) -> Result<BootState, BuildError> {
    if spec.disks.len() > MAX_DISKS {
        return Err(BuildError::TooManyDisks(spec.disks.len()));
    }
    let slots = slots(spec);
    let devices: Vec<MmioDevice> = match spec.discovery {
        Discovery::Cmdline => Vec::new(),
        Discovery::Both | Discovery::Acpi => slots.iter().map(|slot| slot.window()).collect(),
    };
    let loaded = match rom {
        Some(rom) => boot::load_rom(memory, rom, spec.vcpus, &devices),
        None => load_kernel(memory, spec, &slots, &devices)?,
    };
    loaded.map_err(|source| {
        let what = if rom.is_some() { "bootloader" } else { "kernel" };
        BuildError::Boot { what, path: spec.image.file().path.clone(), source }
    })
}

/// The slots of the devices that the VM has.
fn slots(spec: &VmSpec) -> Vec<Slot> {
    let disks = (0..).take(spec.disks.len()).map(Slot::Disk);
    let vsock = spec.vsock.iter().map(|_| Slot::Vsock);
    disks.chain(vsock).chain([Slot::Balloon, Slot::Console, Slot::Rng]).collect()
}

fn load_kernel(
    memory: &GuestMemoryMmap,
    spec: &VmSpec,
    slots: &[Slot],
    devices: &[MmioDevice],
) -> Result<Result<BootState, boot::LoadError>, BuildError> {
    let mut cmdline = Cmdline::new(boot::layout::CMDLINE_MAX);
    cmdline.append(&spec.params)?;
    if !spec.bootconfig.is_empty() {
        cmdline.word(BOOTCONFIG)?;
    }
    if spec.discovery != Discovery::Acpi {
        for slot in slots {
            announce(&mut cmdline, *slot).map_err(|e| BuildError::Attach("device", e))?;
        }
    }
    let initrds: Vec<&File> = spec.initrds.iter().map(|i| &i.file).collect();
    let seed = random_seed().map_err(|e| BuildError::Device("random seed", e))?;
    let boot_spec = BootSpec {
        kernel: &spec.image.file().file,
        initrds: &initrds,
        bootconfig: &spec.bootconfig,
        cmdline: cmdline.as_str(),
        vcpus: spec.vcpus,
        devices,
        seed: Some(&seed),
    };
    Ok(boot::load(memory, &boot_spec))
}

/// Random bytes from the host's kernel, overwritten when they are dropped.
fn random_seed() -> std::io::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    // SAFETY: the buffer has the length that is given. Up to 256 bytes come whole or not at all.
    let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    match usize::try_from(got) == Ok(seed.len()) {
        true => Ok(seed),
        false => Err(std::io::Error::last_os_error()),
    }
}
