/*
 * A kernel of its own that measures devices from ring 3, which runs at native speed even where KVM emulates ring 0. Ring 0 sets up
 * the devices, page tables that ring 3 may use, and a way there and back; ring 3 drives the queues, polls them, and comes back by
 * an instruction it may not use to have a line printed. Entered by PVH, which all monitors know. From its command line:
 *
 *   virtio_mmio.device=..@0xA:I  devices, of which a disk is taken, and a socket device where there is one
 *   requests=N                   how many requests of 4 KiB a phase has, or their bytes
 *
 * Prints "BEGIN NAME" and "END NAME" around each phase, for whoever times it from outside, and "DONE". Then a reset, or where
 * nothing listens for that a fault without a handler.
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

enum { COM1 = 0x3f8 };
enum {
    DEVICE_ID = 0x08,
    DEVICE_FEATURES = 0x10,
    DEVICE_FEATURES_SEL = 0x14,
    DRIVER_FEATURES = 0x20,
    DRIVER_FEATURES_SEL = 0x24,
    QUEUE_SEL = 0x30,
    QUEUE_NUM = 0x38,
    QUEUE_READY = 0x44,
    QUEUE_NOTIFY = 0x50,
    STATUS = 0x70,
    QUEUE_DESC = 0x80,
    QUEUE_DRIVER = 0x90,
    QUEUE_DEVICE = 0xa0,
    CONFIGURATION = 0x100,
};
enum { BLOCK = 2, SOCKETS = 19 };
enum { FLUSH = 1u << 9, EVENT_IDX = 1u << 29, VERSION_1 = 1u << 0 /* of the upper half */ };
enum { NEXT = 1, WRITE = 2 };
enum { IN = 0, OUT = 1 };
enum { QUEUE_SIZE = 256, DEPTH = 32, SECTOR = 512, PAGE = 4096, LARGE = 128 << 10, USER_STACK = 16384 };
enum { HOST_CID = 2, PORT = 7000, STREAM = 1, CHUNK = 64 << 10, CREDIT = DEPTH * CHUNK };
enum { REQUEST = 1, RESPONSE = 2, RST = 3, RW = 5, CREDIT_UPDATE = 6 };
enum { KERNEL_CS = 0x08, KERNEL_DS = 0x10, USER_CS = 0x28, USER_DS = 0x30, TASK = 0x38 };

struct descriptor {
    u64 address;
    u32 len;
    u16 flags, next;
};

static struct queue {
    struct descriptor table[QUEUE_SIZE];
    volatile struct {
        u16 flags, index, ring[QUEUE_SIZE], used_event;
    } available;
    volatile struct {
        u16 flags, index;
        struct {
            u32 id, len;
        } ring[QUEUE_SIZE];
        u16 available_event;
    } used __attribute__((aligned(4)));
    volatile u32 *device;
    u32 number;
} disk_queue __attribute__((aligned(16))), rx __attribute__((aligned(16))), tx __attribute__((aligned(16)));

static struct {
    u32 kind, reserved;
    u64 sector;
} headers[DEPTH];
static volatile u8 statuses[DEPTH];

struct packet {
    u64 from, to;
    u32 from_port, to_port, len;
    u16 type, op;
    u32 flags, buf_alloc, fwd_cnt;
} __attribute__((packed));
static struct packet packets[DEPTH] __attribute__((aligned(64)));
/* The connection: what was sent, received and told to be received; what the host takes, and what it took. */
static u32 port, sent, received, told, host_alloc, host_took;
static int connected;
static u64 cid;

static u8 buffers[DEPTH][LARGE] __attribute__((aligned(PAGE)));
static u8 user_stack[USER_STACK] __attribute__((aligned(16)));
/* What is sent. */
static u8 outgoing[CHUNK] __attribute__((aligned(PAGE)));

