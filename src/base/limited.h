/* limited.h: a call into a library that may wait for others for ever, given up after a while. */
#ifndef NI_BASE_LIMITED_H
#define NI_BASE_LIMITED_H

#include <stdbool.h>

/* Makes the call on a thread of its own. True: it came back within `seconds`, with *code. False: it has not, or could
 * not begin; `context`, from malloc, is no longer the caller's then, and the thread stays in the call. */
bool ni_call_within(int (*call)(void *context), void *context, double seconds, int *code);

#endif
