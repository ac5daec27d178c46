/*
 * bench_memory.c - what the same records take in a tier and in raw LMDB, over the bytes of their values; and what eight
 * processes that read one tier take beside one.
 *
 * Counted is what the files hold on memory, whatever is in them: for the tier all but its control page, which is sized
 * by the tier's limit, not by what is in it, and stands in a row of its own.  The tier is some twice as large as what
 * is in it, as one would be made: a thousandth or two of its size goes to the table of sheets, whatever is in it.
 *
 * A process takes its share of what is mapped (PSS) and its page tables.  Whoever fills the tier is gone before that is
 * looked at, and a reader makes up its keys as it goes: nothing but the library's own is counted eight times.
 */
#include "bench_reads.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PROCESSES 8u
#define SEED      11u

/* Bytes that a directory's files take; the control page apart. */
static bool files_take(const char *path, uint64_t *ret_bytes, uint64_t *ret_control)
{
    DIR *dir = opendir(path);
    struct dirent *entry;

    *ret_bytes = *ret_control = 0;
    while (dir && (entry = readdir(dir))) {
        char file[700];
        struct stat info;

        snprintf(file, sizeof file, "%s/%s", path, entry->d_name);
        if (stat(file, &info) != 0 || !S_ISREG(info.st_mode))
            continue;
        *(strcmp(entry->d_name, "control") == 0 ? ret_control : ret_bytes) += (uint64_t)info.st_blocks * 512;
    }
    if (dir)
        closedir(dir);
    return *ret_bytes > 0;
}

static bool run_size(struct bench *bench, const struct reads_case *what)
{
    double payload = (double)what->count * what->size;
    struct reads reads = {0};
    uint64_t ours, control, raw, none;
    char dir[400];
    bool good = reads_start(bench, &reads, what);

    snprintf(dir, sizeof dir, "%s/%s", bench->dir, reads.host);
    good = good && ((files_take(dir, &ours, &control) && files_take(reads.raw, &raw, &none)) ||
                    bench_stop(bench, "cannot see what the files take"));
    for (int all = 0; all < 2 && good; all++) {
        struct bench_row *row = bench_row_add(bench, 0, "%s/%s", what->name, all ? "with control page" : "bytes");

        bench_row_aim(row, all ? BENCH_AIM_NONE : BENCH_AIM_OURS_MOST, what->most, "x values");
        row->ours = (double)(ours + (all ? control : 0)) / payload;
        row->floor = (double)raw / payload;
    }
    reads_end(bench, &reads);
    return good;
}

/* ---- processes ---- */

struct crowd {
    uint32_t count;
    uint64_t room;
};

static void fill(struct bench *bench, void *arg, int fd)
{
    const struct crowd *crowd = arg;
    freshet *cache = bench_open(bench, "crowd", crowd->room, BENCH_ALONE);
    struct bench_records records = {0};
    char good = cache && bench_records_make(&records, crowd->count, 1024, SEED) && bench_load(bench, cache, &records);

    freshet_close(cache);
    (void)bench_peer_say(fd, &good, 1);
}

/* Read every record, say how many were there, and stay. */
static void read_all(struct bench *bench, void *arg, int fd)
{
    const struct crowd *crowd = arg;
    freshet *cache = bench_open(bench, "crowd", crowd->room, BENCH_ALONE);
    freshet_buf buf = {0};
    uint64_t seed = SEED;
    uint32_t found = 0;
    char key[BENCH_KEY];

    for (uint32_t i = 0; i < crowd->count && cache; i++) {
        bench_key(&seed, i, key);
        found += freshet_get(cache, key, BENCH_KEY, NULL, &buf, NULL) == FRESHET_OK;
    }
    if (bench_peer_say(fd, &found, sizeof found))
        (void)bench_peer_next(fd, &found, sizeof found);
}

/* The number behind `name` in a file of /proc, kB. */
static uint64_t kilobytes(pid_t pid, const char *file, const char *name)
{
    char path[64], line[256];
    unsigned long long kb = 0;
    FILE *in;

    snprintf(path, sizeof path, "/proc/%d/%s", (int)pid, file);
    if (!(in = fopen(path, "r")))
        return 0;
    while (kb == 0 && fgets(line, sizeof line, in))
        if (strncmp(line, name, strlen(name)) == 0)
            kb = strtoull(line + strlen(name), NULL, 10);
    fclose(in);
    return kb;
}

static uint64_t taken(const struct bench_peer *readers, unsigned count)
{
    uint64_t kb = 0;

    for (unsigned i = 0; i < count; i++)
        kb += kilobytes(readers[i].pid, "smaps_rollup", "Pss:") + kilobytes(readers[i].pid, "status", "VmPTE:");
    return kb;
}

static bool run_crowd(struct bench *bench, struct crowd *crowd, struct bench_peer readers[PROCESSES])
{
    struct bench_row *row = bench_row_add(bench, 1.05, "%u processes, %uk/1KiB", PROCESSES, crowd->count / 1000);
    struct bench_peer filler;
    uint32_t found;
    char good = 0;

    row->unit = "kB";
    bench_progress(bench, "filling a tier for %u processes", PROCESSES);
    if (!bench_peer_start(bench, &filler, fill, crowd))
        return false;
    while (!tool_ended && !bench_peer_hear(filler.fd, &good, 1) && errno == EAGAIN)
        continue;
    bench_peer_stop(&filler);
    if (!good)
        return bench_stop(bench, "the tier could not be filled");
    for (unsigned i = 0; i < PROCESSES; i++) {
        if (!bench_peer_start(bench, &readers[i], read_all, crowd))
            return false;
        if (!bench_peer_hear(readers[i].fd, &found, sizeof found) || found != crowd->count)
            return bench_stop(bench, "a process did not find every record");
        if (i == 0)
            row->floor = (double)taken(readers, 1);
    }
    row->ours = (double)taken(readers, PROCESSES);
    return row->floor > 0 || bench_stop(bench, "/proc/PID/smaps_rollup cannot be read");
}

bool bench_memory(struct bench *bench)
{
    bool quick = bench->tool->quick;
    struct reads_case cases[] = {
        {quick ? 20000 : 200000, 64, "64B", BENCH_ALONE, 2.2, 0},
        {quick ? 10000 : 100000, 1024, "1KiB", BENCH_ALONE, 1.5, 0},
        {quick ? 1000 : 10000, 16384, "16KiB", BENCH_ALONE, 1.15, 0},
    };
    struct crowd crowd = {.count = quick ? 20000 : 200000};
    struct bench_peer readers[PROCESSES] = {0};
    bool good = true;

    crowd.room = crowd.count * UINT64_C(4096);
    good = run_crowd(bench, &crowd, readers); /* first: its processes inherit what this one has by then */
    for (unsigned i = 0; i < PROCESSES; i++)
        bench_peer_stop(&readers[i]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases && good; i++) {
        cases[i].room = cases[i].count * (UINT64_C(2) * cases[i].size + 256);
        good = run_size(bench, &cases[i]);
    }
    return good;
}
