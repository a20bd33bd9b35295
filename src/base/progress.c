/* progress.c: the bar, the line above it, and the clock they share. */
#include "progress.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

double ni_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

char *ni_duration_text(double seconds, char *text, size_t size) {
    if (!(seconds >= 0) || seconds > 1e9) {
        snprintf(text, size, "-");
        return text;
    }
    long whole = lround(seconds);
    if (seconds < 9.95)
        snprintf(text, size, "%.1fs", seconds);
    else if (whole < 60)
        snprintf(text, size, "%lds", whole);
    else if (whole < 3600)
        snprintf(text, size, "%ldm %02lds", whole / 60, whole % 60);
    else if (whole < 86400)
        snprintf(text, size, "%ldh %02ldm", whole / 3600, whole / 60 % 60);
    else
        snprintf(text, size, "%ldd %02ldh", whole / 86400, whole / 3600 % 24);
    return text;
}

static int32_t terminal_width(int fd) {
    struct winsize window;
    if (ioctl(fd, TIOCGWINSZ, &window) == 0 && window.ws_col > 0)
        return window.ws_col;
    return 80;
}

ni_progress ni_progress_open(FILE *out) {
    ni_progress progress = {.out = out};
    const char *term = getenv("TERM");
    if (out)
        progress.terminal = isatty(fileno(out)) && term && strcmp(term, "dumb") != 0;
    return progress;
}

static void erase_bar(ni_progress *progress) {
    if (progress->drawn)
        fputs("\r\033[K", progress->out);
    progress->drawn = false;
}

void ni_progress_bar(ni_progress *progress, int64_t done, int64_t total, const char *text) {
    if (!progress->terminal || total <= 0)
        return;
    double now = ni_seconds();
    if (progress->drawn && done < total && now - progress->last < 0.1)
        return;
    progress->last = now;
    progress->width = terminal_width(fileno(progress->out));
    int32_t room = progress->width - 1 - (int32_t)strlen(text) - 8; /* brackets, blanks and "100%" */
    int32_t cells = room > 40 ? 40 : room;
    double share = (double)done / (double)total;
    erase_bar(progress);
    if (cells >= 5) {
        int32_t filled = (int32_t)(share * cells);
        fputc('[', progress->out);
        for (int32_t i = 0; i < cells; i++)
            fputc(i < filled ? '=' : i == filled ? '>' : ' ', progress->out);
        fputs("] ", progress->out);
    }
    fprintf(progress->out, "%3d%% %.*s", (int)(share * 100), progress->width > 6 ? progress->width - 6 : 0, text);
    fflush(progress->out);
    progress->drawn = true;
}

void ni_progress_line(ni_progress *progress, const char *format, ...) {
    if (!progress->out)
        return;
    erase_bar(progress);
    va_list args;
    va_start(args, format);
    vfprintf(progress->out, format, args);
    va_end(args);
    fputc('\n', progress->out);
    fflush(progress->out);
}

void ni_progress_close(ni_progress *progress) {
    if (!progress->out)
        return;
    erase_bar(progress);
    fflush(progress->out);
}
