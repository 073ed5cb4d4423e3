/* Sockets to the host. */
#define _GNU_SOURCE
#include <linux/vm_sockets.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "probe.h"

/* The first connection to a port, for which it says that it waits. */
static int accept_one(int type, unsigned port) {
    struct sockaddr_vm here = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
    int listener = socket(AF_VSOCK, type, 0);

    if (bind(listener, (struct sockaddr *)&here, sizeof here) < 0 || listen(listener, 1) < 0)
        fail("listen");
    printf("LISTENING\n");
    fflush(stdout);
    return accept(listener, NULL, NULL);
}

void probe_vsock(void) {
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = 6000};
    int peer = accept_one(SOCK_STREAM, 5000);
    ssize_t got;

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

void probe_messages(void) {
    int peer = accept_one(SOCK_SEQPACKET, 5001);
    ssize_t got;

    while ((got = recv(peer, buffer, sizeof buffer, 0)) > 0)
        if (send(peer, buffer, got, 0) != got)
            fail("echo");
    if (got < 0)
        fail("recv");
    close(peer);
}
