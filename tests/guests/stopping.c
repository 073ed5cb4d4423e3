/*
 * Is asked to end: as assets/outcome says it answers "BYE" and exits with 7 ("polite"), or does not listen ("deaf").
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "asset.h"
#include "vm_payload.h"

static void bye(int signal) {
    (void)signal;
    if (write(1, "BYE\n", 4) != 4)
        _exit(1);
    _exit(7);
}

int AVmPayload_main(void) {
    char outcome[16];
    asset_text("outcome", outcome, sizeof outcome);
    signal(SIGTERM, !strcmp(outcome, "deaf") ? SIG_IGN : bye);
    printf("WAITING\n");
    fflush(stdout);
    AVmPayload_notifyPayloadReady();
    for (;;)
        pause();
}
