/* What the probes have in common. */
#ifndef PROBE_H
#define PROBE_H

/* For whoever needs some memory. */
extern char buffer[1 << 18];

/* Says why, and resets. */
void fail(const char *what);
/* Whether the word stands on the kernel's command line. */
int asked_for(const char *word);
/* What a clock says. */
long long nanoseconds(int clock);

void probe_button(void);
void probe_clocks(void);
void probe_devices(void);
void probe_discard(void);
void probe_disk(void);
void probe_faults(void);
void probe_input(void);
void probe_messages(void);
void probe_random(void);
void probe_time(void);
void probe_vsock(void);

#endif
