/*
 * A kernel of its own that treats its virtio devices as badly as it can: registers in any order and width, features it was
 * not offered, rings half right and half nonsense, indices that jump, resets in between. From its command line:
 *
 *   rounds=N                     how long it goes on
 *   seed=N                       what it draws
 *   virtio_mmio.device=..@0xA:I  its victims
 *
 * It prints WARM when it has done enough to have used everything once, "AT rounds" now and then and DONE at the end, resets
 * all devices, and halts. It spares its own memory, as far as it can know what devices will write; now and then it has them
 * overwrite what it is, and ends by that.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { COM1 = 0x3f8, COM2 = 0x2f8, CMOS = 0x70 };
enum {
    DEVICE_FEATURES = 0x10,
    DEVICE_FEATURES_SEL = 0x14,
    DRIVER_FEATURES = 0x20,
    DRIVER_FEATURES_SEL = 0x24,
    QUEUE_SEL = 0x30,
    QUEUE_NUM_MAX = 0x34,
    QUEUE_NUM = 0x38,
    QUEUE_READY = 0x44,
    QUEUE_NOTIFY = 0x50,
    INTERRUPT_ACK = 0x64,
    STATUS = 0x70,
    QUEUE_DESC = 0x80,
    QUEUE_DRIVER = 0x90,
    QUEUE_DEVICE = 0xa0,
    REGISTERS = 0x200,
};

/*
 * Its RAM: 64 MiB. Code, stack and page tables are at OWN, far from the small numbers that devices are given as addresses and
 * page numbers, since it asks them to overwrite and to discard everything else.
 */
#define RAM_START 0x100000UL
#define OWN 0x3c00000UL
#define RAM_END 0x4000000UL
/* The rings of queue Q are here, one after the other, and their buffers behind. */
#define RINGS 0x1000000UL
#define RING_STRIDE 0x10000UL
#define BUFFERS 0x2000000UL
#define BUFFERS_LEN 0x1000000UL

/* Rounds after which all is warm, and between two words on how far it is. */
#define WARM 20000
#define STRETCH 2000

#define MAX_DEVICES 16
#define MAX_QUEUES 4

struct descriptor {
    u64 address;
    u32 len;
    u16 flags, next;
};

static u64 devices[MAX_DEVICES];
static u32 device_count;
static u64 state;

static u32 draw(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 16;
}

static u32 below(u32 limit) {
    return draw() % limit;
}

static void out(u16 port, u8 value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static u8 in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text) {
    while (*text)
        out(COM1, *text++);
}

static void print_number(u64 number) {
    if (number >= 10)
        print_number(number / 10);
    out(COM1, '0' + number % 10);
}

static volatile u32 *reg(u64 device, u32 offset) {
    return (volatile u32 *)(device + offset);
}

/* A number that somebody might have forgotten. */
static u64 wild(void) {
    static const u64 numbers[] = {
        0, 1, 3, 0xfff, 0x1000, 0x7fff, 0x8000, 0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff,
        0x100000000, 0x7fffffffffffffff, 0xfffffffffffff000, 0xffffffffffffffff, RAM_END - 1, RAM_END, RAM_END - 8,
        /* The processor's interrupt controllers, and where the processor starts. */
        0xfec00000, 0xfee00000, 0xffff0000, 0xfffffff0,
    };
    switch (below(6)) {
    case 0:
    case 1:
        return (u64)draw() << 32 | draw();
    case 2:
        return devices[below(device_count)] + below(REGISTERS);
    default:
        return numbers[below(sizeof numbers / sizeof *numbers)];
    }
}

/* Whether a device that writes there writes over this program. */
static int is_own(u64 address, u64 len) {
    return address < RAM_END && address + len > OWN && address + len <= RAM_END;
}

static u64 ring(u32 queue) {
    return RINGS + queue * RING_STRIDE;
}

static u64 buffer(void) {
    return below(8) ? BUFFERS + below(BUFFERS_LEN - 0x20000) : wild();
}

