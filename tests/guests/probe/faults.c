/* Disks whose host has a bad day. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "probe.h"

enum { PIECE = 65536 };

static void go_through(int fd, const char *name, int writing) {
    int good = 0, bad = 0, error = 0;
    off_t size = lseek(fd, 0, SEEK_END);
    for (off_t at = 0; at < size; at += PIECE) {
        memset(buffer, 'A' + at / PIECE % 26, PIECE);
        ssize_t done = writing ? pwrite(fd, buffer, PIECE, at) : pread(fd, buffer, PIECE, at);
        if (done == PIECE) {
            good++;
        } else {
            bad++;
            error = done < 0 ? errno : 0;
        }
    }
    printf("%s %d %d %s\n", name, good, bad, strerror(error));
    fflush(stdout);
}

void probe_faults(void) {
    int fd = open("/dev/vda", O_RDWR | O_DIRECT);
    if (fd < 0)
        fail("/dev/vda");
    if (asked_for("writes"))
        go_through(fd, "writes", 1);
    if (asked_for("reads"))
        go_through(fd, "reads", 0);
    if (asked_for("shrinks")) {
        off_t last = lseek(fd, 0, SEEK_END) - PIECE;
        printf("READY\n");
        fflush(stdout);
        while (pread(fd, buffer, PIECE, last) == PIECE)
            usleep(10000);
        go_through(fd, "shrunk", 0);
    }
    close(fd);
}
