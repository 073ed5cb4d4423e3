/*
 * Ends as the asset "outcome" says: "return N", "exit N" or "signal N".
 */
#include <signal.h>
#include <unistd.h>

#include "asset.h"

int AVmPayload_main(void) {
    char text[64], how[64];
    int number = 0;

    asset_text("outcome", text, sizeof text);
    if (sscanf(text, "%63s %d", how, &number) != 2)
        return 97;
    if (!strcmp(how, "exit"))
        exit(number);
    if (!strcmp(how, "signal")) {
        kill(getpid(), number);
        pause();
    }
    return number;
}