static u32 len(void) {
    static const u32 lens[] = {1, 16, 44, 512, 4096, 65536};
    return below(8) ? lens[below(sizeof lens / sizeof *lens)] : wild();
}

static void write_wide(u64 device, u32 offset, u64 value) {
    *reg(device, offset) = value;
    *reg(device, offset + 4) = value >> 32;
}

/* As a driver does it, but for a slip now and then. */
static void set_up(u64 device) {
    *reg(device, STATUS) = 0;
    *reg(device, STATUS) = 1;
    *reg(device, STATUS) = 3;
    for (u32 half = 0; half < 2; half++) {
        *reg(device, DEVICE_FEATURES_SEL) = half;
        u32 features = *reg(device, DEVICE_FEATURES);
        *reg(device, DRIVER_FEATURES_SEL) = half;
        *reg(device, DRIVER_FEATURES) = below(16) ? (features & draw()) | half : draw();
    }
    *reg(device, STATUS) = 11;
    for (u32 queue = 0; queue < MAX_QUEUES; queue++) {
        *reg(device, QUEUE_SEL) = queue;
        u32 max = *reg(device, QUEUE_NUM_MAX);
        if (max == 0)
            break;
        u64 base = below(16) ? ring(queue) : wild();
        *reg(device, QUEUE_NUM) = below(16) ? max >> below(3) : wild();
        write_wide(device, QUEUE_DESC, base);
        write_wide(device, QUEUE_DRIVER, base + 0x4000);
        write_wide(device, QUEUE_DEVICE, base + 0x8000);
        *reg(device, QUEUE_READY) = 1;
    }
    *reg(device, STATUS) = 15;
}

/* Chains of one to four descriptors, or what looks like them. */
static void fill(u32 queue, u32 size) {
    volatile struct descriptor *descriptors = (void *)ring(queue);
    volatile u16 *available = (void *)(ring(queue) + 0x4000);
    for (u32 i = 0; i < size; i++) {
        u32 last = i % 4 == 3;
        u64 address = buffer(), bytes = len();
        /* Devices look at any time: the old length never meets the new address. */
        descriptors[i].len = 0;
        descriptors[i].address = address;
        descriptors[i].len = is_own(address, bytes) ? RAM_END - address + bytes : bytes;
        descriptors[i].flags = below(16) ? (last ? below(2) * 2 : 1 + (i % 4 ? below(2) * 2 : 0)) : draw();
        descriptors[i].next = below(16) ? (i + 1) % size : wild();
        /* What a block request or a packet might begin with. */
        u64 at = descriptors[i].address;
        if (at >= BUFFERS && at < RAM_END - 64) {
            volatile u32 *words = (void *)(at & ~7UL);
            words[0] = below(16);
            words[2] = below(4096);
            words[3] = below(8) ? 0 : draw();
            words[6] = below(2) ? 0x10000 | below(4096) : draw();
        }
    }
    for (u32 i = 0; i < size; i++)
        available[2 + i] = below(16) ? i & ~3U : wild();
    available[0] = below(4) == 0;
}

/* One byte of a queue's memory becomes another. */
static void poke(u32 queue) {
    volatile u8 *bytes = (void *)ring(queue);
    u32 at = below(RING_STRIDE);
    u8 value = draw();
    if (at < 0x4000) {
        struct descriptor copy = ((volatile struct descriptor *)bytes)[at / sizeof copy];
        ((u8 *)&copy)[at % sizeof copy] = value;
        if (is_own(copy.address, copy.len))
            return;
    }
    bytes[at] = value;
}

static void advance(u32 queue) {
    volatile u16 *available = (void *)(ring(queue) + 0x4000);
    available[1] = below(32) ? available[1] + below(8) : wild();
}

