/*
 * Tells who virtualises the processor, then waits for ever.
 */
#include <stdio.h>
#include <unistd.h>

#include "hypervisor.h"
#include "vm_payload.h"

int AVmPayload_main(void) {
    hypervisor_print();
    printf("WAITING\n");
    fflush(stdout);
    AVmPayload_notifyPayloadReady();
    for (;;)
        pause();
}
