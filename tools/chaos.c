/*
 * chaos.c - `freshet-chaos`: a faulty network for tests, as a proxy.
 *
 * It stands between a client and a server, on TCP or unix sockets, and does to their connections what networks do:
 * late, slow, cut, stuck, half gone.  What it does is said on the command line and, while it runs, on a control socket,
 * both in the same words (chaos_command.c).
 *
 * It says one line on standard output when it listens, which is what a script waits for, and nothing more.
 */
#include "chaos.h"

#include <freshet.h>
#include <uv.h>

#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define DO_MOST             64
#define BUFFER_DEFAULT      (256u << 10)
#define BUFFER_LEAST        4096u
#define BUFFER_MOST         (64u << 20)
#define CONNECTIONS_DEFAULT 10000u
#define FILES_APART         80u /* descriptors that are no connections' */

static const char help[] =
    "usage: freshet-chaos --listen ADDRESS --to ADDRESS [--control PATH] [--do COMMAND]... [OPTION...]\n"
    "       freshet-chaos ctl PATH COMMAND...\n"
    "\n"
    "A faulty network for tests: take connections, hand them on, and do to them what networks do.\n"
    "\n"
    "  -l, --listen ADDRESS   tcp:PORT (on 127.0.0.1; 0: any), tcp:HOST:PORT or unix:PATH\n"
    "  -t, --to ADDRESS       the server, likewise; a name is looked up once, now\n"
    "  -c, --control PATH     be told commands at this unix socket; `ctl` is a client of it\n"
    "  -d, --do COMMAND       carry out a command before listening; may be given several times\n"
    "      --seed N           of all that is random (1): the same seed, the same jitter\n"
    "      --buffer BYTES     on their way in one direction of a connection, at most (256K)\n"
    "      --most N           connections, at most (10000, or what the limit of open files allows)\n"
    "  -h, --help;  -V, --version\n"
    "\n"
    "Commands, each with [up|down|both] (client to server, server to client) [all|old|new|next N|conn ID]\n"
    "  latency MS [jitter MS]   everything arrives MS later, plus 0 to jitter at random; order is kept\n"
    "  bandwidth BYTES          so many a second; 64K and 1M will do\n"
    "  drop [BYTES]             end the connection, after BYTES more\n"
    "  reset [BYTES]            the same by a reset (RST)\n"
    "  half-open                swallow everything and end nothing\n"
    "  pause, resume            stop reading; go on\n"
    "  clear                    no fault any more; what has lost bytes is reset\n"
    "  latency, bandwidth, drop, reset and half-open take the word off as well\n"
    "And: refuse, accept (new connections), stat, list (as JSON), help, quit\n"
    "\n"
    "When it listens it says so on standard output: ready ADDRESS\n"
    "Exit status: 0 ended as told (quit, SIGTERM, SIGINT; ctl: OK), 1 ctl: the command was refused, 2 bad usage,\n"
    "3 failure.\n";

/* What runs. */
struct chaos {
    uv_loop_t loop;
    uv_signal_t signals[2];
    struct proxy_options options;
    struct proxy *proxy;
    struct control *control;
    const char *todo[DO_MOST];
    unsigned todo_count;
    bool stopping;
};

__attribute__((format(printf, 2, 3))) static int say(int status, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    fputs("freshet-chaos: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return status;
}

/* ---- the command line ---- */

static const struct option options[] = {
    {"listen", required_argument, NULL, 'l'},  {"to", required_argument, NULL, 't'},
    {"control", required_argument, NULL, 'c'}, {"do", required_argument, NULL, 'd'},
    {"seed", required_argument, NULL, 's'},    {"buffer", required_argument, NULL, 'b'},
    {"most", required_argument, NULL, 'm'},    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},       {NULL, 0, NULL, 0},
};

static int take_address(const char *name, const char *text, struct address *ret_address)
{
    char why[CHAOS_WHY_MOST];

    return address_parse(text, ret_address, why) ? CHAOS_DONE : say(CHAOS_USAGE, "--%s: %s", name, why);
}

static int take_number(const char *name, const char *text, const char *units, uint64_t least, uint64_t most,
                       uint64_t *ret_number)
{
    if (command_number(text, units, most, ret_number) && *ret_number >= least)
        return CHAOS_DONE;
    return say(CHAOS_USAGE, "--%s: \"%s\" is no number from %" PRIu64 " to %" PRIu64, name, text, least, most);
}

/* A command must be one that can be said before there are connections. */
static int take_do(struct chaos *chaos, const char *text)
{
    struct command command;
    char why[CHAOS_WHY_MOST];

    if (chaos->todo_count == DO_MOST)
        return say(CHAOS_USAGE, "--do: %d commands at most; say more at the control socket", DO_MOST);
    if (!command_parse(text, &command, why))
        return say(CHAOS_USAGE, "--do: %s", why);
    if (command.which == WHICH_CONN || command.verb >= VERB_STAT)
        return say(CHAOS_USAGE,
                   "--do: \"%s\" means nothing before there are connections; say it at the control "
                   "socket",
                   text);
    if (command.which == WHICH_OLD)
        return say(CHAOS_USAGE, "--do: \"%s\" concerns no connection yet; add \"all\", \"new\" or \"next N\"", text);
    chaos->todo[chaos->todo_count++] = text;
    return CHAOS_DONE;
}

