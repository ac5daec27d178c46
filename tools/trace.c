/*
 * trace.c - reads request traces, and judges them by LRU and by Belady's optimum.
 *
 * A packed file is unpacked by the program that packs such files, run without a shell, so that a name is only a name;
 * libraries for three formats would be a high price for a bench.
 */
#include "trace.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define RANGE_MOST 1000000u    /* keys that a line of .lis may ask for */
#define COUNT_MOST 0xfffffff0u /* requests */

/* ---- keys become numbers ---- */

struct reading {
    struct trace *trace;
    size_t room;
    uint64_t *names; /* a table of the keys seen, open addressing; 0: free */
    uint32_t *numbers;
    size_t slots; /* a power of two */
};

static uint64_t scatter(uint64_t z)
{
    z += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) | 1; /* never 0 */
}

static size_t slot_of(const struct reading *reading, uint64_t name)
{
    size_t at = (size_t)(name >> 1) & (reading->slots - 1);

    while (reading->names[at] && reading->names[at] != name)
        at = (at + 1) & (reading->slots - 1);
    return at;
}

static bool table_grow(struct reading *reading)
{
    struct reading grown = {.slots = reading->slots ? reading->slots * 4 : 1 << 16};

    grown.names = calloc(grown.slots, sizeof *grown.names);
    grown.numbers = calloc(grown.slots, sizeof *grown.numbers);
    if (!grown.names || !grown.numbers) {
        free(grown.names);
        free(grown.numbers);
        return false;
    }
    for (size_t i = 0; i < reading->slots; i++)
        if (reading->names[i]) {
            size_t at = slot_of(&grown, reading->names[i]);

            grown.names[at] = reading->names[i];
            grown.numbers[at] = reading->numbers[i];
        }
    free(reading->names);
    free(reading->numbers);
    reading->names = grown.names;
    reading->numbers = grown.numbers;
    reading->slots = grown.slots;
    return true;
}

/* One more request, for the key of this name: 64 bits of which two keys in a billion traces might share one. */
static bool add(struct reading *reading, uint64_t name)
{
    struct trace *trace = reading->trace;
    size_t at;

    if (trace->count == reading->room) {
        size_t room = reading->room ? reading->room * 2 : 1 << 16;
        uint32_t *keys = room > COUNT_MOST ? NULL : realloc(trace->keys, room * sizeof *keys);

        if (!keys)
            return false;
        trace->keys = keys;
        reading->room = room;
    }
    if ((uint64_t)trace->distinct * 2 >= reading->slots && !table_grow(reading))
        return false;
    at = slot_of(reading, name);
    if (!reading->names[at]) {
        reading->names[at] = name;
        reading->numbers[at] = trace->distinct++;
    }
    trace->keys[trace->count++] = reading->numbers[at];
    return true;
}

/* ---- the formats ---- */

static const char no_memory[] = "no memory for so many requests";

/* Each NULL or what is wrong. */
static const char *read_integers(struct reading *reading, FILE *in)
{
    unsigned char bytes[4];
    size_t got;

    while ((got = fread(bytes, 1, sizeof bytes, in)) == sizeof bytes)
        if (!add(reading,
                 scatter((uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3])))
            return no_memory;
    return got == 0 ? NULL : "ends in the midst of a 32-bit key";
}

static const char *read_ranges(struct reading *reading, FILE *in)
{
    char *line = NULL;
    size_t size = 0;
    const char *why = NULL;

    while (!why && getline(&line, &size, in) > 0) {
        unsigned long long first, count;

        if (line[strspn(line, " \t\r\n")] == '\0')
            continue;
        if (sscanf(line, "%llu %llu", &first, &count) != 2 || count > RANGE_MOST)
            why = "has a line that does not begin with a key and a count of at most a million";
        for (unsigned long long i = 0; !why && i < count; i++)
            if (!add(reading, scatter(first + i)))
                why = no_memory;
    }
    free(line);
    return why;
}

