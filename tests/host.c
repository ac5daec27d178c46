/*
 * host.c - what tests of several hosts share (hosts.h).
 *
 * The tests' own way to Redis is written out by hand, a connection a command: what checks a library's conversation must
 * not run on the same parser, and a connection that nobody keeps is none to lose in a fork.
 */
#include <hosts.h>
#include <test.h>

#include <freshet_fleet.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define REPLIES   16u
#define WORDS_MAX 64

/* ---- a conversation ---- */

/* A growing string: the reply's text. */
struct text {
    char *bytes;
    size_t size, room;
};

static bool text_add(struct text *text, const char *bytes, size_t size)
{
    if (text->size + size + 1 > text->room) {
        size_t room = (text->size + size + 1) * 2;
        char *grown = realloc(text->bytes, room);

        if (!grown)
            return false;
        text->bytes = grown;
        text->room = room;
    }
    if (size)
        memcpy(text->bytes + text->size, bytes, size);
    text->size += size;
    text->bytes[text->size] = '\0';
    return true;
}

/* A socket to the server; -1: nobody listens. */
static int redis_connect(const struct redis *redis)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    memcpy(address.sun_path, redis->socket, strlen(redis->socket) + 1);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static bool send_all(int fd, const char *bytes, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, bytes, size, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        bytes += sent;
        size -= (size_t)sent;
    }
    return true;
}

/* Write a command's bytes. */
static bool send_command(int fd, int argc, const void *const *argv, const size_t *sizes)
{
    struct text out = {0};
    char head[48];
    bool sent;

    text_add(&out, head, (size_t)snprintf(head, sizeof head, "*%d\r\n", argc));
    for (int i = 0; i < argc; i++) {
        text_add(&out, head, (size_t)snprintf(head, sizeof head, "$%zu\r\n", sizes[i]));
        text_add(&out, argv[i], sizes[i]);
        text_add(&out, "\r\n", 2);
    }
    sent = send_all(fd, out.bytes, out.size);
    free(out.bytes);
    return sent;
}

/* The rest of a line, without its end. */
static bool read_line(FILE *in, char *line, size_t size)
{
    if (!fgets(line, (int)size, in))
        return false;
    line[strcspn(line, "\r\n")] = '\0';
    return true;
}

/* Add the text of one reply; the elements of an array a line each. */
static bool read_reply(FILE *in, struct text *text)
{
    char line[1024];
    long long n;

    if (!read_line(in, line, sizeof line))
        return false;
    n = line[0] == '$' || line[0] == '*' ? strtoll(line + 1, NULL, 10) : 0;
    if (n < 0)
        return text_add(text, "(nil)", 5);
    if (line[0] == '$') {
        char *bytes = malloc((size_t)n + 2);
        bool whole = bytes && fread(bytes, 1, (size_t)n + 2, in) == (size_t)n + 2 && text_add(text, bytes, (size_t)n);

        free(bytes);
        return whole;
    }
    if (line[0] != '*') /* an error keeps its "-" */
        return text_add(text, line + (line[0] != '-'), strlen(line) - (line[0] != '-'));
    for (long long i = 0; i < n; i++)
        if ((i && !text_add(text, "\n", 1)) || !read_reply(in, text))
            return false;
    return n > 0 || text_add(text, "", 0);
}

/* One command on a connection of its own; NULL: no server, or it went away. */
static char *converse(const struct redis *redis, int argc, const void *const *argv, const size_t *sizes,
                      size_t *ret_size)
{
    struct text text = {0};
    int fd = redis_connect(redis);
    FILE *in = fd >= 0 ? fdopen(fd, "r") : NULL;
    bool good = in != NULL;

    if (good && redis->password[0]) {
        good = send_command(fd, 2, (const void *const[]){"AUTH", redis->password},
                            (const size_t[]){4, strlen(redis->password)}) &&
               read_reply(in, &text);
        text.size = 0;
    }
    good = good && send_command(fd, argc, argv, sizes) && read_reply(in, &text);
    if (in)
        fclose(in);
    if (!good) {
        free(text.bytes);
        return NULL;
    }
    if (ret_size)
        *ret_size = text.size;
    return text.bytes;
}

