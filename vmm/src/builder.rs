//! From a [`VmSpec`] to a [`Vm`] that is ready to run: one flat recipe, in the order that KVM wants.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::virtio::VirtioDevice;
use devices::virtio::balloon::Balloon;
use devices::virtio::blk::{Block, BlockSpec, MAX_QUEUES};
use devices::virtio::console::Console;
use devices::virtio::mmio::RegisterPage;
use devices::virtio::rng::Rng;
use devices::virtio::vsock::vhost::KernelVsock;
use devices::virtio::vsock::{GuestPort, Vsock, VsockConfig};
use devices::{AcpiPm, Bus, Cmos, I8042, Power, PvPanic, SerialPort};
use guest_api::ports::report_port;
use kvm_ioctls::{Kvm, VmFd};
use vm_memory::{GuestMemoryMmap, MmapRegion};

use crate::arch::{self, CpuTemplate, ports, slots};
use crate::attach::{Slot, attach};
use crate::build_error::BuildError;
use crate::config::raw::ConsoleInputDevice;
use crate::disks::OpenDisk;
use crate::event_loop::{PayloadWatch, Subscriber};
use crate::exit::StopSlot;
use crate::failure::FailureLine;
use crate::gate::Gate;
use crate::guest::Door;
use crate::loading;
use crate::memory;
use crate::output::{Output, Sink, Writer};
use crate::report_port::ReportListener;
use crate::spec::{VmSpec, VsockBackend, VsockSpec};
use crate::vcpu::VcpuContext;
use crate::vm::{BalloonHandle, ConsoleInput, Vm};

/// The ports every VM has.
struct Platform {
    ports: Bus,
    power: Arc<Power>,
    button: Arc<AcpiPm>,
    serial: Arc<SerialPort>,
    failure: Arc<SerialPort>,
    failure_line: FailureLine,
}

/// Builds the VM, whose console and payload log go to `output`; it is paused.
///
/// # Errors
/// When KVM, the kernel image or the host's resources do not allow it.
pub fn build(kvm: &Kvm, spec: VmSpec, output: Output) -> Result<Vm, BuildError> {
    let vm = Arc::new(kvm.create_vm().map_err(|e| BuildError::Kvm("KVM_CREATE_VM", e))?);
    // Memory slots first: one that is set after interrupt controllers or eventfds waits milliseconds.
    let memory = memory::allocate(&boot::memory_regions(spec.memory), spec.image_size())?;
    memory::register(&vm, &memory)?;
    let rom = loading::read_rom(&spec.image)?;
    let rom_memory = rom.as_ref().map(|rom| memory::register_rom(&vm, &memory, rom)).transpose()?;
    let free_slot =
        u32::try_from(vm_memory::GuestMemoryBackend::num_regions(&memory)).unwrap_or(u32::MAX) + 1;
    let shown = if spec.vsock.is_some() { Slot::Vsock } else { Slot::Disk(0) };
    let len = Slot::Disk(0).base() + spec.disks.len() as u64 * slots::STRIDE - shown.base();
    let pages = memory::register_pages(&vm, free_slot, shown.base(), len)?.map(|pages| (shown, pages));
    arch::create_interrupt_controller(&vm).map_err(|e| BuildError::Kvm("KVM_CREATE_IRQCHIP", e))?;

    let state = loading::load(&memory, &spec, rom.as_ref())?;
    let cpu =
        CpuTemplate::new(kvm, &vm, spec.vcpus).map_err(|e| BuildError::Kvm("KVM_GET_SUPPORTED_CPUID", e))?;
    let vcpus = (0..spec.vcpus)
        .map(|id| {
            let vcpu = vm.create_vcpu(u64::from(id)).map_err(|e| BuildError::Kvm("KVM_CREATE_VCPU", e))?;
            arch::configure_vcpu(&vcpu, id, &cpu, (id == 0).then_some(&state))
                .map_err(|(what, e)| BuildError::Kvm(what, e))?;
            Ok(vcpu)
        })
        .collect::<Result<Vec<_>, BuildError>>()?;

    let platform = platform(&vm, &output)?;
    let mut machine = Machine {
        vm: &vm,
        memory: &memory,
        vcpus: spec.vcpus,
        pages,
        mmio: Bus::new(),
        devices: vec![platform.serial.clone(), platform.failure.clone()],
        virtio: Vec::new(),
    };
    let balloon = Balloon::new().map_err(|e| BuildError::Device("memory balloon", e))?;
    let balloon = machine.add("memory balloon", Slot::Balloon, balloon)?;
    let console = machine.add_console(output.log())?;
    let watch = machine.add_virtio(spec.disks, spec.vsock, spec.payload_timeout)?;
    let Machine { mmio, devices, virtio, .. } = machine;
    let console_input = match spec.console_input {
        ConsoleInputDevice::Serial => ConsoleInput::Serial(platform.serial.clone()),
        ConsoleInputDevice::Virtio => ConsoleInput::Virtio(console),
    };

    let stop = StopSlot::new().map_err(|e| BuildError::Device("stop event", e))?;
    let context =
        VcpuContext { ports: platform.ports, mmio, power: platform.power, stop, gate: Gate::default() };
    Ok(Vm {
        vcpus,
        _fd: vm,
        devices,
        virtio,
        context: Arc::new(context),
        button: platform.button,
        serial: platform.serial,
        failure: platform.failure,
        failure_line: platform.failure_line,
        output,
        balloon: BalloonHandle(balloon),
        console_input,
        watch,
        memory,
        _rom: rom_memory,
    })
}

