/* branches.h: many faults of one process. It runs undisturbed, and at each call that it is asked for a child of it, in
 * a folder of its own, goes on with the fault: what came before is computed once (branches.c).
 *
 *     NIBBLE_FAULT_BRANCHES="ORDERS ANSWERS FOLDER WRITES"
 *
 * From descriptor ORDERS comes a line for each fault, as NIBBLE_FAULT has it, with N of one KIND in order; to ANSWERS
 * go the number of the process that was struck, and then its status as wait(2) has it, a line each. WRITES is what the
 * command writes: a name in the working folder that FOLDER gets a copy of, as it gets files and folders named *.tmp-*.
 * All else that the command reads is in FOLDER already. The process must have one thread, and power cuts know nothing
 * of branches.
 */
#ifndef BRANCHES_H
#define BRANCHES_H

#include <stdbool.h>

enum { FAULT_SIZE = 64 };

void branches_begin(void);

/* True in a process that is to be struck by `fault` at this call, the n-th of a kind. */
bool branch_at(const char *kind, long n, char fault[FAULT_SIZE]);

#endif