/* Keep a reply until the 16th after it. */
static const char *keep(char *reply)
{
    static char *kept[REPLIES];
    static unsigned next;
    char **place = &kept[next++ % REPLIES];

    free(*place);
    *place = reply;
    return reply;
}

const char *redis_ask(struct redis *redis, int argc, const void *const *argv, const size_t *sizes, size_t *ret_size)
{
    char *reply = converse(redis, argc, argv, sizes, ret_size);

    if (!reply)
        test_failed(__FILE__, __LINE__, "redis-server answers the test");
    return keep(reply);
}

/* Cut a line into words in place: at spaces, single quotes group. */
static int split(char *line, const void **words, size_t *sizes)
{
    int count = 0;

    while (*line) {
        char end = *line == '\'' ? '\'' : ' ';
        size_t size;

        line += strspn(line, " ");
        if (!*line)
            break;
        end = *line == '\'' ? '\'' : ' ';
        line += end == '\'';
        size = strcspn(line, end == '\'' ? "'" : " ");
        if (count == WORDS_MAX)
            test_failed(__FILE__, __LINE__, "the command has at most 64 words");
        words[count] = line;
        sizes[count++] = size;
        line += size;
        if (*line)
            *line++ = '\0';
    }
    return count;
}

__attribute__((format(printf, 2, 0))) static const char *do_va(struct redis *redis, const char *format, va_list args)
{
    const void *words[WORDS_MAX];
    size_t sizes[WORDS_MAX];
    const char *reply;
    char *line;

    if (vasprintf(&line, format, args) < 0)
        test_failed(__FILE__, __LINE__, "memory for a command");
    reply = redis_ask(redis, split(line, words, sizes), words, sizes, NULL);
    free(line);
    return reply;
}

const char *redis_do(struct redis *redis, const char *format, ...)
{
    const char *reply;
    va_list args;

    va_start(args, format);
    reply = do_va(redis, format, args);
    va_end(args);
    return reply;
}

long long redis_int(struct redis *redis, const char *format, ...)
{
    const char *reply;
    va_list args;
    char *end;
    long long value;

    va_start(args, format);
    reply = do_va(redis, format, args);
    va_end(args);
    value = strtoll(reply, &end, 10);
    if (end == reply || *end) {
        fprintf(stderr, "redis answered: %s\n", reply);
        test_failed(__FILE__, __LINE__, "redis answers a number");
    }
    return value;
}

/* ---- a server ---- */

static bool redis_on_path(void)
{
    const char *path = getenv("PATH");
    char file[512];

    for (size_t at = 0; path && path[at]; at += path[at] == ':') {
        size_t size = strcspn(path + at, ":");

        snprintf(file, sizeof file, "%.*s/redis-server", (int)size, path + at);
        if (access(file, X_OK) == 0)
            return true;
        at += size;
    }
    return false;
}

/* ---- clocks ---- */

/* The file is mapped by clock_shim.c: eight bytes, written at once. */
void host_set_clock(const char *clock, int seconds)
{
    int64_t off = seconds;
    int fd = open(clock, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    EXPECT(fd >= 0 && pwrite(fd, &off, sizeof off, 0) == (ssize_t)sizeof off);
    close(fd);
}

void host_preload_clock(const char *clock)
{
    setenv("LD_PRELOAD", TEST_CLOCK_SHIM, 1);
    setenv("TEST_CLOCK", clock, 1);
}

/* The server's process: it ends with the test's main thread, and writes only to its log. */
_Noreturn static void run_server(const struct redis *redis, pid_t test)
{
    char log[160], port[16];
    const char *words[64] = {
        "redis-server",     "--port",      port,     "--bind", "127.0.0.1",    "--unixsocket", redis->socket,
        "--unixsocketperm", "700",         "--save", "",       "--appendonly", "no",           "--dir",
        redis->dir,         "--daemonize", "no"};
    size_t count = 17;
    int fd;

    snprintf(log, sizeof log, "%s/redis.log", redis->dir);
    snprintf(port, sizeof port, "%d", redis->port);
    for (size_t i = 0; i < 16 && redis->more[i][0]; i++)
        words[count++] = redis->more[i];
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != test)
        _exit(1);
    if (redis->clock[0])
        host_preload_clock(redis->clock);
    fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || dup2(open("/dev/null", O_RDONLY), 0) < 0)
        _exit(1);
    execvp(words[0], (char *const *)words);
    _exit(127);
}