/* One to one, the first 4 GiB in pages of 2 MiB, for ring 3 too. */
u64 tables[6][512] __attribute__((aligned(PAGE)));
u64 gdt[9] __attribute__((aligned(16))) = {
    [KERNEL_CS / 8] = 0x00af9b000000fffful,
    [KERNEL_DS / 8] = 0x00cf93000000fffful,
    [USER_CS / 8] = 0x00affb000000fffful,
    [USER_DS / 8] = 0x00cff3000000fffful,
};
static u64 idt[32][2] __attribute__((aligned(16)));
static struct {
    u32 reserved;
    u64 rsp0;
    u8 rest[92];
} __attribute__((packed, aligned(16))) task;
static u8 kernel_stack[16384] __attribute__((aligned(16)));

struct table_register {
    u16 limit;
    u64 base;
} __attribute__((packed));

static u64 capacity;
static u64 requests = 100000;
static const char *volatile line_start, *volatile line_end;

/* Ring 0. */

static void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }

static void print(const char *text) {
    while (*text)
        out8(COM1, (u8)*text++);
}

__attribute__((noreturn)) static void reset(void) {
    struct table_register nothing = {0, 0};
    out8(0x64, 0xfe);
    __asm__ volatile("lidt %0; ud2" : : "m"(nothing));
    __builtin_unreachable();
}

static u64 number(const char *text, u64 base) {
    u64 value = 0;
    for (;; text++) {
        u64 digit = (u8)*text - (u64)'0';
        if (digit > 9)
            digit = ((u8)*text | 0x20) - (u64)'a' + 10;
        if (digit >= base)
            return value;
        value = value * base + digit;
    }
}

static const char *after(const char *text, const char *key) {
    for (; *text; text++) {
        const char *at = text, *want = key;
        while (*want && *at == *want)
            at++, want++;
        if (!*want)
            return at;
    }
    return 0;
}

static volatile u32 *reg(volatile u32 *device, u32 offset) { return device + offset / 4; }

/* The first device of the kind, with the features, waiting for its queues; or null. */
static volatile u32 *find(const char *words, u32 kind, u32 wanted) {
    while ((words = after(words, "virtio_mmio.device="))) {
        const char *address = after(words, "@0x");
        volatile u32 *device = (volatile u32 *)(address ? number(address, 16) : 0);
        if (!device || *reg(device, DEVICE_ID) != kind)
            continue;
        *reg(device, STATUS) = 0;
        *reg(device, STATUS) = 1 | 2;
        *reg(device, DEVICE_FEATURES_SEL) = 0;
        u32 features = *reg(device, DEVICE_FEATURES) & wanted;
        if (features != wanted) {
            print("a device lacks a feature\n");
            reset();
        }
        *reg(device, DRIVER_FEATURES_SEL) = 0;
        *reg(device, DRIVER_FEATURES) = features;
        *reg(device, DRIVER_FEATURES_SEL) = 1;
        *reg(device, DRIVER_FEATURES) = VERSION_1;
        *reg(device, STATUS) = 1 | 2 | 8;
        return device;
    }
    return 0;
}

static void set_up_queue(struct queue *queue, volatile u32 *device, u32 number) {
    queue->device = device;
    queue->number = number;
    *reg(device, QUEUE_SEL) = number;
    *reg(device, QUEUE_NUM) = QUEUE_SIZE;
    u64 parts[3] = {(u64)queue->table, (u64)&queue->available, (u64)&queue->used};
    u32 offsets[3] = {QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE};
    for (int i = 0; i < 3; i++) {
        *reg(device, offsets[i]) = (u32)parts[i];
        *reg(device, offsets[i] + 4) = (u32)(parts[i] >> 32);
    }
    *reg(device, QUEUE_READY) = 1;
}

static u64 configuration(volatile u32 *device) {
    return *reg(device, CONFIGURATION) | (u64)*reg(device, CONFIGURATION + 4) << 32;
}

