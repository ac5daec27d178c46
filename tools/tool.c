/*
 * tool.c - what the commands share (tool.h): opening a tier without disturbing it, words in and out, errors.
 */
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LEAST_BOUND_MS 20u  /* what every tier allows */
#define USUAL_BOUND_MS 500u /* what the library takes for 0 */
#define SCRATCH_TIER   (8u << 20)

volatile sig_atomic_t tool_ended;

/* ---- saying ---- */

void tool_note(const char *format, ...)
{
    va_list args;

    fflush(stdout); /* in order, when both go to one place */
    va_start(args, format);
    fputs("freshet: ", stderr);
    vfprintf(stderr, format, args);
    putc('\n', stderr);
    va_end(args);
}

int tool_error(const struct tool *tool, int status, const char *result, const char *format, ...)
{
    char text[1024];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    tool_note("%s", text);
    if (tool->json) {
        struct json json = {.out = stdout};

        json_open(&json, NULL, '{');
        json_text(&json, "result", result);
        json_text(&json, "error", text);
        json_close(&json, '}');
    }
    return status;
}

int tool_failed(const struct tool *tool, freshet_result result, const char *what)
{
    const char *cause = freshet_error();
    const char *advice = "";

    if (result == FRESHET_EFLEET)
        advice = " (give --url and --keyring: a change to a fleet's tier goes to Redis first)";
    return tool_error(tool, TOOL_FAILED, tool_result(result), "%s: %s%s", what,
                      *cause ? cause : freshet_result_text(result), advice);
}

const char *tool_result(freshet_result result)
{
    static _Thread_local char text[32];
    const char *name = freshet_result_name(result);
    size_t n = 0;

    if (strncmp(name, "FRESHET_", 8) == 0)
        name += 8;
    for (; n < sizeof text - 1 && name[n]; n++)
        text[n] = (char)tolower((unsigned char)name[n]);
    text[n] = '\0';
    return text;
}

int tool_flush(int status)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return status;
    tool_note("cannot write the output: %s", strerror(errno));
    return TOOL_FAILED;
}

/* ---- opening ---- */

const char *tool_name(const struct tool *tool)
{
    return tool->name ? tool->name : "default";
}

const char *tool_dir(const struct tool *tool, char *buffer, size_t size)
{
    if (tool->dir)
        return tool->dir;
    snprintf(buffer, size, "/dev/shm/freshet-%u/%s", (unsigned)getuid(), tool_name(tool));
    return buffer;
}

bool tool_tier_exists(const struct tool *tool)
{
    char buffer[PATH_MAX], path[PATH_MAX + 16];

    snprintf(path, sizeof path, "%s/control", tool_dir(tool, buffer, sizeof buffer));
    return access(path, F_OK) == 0;
}

/*
 * Be one more process that has the tier open, before the library looks at it: a shared OFD lock on byte 1 of the
 * file `lock`.  The library sets aside a page that does not fit (another name, another boot) only while nobody uses it,
 * and a mistyped -n must not cost somebody's cache.  Returns the descriptor to close when the tier is open; -1: there
 * is none.
 */
static int hold_tier(const char *dir)
{
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 1, .l_len = 1};
    char path[PATH_MAX + 16];
    int fd;

    snprintf(path, sizeof path, "%s/lock", dir);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static freshet_result open_with(const struct tool *tool, const char *dir, uint32_t bound_ms, uint64_t tier_size,
                                freshet **ret_cache)
{
    freshet_options options = FRESHET_INIT(freshet_options);

    options.name = tool->name;
    options.dir = dir;
    options.tier_size = tier_size;
    options.max_staleness_ms = bound_ms;
    options.partitions = tool->partitions;
    options.deadline_ms = tool->deadline_ms;
    options.policy = tool->stale ? FRESHET_SERVE_STALE : FRESHET_SERVE_NONE;
    return freshet_open(ret_cache, &options);
}

/* Open an existing tier under the bound that it was made with, which only the tier knows: ask for the usual one, else
 * for the least, and look. */
