/*
 * A library that cannot be loaded: nobody has the function it calls.
 */
int AVmPayload_nobodyHasThis(void);

int AVmPayload_main(void) {
    return AVmPayload_nobodyHasThis();
}
