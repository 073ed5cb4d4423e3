/* Disks that do as they should. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "probe.h"
#include "../sha256.h"

static void label_of(const char *name, char label[64]) {
    char path[300], line[128];
    snprintf(path, sizeof path, "/sys/class/block/%s/uevent", name);
    FILE *uevent = fopen(path, "r");
    strcpy(label, "-");
    while (uevent && fgets(line, sizeof line, uevent))
        sscanf(line, "PARTNAME=%63s", label);
    if (uevent)
        fclose(uevent);
}

static void print_device(const char *name) {
    char path[300], label[64];
    struct sha256 hash;
    ssize_t got;
    size_t size = 0;

    snprintf(path, sizeof path, "/dev/%s", name);
    label_of(name, label);
    int fd = open(path, O_RDONLY);
    if (fd < 0)
        fail(path);
    sha256_start(&hash);
    while ((got = read(fd, buffer, sizeof buffer)) > 0) {
        sha256_add(&hash, buffer, got);
        size += got;
    }
    if (got < 0)
        fail(path);
    close(fd);
    printf("%s %s %zu ", name, label, size);
    sha256_print(&hash);
    printf("\n");
}

static void overwrite(const char *path) {
    int fd = open(path, O_RDWR);
    if (fd < 0)
        return;
    off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size; at += 4096) {
        memset(buffer, 'A' + at / 4096 % 26, 4096);
        if (pwrite(fd, buffer, 4096, at) != 4096)
            fail(path);
    }
    if (fsync(fd) < 0)
        fail("fsync");
    close(fd);
}

void probe_disk(void) {
    struct dirent **names;
    int count = scandir("/sys/class/block", &names, NULL, alphasort);
    for (int i = 0; i < count; i++)
        if (!strncmp(names[i]->d_name, "vd", 2))
            print_device(names[i]->d_name);
    overwrite("/dev/vdb");
}

/* How many bytes of the pages' 16 KiB are not zero, as the device has them. */
static void print_rest(int fd, const char *name, uint64_t at) {
    int rest = 0;
    if (posix_fadvise(fd, at, 16384, POSIX_FADV_DONTNEED) != 0 || pread(fd, buffer, 16384, at) != 16384)
        fail(name);
    for (int i = 0; i < 16384; i++)
        rest += buffer[i] != 0;
    printf("%s %d bytes are not zero\n", name, rest);
}

void probe_discard(void) {
    uint64_t discarded[2] = {4 * 4096, 16384}, zeroed[2] = {16 * 4096, 16384};
    int fd = open("/dev/vdb", O_RDWR);
    if (fd < 0 || ioctl(fd, BLKDISCARD, discarded) < 0)
        fail("BLKDISCARD");
    if (ioctl(fd, BLKZEROOUT, zeroed) < 0)
        fail("BLKZEROOUT");
    print_rest(fd, "discarded", discarded[0]);
    print_rest(fd, "zeroed", zeroed[0]);
    if (fsync(fd) < 0)
        fail("fsync");
    close(fd);
}
