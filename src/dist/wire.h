/* wire.h: what carries bytes between ranks. Everything else (ranks.h, sum.h) is made of one verb.
 *
 *     trade    every rank hands each other one letter, and gets one from each; empty ones do not travel
 *
 * An all-to-all is one trade, a gather a trade in which all letters of a rank are the same, a broadcast one in which
 * all but rank 0's are empty.
 */
#ifndef NI_DIST_WIRE_H
#define NI_DIST_WIRE_H

#include "nibble/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct ni_letter {
    void *data;   /* host memory; written only where it comes in */
    size_t bytes; /* both sides know it */
} ni_letter;

/* Where a trade ended. */
typedef enum ni_trade {
    NI_TRADE_DONE,
    NI_TRADE_TOLD,  /* rank `whose` failed and says why, in `text` */
    NI_TRADE_LOST,  /* rank `whose` is gone, or has said nothing for too long; `text` says which */
    NI_TRADE_BROKEN /* this process's own fault, or the system's; `text` says what */
} ni_trade;

enum { NI_WIRE_TEXT = 900 };
typedef struct ni_wire_news {
    int32_t whose;
    nb_status status; /* of the rank that failed */
    int32_t lost; /* 1: it is gone, as whoever says so found; 0: `text` is its own sentence, also where another passes
                     it on */
    char text[NI_WIRE_TEXT];
} ni_wire_news;

typedef struct ni_wire {
    const char *name; /* "tcp" */
    void *self;
    int32_t rank, world;
    /* out, in: [world]; what is for oneself is not looked at. Gives up where nobody moves for `patience` seconds. */
    ni_trade (*trade)(void *self, const ni_letter *out, const ni_letter *in, double patience, ni_wire_news *news);
    /* For so many seconds a trade looks for news again and again before it sleeps; NULL: it has its own way. */
    void (*look)(void *self, double seconds);
    void (*fail)(void *self, const ni_wire_news *why); /* the others are told that this rank ends */
    void (*close)(void *self);                         /* after fail, or once all ranks come here */
} ni_wire;

#endif
