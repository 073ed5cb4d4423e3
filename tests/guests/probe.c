/*
 * PID 1 of a plain VM, linked statically: loads the modules in /modules, does what the kernel parameters probe= say in turn,
 * then ends the VM as end= says.
 *
 *   probe=disk      prints "NAME LABEL SIZE SHA256" of every block device, and overwrites /dev/vdb when there is one
 *   probe=..discard discards pages 4 to 7 of /dev/vdb, zeroes 16 to 19, and prints how many of their bytes are not zero
 *   probe=random    prints 32 bytes of the entropy device in hex
 *   probe=vsock     echoes one connection to port 5000 until its end, then sends "hello" to port 6000 of the host
 *   probe=messages  echoes the messages of one seqpacket connection to port 5001 until its end
 *   probe=devices   prints what the kernel found: virtio drivers, processors, clocks
 *   probe=clocks    prints "TICK seconds" each half a second by CLOCK_REALTIME for ever
 *   probe=time      prints "TIME real monotonic longest" in nanoseconds each 50 ms for ever: the clocks, and the longest of these sleeps
 *   probe=faults    past the page cache, in pieces of 64 KiB of /dev/vda, prints "NAME GOOD BAD ERROR": with the word writes what
 *                   came of writing all, with reads of reading all, and with shrinks says "READY" and reads again once the last
 *                   piece is gone
 *   probe=input     prints "READY", then "DEVICE LINES SHA256" of the console that "end" was typed into
 *   probe=button    prints "WAITING", then waits for the power button
 *   probe=stuck     waits for ever; so without probe=
 *   end=reset       a reset; so without end=
 *   end=poweroff    soft-off
 *   end=exit        PID 1 returns, and the kernel panics
 *   end=crash       the kernel crashes
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/input.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "modules.h"
#include "sha256.h"

static char buffer[1 << 18] __attribute__((aligned(4096)));

static void fail(const char *what) {
    perror(what);
    fflush(stdout);
    reboot(RB_AUTOBOOT);
}

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

static void disk(void) {
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

static void discard(void) {
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

static void print_random(void) {
    int fd = open("/dev/hwrng", O_RDONLY);
    ssize_t got = read(fd, buffer, 32);
    if (got <= 0)
        fail("/dev/hwrng");
    for (ssize_t i = 0; i < got; i++)
        printf("%02x", (unsigned char)buffer[i]);
    printf("\n");
}

static void vsock(void) {
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5000};
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 6000};
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    ssize_t got;

    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1) < 0)
        fail("listen");
    printf("LISTENING\n");
    fflush(stdout);
    int peer = accept(listener, NULL, NULL);
    while ((got = read(peer, buffer, sizeof buffer)) > 0)
        for (ssize_t done = 0; done < got;) {
            ssize_t put = write(peer, buffer + done, got - done);
            if (put < 0)
                fail("echo");
            done += put;
        }
    if (got < 0)
        fail("read");
    close(peer);
    int out = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (connect(out, (struct sockaddr *)&host, sizeof host) < 0)
        fail("connect");
    if (write(out, "hello", 5) != 5 || shutdown(out, SHUT_WR) < 0)
        fail("write");
    /* The host's end of the stream says that it has read all: a reset drops what still waits in the queue. */
    while ((got = read(out, buffer, sizeof buffer)) > 0)
        ;
    close(out);
}

static void print_file(const char *name, const char *path) {
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    buffer[got > 0 ? got : 0] = 0;
    buffer[strcspn(buffer, "\n")] = 0;
    printf("%s %s\n", name, buffer);
    if (fd >= 0)
        close(fd);
}

static long long nanoseconds(int clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static void devices(void) {
    struct dirent **names;
    char path[300], driver[300];
    int count = scandir("/sys/bus/virtio/devices", &names, NULL, alphasort);

    printf("virtio");
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "/sys/bus/virtio/devices/%s/driver", names[i]->d_name);
        ssize_t len = readlink(path, driver, sizeof driver - 1);
        if (len > 0) {
            driver[len] = 0;
            printf(" %s", strrchr(driver, '/') + 1);
        }
    }
    printf("\n");
    print_file("cpus", "/sys/devices/system/cpu/online");
    print_file("cores", "/sys/devices/system/cpu/cpu0/topology/package_cpus_list");
    print_file("threads", "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list");
    print_file("clock", "/sys/devices/system/clocksource/clocksource0/current_clocksource");
    print_file("rtc", "/sys/class/rtc/rtc0/since_epoch");
    printf("time %lld\n", nanoseconds(CLOCK_REALTIME) / 1000000000);
    print_file("cmdline", "/proc/cmdline");
    print_file("bootconfig", "/proc/bootconfig");
    /* Says that the generator was seeded before anything of ours ran. */
    printf("seeded %s\n", syscall(SYS_getrandom, buffer, 16, 1) == 16 ? "yes" : "no");
}

