/*
 * Loads the modules in /modules, where there are any, in the order of their names: what a distribution's kernel lacks.
 */
#ifndef MODULES_H
#define MODULES_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The path of the first that could not be loaded, or null. */
static inline const char *modules_load(void) {
    static char path[300];
    struct dirent **names;
    int count = scandir("/modules", &names, NULL, alphasort);

    for (int i = 0; i < count; i++) {
        if (names[i]->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/modules/%s", names[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        long result = syscall(SYS_finit_module, fd, "", 0);
        close(fd);
        if (result < 0 && errno != EEXIST)
            return path;
    }
    return NULL;
}

#endif