static freshet_result open_existing(const struct tool *tool, const char *dir, freshet **ret_cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);
    uint32_t bound = tool->bound_ms ? tool->bound_ms : USUAL_BOUND_MS;
    freshet_result result = open_with(tool, dir, bound, 0, ret_cache);

    if (tool->bound_ms || (result != FRESHET_OK && result != FRESHET_EINVAL))
        return result;
    if (result == FRESHET_EINVAL) {
        bound = LEAST_BOUND_MS;
        if ((result = open_with(tool, dir, bound, 0, ret_cache)) != FRESHET_OK)
            return result;
    }
    if (freshet_stat(*ret_cache, &stats) != FRESHET_OK || stats.max_staleness_ms <= bound)
        return FRESHET_OK;
    freshet_close(*ret_cache);
    return open_with(tool, dir, stats.max_staleness_ms, 0, ret_cache);
}

/* Join the fleet of the url; a Redis that cannot be reached is fatal only when there is no tier to keep a change in. */
static int join(const struct tool *tool, freshet *cache)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    freshet_result result;

    options.keyring = tool->keyring;
    result = freshet_join(cache, tool->url, &options);
    if (result < 0 || (result != FRESHET_OK && tool->scratch[0]))
        return tool_failed(tool, result, "cannot join the fleet");
    if (result != FRESHET_OK)
        tool_note("joined, but Redis has not answered yet: %s", freshet_error());
    return TOOL_DONE;
}

/* Open what is in the directory, what is to be made there, or a temporary tier for a host that has none. */
static int open_tier(struct tool *tool, unsigned how, freshet **ret_cache)
{
    char buffer[PATH_MAX];
    const char *dir = tool_dir(tool, buffer, sizeof buffer);
    freshet_result result;

    if (tool_tier_exists(tool)) {
        int held = hold_tier(dir);

        if (held < 0)
            return tool_error(tool, TOOL_FAILED, "edir", "%s: cannot look at the tier: its lock: %s", dir,
                              strerror(errno));
        result = open_existing(tool, dir, ret_cache);
        close(held);
    } else if ((how & TOOL_JOIN) && tool->url) {
        if (!tool_scratch_make(tool->scratch, sizeof tool->scratch))
            return tool_error(tool, TOOL_FAILED, "edir", "cannot make a temporary tier: %s", strerror(errno));
        dir = tool->scratch;
        result = open_with(tool, dir, tool->bound_ms, SCRATCH_TIER, ret_cache);
    } else if (how & TOOL_MAKE) { /* the default's parents are made only when the library chooses the place itself */
        result = open_with(tool, tool->dir, tool->bound_ms, 0, ret_cache);
    } else {
        return tool_error(tool, TOOL_FAILED, "edir", "%s: there is no tier here (no file \"control\"); is it -d or -n?",
                          dir);
    }
    return result == FRESHET_OK ? TOOL_DONE : tool_failed(tool, result, "cannot open the tier");
}

int tool_open(struct tool *tool, unsigned how, freshet **ret_cache)
{
    freshet *cache = NULL;
    int status;

    if ((how & TOOL_JOIN) && (tool->url == NULL) != (tool->keyring == NULL))
        return tool_error(tool, TOOL_USAGE, "usage", "--url and --keyring go together");
    status = open_tier(tool, how, &cache);
    if (status == TOOL_DONE && (how & TOOL_JOIN) && tool->url)
        status = join(tool, cache);
    if (status != TOOL_DONE) {
        tool_close(tool, cache);
        return status;
    }
    *ret_cache = cache;
    return TOOL_DONE;
}

void tool_close(struct tool *tool, freshet *cache)
{
    freshet_close(cache);
    if (tool->scratch[0])
        tool_scratch_remove(tool->scratch);
    tool->scratch[0] = '\0';
}