static const char *read_lines(struct reading *reading, FILE *in)
{
    char *line = NULL;
    size_t size = 0;
    ssize_t length;
    const char *why = NULL;

    while (!why && (length = getline(&line, &size, in)) > 0) {
        uint64_t name = 0;

        while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
            length--;
        for (ssize_t i = 0; i < length; i++)
            name = scatter(name ^ (unsigned char)line[i]);
        if (length > 0 && !add(reading, name | 1))
            why = no_memory;
    }
    free(line);
    return why;
}

/* ---- the file ---- */

static const struct {
    const char *suffix, *program;
} packers[] = {{".xz", "xz"}, {".zst", "zstd"}, {".gz", "gzip"}};

static bool ends_with(const char *name, size_t length, const char *suffix)
{
    size_t size = strlen(suffix);

    return length > size && memcmp(name + length - size, suffix, size) == 0;
}

/* Start `program` -dc on the open file; what it writes is *ret_out.  0 or an error number. */
static int unpack(const char *program, int in, FILE **ret_out, pid_t *ret_pid)
{
    char *words[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "-dc", NULL};
    extern char **environ;
    posix_spawn_file_actions_t actions;
    int ends[2], rc;

    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    if ((rc = posix_spawn_file_actions_init(&actions)) == 0) {
        if ((rc = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO)) == 0 &&
            (rc = posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)) == 0)
            rc = posix_spawnp(ret_pid, program, &actions, NULL, words, environ);
        (void)posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    if (rc == 0 && !(*ret_out = fdopen(ends[0], "r"))) {
        rc = errno;
        close(ends[0]); /* it ends at its next write */
        while (waitpid(*ret_pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    } else if (rc != 0) {
        close(ends[0]);
    }
    return rc;
}

/* Close the stream; what the unpacking program, if any, has to say about its end. */
static bool closed_well(FILE *in, pid_t pid)
{
    int status = 0;
    bool good = !ferror(in);

    fclose(in);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return good && (pid == 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 0));
}

static FILE *trace_open(const char *path, size_t *length, pid_t *ret_pid, char *why, size_t why_size)
{
    const char *program = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc;
    FILE *in = NULL;

    if (fd < 0) {
        snprintf(why, why_size, "%s: %s", path, strerror(errno));
        return NULL;
    }
    for (size_t i = 0; i < sizeof packers / sizeof *packers && !program; i++)
        if (ends_with(path, *length, packers[i].suffix)) {
            program = packers[i].program;
            *length -= strlen(packers[i].suffix);
        }
    if (!program) {
        if (!(in = fdopen(fd, "r"))) {
            snprintf(why, why_size, "%s: %s", path, strerror(errno));
            close(fd);
        }
        return in;
    }
    rc = unpack(program, fd, &in, ret_pid);
    if (rc == ENOENT)
        snprintf(why, why_size, "%s: %s unpacks it, and is not on the PATH: install it, or unpack the file", path,
                 program);
    else if (rc != 0)
        snprintf(why, why_size, "%s: cannot run %s: %s", path, program, strerror(rc));
    close(fd);
    return rc == 0 ? in : NULL;
}

bool trace_read(struct trace *ret_trace, const char *path, char *why, size_t why_size)
{
    struct trace trace = {0};
    struct reading reading = {.trace = &trace};
    size_t length = strlen(path);
    pid_t pid = 0;
    FILE *in = trace_open(path, &length, &pid, why, why_size);
    const char *wrong;

    if (!in)
        return false;
    if (ends_with(path, length, ".trace"))
        wrong = read_integers(&reading, in);
    else if (ends_with(path, length, ".lis"))
        wrong = read_ranges(&reading, in);
    else
        wrong = read_lines(&reading, in);
    free(reading.names);
    free(reading.numbers);
    if (!closed_well(in, pid) && !wrong)
        wrong = "cannot be read or unpacked to its end";
    if (!wrong && trace.count == 0)
        wrong = "has no requests";
    if (wrong) {
        snprintf(why, why_size, "%s: %s", path, wrong);
        trace_free(&trace);
        return false;
    }
    *ret_trace = trace;
    return true;
}

