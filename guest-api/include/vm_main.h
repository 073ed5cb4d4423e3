/*
 * The entry point of a payload: the native code that is the only program of its VM.
 */
#ifndef VM_MAIN_H
#define VM_MAIN_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Defined and exported by the payload, a shared library under lib/<abi>/ in its APK. The VM calls it once, as user 6000 in a
 * process of its own, after the whole APK was verified.
 *
 * Standard output and standard error are the VM's log. The returned value is the payload's exit code, of which the low 8 bits
 * reach the host, as with exit(); then the VM shuts down, whatever other threads or processes of the payload still run.
 */
int AVmPayload_main(void);

#ifdef __cplusplus
}
#endif

#endif
