/* PID 1 of the VMs that `disk.rs` measures: reads and writes /dev/vda with O_DIRECT, prints what it measured, reboots.
 * One line per figure, on the console: "disk NAME OPERATIONS BYTES NANOSECONDS". */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "../guests/modules.h"

#define MIB (1 << 20)
#define PAGE 4096
#define DEPTH 32

static int disk;
static uint64_t first, length; /* the bytes that may be written */
static char *buffers;

static void fail(const char *what)
{
	printf("disk-bench: %s: %m\n", what);
	fflush(stdout);
	tcdrain(STDOUT_FILENO); /* the last line is on its way */
	reboot(RB_AUTOBOOT);
	for (;;)
		pause();
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static uint64_t number(const char *path)
{
	char text[32] = "";
	int fd = open(path, O_RDONLY);
	if (fd < 0 || read(fd, text, sizeof text - 1) <= 0)
		return 0;
	close(fd);
	return strtoull(text, NULL, 10);
}

/* The whole disk, or what its partitions cover: a partition table is not for the guest to write. */
static void find_extent(void)
{
	char path[64];
	length = number("/sys/class/block/vda/size") * 512;
	for (int part = 1; part <= 128; part++) {
		snprintf(path, sizeof path, "/sys/class/block/vda%d/start", part);
		uint64_t start = number(path) * 512;
		if (!start)
			break;
		snprintf(path, sizeof path, "/sys/class/block/vda%d/size", part);
		if (part == 1)
			first = start;
		length = start + number(path) * 512 - first;
	}
}

static uint32_t random_page(void)
{
	static uint64_t state = 0x9e3779b97f4a7c15ull;
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (state >> 33) % (length / PAGE);
}

static void tell(const char *name, uint64_t count, uint64_t size, uint64_t start)
{
	printf("disk %s %llu %llu %llu\n", name, (unsigned long long)count, (unsigned long long)(count * size),
	       (unsigned long long)(now() - start));
	fflush(stdout);
}

static void sequential(const char *name, int write)
{
	uint64_t start = now(), count = 0;
	for (int round = 0; round < 4; round++)
		for (uint64_t at = 0; at + MIB <= length; at += MIB, count++) {
			ssize_t n = write ? pwrite(disk, buffers, MIB, first + at)
					  : pread(disk, buffers, MIB, first + at);
			if (n != MIB)
				fail(name);
		}
	tell(name, count, MIB, start);
}

static void one_at_a_time(const char *name, int write, int count)
{
	uint64_t start = now();
	for (int i = 0; i < count; i++) {
		uint64_t at = first + (uint64_t)random_page() * PAGE;
		ssize_t n = write ? pwrite(disk, buffers, PAGE, at) : pread(disk, buffers, PAGE, at);
		if (n != PAGE)
			fail(name);
	}
	tell(name, count, PAGE, start);
}

/* As fio with libaio and iodepth=32: what completed is submitted again. */
static void many_at_a_time(const char *name, int write, int count)
{
	static aio_context_t context;
	static struct iocb blocks[DEPTH], *list[DEPTH];
	struct io_event events[DEPTH];
	int started = 0, ended = 0, ready = DEPTH;
	if (!context && syscall(SYS_io_setup, DEPTH, &context))
		fail("io_setup");
	for (int i = 0; i < DEPTH; i++)
		list[i] = &blocks[i];
	uint64_t start = now();
	while (ended < count) {
		if (ready > count - started)
			ready = count - started;
		for (int i = 0; i < ready; i++) {
			struct iocb *block = list[i];
			memset(block, 0, sizeof *block);
			block->aio_fildes = disk;
			block->aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
			block->aio_buf = (uintptr_t)(buffers + (block - blocks) * PAGE);
			block->aio_nbytes = PAGE;
			block->aio_offset = first + (uint64_t)random_page() * PAGE;
		}
		if (ready && syscall(SYS_io_submit, context, (long)ready, list) != ready)
			fail("io_submit");
		started += ready;
		ready = syscall(SYS_io_getevents, context, 1L, (long)DEPTH, events, NULL);
		if (ready < 1)
			fail("io_getevents");
		for (int i = 0; i < ready; i++) {
			if (events[i].res != PAGE)
				fail(name);
			list[i] = (struct iocb *)(uintptr_t)events[i].obj;
		}
		ended += ready;
	}
	tell(name, count, PAGE, start);
}

int main(void)
{
	mkdir("/dev", 0755);
	mkdir("/sys", 0755);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	const char *missing = modules_load();
	if (missing)
		fail(missing);
	/* A module may look for its devices after it was loaded. */
	for (int tries = 0; tries < 1000 && (disk = open("/dev/vda", O_RDWR | O_DIRECT)) < 0; tries++)
		usleep(1000);
	if (disk < 0)
		fail("/dev/vda");
	find_extent();
	if (posix_memalign((void **)&buffers, PAGE, MIB))
		fail("memory");
	memset(buffers, 0x5a, MIB);
	/* The first round meets cold caches on both sides, and is not counted by whoever reads this. */
	for (int round = 0; round < 2; round++) {
		printf("disk round %d 0 0\n", round);
		sequential("seq-read", 0);
		sequential("seq-write", 1);
		one_at_a_time("rand-read-1", 0, round ? 2000 : 200);
		one_at_a_time("rand-write-1", 1, round ? 2000 : 200);
		many_at_a_time("rand-read-32", 0, round ? 8000 : 800);
		many_at_a_time("rand-write-32", 1, round ? 8000 : 800);
	}
	fflush(stdout);
	tcdrain(STDOUT_FILENO); /* the last line is on its way */
	reboot(RB_AUTOBOOT);
	fail("reboot");
}