static void set_up_disk(const char *words) {
    volatile u32 *device = find(words, BLOCK, FLUSH | EVENT_IDX);
    if (!device) {
        print("no disk on the command line\n");
        reset();
    }
    set_up_queue(&disk_queue, device, 0);
    *reg(device, STATUS) = 1 | 2 | 8 | 4;
    capacity = configuration(device);
    for (u16 i = 0; i < DEPTH; i++) {
        struct descriptor *table = &disk_queue.table[3 * i];
        table[0] = (struct descriptor){(u64)&headers[i], 16, NEXT, 3 * i + 1};
        table[1] = (struct descriptor){(u64)buffers[i], PAGE, NEXT, 3 * i + 2};
        table[2] = (struct descriptor){(u64)&statuses[i], 1, WRITE, 0};
    }
}

static void set_up_sockets(const char *words) {
    static struct queue events __attribute__((aligned(16)));
    volatile u32 *device = find(words, SOCKETS, EVENT_IDX);
    if (!device)
        return;
    set_up_queue(&rx, device, 0);
    set_up_queue(&tx, device, 1);
    set_up_queue(&events, device, 2);
    *reg(device, STATUS) = 1 | 2 | 8 | 4;
    cid = configuration(device);
    for (u16 i = 0; i < DEPTH; i++) {
        rx.table[i] = (struct descriptor){(u64)buffers[i], sizeof(struct packet) + CHUNK, WRITE, 0};
        tx.table[2 * i] = (struct descriptor){(u64)&packets[i], sizeof(struct packet), NEXT, 2 * i + 1};
        tx.table[2 * i + 1] = (struct descriptor){(u64)outgoing, CHUNK, 0, 0};
    }
}

/* Ring 3 asked for a line. */
void trap(void) {
    if (!line_start) {
        print("DONE\n");
        reset();
    }
    print(line_start);
    print(line_end);
    print("\n");
}

void fault(void) {
    print("FAULT\n");
    reset();
}

void trap_entry(void);
void fault_entry(void);
void enter_ring3(u64 rip, u64 rsp);

static void descriptor_to(u64 *entry, void (*handler)(void)) {
    u64 address = (u64)handler;
    entry[0] = (address & 0xffff) | (u64)KERNEL_CS << 16 | 0x8e00ul << 32 | (address >> 16 & 0xffff) << 48;
    entry[1] = address >> 32;
}

static void set_up_rings(void) {
    u64 base = (u64)&task, limit = sizeof task - 1;
    gdt[TASK / 8] = limit | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
    gdt[TASK / 8 + 1] = base >> 32;
    task.rsp0 = (u64)kernel_stack + sizeof kernel_stack;
    for (int i = 0; i < 32; i++)
        descriptor_to(idt[i], fault_entry);
    descriptor_to(idt[13], trap_entry);
    struct table_register idtr = {sizeof idt - 1, (u64)idt};
    __asm__ volatile("lidt %0" : : "m"(idtr));
    __asm__ volatile("ltr %w0" : : "r"(TASK));
}

/* Ring 3. */

static void say(const char *start, const char *end) {
    line_start = start;
    line_end = end;
    __asm__ volatile("hlt" : : : "memory", "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11");
}

static u64 random_below(u64 limit) {
    static u64 state = 0x9e3779b97f4a7c15ul;
    state = state * 6364136223846793005ul + 1442695040888963407ul;
    return (state >> 33) % limit;
}

static void fail(const char *what) {
    say("FAILED ", what);
    say(0, 0);
}

/* Makes the ring's entries up to `end` available. */
static void publish(struct queue *queue, u16 end) {
    u16 start = queue->available.index;
    /* No interrupt: the next one would be half a turn of the index away. */
    queue->available.used_event = (u16)(queue->used.index + 0x8000);
    __asm__ volatile("" : : : "memory");
    queue->available.index = end;
    __asm__ volatile("mfence" : : : "memory");
    if ((u16)(end - queue->used.available_event - 1) < (u16)(end - start))
        *reg(queue->device, QUEUE_NOTIFY) = queue->number;
}

