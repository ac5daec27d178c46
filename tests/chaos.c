/*
 * chaos.c - a faulty network for a test (chaos.h).
 *
 * The control socket is spoken by hand, a connection a command: that is its whole protocol, and so it is tested too.
 */
#include <chaos.h>
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define ANSWERS    16u
#define WORDS_MOST 40

const char *chaos_program(void)
{
    static char path[PATH_MAX + 32];
    ssize_t size;

    if (getenv("FRESHET_CHAOS"))
        return getenv("FRESHET_CHAOS");
    size = readlink("/proc/self/exe", path, PATH_MAX);
    path[size > 0 ? size : 0] = '\0';
    if (strrchr(path, '/'))
        strcpy(strrchr(path, '/'), "/../tools/freshet-chaos");
    if (access(path, X_OK) != 0)
        test_skip("freshet-chaos was not built beside this program; FRESHET_CHAOS can name it");
    return path;
}

/* ---- a conversation ---- */

/* All of the answer's line; NULL: nobody answers. */
static char *converse(const struct chaos *chaos, const char *line)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char *answer = NULL;
    size_t room = 0;
    FILE *in = NULL;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    snprintf(address.sun_path, sizeof address.sun_path, "%.107s", chaos->control);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        in = fdopen(fd, "r");
    if (!in || send(fd, line, strlen(line), MSG_NOSIGNAL) < 0 || send(fd, "\n", 1, MSG_NOSIGNAL) != 1 ||
        getline(&answer, &room, in) < 1) {
        free(answer);
        answer = NULL;
    }
    if (in)
        fclose(in);
    else if (fd >= 0)
        close(fd);
    if (answer)
        answer[strcspn(answer, "\n")] = '\0';
    return answer;
}

const char *chaos_say(const struct chaos *chaos, const char *line)
{
    static char *volatile kept[ANSWERS];
    static unsigned next;
    unsigned place = next++ % ANSWERS;

    free(kept[place]);
    if (!(kept[place] = converse(chaos, line)))
        test_failed(__FILE__, __LINE__, "freshet-chaos answers");
    return kept[place];
}

const char *chaos_do(const struct chaos *chaos, const char *format, ...)
{
    const char *answer;
    va_list args;
    char *line;

    va_start(args, format);
    if (vasprintf(&line, format, args) < 0)
        test_failed(__FILE__, __LINE__, "memory for a command");
    va_end(args);
    answer = chaos_say(chaos, line);
    if (strncmp(answer, "OK", 2) != 0) {
        fprintf(stderr, "freshet-chaos: \"%s\": %s\n", line, answer);
        test_failed(__FILE__, __LINE__, "freshet-chaos does what it is told");
    }
    free(line);
    return answer[2] ? answer + 3 : "";
}

long long chaos_find(const char *json, const char *name)
{
    const char *at = json;
    long long value;
    char field[80], *end;

    for (const char *part = name; at && *part; part += strcspn(part, "."), part += *part == '.') {
        snprintf(field, sizeof field, "\"%.*s\": ", (int)strcspn(part, "."), part);
        at = strstr(at, field);
        at = at ? at + strlen(field) : NULL;
    }
    value = at ? strtoll(at, &end, 10) : 0;
    if (!at || end == at) {
        fprintf(stderr, "freshet-chaos: no number %s in %s\n", name, json);
        test_failed(__FILE__, __LINE__, "freshet-chaos tells this number");
    }
    return value;
}

long long chaos_number(const struct chaos *chaos, const char *name)
{
    return chaos_find(chaos_do(chaos, "stat"), name);
}

long long chaos_connection(const struct chaos *chaos, int port)
{
    const char *json = chaos_do(chaos, "list");
    const char *id = NULL;
    char field[80];
    const char *found;

    snprintf(field, sizeof field, "\"seen_as\": \"tcp:127.0.0.1:%d\"", port);
    if (!(found = strstr(json, field)))
        return 0;
    for (const char *at = strstr(json, "\"id\": "); at && at < found; at = strstr(at + 1, "\"id\": "))
        id = at;
    return id ? strtoll(id + 6, NULL, 10) : 0;
}

/* ---- the process ---- */

/* The proxy's process: it ends with the test's main thread, and says "ready" into the pipe. */
_Noreturn static void run_program(const char *const *argv, int out, pid_t test)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != test || dup2(out, 1) < 0 || dup2(open("/dev/null", O_RDONLY), 0) < 0)
        _exit(126);
    execv(argv[0], (char *const *)argv);
    _exit(127);
}

void chaos_start(struct chaos *chaos, const char *to, enum chaos_kind kind, const char *const *more)
{
    const char *argv[WORDS_MOST + 1] = {chaos_program(), "--listen", NULL, "--to", to, "--control", chaos->control};
    const char *dir = fresh_dir();
    char listen[200], line[300];
    pid_t test = getpid();
    int words = 7, out[2];
    FILE *in;

    *chaos = (struct chaos){0};
    snprintf(chaos->control, sizeof chaos->control, "%s/control", dir);
    snprintf(listen, sizeof listen, kind == CHAOS_TCP ? "tcp:0" : "unix:%s/chaos", dir);
    argv[2] = listen;
    while (more && *more && words < WORDS_MOST)
        argv[words++] = *more++;
    if (strlen(chaos->control) >= sizeof((struct sockaddr_un *)0)->sun_path)
        test_skip("TMPDIR is too long a path for a unix socket");
    if (pipe2(out, O_CLOEXEC) != 0)
        test_failed(__FILE__, __LINE__, "pipe");
    fflush(NULL);
    chaos->pid = fork();
    if (chaos->pid == 0)
        run_program(argv, out[1], test);
    close(out[1]);
    in = fdopen(out[0], "r");
    if (chaos->pid < 0 || !in || !fgets(line, sizeof line, in) || sscanf(line, "ready %199s\n", chaos->address) != 1)
        test_failed(__FILE__, __LINE__, "freshet-chaos says that it is ready");
    fclose(in);
    if (kind == CHAOS_TCP)
        chaos->port = (int)strtol(strrchr(chaos->address, ':') + 1, NULL, 10);
}

void chaos_stop(struct chaos *chaos)
{
    int status;

    test_kill(chaos->pid, SIGTERM);
    while (waitpid(chaos->pid, &status, 0) < 0)
        if (errno != EINTR)
            test_failed(__FILE__, __LINE__, "freshet-chaos is there to wait for");
    chaos->pid = 0;
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        test_failed(__FILE__, __LINE__, "freshet-chaos ended well");
}

struct redis chaos_redis(const struct chaos *chaos, const struct redis *redis)
{
    struct redis by_way = *redis;

    if (chaos->port)
        snprintf(by_way.url, sizeof by_way.url, "redis://127.0.0.1:%d", chaos->port);
    else
        snprintf(by_way.url, sizeof by_way.url, "unix://%.190s", chaos->address + strlen("unix:"));
    return by_way;
}