/* Lines are hashed as they are read, with the last one. */
static void input(void) {
    static const char *names[2] = {"ttyS0", "hvc0"};
    struct pollfd typed[2];
    struct sha256 hash[2];
    int lines[2] = {0};
    char path[32];

    for (int i = 0; i < 2; i++) {
        struct termios settings;
        snprintf(path, sizeof path, "/dev/%s", names[i]);
        typed[i].fd = open(path, O_RDWR | O_NOCTTY);
        typed[i].events = POLLIN;
        if (typed[i].fd < 0 || tcgetattr(typed[i].fd, &settings) < 0)
            fail(path);
        settings.c_lflag &= ~ECHO;
        settings.c_lflag |= ICANON;
        if (tcsetattr(typed[i].fd, TCSANOW, &settings) < 0)
            fail(path);
        sha256_start(&hash[i]);
    }
    printf("READY\n");
    fflush(stdout);
    for (;;) {
        if (poll(typed, 2, -1) < 0)
            fail("poll");
        for (int i = 0; i < 2; i++) {
            ssize_t got = typed[i].revents ? read(typed[i].fd, buffer, sizeof buffer) : 0;
            if (got < 0)
                fail(names[i]);
            sha256_add(&hash[i], buffer, got);
            lines[i] += got > 0;
            if (got == 4 && !memcmp(buffer, "end\n", 4)) {
                printf("%s %d ", names[i], lines[i]);
                sha256_print(&hash[i]);
                printf("\n");
                return;
            }
        }
    }
}

static void button(void) {
    struct input_event event = {0};
    int fd = open("/dev/input/event0", O_RDONLY);
    if (fd < 0)
        fail("/dev/input/event0");
    printf("WAITING\n");
    fflush(stdout);
    do
        if (read(fd, &event, sizeof event) != sizeof event)
            fail("/dev/input/event0");
    while (event.type != EV_KEY || event.code != KEY_POWER);
    printf("PRESSED\n");
}

static void clocks(void) {
    for (;;) {
        struct timespec now, half = {0, 500000000};
        clock_gettime(CLOCK_REALTIME, &now);
        printf("TICK %lld\n", (long long)now.tv_sec);
        fflush(stdout);
        nanosleep(&half, NULL);
    }
}

static void times(void) {
    long long longest = 0;
    for (;;) {
        struct timespec some = {0, 50000000};
        long long before = nanoseconds(CLOCK_MONOTONIC);
        nanosleep(&some, NULL);
        long long slept = nanoseconds(CLOCK_MONOTONIC) - before;
        longest = slept > longest ? slept : longest;
        printf("TIME %lld %lld %lld\n", nanoseconds(CLOCK_REALTIME), nanoseconds(CLOCK_MONOTONIC), longest);
        fflush(stdout);
    }
}

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

static void faults(const char *line) {
    int fd = open("/dev/vda", O_RDWR | O_DIRECT);
    if (fd < 0)
        fail("/dev/vda");
    if (strstr(line, "writes"))
        go_through(fd, "writes", 1);
    if (strstr(line, "reads"))
        go_through(fd, "reads", 0);
    if (strstr(line, "shrinks")) {
        off_t last = lseek(fd, 0, SEEK_END) - PIECE;
        printf("READY\n");
        fflush(stdout);
        while (pread(fd, buffer, PIECE, last) == PIECE)
            usleep(10000);
        go_through(fd, "shrunk", 0);
    }
    close(fd);
}

static void crash(void) {
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    if (fd < 0 || write(fd, "c", 1) != 1)
        fail("/proc/sysrq-trigger");
}

static void messages(void) {
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5001};
    int listener = socket(AF_VSOCK, SOCK_SEQPACKET, 0);
    ssize_t got;

    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1) < 0)
        fail("listen");
    printf("LISTENING\n");
    fflush(stdout);
    int peer = accept(listener, NULL, NULL);
    while ((got = recv(peer, buffer, sizeof buffer, 0)) > 0)
        if (send(peer, buffer, got, 0) != got)
            fail("echo");
    if (got < 0)
        fail("recv");
    close(peer);
}

int main(void) {
    char line[4096] = {0};

    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    /* PID 1 has no open files when the initramfs has no /dev/console. */
    int console = open("/dev/ttyS0", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    const char *missing = modules_load();
    if (missing)
        fail(missing);
    int cmdline = open("/proc/cmdline", O_RDONLY);
    if (read(cmdline, line, sizeof line - 1) <= 0)
        fail("/proc/cmdline");
    if (strstr(line, "probe=devices"))
        devices();
    if (strstr(line, "probe=disk"))
        disk();
    if (strstr(line, "discard"))
        discard();
    if (strstr(line, "probe=random"))
        print_random();
    if (strstr(line, "probe=vsock"))
        vsock();
    if (strstr(line, "probe=messages"))
        messages();
    if (strstr(line, "probe=input"))
        input();
    if (strstr(line, "probe=button"))
        button();
    if (strstr(line, "probe=time"))
        times();
    if (strstr(line, "probe=faults"))
        faults(line);
    if (strstr(line, "probe=clocks"))
        clocks();
    if (strstr(line, "probe=stuck") || !strstr(line, "probe="))
        for (;;)
            pause();
    fflush(stdout);
    tcdrain(1);
    if (strstr(line, "end=exit"))
        return 1;
    if (strstr(line, "end=crash"))
        crash();
    reboot(strstr(line, "end=poweroff") ? RB_POWER_OFF : RB_AUTOBOOT);
}
