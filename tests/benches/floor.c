// The floor under a start-up figure: what any program has to ask of KVM to run a tiny guest with the same 512 MiB, interrupt
// controllers, timer, CPUID and registers as `vmm`, and nothing else. Usage: floor CODE MEMORY_MIB, where CODE is flat machine code that
// runs at 1 MiB in 64-bit mode; bytes to COM1 go to stdout, 0xfe to port 0x64 ends it. Built static by the benchmark.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CHECK(call) \
	do { \
		if ((long)(call) < 0) { \
			perror(#call); \
			return 1; \
		} \
	} while (0)

enum { LOAD = 0x100000, TABLES = 0x9000, STACK = 0x9000 };

static void identity_map(uint8_t *ram)
{
	uint64_t *pml4 = (uint64_t *)(ram + TABLES), *pdpt = pml4 + 512, *pd = pml4 + 1024;

	pml4[0] = (TABLES + 0x1000) | 3;
	for (uint64_t i = 0; i < 4; i++)
		pdpt[i] = (TABLES + 0x2000 + i * 0x1000) | 3;
	for (uint64_t i = 0; i < 4 * 512; i++)
		pd[i] = (i << 21) | 0x83;
}

static void long_mode(struct kvm_sregs *s)
{
	struct kvm_segment code = { .limit = ~0u, .selector = 0x10, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .limit = ~0u, .selector = 0x18, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };

	s->cs = code;
	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cr0 = 0x80000011;
	s->cr3 = TABLES;
	s->cr4 = 0x20;
	s->efer = 0x500;
}

static int run(int vcpu, struct kvm_run *state)
{
	for (;;) {
		CHECK(ioctl(vcpu, KVM_RUN, 0));
		if (state->exit_reason != KVM_EXIT_IO) {
			fprintf(stderr, "exit reason %u\n", state->exit_reason);
			return 1;
		}
		uint8_t *data = (uint8_t *)state + state->io.data_offset;
		if (state->io.direction != KVM_EXIT_IO_OUT)
			memset(data, 0xff, state->io.size * state->io.count);
		else if (state->io.port == 0x3f8)
			CHECK(write(1, data, state->io.size * state->io.count));
		else if (state->io.port == 0x64 && *data == 0xfe)
			_exit(0);
	}
}

int main(int argc, char **argv)
{
	if (argc != 3)
		return 2;
	size_t size = strtoul(argv[2], NULL, 10) << 20;
	int kvm, vm, vcpu, code, map_size;
	CHECK(kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC));
	if (ioctl(kvm, KVM_GET_API_VERSION, 0) != 12)
		return 1;
	CHECK(vm = ioctl(kvm, KVM_CREATE_VM, 0));
	uint8_t *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (ram == MAP_FAILED)
		return 1;
	struct kvm_userspace_memory_region slot = { .memory_size = size, .userspace_addr = (uintptr_t)ram };
	CHECK(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &slot));
	CHECK(ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000));
	CHECK(ioctl(vm, KVM_CREATE_IRQCHIP, 0));
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	CHECK(ioctl(vm, KVM_CREATE_PIT2, &pit));

	identity_map(ram);
	CHECK(code = open(argv[1], O_RDONLY | O_CLOEXEC));
	CHECK(read(code, ram + LOAD, 65536));

	static union {
		struct kvm_cpuid2 head;
		char room[sizeof(struct kvm_cpuid2) + 256 * sizeof(struct kvm_cpuid_entry2)];
	} cpuid = { .head.nent = 256 };
	CHECK(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid));
	CHECK(vcpu = ioctl(vm, KVM_CREATE_VCPU, 0));
	CHECK(ioctl(vcpu, KVM_SET_CPUID2, &cpuid));
	struct kvm_sregs sregs;
	CHECK(ioctl(vcpu, KVM_GET_SREGS, &sregs));
	long_mode(&sregs);
	CHECK(ioctl(vcpu, KVM_SET_SREGS, &sregs));
	struct kvm_regs regs = { .rip = LOAD, .rsp = STACK, .rflags = 2 };
	CHECK(ioctl(vcpu, KVM_SET_REGS, &regs));
	struct kvm_irqfd serial = { .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .gsi = 4 };
	CHECK(ioctl(vm, KVM_IRQFD, &serial));
	CHECK(map_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0));
	struct kvm_run *state = mmap(NULL, map_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (state == MAP_FAILED)
		return 1;
	return run(vcpu, state);
}