/* ---- words ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

bool tool_key(const struct tool *tool, char *word, freshet_key *ret_key)
{
    size_t size = strlen(word);

    *ret_key = (freshet_key){word, size};
    if (tool->hex) {
        for (size_t i = 0; i < size / 2; i++) {
            int high = hex_digit(word[2 * i]), low = hex_digit(word[2 * i + 1]);

            if (high < 0 || low < 0)
                size = 1; /* odd: refused below */
            else
                word[i] = (char)(high << 4 | low);
        }
        if (size % 2) {
            tool_error(tool, TOOL_USAGE, "usage", "with --hex a key is pairs of hexadecimal digits");
            return false;
        }
        ret_key->size = size / 2;
    }
    return true;
}

freshet_key *tool_keys(const struct tool *tool, int count)
{
    freshet_key *keys = calloc((size_t)(count > 0 ? count : 1), sizeof *keys);

    for (int i = 0; keys && i < count; i++) {
        if (tool_key(tool, tool->args[i], &keys[i]) && keys[i].size > 0)
            continue;
        if (keys[i].size == 0)
            tool_error(tool, TOOL_USAGE, "usage", "a key has at least one byte");
        free(keys);
        return NULL;
    }
    return keys;
}

void tool_print_key(const struct tool *tool, FILE *out, const void *key, size_t size)
{
    const unsigned char *bytes = key;

    for (size_t i = 0; i < size; i++) {
        if (tool->hex)
            fprintf(out, "%02x", bytes[i]);
        else if (bytes[i] < 0x20 || bytes[i] == 0x7f || bytes[i] == '\\')
            fprintf(out, "\\x%02x", bytes[i]); /* a key must not be able to drive the terminal */
        else if (bytes[i] >= 0x80 && bytes[i] < 0xa0 && (i == 0 || bytes[i - 1] < 0x80))
            fprintf(out, "\\x%02x", bytes[i]);
        else
            putc(bytes[i], out);
    }
}

void tool_json_key(const struct tool *tool, struct json *json, const void *key, size_t size)
{
    if (tool->hex)
        json_hex_bytes(json, "key", key, size);
    else
        json_bytes(json, "key", key, size);
}

const char *tool_time(uint64_t us, char buffer[TOOL_TIME_MAX])
{
    time_t seconds = (time_t)(us / 1000000);
    struct tm tm;
    size_t n;

    if (us == 0 || us > UINT64_C(253402300799999999) || !gmtime_r(&seconds, &tm)) { /* the end of the year 9999 */
        snprintf(buffer, TOOL_TIME_MAX, "-");
        return buffer;
    }
    n = strftime(buffer, TOOL_TIME_MAX, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(buffer + n, TOOL_TIME_MAX - n, ".%06uZ", (unsigned)(us % 1000000));
    return buffer;
}

const char *tool_number(uint64_t number, char buffer[32])
{
    char digits[24];
    int count = snprintf(digits, sizeof digits, "%" PRIu64, number), out = 0;

    for (int i = 0; i < count; i++) {
        if (i && (count - i) % 3 == 0)
            buffer[out++] = ',';
        buffer[out++] = digits[i];
    }
    buffer[out] = '\0';
    return buffer;
}

/* ---- a temporary directory, and being ended ---- */

bool tool_scratch_make(char *path, size_t size)
{
    const char *tmp = getenv("TMPDIR");
    const char *places[] = {"/dev/shm", tmp && *tmp ? tmp : "/tmp"};

    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int n = snprintf(path, size, "%s/freshet-tool-XXXXXX", places[i]);

        if (n > 0 && (size_t)n < size && mkdtemp(path))
            return true;
    }
    path[0] = '\0';
    return false;
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *ftw)
{
    (void)info;
    (void)kind;
    (void)ftw;
    (void)remove(path);
    return 0;
}

void tool_scratch_remove(const char *path)
{
    (void)nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static void note_signal(int number)
{
    tool_ended = number;
}

void tool_catch_signals(void)
{
    struct sigaction action = {.sa_handler = note_signal};

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}
