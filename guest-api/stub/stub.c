/*
 * libvm_payload.so for linking a payload outside the VM: the same symbols with the same version, and nothing behind them.
 *
 *   cc -shared -Wl,-soname,libvm_payload.so -Wl,--version-script=libvm_payload.map.txt -Iinclude -o libvm_payload.so stub/stub.c
 */
#include "vm_payload.h"

void AVmPayload_notifyPayloadReady(void) {}

const char *AVmPayload_getApkContentsPath(void) {
    return 0;
}
