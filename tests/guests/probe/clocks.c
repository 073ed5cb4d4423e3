/* Clocks. */
#define _GNU_SOURCE
#include <stdio.h>
#include <time.h>

#include "probe.h"

long long nanoseconds(int clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

void probe_clocks(void) {
    for (;;) {
        struct timespec now, half = {0, 500000000};
        clock_gettime(CLOCK_REALTIME, &now);
        printf("TICK %lld\n", (long long)now.tv_sec);
        fflush(stdout);
        nanosleep(&half, NULL);
    }
}

void probe_time(void) {
    long long longest = 0;
    for (;;) {
        struct timespec some = {0, 50000000};
        long long before = nanoseconds(CLOCK_MONOTONIC);
        nanosleep(&some, NULL);
        long long slept = nanoseconds(CLOCK_MONOTONIC) - before;
        longest = slept > longest ? slept : longest;
        printf("TIME %lld %lld %lld\n", nanoseconds(CLOCK_REALTIME), nanoseconds(CLOCK_MONOTONIC), longest);
        fflush(stdout);
    }
}
