/*
 * bench_reads.c - filling a tier and raw LMDB alike, and reading either.
 *
 * Both sides copy the value into one buffer that is used again, walk the same sequence of keys, and are timed by the
 * thread's own CPU time: the machine's other work is not ours.
 */
#include "bench_reads.h"

#include <stdlib.h>
#include <string.h>

bool reads_start(struct bench *bench, struct reads *reads, const struct reads_case *what)
{
    uint64_t room = what->room ? what->room : what->count * (what->size * UINT64_C(3) + 2048) + (8u << 20);
    unsigned how = what->how & (bench->url[0] ? ~0u : ~(unsigned)BENCH_JOINED);
    bool good = true;

    reads->room = room;
    snprintf(reads->host, sizeof reads->host, "host-%u-%u", what->count, what->size);
    snprintf(reads->raw, sizeof reads->raw, "%s/raw-%u-%u", bench->dir, what->count, what->size);
    if (!bench_records_make(&reads->records, what->count, what->size, what->size) ||
        !(reads->raw_buf = malloc(what->size)))
        return bench_stop(bench, "no memory");
    bench_progress(bench, "filling a tier with %u records of %u bytes", what->count, what->size);
    if (!(reads->cache = bench_open(bench, reads->host, room, how)) ||
        !bench_load(bench, reads->cache, &reads->records))
        return false;
    reads->map = raw_map_open(reads->raw, room);
    for (uint32_t i = 0; reads->map && good && i < what->count && !tool_ended; i++) {
        bench_value(&reads->records, i, reads->raw_buf);
        /* 100 a transaction as everywhere, with a value of its own each */
        good = raw_map_put(reads->map, &reads->records, i, reads->raw_buf, i % 100 == 99 || i == what->count - 1);
    }
    return (reads->map && good) || bench_stop(bench, "cannot fill the LMDB environment");
}

bool reads_again(struct bench *bench, struct reads *reads)
{
    reads->map = raw_map_open(reads->raw, reads->room);
    return reads->map || bench_stop(bench, "cannot open the LMDB environment in another process");
}

bool reads_draw(struct bench *bench, struct reads *reads, bool zipf)
{
    free(reads->sequence);
    reads->sequence = bench_sequence(reads->records.count, READS_SEQUENCE, zipf, 7);
    return reads->sequence || bench_stop(bench, "no memory");
}

void reads_end(const struct bench *bench, struct reads *reads)
{
    char dir[400];

    freshet_close(reads->cache);
    raw_map_close(reads->map);
    freshet_buf_free(&reads->buf);
    free(reads->raw_buf);
    free(reads->sequence);
    bench_records_free(&reads->records);
    snprintf(dir, sizeof dir, "%s/%s", bench->dir, reads->host);
    if (reads->host[0])
        tool_scratch_remove(dir);
    if (reads->raw[0])
        tool_scratch_remove(reads->raw);
    *reads = (struct reads){0};
}

const uint32_t *reads_at(const struct reads *reads, unsigned slice)
{
    uint64_t seed = slice;

    return reads->sequence + (size_t)bench_random(&seed) % (READS_SEQUENCE - READS_SLICE);
}

double reads_tier(freshet *cache, const struct bench_records *records, const uint32_t *sequence, size_t count,
                  freshet_buf *buf, uint64_t *sum)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);
    int64_t start = bench_cpu_ns();
    size_t misses = 0;

    options.tier_only = true; /* a miss must not turn into a question to Redis unseen */
    for (size_t i = 0; i < count; i++) {
        if (freshet_get(cache, records->keys[sequence[i]], BENCH_KEY, &options, buf, NULL) == FRESHET_OK)
            *sum += *(unsigned char *)buf->data;
        else
            misses++;
    }
    return misses ? BENCH_AGAIN : (double)(bench_cpu_ns() - start) / (double)count;
}

double reads_ours(void *arg, unsigned slice)
{
    struct reads *reads = arg;

    return reads_tier(reads->cache, &reads->records, reads_at(reads, slice), READS_SLICE, &reads->buf, &reads->sum);
}

double reads_raw(void *arg, unsigned slice)
{
    struct reads *reads = arg;
    int64_t ns = raw_map_get(reads->map, &reads->records, reads_at(reads, slice), READS_SLICE, reads->raw_buf,
                             &reads->sum);

    return ns < 0 ? -1 : (double)ns / READS_SLICE;
}
