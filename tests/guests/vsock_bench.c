/*
 * PID 1 of a plain VM, linked statically: measures connections to port 7000 of the host, which says by the first byte of
 * each what is wanted, prints "NAME VALUE" lines, then resets the VM.
 *
 *   p   the host sends back each byte
 *   o   the host reads 8 MiB and answers with a byte
 *   i   the host sends 8 MiB and waits for a byte
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "modules.h"

#define TOTAL (8 << 20)
#define CHUNK (64 << 10)
#define ROUNDS 1000
#define RUNS 4

static char buffer[CHUNK];

static void fail(const char *what) {
    perror(what);
    fflush(stdout);
    tcdrain(1);
    reboot(RB_AUTOBOOT);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int open_stream(char wanted) {
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 7000};
    int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&host, sizeof host) < 0)
        fail("connect");
    if (write(fd, &wanted, 1) != 1 || read(fd, buffer, 1) != 1)
        fail("greeting");
    return fd;
}

static double round_trip(void) {
    int fd = open_stream('p');
    double start = now();
    for (int i = 0; i < ROUNDS; i++)
        if (write(fd, "x", 1) != 1 || read(fd, buffer, 1) != 1)
            fail("round trip");
    double each = (now() - start) / ROUNDS;
    close(fd);
    return each * 1e6;
}

static double out(void) {
    int fd = open_stream('o');
    double start = now();
    for (int left = TOTAL; left > 0;) {
        ssize_t put = write(fd, buffer, CHUNK);
        if (put <= 0)
            fail("write");
        left -= put;
    }
    if (read(fd, buffer, 1) != 1)
        fail("answer");
    double took = now() - start;
    close(fd);
    return TOTAL / took / 1e6;
}

static double in(void) {
    int fd = open_stream('i');
    double start = now();
    for (int left = TOTAL; left > 0;) {
        ssize_t got = read(fd, buffer, CHUNK);
        if (got <= 0)
            fail("read");
        left -= got;
    }
    double took = now() - start;
    if (write(fd, "x", 1) != 1)
        fail("answer");
    close(fd);
    return TOTAL / took / 1e6;
}

int main(void) {
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/ttyS0", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    const char *missing = modules_load();
    if (missing)
        fail(missing);
    /* The first run of each warms up what is cold. */
    for (int run = 0; run < RUNS; run++) {
        double us = round_trip(), to_host = out(), to_guest = in();
        if (run > 0)
            printf("round_trip_us %.1f\nout_mb_s %.1f\nin_mb_s %.1f\n", us, to_host, to_guest);
    }
    fflush(stdout);
    tcdrain(1);
    reboot(RB_AUTOBOOT);
}
