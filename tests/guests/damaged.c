/*
 * Reads the beginning of an asset again and again, from the disk each time, until that goes wrong: as assets/outcome says by
 * "read", then the errno is the exit code, or by "map", then a signal ends it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "asset.h"
#include "vm_payload.h"

/* What is read: less than is pushed out of the page cache. */
#define PART (1 << 20)
#define PUSH (8 << 20)

static char buffer[PART];

/* Takes all free memory and more, which the kernel has to take from what it keeps of the disk. */
static void push_out(void) {
    struct sysinfo info;
    sysinfo(&info);
    size_t size = info.freeram * info.mem_unit + PUSH;
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return;
    for (size_t at = 0; at < size; at += 4096)
        memory[at] = 1;
    munmap(memory, size);
}

static int sum(const volatile char *bytes) {
    int sum = 0;
    for (size_t at = 0; at < PART; at += 4096)
        sum += bytes[at];
    return sum;
}

int AVmPayload_main(void) {
    char outcome[16], path[256];
    asset_text("outcome", outcome, sizeof outcome);
    snprintf(path, sizeof path, "%s/assets/blob", AVmPayload_getApkContentsPath());
    printf("MOUNTED\n");
    fflush(stdout);
    AVmPayload_notifyPayloadReady();
    for (int turn = 0; turn < 500; turn++) {
        push_out();
        int fd = open(path, O_RDONLY);
        if (fd < 0)
            return 99;
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        if (!strcmp(outcome, "map")) {
            char *mapped = mmap(NULL, PART, PROT_READ, MAP_SHARED, fd, 0);
            if (mapped == MAP_FAILED)
                return 98;
            sum(mapped);
            munmap(mapped, PART);
        } else {
            /* What comes before the damage is read first. */
            ssize_t got = 1;
            for (off_t at = 0; got > 0 && at < PART; at += got)
                got = pread(fd, buffer, PART - at, at);
            if (got < 0) {
                printf("%s\n", strerror(errno));
                fflush(stdout);
                return errno;
            }
        }
        close(fd);
        usleep(20000);
    }
    return 97;
}