/* Does it answer, and has it loaded?  A password is no hindrance to knowing. */
static bool redis_answers(const struct redis *redis)
{
    char *reply = converse(redis, 1, (const void *const[]){"PING"}, (const size_t[]){4}, NULL);
    bool answers = reply && (strcmp(reply, "PONG") == 0 || strncmp(reply, "-NO", 3) == 0);

    free(reply);
    return answers;
}

/* Start it in its directory and wait until it answers; false: it ended (a port that somebody else took). */
static bool launch(struct redis *redis)
{
    pid_t test = getpid();
    int64_t end = test_now_ns() + 20 * 1000000000LL;
    int status;

    (void)unlink(redis->socket);
    fflush(NULL);
    redis->pid = fork();
    if (redis->pid == 0)
        run_server(redis, test);
    if (redis->pid < 0)
        test_failed(__FILE__, __LINE__, "fork");
    while (!redis_answers(redis)) {
        if (waitpid(redis->pid, &status, WNOHANG) == redis->pid)
            return false;
        if (test_now_ns() > end)
            test_failed(__FILE__, __LINE__, "redis-server answers within 20 s");
        test_pause();
    }
    return true;
}

/* A port of 127.0.0.1 that nobody has at this moment. */
static int free_port(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &size) != 0)
        test_failed(__FILE__, __LINE__, "there is a free port");
    close(fd);
    return ntohs(address.sin_port);
}

static void start(struct redis *redis, const char *const *more, bool tcp, bool clock)
{
    if (!redis_on_path())
        test_skip("redis-server is not on the PATH");
    *redis = (struct redis){0};
    snprintf(redis->dir, sizeof redis->dir, "%s", fresh_dir());
    snprintf(redis->socket, sizeof redis->socket, "%s/redis.sock", redis->dir);
    snprintf(redis->url, sizeof redis->url, "unix://%s", redis->socket);
    if (strlen(redis->socket) >= sizeof((struct sockaddr_un *)0)->sun_path)
        test_skip("TMPDIR is too long a path for a unix socket");
    for (size_t i = 0; more && more[i] && i < 16; i++)
        snprintf(redis->more[i], sizeof redis->more[i], "%s", more[i]);
    if (clock) {
        snprintf(redis->clock, sizeof redis->clock, "%s/clock", redis->dir);
        host_set_clock(redis->clock, 0);
    }
    for (int tries = 0; tries < 5; tries++) {
        redis->port = tcp ? free_port() : 0;
        if (launch(redis))
            return;
    }
    test_failed(__FILE__, __LINE__, "redis-server starts");
}

void redis_start(struct redis *redis, const char *const *more)
{
    start(redis, more, false, false);
}

void redis_start_tcp(struct redis *redis, const char *const *more)
{
    start(redis, more, true, false);
}

void redis_start_on_clock(struct redis *redis, const char *const *more)
{
    start(redis, more, false, true);
}

void redis_jump(struct redis *redis, int seconds)
{
    host_set_clock(redis->clock, seconds);
}

void redis_stop(struct redis *redis)
{
    int status;

    (void)kill(redis->pid, SIGCONT); /* a test may have stopped it */
    (void)kill(redis->pid, SIGTERM);
    while (waitpid(redis->pid, &status, 0) < 0 && errno == EINTR)
        continue;
    redis->pid = 0;
}

void redis_restart(struct redis *redis)
{
    if (redis->pid)
        test_kill(redis->pid, SIGKILL);
    if (!launch(redis))
        test_failed(__FILE__, __LINE__, "redis-server starts again");
}

/* ---- hosts ---- */

