/*
 * What a payload may not do: prints a line for each thing, "ok" or what went wrong; the exit code is the number of failures.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>

#include "asset.h"

static int failures;

static void check(const char *what, int ok) {
    printf("%s: %s\n", what, ok ? "ok" : "FAILED");
    failures += !ok;
}

static int opens(const char *path, int flags) {
    int fd = open(path, flags | O_CLOEXEC);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void check_status(void) {
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");

    while (status && fgets(line, sizeof line, status)) {
        if (!strncmp(line, "Cap", 3) && strncmp(line, "CapBnd", 6))
            check("no capability", strtoull(strchr(line, ':') + 1, NULL, 16) == 0);
        if (!strncmp(line, "NoNewPrivs:", 11))
            check("no new privileges", atoi(line + 11) == 1);
    }
    check("/proc/self/status", status && fclose(status) == 0);
}

static void check_files(void) {
    char path[300];
    struct dirent *entry;
    DIR *fds = opendir("/proc/self/fd");
    int extra = 0;

    check("disk is closed", !opens("/dev/vda", O_RDONLY) && !opens("/dev/vda1", O_RDONLY));
    check("device mapper is closed", !opens("/dev/mapper/control", O_RDWR) && !opens("/dev/dm-0", O_RDONLY));
    check("memory is closed", !opens("/dev/mem", O_RDONLY) && !opens("/proc/1/mem", O_RDONLY));
    check("root is not writable", !opens("/file", O_CREAT | O_WRONLY));
    snprintf(path, sizeof path, "%s/assets/outcome", AVmPayload_getApkContentsPath());
    check("APK is readable", opens(path, O_RDONLY));
    check("APK is not writable", !opens(path, O_RDWR));
    while (fds && (entry = readdir(fds))) {
        char target[256] = {0};
        if (atoi(entry->d_name) <= 2 || atoi(entry->d_name) == dirfd(fds))
            continue;
        extra++;
        if (readlinkat(dirfd(fds), entry->d_name, target, sizeof target - 1) > 0)
            printf("descriptor %s: %s\n", entry->d_name, target);
    }
    check("no descriptor is inherited", fds && extra == 0);
}

static void check_socket(void) {
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_vm address = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 1000};

    check("vsock is there", fd >= 0);
    check("privileged ports are closed",
          bind(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno == EACCES);
}

int AVmPayload_main(void) {
    check("user", getuid() == 6000 && geteuid() == 6000);
    check("group", getgid() == 6000 && getegid() == 6000);
    check("no other group", getgroups(0, NULL) == 0);
    check("not PID 1", getpid() != 1);
    check_status();
    check_files();
    check_socket();
    check("cannot become root", setuid(0) < 0 && errno == EPERM);
    check("cannot mount", mount("none", "/mnt", "tmpfs", 0, NULL) < 0 && errno == EPERM);
    check("cannot reboot", reboot(RB_AUTOBOOT) < 0 && errno == EPERM);
    fflush(stdout);
    return failures;
}
