/*
 * Takes 48 MiB, touches all of it, gives it back, and waits for ever.
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "vm_payload.h"

#define SIZE (48 << 20)

int AVmPayload_main(void) {
    char *memory = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED)
        return 1;
    memset(memory, 1, SIZE);
    printf("TAKEN\n");
    fflush(stdout);
    AVmPayload_notifyPayloadReady();
    if (munmap(memory, SIZE) != 0)
        return 1;
    printf("FREED\n");
    fflush(stdout);
    for (;;)
        pause();
}
