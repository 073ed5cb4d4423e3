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
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

#include "../modules.h"
#include "probe.h"

char buffer[1 << 18] __attribute__((aligned(4096)));
static char command_line[4096];

void fail(const char *what) {
    perror(what);
    fflush(stdout);
    reboot(RB_AUTOBOOT);
}

int asked_for(const char *word) {
    return strstr(command_line, word) != NULL;
}

static void stuck(void) {
    for (;;)
        pause();
}

static void crash(void) {
    int fd = open("/proc/sysrq-trigger", O_WRONLY);
    if (fd < 0 || write(fd, "c", 1) != 1)
        fail("/proc/sysrq-trigger");
}

/* In the order in which they are done. */
static const struct {
    const char *word;
    void (*run)(void);
} probes[] = {
    {"probe=devices", probe_devices},
    {"probe=disk", probe_disk},
    {"discard", probe_discard},
    {"probe=random", probe_random},
    {"probe=vsock", probe_vsock},
    {"probe=messages", probe_messages},
    {"probe=input", probe_input},
    {"probe=button", probe_button},
    {"probe=time", probe_time},
    {"probe=faults", probe_faults},
    {"probe=clocks", probe_clocks},
    {"probe=stuck", stuck},
};

int main(void) {
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
    if (read(cmdline, command_line, sizeof command_line - 1) <= 0)
        fail("/proc/cmdline");
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (asked_for(probes[i].word))
            probes[i].run();
    if (!asked_for("probe="))
        stuck();
    fflush(stdout);
    tcdrain(1);
    if (asked_for("end=exit"))
        return 1;
    if (asked_for("end=crash"))
        crash();
    reboot(asked_for("end=poweroff") ? RB_POWER_OFF : RB_AUTOBOOT);
}
