/* tiles.h: whole maps of a matrix by its 16x16 tiles, for the few that a run asks for (lens.tiles). */
#ifndef NI_LENS_TILES_H
#define NI_LENS_TILES_H

#include "lens/record.h"

/* A map as the series holds it: how many tiles one cell stands for in each direction, cells of a row, then cells row by
 * row, the largest crest of its tiles each. */
enum { NI_TILE_ROWS_PER_CELL, NI_TILE_COLS_PER_CELL, NI_TILE_CELLS_OF_A_ROW, NI_TILE_HEAD };
enum { NI_MOST_TILE_ROWS = 64, NI_MOST_TILE_COLS = 256 }; /* cells */

/* `crests` [ceil(rows / 16), ceil(cols / 16)] of a matrix [rows, cols]; `out` has room for NI_TILE_HEAD and
 * NI_MOST_TILE_ROWS * NI_MOST_TILE_COLS numbers. Returns how many it took. */
int64_t ni_tile_map(float *out, const float *crests, int64_t rows, int64_t cols);

/* Records it as PREFIX/tiles. */
void ni_record_tiles(ni_record *record, const char *prefix, const float *crests, int64_t rows, int64_t cols);

#endif
