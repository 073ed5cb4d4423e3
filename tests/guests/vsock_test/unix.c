/* AF_VSOCK sockets of the host as Unix sockets in the convention of the device; see unix.h. */
#include "unix.h"

/* Here the names mean the system's calls. */
#undef socket
#undef bind
#undef listen
#undef accept
#undef connect
#undef getsockopt
#undef setsockopt
#undef close

#include <errno.h>
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define MOST 1024

/* What is known of each descriptor that stands for a vsock socket. */
static struct {
    int type; /* 0 for all others */
    unsigned port;
    int listens;
    unsigned long long sizes[3];
} sockets[MOST];

static int is_ours(int fd) {
    return fd >= 0 && fd < MOST && sockets[fd].type;
}

static struct sockaddr_un path_of(const char *suffix) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s%s", getenv("VSOCK_PATH"), suffix);
    return address;
}

static struct sockaddr_un service(unsigned port) {
    char suffix[16];
    snprintf(suffix, sizeof suffix, "_%u", port);
    return path_of(suffix);
}

static int note(int fd, int type) {
    if (fd >= MOST) {
        close(fd);
        errno = EMFILE;
        return -1;
    }
    if (fd >= 0) {
        memset(&sockets[fd], 0, sizeof sockets[fd]);
        sockets[fd].type = type;
        for (int i = 0; i < 3; i++)
            sockets[fd].sizes[i] = 256 * 1024;
    }
    return fd;
}

int unix_socket(int domain, int type, int protocol) {
    if (domain != AF_VSOCK)
        return socket(domain, type, protocol);
    return note(socket(AF_UNIX, type, 0), type & 0xf);
}

int unix_bind(int fd, const struct sockaddr *address, socklen_t len) {
    if (!is_ours(fd))
        return bind(fd, address, len);
    sockets[fd].port = ((const struct sockaddr_vm *)address)->svm_port;
    return 0;
}

int unix_listen(int fd, int backlog) {
    if (!is_ours(fd))
        return listen(fd, backlog);
    struct sockaddr_un here = service(sockets[fd].port);
    unlink(here.sun_path);
    if (bind(fd, (struct sockaddr *)&here, sizeof here) < 0)
        return -1;
    sockets[fd].listens = 1;
    return listen(fd, backlog);
}

int unix_accept(int fd, struct sockaddr *address, socklen_t *len) {
    if (!is_ours(fd))
        return accept(fd, address, len);
    int accepted = note(accept(fd, NULL, NULL), sockets[fd].type);
    if (accepted >= 0 && address) {
        /* The port is the one thing that a Unix socket does not tell. */
        struct sockaddr_vm peer = {.svm_family = AF_VSOCK, .svm_port = VMADDR_PORT_ANY};
        peer.svm_cid = strtoul(getenv("VSOCK_CID"), NULL, 10);
        memcpy(address, &peer, sizeof peer);
        *len = sizeof peer;
    }
    return accepted;
}

int unix_connect(int fd, const struct sockaddr *address, socklen_t len) {
    char line[64];
    size_t got = 0;

    if (!is_ours(fd))
        return connect(fd, address, len);
    struct sockaddr_un there = path_of(sockets[fd].type == SOCK_SEQPACKET ? ".seqpacket" : "");
    if (connect(fd, (struct sockaddr *)&there, sizeof there) < 0)
        return -1;
    int size = snprintf(line, sizeof line, "CONNECT %u\n", ((const struct sockaddr_vm *)address)->svm_port);
    if (send(fd, line, size, MSG_NOSIGNAL) != size)
        goto refused;
    /* The answer, and not a byte of what follows. */
    for (;;) {
        size_t want = sockets[fd].type == SOCK_SEQPACKET ? sizeof line : 1;
        ssize_t more = recv(fd, line + got, want, 0);
        if (more <= 0)
            goto refused;
        got += more;
        if (line[got - 1] == '\n')
            return strncmp(line, "OK ", 3) ? -1 : 0;
        if (got == sizeof line)
            goto refused;
    }
refused:
    errno = ECONNRESET;
    return -1;
}

int unix_getsockopt(int fd, int level, int name, void *value, socklen_t *len) {
    if (level != AF_VSOCK || !is_ours(fd))
        return getsockopt(fd, level, name, value, len);
    if (name < 0 || name > SO_VM_SOCKETS_BUFFER_MAX_SIZE || *len < sizeof sockets[fd].sizes[0]) {
        errno = EINVAL;
        return -1;
    }
    memcpy(value, &sockets[fd].sizes[name], sizeof sockets[fd].sizes[name]);
    *len = sizeof sockets[fd].sizes[name];
    return 0;
}

int unix_setsockopt(int fd, int level, int name, const void *value, socklen_t len) {
    if (level != AF_VSOCK || !is_ours(fd))
        return setsockopt(fd, level, name, value, len);
    if (name < 0 || name > SO_VM_SOCKETS_BUFFER_MAX_SIZE || len != sizeof sockets[fd].sizes[0]) {
        errno = EINVAL;
        return -1;
    }
    memcpy(&sockets[fd].sizes[name], value, len);
    return 0;
}

int unix_close(int fd) {
    if (is_ours(fd)) {
        if (sockets[fd].listens)
            unlink(service(sockets[fd].port).sun_path);
        sockets[fd].type = 0;
    }
    return close(fd);
}
