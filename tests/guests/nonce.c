/*
 * Prints what only a payload with this very APK can know: the nonce in it, the SHA-256 of an asset as read here, and who
 * virtualises the processor. The exit code is the first byte of the nonce's SHA-256.
 */
#include "asset.h"
#include "hypervisor.h"
#include "sha256.h"

int AVmPayload_main(void) {
    char nonce[128], buffer[65536];
    struct sha256 hash;
    size_t got;
    uint8_t digest[32];

    asset_text("nonce", nonce, sizeof nonce);
    printf("nonce=%s\n", nonce);
    FILE *blob = asset_open("blob");
    sha256_start(&hash);
    while ((got = fread(buffer, 1, sizeof buffer, blob)) > 0)
        sha256_add(&hash, buffer, got);
    if (ferror(blob)) {
        perror("blob");
        return 98;
    }
    fclose(blob);
    printf("sha256=");
    sha256_print(&hash);
    printf("\n");
    hypervisor_print();
    fflush(stdout);
    AVmPayload_notifyPayloadReady();
    sha256_start(&hash);
    sha256_add(&hash, nonce, strlen(nonce));
    sha256_end(&hash, digest);
    return digest[0];
}
