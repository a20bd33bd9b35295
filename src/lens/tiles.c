/* tiles.c: crests of tiles as a map that is small enough to keep. */
#include "lens/tiles.h"

#include <math.h>
#include <stdlib.h>

int64_t ni_tile_map(float *out, const float *crests, int64_t rows, int64_t cols) {
    const int64_t height = (rows + 15) / 16, width = (cols + 15) / 16;
    const int64_t down = (height + NI_MOST_TILE_ROWS - 1) / NI_MOST_TILE_ROWS;
    const int64_t across = (width + NI_MOST_TILE_COLS - 1) / NI_MOST_TILE_COLS;
    const int64_t cells = (width + across - 1) / across, lines = (height + down - 1) / down;
    out[NI_TILE_ROWS_PER_CELL] = (float)down;
    out[NI_TILE_COLS_PER_CELL] = (float)across;
    out[NI_TILE_CELLS_OF_A_ROW] = (float)cells;
    for (int64_t i = 0; i < cells * lines; i++)
        out[NI_TILE_HEAD + i] = 0;
    for (int64_t r = 0; r < height; r++)
        for (int64_t c = 0; c < width; c++) {
            float *cell = &out[NI_TILE_HEAD + r / down * cells + c / across];
            *cell = fmaxf(*cell, crests[r * width + c]);
        }
    return NI_TILE_HEAD + cells * lines;
}

void ni_record_tiles(ni_record *record, const char *prefix, const float *crests, int64_t rows, int64_t cols) {
    float *map = malloc(sizeof *map * (NI_TILE_HEAD + NI_MOST_TILE_ROWS * NI_MOST_TILE_COLS));
    if (map)
        ni_record_vector(record, prefix, "tiles", map, ni_tile_map(map, crests, rows, cols));
    else
        ni_record_lost(record, prefix, "tiles");
    free(map);
}
