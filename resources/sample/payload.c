/* The sample payload: says hello, shows that it can read its own verified contents, and ends. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vm_main.h"
#include "vm_payload.h"

static int print_asset(const char *name) {
    char path[256];
    int length = snprintf(path, sizeof(path), "%s/assets/%s", AVmPayload_getApkContentsPath(), name);
    if (length < 0 || (size_t)length >= sizeof(path)) {
        return -1;
    }
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        fprintf(stderr, "Cannot open %s: %s\n", path, strerror(errno));
        return -1;
    }
    printf("%s says: ", path);
    int c;
    while ((c = getc(file)) != EOF) {
        putchar(c);
    }
    int result = ferror(file) ? -1 : 0;
    fclose(file);
    return result;
}

int AVmPayload_main(void) {
    /* The console is a serial port: whole lines, as they come. */
    setvbuf(stdout, NULL, _IOLBF, 0);

    struct utsname system;
    if (uname(&system) != 0) {
        perror("uname");
        return EXIT_FAILURE;
    }
    printf("Hello from a virtual machine of my own.\n");
    printf("I am user %u on %s %s (%s).\n", (unsigned)getuid(), system.sysname, system.release, system.machine);
    if (print_asset("greeting.txt") != 0) {
        return EXIT_FAILURE;
    }
    AVmPayload_notifyPayloadReady();
    printf("Nothing more to do.\n");
    return EXIT_SUCCESS;
}