static int take(struct chaos *chaos, int letter, const char *value)
{
    struct proxy_options *own = &chaos->options;
    uint64_t number = 0;
    int status;

    switch (letter) {
    case 'l':
        return take_address("listen", value, &own->listen);
    case 't':
        return take_address("to", value, &own->target);
    case 'c':
        own->has_control = true;
        if ((status = take_address("control", value, &own->control)) != CHAOS_DONE || address_is_unix(&own->control))
            return status;
        return say(CHAOS_USAGE, "--control: \"%s\" is no path of a unix socket: give it with a '/', or as unix:NAME",
                   value);
    case 'd':
        return take_do(chaos, value);
    case 's':
        return take_number("seed", value, "", 0, UINT64_MAX, &own->seed);
    case 'b':
        status = take_number("buffer", value, "bytes", BUFFER_LEAST, BUFFER_MOST, &number);
        own->buffer = (size_t)number;
        return status;
    case 'm':
        return take_number("most", value, "", 1, 1000000, &own->most);
    default:
        return CHAOS_USAGE;
    }
}

/* Two descriptors a connection: ask for as many as the system gives. */
static int raise_limit(struct proxy_options *own)
{
    struct rlimit limit;
    uint64_t room;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return say(CHAOS_FAILED, "the limit of open files cannot be read");
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_NOFILE, &limit);
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    room = limit.rlim_cur > FILES_APART + 2 ? (limit.rlim_cur - FILES_APART) / 2 : 1;
    if (own->most > room)
        return say(CHAOS_FAILED,
                   "--most %" PRIu64 ": the limit of open files (ulimit -n) allows %" PRIu64 ": raise it, or ask less",
                   own->most, room);
    if (own->most == 0)
        own->most = room < CONNECTIONS_DEFAULT ? room : CONNECTIONS_DEFAULT;
    return CHAOS_DONE;
}

/* ---- running ---- */

static void stop(void *arg)
{
    struct chaos *chaos = arg;

    if (chaos->stopping)
        return;
    chaos->stopping = true;
    for (int i = 0; i < 2; i++)
        uv_close((uv_handle_t *)&chaos->signals[i], NULL);
    if (chaos->control)
        control_stop(chaos->control);
    if (chaos->proxy)
        proxy_stop(chaos->proxy);
}

static void on_signal(uv_signal_t *signal, int number)
{
    (void)number;
    stop(signal->data);
}

/* Carry out what the command line asks for. */
static int carry_out(struct chaos *chaos)
{
    for (unsigned i = 0; i < chaos->todo_count; i++) {
        bool quit;
        char *answer = proxy_command(chaos->proxy, chaos->todo[i], &quit);
        bool good = answer && strncmp(answer, "OK", 2) == 0;

        if (!good)
            (void)say(CHAOS_FAILED, "--do: \"%s\": %s", chaos->todo[i], answer ? answer : "no memory");
        free(answer);
        if (!good)
            return CHAOS_FAILED;
    }
    return CHAOS_DONE;
}

static int begin(struct chaos *chaos)
{
    static const int numbers[2] = {SIGTERM, SIGINT};
    char why[CHAOS_WHY_MOST], text[ADDRESS_TEXT];

    for (int i = 0; i < 2; i++) {
        (void)uv_signal_init(&chaos->loop, &chaos->signals[i]);
        chaos->signals[i].data = chaos;
    }
    if (uv_signal_start(&chaos->signals[0], on_signal, numbers[0]) != 0 ||
        uv_signal_start(&chaos->signals[1], on_signal, numbers[1]) != 0)
        return say(CHAOS_FAILED, "signals cannot be caught");
    if (!(chaos->proxy = proxy_open(&chaos->options, why)))
        return say(CHAOS_FAILED, "%s", why);
    if (carry_out(chaos) != CHAOS_DONE)
        return CHAOS_FAILED;
    if (chaos->options.has_control && !(chaos->control = control_open(chaos->proxy, &chaos->options, stop, chaos, why)))
        return say(CHAOS_FAILED, "--control: %s", why);
    if (printf("ready %s\n", address_text(proxy_address(chaos->proxy), text)) < 0 || fflush(stdout) != 0)
        return say(CHAOS_FAILED, "standard output cannot be written to");
    return CHAOS_DONE;
}

static int run(struct chaos *chaos)
{
    int status;

    if (uv_loop_init(&chaos->loop) != 0)
        return say(CHAOS_FAILED, "there is no event loop to be had");
    if ((status = begin(chaos)) != CHAOS_DONE)
        stop(chaos);
    (void)uv_run(&chaos->loop, UV_RUN_DEFAULT);
    control_close(chaos->control);
    proxy_close(chaos->proxy);
    (void)uv_loop_close(&chaos->loop);
    return status;
}

int main(int argc, char **argv)
{
    struct chaos chaos = {.options = {.seed = 1, .buffer = BUFFER_DEFAULT}};
    int letter, status;

    (void)signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && strcmp(argv[1], "ctl") == 0)
        return chaos_ctl(argc - 2, argv + 2);
    while ((letter = getopt_long(argc, argv, "l:t:c:d:hV", options, NULL)) != -1) {
        if (letter == 'h' || letter == 'V') {
            fputs(letter == 'h' ? help : "freshet-chaos " FRESHET_VERSION "\n", stdout);
            return fflush(stdout) == 0 ? CHAOS_DONE : CHAOS_FAILED;
        }
        if ((status = take(&chaos, letter, optarg)) != CHAOS_DONE)
            return status;
    }
    if (optind < argc)
        return say(CHAOS_USAGE, "\"%s\" is one word too many: commands are given with --do, or said with ctl",
                   argv[optind]);
    if (!chaos.options.listen.size || !chaos.options.target.size)
        return say(CHAOS_USAGE, "--listen and --to must be given; see freshet-chaos --help");
    if ((status = raise_limit(&chaos.options)) != CHAOS_DONE)
        return status;
    chaos.options.loop = &chaos.loop;
    return run(&chaos);
}
