/* What the kernel found, and the small devices. */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <linux/input.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "probe.h"

static void print_file(const char *name, const char *path) {
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    buffer[got > 0 ? got : 0] = 0;
    buffer[strcspn(buffer, "\n")] = 0;
    printf("%s %s\n", name, buffer);
    if (fd >= 0)
        close(fd);
}

void probe_devices(void) {
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

void probe_random(void) {
    int fd = open("/dev/hwrng", O_RDONLY);
    ssize_t got = read(fd, buffer, 32);
    if (got <= 0)
        fail("/dev/hwrng");
    for (ssize_t i = 0; i < got; i++)
        printf("%02x", (unsigned char)buffer[i]);
    printf("\n");
}

void probe_button(void) {
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
