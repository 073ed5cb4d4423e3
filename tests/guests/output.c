/*
 * Writes every byte value many times over, to both standard streams: the log must have them unchanged and in order.
 */
#include <unistd.h>

#include "vm_payload.h"

int AVmPayload_main(void) {
    unsigned char block[256];

    for (int i = 0; i < 256; i++)
        block[i] = i;
    for (int i = 0; i < 256; i++)
        if (write(1 + i % 2, block, sizeof block) != sizeof block)
            return 1;
    return 0;
}