/* `count` requests of `len` bytes, `depth` at a time. */
static void disk(const char *name, u32 kind, u32 len, u64 depth, u64 count) {
    struct queue *queue = &disk_queue;
    u64 sequential = 0, places = capacity * SECTOR / len;
    for (u64 i = 0; i < depth; i++) {
        headers[i].kind = kind;
        queue->table[3 * i + 1].len = len;
        queue->table[3 * i + 1].flags = kind == IN ? NEXT | WRITE : NEXT;
    }
    say("BEGIN ", name);
    for (u64 done = 0; done < count; done += depth) {
        u16 start = queue->available.index;
        for (u64 i = 0; i < depth; i++) {
            u64 place = len == PAGE ? random_below(places) : sequential++ % places;
            headers[i].sector = place * (len / SECTOR);
            statuses[i] = 0xff;
            queue->available.ring[(u16)(start + i) % QUEUE_SIZE] = (u16)(3 * i);
        }
        publish(queue, (u16)(start + depth));
        while (queue->used.index != queue->available.index)
            __asm__ volatile("pause" : : : "memory");
        for (u64 i = 0; i < depth; i++)
            if (statuses[i])
                fail(name);
    }
    say("END ", name);
}

static void send(u16 op, u32 len) {
    while ((u16)(tx.available.index - tx.used.index) >= DEPTH)
        __asm__ volatile("pause" : : : "memory");
    u16 start = tx.available.index, slot = start % DEPTH;
    packets[slot] = (struct packet){
        .from = cid, .to = HOST_CID, .from_port = port, .to_port = PORT, .len = len,
        .type = STREAM, .op = op, .buf_alloc = CREDIT, .fwd_cnt = received,
    };
    tx.table[2 * slot].flags = len ? NEXT : 0;
    tx.table[2 * slot + 1].len = len;
    tx.available.ring[start % QUEUE_SIZE] = (u16)(2 * slot);
    told = received;
    sent += len;
    publish(&tx, (u16)(start + 1));
}

/* Takes what the host sent; gives the buffers back. */
static void receive(void) {
    static u16 seen;
    u16 end = rx.available.index;
    for (; seen != rx.used.index; seen++) {
        u32 id = rx.used.ring[seen % QUEUE_SIZE].id;
        struct packet *packet = (struct packet *)buffers[id];
        if (packet->to_port == port) { /* not one of before */
            if (packet->op == RST)
                fail("connection");
            if (packet->op == RESPONSE)
                connected = 1;
            if (packet->op == RW)
                received += packet->len;
            host_alloc = packet->buf_alloc;
            host_took = packet->fwd_cnt;
        }
        rx.available.ring[end++ % QUEUE_SIZE] = (u16)id;
    }
    if (end != rx.available.index)
        publish(&rx, end);
    if (received - told > CREDIT / 4)
        send(CREDIT_UPDATE, 0);
    __asm__ volatile("pause" : : : "memory");
}

static void wait_for(u32 bytes) {
    while (received < bytes)
        receive();
}

/* A connection of its own, which the host is told the purpose of by its first byte and greets with one. */
static void open_stream(u8 purpose) {
    sent = received = told = 0;
    connected = 0;
    port++;
    send(REQUEST, 0);
    while (!connected)
        receive();
    outgoing[0] = purpose;
    send(RW, 1);
    wait_for(1);
}

static void stream_out(const char *name, u64 count) {
    open_stream('o');
    say("BEGIN ", name);
    for (u64 i = 0; i < count; i++) {
        while (sent - host_took + CHUNK > host_alloc)
            receive();
        send(RW, CHUNK);
    }
    wait_for(2);
    say("END ", name);
    send(RST, 0);
}

static void stream_in(const char *name, u64 count) {
    open_stream('i');
    say("BEGIN ", name);
    wait_for((u32)(1 + count * CHUNK));
    say("END ", name);
    send(RST, 0);
}

static void round_trips(const char *name, u64 count) {
    open_stream('p');
    say("BEGIN ", name);
    for (u32 i = 0; i < count; i++) {
        send(RW, 1);
        wait_for(i + 2);
    }
    say("END ", name);
    send(RST, 0);
}

