/*
 * Stands in for AF_VSOCK at the host's end of the kernel's vsock tests when the guest's sockets are Unix sockets of the host:
 * included before everything else, it takes these calls over. VSOCK_PATH is the device's socket, VSOCK_CID the guest's
 * context id.
 */
#ifndef UNIX_H
#define UNIX_H

#include <sys/socket.h>
#include <unistd.h>

int unix_socket(int domain, int type, int protocol);
int unix_bind(int fd, const struct sockaddr *address, socklen_t len);
int unix_listen(int fd, int backlog);
int unix_accept(int fd, struct sockaddr *address, socklen_t *len);
int unix_connect(int fd, const struct sockaddr *address, socklen_t len);
int unix_getsockopt(int fd, int level, int name, void *value, socklen_t *len);
int unix_setsockopt(int fd, int level, int name, const void *value, socklen_t len);
int unix_close(int fd);

#define socket unix_socket
#define bind unix_bind
#define listen unix_listen
#define accept unix_accept
#define connect unix_connect
#define getsockopt unix_getsockopt
#define setsockopt unix_setsockopt
#define close unix_close

#endif