/* Made under a name of this process and linked to the common one: whoever comes second uses the first's. */
const char *host_keyring(void)
{
    static _Thread_local char path[320];
    char own[340];

    snprintf(path, sizeof path, "%s/keyring", test_home());
    if (access(path, F_OK) == 0)
        return path;
    snprintf(own, sizeof own, "%s.%d", path, (int)getpid());
    if (freshet_keygen(own, NULL) != FRESHET_OK) {
        fprintf(stderr, "freshet_keygen: %s\n", freshet_error());
        test_failed(__FILE__, __LINE__, "a keyring can be made");
    }
    if (link(own, path) != 0 && errno != EEXIST)
        test_failed(__FILE__, __LINE__, "the keyring can be put in its place");
    unlink(own);
    return path;
}

freshet *host_solo(const char *dir, unsigned bound_ms)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;

    options.dir = dir;
    options.tier_size = 8u << 20;
    options.max_staleness_ms = bound_ms;
    options.deadline_ms = 3000;
    if (freshet_open(&cache, &options) != FRESHET_OK) {
        fprintf(stderr, "freshet_open: %s\n", freshet_error());
        test_failed(__FILE__, __LINE__, "the cache opens");
    }
    return cache;
}

freshet *host_join(const char *dir, struct redis *redis, unsigned bound_ms)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    freshet *cache = host_solo(dir, bound_ms);
    freshet_result result;

    options.keyring = host_keyring();
    if ((result = freshet_join(cache, redis->url, &options)) != FRESHET_OK) {
        fprintf(stderr, "freshet_join: %s: %s\n", freshet_result_name(result), freshet_error());
        test_failed(__FILE__, __LINE__, "the cache joins");
    }
    return cache;
}

/* Get with the options, as a string. */
static freshet_result get_string(freshet *cache, const char *key, const freshet_read_options *options, char *value,
                                 size_t size)
{
    freshet_buf buf = {0};
    freshet_result result = freshet_get(cache, key, strlen(key), options, &buf, NULL);

    if (value && size) {
        size_t copied = buf.size < size - 1 ? buf.size : size - 1;

        if (copied)
            memcpy(value, buf.data, copied);
        value[copied] = '\0';
    }
    freshet_buf_free(&buf);
    return result;
}

freshet_result host_get(freshet *cache, const char *key, char *value, size_t size)
{
    return get_string(cache, key, NULL, value, size);
}

freshet_result host_peek(freshet *cache, const char *key, char *value, size_t size)
{
    freshet_read_options options = FRESHET_INIT(freshet_read_options);

    options.tier_only = true;
    return get_string(cache, key, &options, value, size);
}

bool host_gets(freshet *cache, const char *key, const char *value)
{
    char got[4096];

    return host_get(cache, key, got, sizeof got) == FRESHET_OK && strcmp(got, value) == 0;
}

freshet_result host_put(freshet *cache, const char *key, const char *value)
{
    return freshet_put(cache, key, strlen(key), value, strlen(value), NULL, NULL);
}

freshet_result host_invalidate(freshet *cache, const char *key)
{
    return freshet_invalidate(cache, key, strlen(key), NULL, NULL);
}

freshet_result host_loader(struct freshet_load_request *request, freshet_buf *value, void *arg)
{
    (void)request;
    return freshet_buf_set(value, arg, strlen(arg));
}

freshet_stats host_stats(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    EXPECT(freshet_stat(cache, &stats) == FRESHET_OK);
    return stats;
}

bool host_proven(freshet *cache)
{
    freshet_stats stats = host_stats(cache);

    return stats.proven_age_ms >= 0 && stats.proven_age_ms < stats.max_staleness_ms;
}

bool host_proven_in_another(freshet *cache, uint64_t epoch)
{
    /* In this order, or the proof may be the old one's. */
    return host_stats(cache).epoch != epoch && host_proven(cache);
}

void host_share(freshet *a, freshet *b, const char *key, const char *value)
{
    EXPECT(test_until(host_put(a, key, value) == FRESHET_OK, 5000));
    EXPECT(freshet_flush(a, 5000) == FRESHET_OK);
    EXPECT(test_until(host_gets(b, key, value) && freshet_flush(b, 5000) == FRESHET_OK &&
                          host_peek(b, key, NULL, 0) == FRESHET_OK,
                      5000)); /* a fill may be dropped */
}