static void sockets(void) {
    for (u16 i = 0; i < DEPTH; i++)
        rx.available.ring[i] = i;
    publish(&rx, DEPTH);
    stream_out("stream-out", requests / (CHUNK / PAGE));
    stream_in("stream-in", requests / (CHUNK / PAGE));
    round_trips("round-trip", requests / 32);
}

static void ring3(void) {
    disk("read-4k", IN, PAGE, DEPTH, requests);
    disk("write-4k", OUT, PAGE, DEPTH, requests);
    disk("read-128k", IN, LARGE, DEPTH, requests / 16);
    disk("write-128k", OUT, LARGE, DEPTH, requests / 16);
    disk("read-4k-single", IN, PAGE, 1, requests / 32);
    if (cid)
        sockets();
    say(0, 0);
}

void kernel(const u8 *start_info) {
    const char *words = *(const char *const *)(start_info + 0x18), *value;
    if ((value = after(words, "requests=")))
        requests = number(value, 10);
    set_up_disk(words);
    set_up_sockets(words);
    set_up_rings();
    enter_ring3((u64)ring3, (u64)user_stack + sizeof user_stack - 8);
}

__asm__(".pushsection .note.Xen, \"a\", @note\n"
        "    .long 4, 8, 18\n"
        "    .asciz \"Xen\"\n"
        "    .quad _start\n"
        ".popsection\n"
        ".code32\n"
        ".globl _start\n"
        "_start:\n" /* 32-bit mode without pages; %ebx is the start info */
        "    movl $tables + 0x1007, tables\n"
        "    mov $tables + 0x1000, %edi\n"
        "    mov $tables + 0x2007, %eax\n"
        "    mov $4, %ecx\n"
        "1:  mov %eax, (%edi)\n"
        "    add $0x1000, %eax\n"
        "    add $8, %edi\n"
        "    dec %ecx\n"
        "    jnz 1b\n"
        "    mov $tables + 0x2000, %edi\n"
        "    mov $0x87, %eax\n"
        "    mov $2048, %ecx\n"
        "1:  mov %eax, (%edi)\n"
        "    add $0x200000, %eax\n"
        "    add $8, %edi\n"
        "    dec %ecx\n"
        "    jnz 1b\n"
        "    mov %cr4, %eax\n"
        "    or $0x20, %eax\n"
        "    mov %eax, %cr4\n"
        "    mov $tables, %eax\n"
        "    mov %eax, %cr3\n"
        "    mov $0xc0000080, %ecx\n"
        "    rdmsr\n"
        "    or $0x100, %eax\n"
        "    wrmsr\n"
        "    mov %cr0, %eax\n"
        "    or $0x80000000, %eax\n"
        "    mov %eax, %cr0\n"
        "    lgdt gdt_register\n"
        "    ljmp $0x08, $long_mode\n" /* KERNEL_CS */
        "gdt_register:\n"
        "    .word 71\n"
        "    .long gdt, 0\n"
        ".code64\n"
        "long_mode:\n"
        "    mov $0x10, %eax\n" /* KERNEL_DS */
        "    mov %eax, %ds\n"
        "    mov %eax, %es\n"
        "    mov %eax, %ss\n"
        "    lea stack_end(%rip), %rsp\n"
        "    mov %ebx, %edi\n"
        "    call kernel\n"
        "enter_ring3:\n"
        "    pushq $0x33\n" /* USER_DS, for ring 3 */
        "    pushq %rsi\n"
        "    pushq $2\n"
        "    pushq $0x2b\n" /* USER_CS, for ring 3 */
        "    pushq %rdi\n"
        "    iretq\n"
        "trap_entry:\n" /* error code, rip, cs, rflags, rsp, ss */
        "    cld\n"
        "    call trap\n"
        "    add $8, %rsp\n"
        "    incq (%rsp)\n" /* past the hlt */
        "    iretq\n"
        "fault_entry:\n"
        "    call fault\n"
        ".bss\n"
        ".balign 16\n"
        "    .skip 16384\n"
        "stack_end:\n"
        ".text\n");
