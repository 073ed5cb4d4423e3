/*
 * The control channel of the kernel's vsock tests (tools/testing/vsock), over a vsock port where the kernel's own is TCP,
 * which the guest has none of. The "control host" is a context id. As PID 1 it also makes the console, takes the mode from
 * the kernel parameter vsocktest=, and ends the VM.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "control.h"
#include "timeout.h"

#define LONGEST_LINE 128

static int channel = -1;

static void end_vm(void) {
    fflush(stdout);
    tcdrain(1);
    reboot(RB_AUTOBOOT);
}

__attribute__((constructor)) static void begin_vm(void) {
    if (getpid() != 1)
        return;
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    int console = open("/dev/ttyS0", O_RDWR);
    for (int fd = 0; fd < 3; fd++)
        dup2(console, fd);
    /* A parameter that the kernel does not know is in PID 1's environment. */
    const char *mode = getenv("vsocktest");
    if (mode) {
        char copy[16];
        snprintf(copy, sizeof copy, "%s", mode);
        unsetenv("vsocktest");
        execl("/init", "init", "--mode", copy, "--control-host", "2", "--control-port", "1235", "--peer-cid", "2", NULL);
    }
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    atexit(end_vm);
}

static void give_up(const char *what) {
    fprintf(stderr, "control channel: %s: %s\n", what, strerror(errno));
    exit(EXIT_FAILURE);
}

static int serve(struct sockaddr_vm address) {
    address.svm_cid = VMADDR_CID_ANY;
    int listener = socket(AF_VSOCK, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
        give_up("listen");
    printf("CONTROL READY\n");
    fflush(stdout);
    int accepted = accept(listener, NULL, NULL);
    close(listener);
    return accepted;
}

/* The other end may not be there yet. */
static int reach(const struct sockaddr_vm *address) {
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};
    for (int tries = 0; tries < 500; tries++) {
        int fd = socket(AF_VSOCK, SOCK_STREAM, 0);
        if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0)
            return fd;
        close(fd);
        nanosleep(&pause, NULL);
    }
    return -1;
}

void control_init(const char *control_host, const char *control_port, bool server) {
    struct sockaddr_vm address = {.svm_family = AF_VSOCK};
    address.svm_cid = strtoul(control_host, NULL, 10);
    address.svm_port = strtoul(control_port, NULL, 10);
    channel = server ? serve(address) : reach(&address);
    if (channel < 0)
        give_up(server ? "accept" : "connect");
}

void control_cleanup(void) {
    close(channel);
    channel = -1;
}

static void write_all(const char *bytes, size_t len) {
    timeout_begin(TIMEOUT);
    while (len > 0) {
        ssize_t sent = send(channel, bytes, len, MSG_NOSIGNAL);
        timeout_check("control channel: send");
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            give_up("send");
        bytes += sent;
        len -= sent;
    }
    timeout_end();
}

void control_writeln(const char *str) {
    char line[LONGEST_LINE];
    int len = snprintf(line, sizeof line, "%s\n", str);
    if (len >= (int)sizeof line)
        give_up("line too long");
    write_all(line, len);
}

void control_writeulong(unsigned long value) {
    char text[32];
    snprintf(text, sizeof text, "%lu", value);
    control_writeln(text);
}

char *control_readln(void) {
    char *line = calloc(1, LONGEST_LINE);
    size_t len = 0;

    timeout_begin(TIMEOUT);
    while (line && len < LONGEST_LINE - 1) {
        ssize_t got = recv(channel, line + len, 1, 0);
        timeout_check("control channel: receive");
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            give_up("receive");
        if (line[len] == '\n')
            break;
        len++;
    }
    timeout_end();
    if (!line || line[len] != '\n')
        give_up("no line");
    line[len] = 0;
    return line;
}

unsigned long control_readulong(void) {
    char *line = control_readln();
    unsigned long value = strtoul(line, NULL, 10);
    free(line);
    return value;
}

bool control_cmpln(char *line, const char *str, bool fail) {
    bool same = !strcmp(line, str);
    if (!same && fail) {
        fprintf(stderr, "control channel: \"%s\" came, \"%s\" was expected\n", line, str);
        exit(EXIT_FAILURE);
    }
    return same;
}

void control_expectln(const char *str) {
    char *line = control_readln();
    control_cmpln(line, str, true);
    free(line);
}
