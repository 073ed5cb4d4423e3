/*
 * Who virtualises the processor that this runs on.
 */
#ifndef HYPERVISOR_H
#define HYPERVISOR_H

#include <cpuid.h>
#include <stdio.h>
#include <string.h>

/* Prints the signature of the hypervisor, CPUID leaf 0x40000000. */
static inline void hypervisor_print(void) {
    unsigned int max, name[3];
    char text[13] = {0};
    __cpuid(0x40000000, max, name[0], name[1], name[2]);
    memcpy(text, name, sizeof name);
    printf("cpuid=%s\n", text);
}

#endif