static void any_access(u64 device) {
    u64 at = device + below(REGISTERS);
    switch (below(8)) {
    case 0:
        *(volatile u8 *)at = wild();
        break;
    case 1:
        *(volatile u16 *)(at & ~1UL) = wild();
        break;
    case 2:
        *(volatile u64 *)(at & ~7UL) = wild();
        break;
    case 3:
        (void)*(volatile u8 *)at;
        break;
    case 4:
        (void)*(volatile u64 *)(at & ~7UL);
        break;
    default:
        *(volatile u32 *)(at & ~3UL) = wild();
    }
}

static void round_of(u64 device) {
    u32 queue = below(MAX_QUEUES);
    switch (below(16)) {
    case 0:
        set_up(device);
        break;
    case 1:
        *reg(device, STATUS) = below(4) ? 0 : draw();
        break;
    case 2:
    case 3:
        any_access(device);
        break;
    case 4:
        fill(queue, 128);
        break;
    case 5:
        poke(queue);
        break;
    case 6:
        *reg(device, INTERRUPT_ACK) = draw();
        break;
    case 7:
        out(COM2 + below(8), draw());
        (void)in(COM2 + below(8));
        out(CMOS, draw());
        (void)in(CMOS + 1);
        break;
    default:
        advance(queue);
        *reg(device, QUEUE_NOTIFY) = below(16) ? queue : wild();
    }
}

static int begins(const char *text, const char *with) {
    while (*with)
        if (*text++ != *with++)
            return 0;
    return 1;
}

static u64 number(const char *text, u32 base) {
    u64 value = 0;
    for (;; text++) {
        u32 digit = *text >= 'a' ? *text - 'a' + 10u : *text <= '9' ? *text - '0' + 0u : base;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

/* The first 4 GiB one to one, in pages of 2 MiB. */
static void map(void) {
    u64 *top = (u64 *)OWN, *middle = top + 512, *bottom = middle + 512;

    top[0] = (u64)middle | 3;
    for (u64 i = 0; i < 4; i++)
        middle[i] = (u64)(bottom + 512 * i) | 3;
    for (u64 i = 0; i < 4 * 512; i++)
        bottom[i] = i << 21 | 0x83;
    __asm__ volatile("mov %0, %%cr3" : : "r"(top) : "memory");
}

void hostile(const u8 *boot_params) {
    const char *words = (const char *)(u64) * (const u32 *)(boot_params + 0x228);
    u64 rounds = 1000;

    map();
    for (; *words; words++) {
        if (begins(words, "rounds="))
            rounds = number(words + 7, 10);
        if (begins(words, "seed="))
            state = number(words + 5, 10) * 0x9e3779b97f4a7c15;
        if (begins(words, "@0x") && device_count < MAX_DEVICES)
            devices[device_count++] = number(words + 3, 16);
    }
    state |= 1;
    /* The loader's page tables would make a fine ring, with this program among its buffers. */
    for (u64 at = 0x1000; at < 0xa0000; at += 8)
        *(volatile u64 *)at = 0;
    /* Every page now, so that none of it looks like a leak of the host's later. */
    for (u64 page = RAM_START; page < OWN; page += 4096)
        *(volatile u8 *)page = 1;
    for (u32 queue = 0; queue < MAX_QUEUES; queue++)
        fill(queue, 128);
    for (u32 i = 0; i < device_count; i++)
        set_up(devices[i]);
    for (u64 i = 0; i < rounds; i++) {
        if (i == (rounds < 4 * WARM ? rounds / 4 : WARM))
            print("WARM\n");
        if (i % STRETCH == STRETCH - 1) {
            print("AT ");
            print_number(i + 1);
            print("\n");
        }
        round_of(devices[below(device_count)]);
    }
    for (u32 i = 0; i < device_count; i++)
        *reg(devices[i], STATUS) = 0;
    print("DONE\n");
    for (;;)
        __asm__ volatile("cli; hlt");
}

__asm__(".globl _start\n"
        "_start:\n"
        "    mov %rsi, %rdi\n"
        "    lea stack_end(%rip), %rsp\n"
        "    call hostile\n"
        ".bss\n"
        ".balign 16\n"
        "    .skip 16384\n"
        "stack_end:\n"
        ".text\n");
