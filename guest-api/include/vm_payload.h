/*
 * What a payload can ask of its VM. Link with -lvm_payload; the VM has the library, so an APK needs no copy of it.
 *
 * All functions may be called from any thread.
 */
#ifndef VM_PAYLOAD_H
#define VM_PAYLOAD_H

#include "vm_main.h"

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Tells the host that the payload is ready to serve its clients. Returns when the VM has passed that on.
 *
 * Only the first call has an effect; a call that comes while the first one is under way waits for it. Aborts the process when
 * the host cannot be told.
 */
void AVmPayload_notifyPayloadReady(void);

/*
 * The directory with the contents of the APK, each file at its path inside the APK; no slash at the end. What is read there
 * is verified: damaged data is an I/O error. The string is static and must not be freed.
 */
const char *AVmPayload_getApkContentsPath(void);

#ifdef __cplusplus
}
#endif

#endif
