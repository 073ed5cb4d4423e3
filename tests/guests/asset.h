/*
 * Reads an asset of the payload's APK.
 */
#ifndef ASSET_H
#define ASSET_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vm_payload.h"

/* Opens assets/NAME; exits with 99 when that fails. */
static FILE *asset_open(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/assets/%s", AVmPayload_getApkContentsPath(), name);
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(99);
    }
    return file;
}

/* Reads up to size - 1 bytes of assets/NAME into text and ends them with a zero. */
static inline void asset_text(const char *name, char *text, size_t size) {
    FILE *file = asset_open(name);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
}

#endif
