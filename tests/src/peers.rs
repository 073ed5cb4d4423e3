//! Other monitors, for benchmarks to run beside `vmm`: where they are, what they need inside the software host, and their
//! command lines.
//!
//! None is part of this repository and none is installed by it. A benchmark runs those that are there, and says how to get the
//! others.

use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host;

/// Where Debian puts it.
const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const QEMU_FIRMWARE: &str = "/usr/share/qemu";
/// What a microvm reads: firmware, and the loaders of bzImages and of PVH.
const QEMU_ROMS: [&str; 4] = ["bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "pvh.bin"];
const ALIOTH_VARIABLE: &str = "KAPSEL_ALIOTH";

/// A VM as every monitor is asked for it: 1 vCPU, serial console on stdout.
#[derive(Clone, Copy, Debug)]
pub struct PeerVm<'a> {
    /// ELF file or bzImage.
    pub kernel: &'a Path,
    /// Initial ramdisk.
    pub initrd: Option<&'a Path>,
    /// The kernel's parameters, without those of a single monitor.
    pub params: &'a str,
    /// Guest memory.
    pub memory_mib: u64,
    /// Raw images, and whether the guest may only read them.
    pub disks: &'a [(&'a Path, bool)],
    /// Sockets.
    pub vsock: Option<PeerVsock<'a>>,
    /// Whether there is an entropy device.
    pub entropy: bool,
    /// How the guest finds its devices.
    pub discovery: Discovery,
}

impl<'a> PeerVm<'a> {
    /// A VM without devices.
    pub fn new(kernel: &'a Path, memory_mib: u64, params: &'a str) -> Self {
        Self {
            kernel,
            initrd: None,
            params,
            memory_mib,
            disks: &[],
            vsock: None,
            entropy: false,
            discovery: Discovery::CommandLine,
        }
    }
}

/// What a VM's sockets meet on the host.
#[derive(Clone, Copy, Debug)]
pub enum PeerVsock<'a> {
    /// The kernel's vhost-vsock, with this context id.
    Vhost(u32),
    /// A Unix socket at this path.
    Unix(&'a Path),
}

/// How a guest finds its devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// By kernel parameters, with as few platform devices as there can be: kernels made for it.
    CommandLine,
    /// By ACPI: a distribution's kernel.
    Acpi,
}

/// QEMU, as a microvm.
#[derive(Clone, Copy, Debug)]
pub struct Qemu;

impl Qemu {
    /// It, where it is installed. Else says how to get it.
    pub fn find() -> Option<Self> {
        if !Path::new(QEMU).exists() {
            eprintln!("peer skipped: {QEMU} is not there: apt-get install qemu-system-x86");
        }
        Self::inside()
    }

    /// The same inside the software host, where nobody can install anything.
    pub fn inside() -> Option<Self> {
        Path::new(QEMU).exists().then_some(Self)
    }

    /// The files that it needs, and where.
    pub fn files(self) -> Vec<(PathBuf, PathBuf)> {
        let roms = QEMU_ROMS.map(|rom| Path::new(QEMU_FIRMWARE).join(rom));
        let found = |path: PathBuf| Some((std::fs::canonicalize(&path).ok()?, path));
        roms.into_iter().filter_map(found).chain([(QEMU.into(), QEMU.into())]).collect()
    }