void trace_free(struct trace *trace)
{
    free(trace->keys);
    *trace = (struct trace){0};
}

/* ---- what others would have hit ---- */

int64_t trace_lru(const struct trace *trace, uint32_t room)
{
    uint32_t end = trace->distinct, held = 0; /* a ring of those that are here, from `end` to `end` */
    uint32_t *after = calloc((size_t)end + 1, sizeof *after), *before = calloc((size_t)end + 1, sizeof *before);
    bool *here = calloc((size_t)end + 1, sizeof *here);
    int64_t hits = after && before && here ? 0 : -1;

    if (hits == 0)
        after[end] = before[end] = end;
    for (size_t i = 0; hits >= 0 && room > 0 && i < trace->count; i++) {
        uint32_t key = trace->keys[i], leaves = key;

        if (here[key])
            hits++;
        else if (held == room)
            leaves = before[end];
        else
            held++;
        if (here[leaves]) {
            after[before[leaves]] = after[leaves];
            before[after[leaves]] = before[leaves];
            here[leaves] = false;
        }
        here[key] = true;
        after[key] = after[end];
        before[key] = end;
        before[after[end]] = key;
        after[end] = key;
    }
    free(after);
    free(before);
    free(here);
    return hits;
}

/* A heap of (next use, key) from 1, the farthest first. */
static void heap_add(uint64_t *heap, size_t *count, uint64_t entry)
{
    size_t at = ++*count;

    for (; at > 1 && heap[at / 2] < entry; at /= 2)
        heap[at] = heap[at / 2];
    heap[at] = entry;
}

static uint64_t heap_take(uint64_t *heap, size_t *count)
{
    uint64_t top = heap[1], entry = heap[(*count)--];
    size_t at = 1;

    for (size_t child; (child = 2 * at) <= *count; at = child) {
        child += child < *count && heap[child + 1] > heap[child];
        if (heap[child] <= entry)
            break;
        heap[at] = heap[child];
    }
    heap[at] = entry;
    return top;
}

/* When the key of each request is asked for next, counted from 1; UINT32_MAX: never.  Leaves `seen` zero. */
static void look_ahead(const struct trace *trace, uint32_t *next, uint32_t *seen)
{
    for (size_t i = trace->count; i-- > 0;) {
        uint32_t *last = &seen[trace->keys[i]];

        next[i] = *last ? *last : UINT32_MAX;
        *last = (uint32_t)i + 1;
    }
    memset(seen, 0, trace->distinct * sizeof *seen);
}

int64_t trace_optimum(const struct trace *trace, uint32_t room)
{
    uint32_t *next = calloc(trace->count + 1, sizeof *next), held = 0;
    uint32_t *use = calloc((size_t)trace->distinct + 1, sizeof *use); /* the next of each key that is here */
    uint64_t *heap = calloc(trace->count + 2, sizeof *heap);
    size_t entries = 0;
    int64_t hits = next && use && heap ? 0 : -1;

    if (hits == 0)
        look_ahead(trace, next, use);
    for (size_t i = 0; hits >= 0 && room > 0 && i < trace->count; i++) {
        uint32_t key = trace->keys[i];

        if (use[key]) {
            hits++;
        } else if (held < room) {
            held++;
        } else {
            uint64_t far; /* entries of an earlier use are passed over */

            do
                far = heap_take(heap, &entries);
            while (use[(uint32_t)far] != far >> 32);
            use[(uint32_t)far] = 0;
        }
        use[key] = next[i];
        heap_add(heap, &entries, (uint64_t)next[i] << 32 | key);
    }
    free(next);
    free(use);
    free(heap);
    return hits;
}