fn platform(vm: &VmFd, output: &Output) -> Result<Platform, BuildError> {
    let (serial, interrupt) = SerialPort::new(Box::new(Writer(Arc::clone(output.console()))))
        .map_err(|e| BuildError::Device("serial port", e))?;
    vm.register_irqfd(&interrupt, ports::COM1_GSI).map_err(|e| BuildError::Kvm("KVM_IRQFD", e))?;
    let failure_line = FailureLine::default();
    let (failure, interrupt) = SerialPort::new(Box::new(failure_line.clone()))
        .map_err(|e| BuildError::Device("second serial port", e))?;
    vm.register_irqfd(&interrupt, ports::COM2_GSI).map_err(|e| BuildError::Kvm("KVM_IRQFD", e))?;
    let power = Arc::new(Power::default());
    let button =
        AcpiPm::new(Arc::clone(&power)).map_err(|e| BuildError::Device("power management registers", e))?;
    vm.register_irqfd(button.interrupt(), ports::ACPI_GSI).map_err(|e| BuildError::Kvm("KVM_IRQFD", e))?;
    let button = Arc::new(button);
    let mut bus = Bus::new();
    let mut insert =
        |what, (base, len), device| bus.insert(base, len, device).map_err(|e| BuildError::Bus(what, e));
    insert("serial port", ports::COM1, serial.clone())?;
    insert("second serial port", ports::COM2, failure.clone())?;
    insert("reset controller", ports::I8042, Arc::new(I8042::new(Arc::clone(&power))))?;
    insert("power management registers", ports::ACPI_PM, button.clone())?;
    insert("panic device", ports::PVPANIC, Arc::new(PvPanic::new(Arc::clone(&power))))?;
    insert("clock", ports::CMOS, Arc::new(Cmos::new()))?;
    Ok(Platform { ports: bus, power, button, serial, failure, failure_line })
}

struct Machine<'a> {
    vm: &'a Arc<VmFd>,
    memory: &'a GuestMemoryMmap,
    vcpus: u8,
    /// Registers that the guest reads as memory, from this slot on.
    pages: Option<(Slot, Arc<MmapRegion>)>,
    mmio: Bus,
    devices: Vec<Subscriber>,
    virtio: Vec<Arc<Mutex<dyn VirtioDevice>>>,
}

impl Machine<'_> {
    fn add<D>(&mut self, what: &'static str, slot: Slot, device: D) -> Result<Arc<Mutex<D>>, BuildError>
    where
        D: VirtioDevice + event_manager::MutEventSubscriber + 'static,
    {
        let device = Arc::new(Mutex::new(device));
        let page = match slot {
            // The other devices change their configuration, or have no such interrupts.
            Slot::Disk(_) | Slot::Vsock => self.pages.as_ref().and_then(|(first, pages)| {
                let offset = usize::try_from(slot.base() - first.base()).ok()?;
                RegisterPage::new(Arc::clone(pages), offset)
            }),
            _ => None,
        };
        attach(self.vm, &mut self.mmio, self.memory, slot, &device, page)
            .map_err(|e| BuildError::Attach(what, e))?;
        self.virtio.push(device.clone());
        self.devices.push(device.clone());
        Ok(device)
    }

    fn add_console(&mut self, log: &Arc<Sink>) -> Result<Arc<Mutex<Console>>, BuildError> {
        let console = Console::new(Box::new(Writer(Arc::clone(log))))
            .map_err(|e| BuildError::Device("console device", e))?;
        self.add("console device", Slot::Console, console)
    }

    fn add_virtio(
        &mut self,
        disks: Vec<OpenDisk>,
        vsock: Option<VsockSpec>,
        payload_timeout: Option<Duration>,
    ) -> Result<Option<PayloadWatch>, BuildError> {
        for (n, disk) in (0..).zip(disks) {
            let queues = u16::from(self.vcpus).min(MAX_QUEUES);
            let OpenDisk { disk, id, read_only, engine } = disk;
            let block = Block::with(disk, &BlockSpec { id, read_only, queues, engine })
                .map_err(|e| BuildError::Device("disk", e))?;
            self.add("disk", Slot::Disk(n), block)?;
        }
        let rng = Rng::new().map_err(|e| BuildError::Device("entropy device", e))?;
        self.add("entropy device", Slot::Rng, rng)?;
        match vsock {
            Some(vsock) => self.add_vsock(vsock, payload_timeout),
            None => Ok(None),
        }
    }

    fn add_vsock(
        &mut self,
        VsockSpec { guest_cid, backend }: VsockSpec,
        payload_timeout: Option<Duration>,
    ) -> Result<Option<PayloadWatch>, BuildError> {
        let service = |e| BuildError::Device("payload service", e);
        let watch = match payload_timeout {
            Some(start_timeout) => Some(PayloadWatch { door: Door::new().map_err(service)?, start_timeout }),
            None => None,
        };
        let door = watch.as_ref().map(|watch| Arc::clone(&watch.door));
        match backend {
            VsockBackend::User(socket) => {
                let mut vsock = Vsock::new(VsockConfig { guest_cid: u64::from(guest_cid), socket })?;
                if let Some(door) = door {
                    let accept = move |source_port: GuestPort| door.knock(source_port.0);
                    vsock.claim(report_port(guest_cid), Box::new(accept));
                }
                self.add("socket device", Slot::Vsock, vsock)?;
            }
            VsockBackend::Vhost => {
                // First, so that a context id that is taken is told of as such.
                let vsock = KernelVsock::new(u64::from(guest_cid), self.memory)?;
                if let Some(door) = door {
                    let listener = ReportListener::bind(guest_cid, door).map_err(service)?;
                    self.devices.push(Arc::new(Mutex::new(listener)));
                }
                self.add("socket device", Slot::Vsock, vsock)?;
            }
        }
        Ok(watch)
    }
}