    /// `vm` as a microvm with devices over MMIO and nothing that a guest can do without.
    ///
    /// # Panics
    /// When it wants a Unix socket in the place of vhost-vsock.
    pub fn microvm(self, vm: &PeerVm<'_>) -> Command {
        let platform = match vm.discovery {
            Discovery::CommandLine => "acpi=off,pic=off,pit=off,rtc=off",
            Discovery::Acpi => "acpi=on,rtc=off",
        };
        let machine = format!("microvm,accel=kvm,{platform},x-option-roms=off,isa-serial=on");
        // An emulated KVM tells of an MSR that it cannot set, and QEMU then gives up.
        let cpu = if host::kvm_is_real() { "host" } else { "host,-arch-capabilities" };
        let mut qemu = Command::new(QEMU);
        qemu.args(["-M", &machine, "-cpu", cpu, "-m", &vm.memory_mib.to_string(), "-nodefaults"]);
        qemu.args(["-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
        for (n, (path, read_only)) in vm.disks.iter().enumerate() {
            let read_only = if *read_only { "on" } else { "off" };
            let drive = format!("id=d{n},if=none,format=raw,aio=threads,readonly={read_only},file=");
            qemu.arg("-drive").arg(drive + &path.display().to_string());
            qemu.args(["-device", &format!("virtio-blk-device,drive=d{n}")]);
        }
        match vm.vsock {
            Some(PeerVsock::Vhost(cid)) => {
                qemu.args(["-device", &format!("vhost-vsock-device,guest-cid={cid}")]);
            }
            Some(PeerVsock::Unix(_)) => panic!("QEMU has no sockets but the kernel's"),
            None => {}
        }
        if vm.entropy {
            qemu.args(["-device", "virtio-rng-device"]);
        }
        qemu.arg("-kernel").arg(vm.kernel);
        if let Some(initrd) = vm.initrd {
            qemu.arg("-initrd").arg(initrd);
        }
        qemu.arg("-append").arg(by_triple_fault(vm.params));
        qemu
    }
}

/// alioth-cli, of crates.io.
#[derive(Clone, Debug)]
pub struct Alioth {
    program: PathBuf,
}

impl Alioth {
    /// It, where it was installed: `$KAPSEL_ALIOTH`, else in `target/peers`. Else says how to get it.
    pub fn find() -> Option<Self> {
        let installed = || {
            let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a member");
            root.join("target/peers/bin/alioth")
        };
        let program = std::env::var_os(ALIOTH_VARIABLE).map_or_else(installed, PathBuf::from);
        if program.exists() {
            return Some(Self { program });
        }
        eprintln!("peer skipped: no alioth: cargo install --locked alioth-cli --root target/peers");
        None
    }

    /// The same inside the software host, at the path that it has outside.
    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Its executable.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// `vm`, with devices over PCI.
    pub fn command(&self, vm: &PeerVm<'_>) -> Command {
        let mut alioth = Command::new(&self.program);
        alioth.args(["-l", "error", "boot", "--cpu", "count=1"]);
        alioth.args(["--memory", &format!("size={}M", vm.memory_mib)]);
        alioth.arg(if is_elf(vm.kernel) { "--pvh" } else { "--kernel" }).arg(vm.kernel);
        if let Some(initrd) = vm.initrd {
            alioth.arg("--initramfs").arg(initrd);
        }
        if !vm.params.is_empty() {
            alioth.arg("--cmdline").arg(by_triple_fault(vm.params));
        }
        for (path, read_only) in vm.disks {
            alioth.args(["--blk", &format!("file,path={},readonly={read_only}", path.display())]);
        }
        match vm.vsock {
            Some(PeerVsock::Vhost(cid)) => {
                alioth.args(["--vsock", &format!("vhost,cid={cid}")]);
            }
            Some(PeerVsock::Unix(path)) => {
                alioth.args(["--vsock", &format!("uds,cid=3,path={}", path.display())]);
            }
            None => {}
        }
        if vm.entropy {
            alioth.arg("--entropy");
        }
        alioth
    }
}

/// A terminal that nobody types into, for the stdin of monitors that insist on one: the end that keeps it open, and the one to
/// give them.
///
/// # Errors
/// When the system has none left.
pub fn idle_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut keeper, mut terminal) = (-1, -1);
    let none = std::ptr::null_mut();
    // SAFETY: the two numbers are written, nothing else is asked for.
    let result = unsafe { libc::openpty(&raw mut keeper, &raw mut terminal, none, none.cast(), none.cast()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: descriptors that openpty has just made, owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(keeper), OwnedFd::from_raw_fd(terminal)) })
}

/// Where there is no keyboard controller, a kernel that resets by it has to end in another way.
fn by_triple_fault(params: &str) -> String {
    params.replace("reboot=k", "reboot=t")
}

fn is_elf(kernel: &Path) -> bool {
    let mut magic = [0; 4];
    std::fs::File::open(kernel).and_then(|mut file| file.read_exact(&mut magic)).is_ok()
        && magic == *b"\x7fELF"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &Command) -> String {
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn peers_are_asked_for_the_same_vm() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = dir.path().join("kernel");
        std::fs::write(&kernel, crate::elf::pvh(&[])).unwrap();
        let disks = [(Path::new("/a"), true), (Path::new("/b"), false)];
        let vm = PeerVm {
            disks: &disks,
            vsock: Some(PeerVsock::Vhost(7)),
            entropy: true,
            ..PeerVm::new(&kernel, 99, "reboot=k quiet")
        };
        let qemu = words(&Qemu.microvm(&vm));
        let alioth = words(&Alioth::at("alioth").command(&vm));
        for (text, wanted) in [
            (&qemu, ["-m 99 ", "readonly=on,file=/a", "readonly=off,file=/b", "guest-cid=7", "virtio-rng"]),
            (&alioth, ["size=99M ", "path=/a,readonly=true", "path=/b,readonly=false", "cid=7", "--entropy"]),
        ] {
            for wanted in wanted {
                assert!(text.contains(wanted), "{wanted}: {text}");
            }
            assert!(
                text.contains("reboot=t quiet") && text.contains(&kernel.display().to_string()),
                "{text}"
            );
        }
        assert!(alioth.contains("--pvh"), "{alioth}");
        std::fs::write(&kernel, crate::elf::bzimage(&[])).unwrap();
        assert!(words(&Alioth::at("alioth").command(&vm)).contains("--kernel"));
    }

    #[test]
    fn an_idle_terminal_is_one() {
        use std::os::fd::AsRawFd;
        let (_keeper, terminal) = idle_terminal().unwrap();
        // SAFETY: no memory is touched.
        assert_eq!(unsafe { libc::isatty(terminal.as_raw_fd()) }, 1);
    }
}
