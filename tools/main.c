/*
 * main.c - the tool `freshet`: the command line, and who gets it.
 *
 * Every command is a function of one struct; an option that a command does not know is refused rather than
 * ignored, since `put --ttl` mistyped as something else must not store an entry for ever.
 */
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: freshet [-n NAME] [-d DIR] [--url URL --keyring FILE] [--json] COMMAND [ARG...]\n"
    "\n"
    "Read and change\n"
    "  get KEY                    write the value to standard output\n"
    "      --any, --latest        whatever the tier has; what Redis has now\n"
    "      --token TOKEN          nothing older than that change (of put --json and the like)\n"
    "  put KEY [VALUE|-]          store VALUE, or standard input, for everybody\n"
    "      --ttl MS               for so long;  --absent: store that there is no such thing\n"
    "      --tag TAG              it has this tag (up to 16 of them);  --namespace NAME: it is of this one\n"
    "  invalidate KEY...          make everybody forget the keys\n"
    "  invalidate --tag TAG       make everybody forget all that has the tag (or one of several)\n"
    "  clear [--namespace NAME]   make everybody forget everything in the cache, or in the namespace\n"
    "      --wait-hosts           any change: return when no host serves anything older any more\n"
    "      --wait-replicas N      any change: have N replicas of Redis before the deadline\n"
    "Look inside\n"
    "  ls [PREFIX]                list the tier's records; --tag, --namespace: of these\n"
    "  stat [--watch]             counters and freshness of the tier; --watch: again every second\n"
    "  watch [KEY...]             show the fleet's signed frames as they come (needs --url, --keyring)\n"
    "Prepare and measure\n"
    "  keygen FILE [--like FILE]  write a new keyring, of the same fleet as another\n"
    "  bench get|get-hot|get-2|get-beside|hit|fetch|change|invalidate|fence|fill|memory|strong\n"
    "        [--quick] [--local]  measure, beside the floor of the same run\n"
    "  bench evict TRACE [ENTRIES...] [--quick]\n"
    "                             replay a trace of requests, beside LRU and the optimum\n"
    "\n"
    "Options\n"
    "  -n, --name NAME            the cache (\"default\")\n"
    "  -d, --dir DIR              the tier's directory (/dev/shm/freshet-UID/NAME)\n"
    "      --url URL              the fleet's Redis: redis://... or unix://...\n"
    "      --keyring FILE         the keys to sign and seal with\n"
    "      --json                 write JSON\n"
    "      --hex                  keys are given and shown in hexadecimal\n"
    "      --bound MS             serve nothing older (the tier's own bound)\n"
    "      --stale                get: also what cannot be bounded, if Redis is out of reach\n"
    "      --deadline MS          give up waiting for Redis after so long (1,000)\n"
    "      --partitions N         of a cache that has no tier here (1)\n"
    "      --count N              stat --watch, watch: end after N\n"
    "  -v, --verbose              say what the library says\n"
    "  -h, --help;  -V, --version\n"
    "\n"
    "Exit status: 0 done, 1 no such entry, 2 bad usage, 3 failure, 4 queued (Redis has not confirmed the change\n"
    "yet), 5 the value may be stale.\n";

struct command {
    const char *name;
    int (*run)(struct tool *tool);
    int args_least, args_most;
    const char *options; /* of those that not every command knows, by letter */
};

static const struct command commands[] = {
    {"get", cmd_get, 1, 1, "xbspAMK"},
    {"put", cmd_put, 1, 2, "xbptaTNWR"},
    {"invalidate", cmd_invalidate, 0, 1 << 30, "xbpTWR"},
    {"clear", cmd_clear, 0, 0, "bpNWR"},
    {"ls", cmd_ls, 0, 1, "xbTN"},
    {"stat", cmd_stat, 0, 0, "wcb"},
    {"watch", cmd_watch, 0, 1 << 30, "xcp"},
    {"keygen", cmd_keygen, 1, 1, "l"},
    {"bench", cmd_bench, 1, 1 << 30, "qL"},
};

/* Letters below 'A' stand for options that every command knows. */
static const struct option options[] = {
    {"name", required_argument, NULL, 'n'},       {"dir", required_argument, NULL, 'd'},
    {"url", required_argument, NULL, '1'},        {"keyring", required_argument, NULL, '2'},
    {"json", no_argument, NULL, '3'},             {"deadline", required_argument, NULL, '4'},
    {"verbose", no_argument, NULL, 'v'},          {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'V'},          {"hex", no_argument, NULL, 'x'},
    {"bound", required_argument, NULL, 'b'},      {"stale", no_argument, NULL, 's'},
    {"partitions", required_argument, NULL, 'p'}, {"ttl", required_argument, NULL, 't'},
    {"absent", no_argument, NULL, 'a'},           {"watch", no_argument, NULL, 'w'},
    {"count", required_argument, NULL, 'c'},      {"like", required_argument, NULL, 'l'},
    {"quick", no_argument, NULL, 'q'},            {"local", no_argument, NULL, 'L'},
    {"any", no_argument, NULL, 'A'},              {"latest", no_argument, NULL, 'M'},
    {"token", required_argument, NULL, 'K'},      {"wait-hosts", no_argument, NULL, 'W'},
    {"wait-replicas", required_argument, NULL, 'R'},
    {"tag", required_argument, NULL, 'T'},        {"namespace", required_argument, NULL, 'N'},
    {NULL, 0, NULL, 0},
};

/* A whole number from 1 to `most`; 0: it is none, and that was said. */
static uint64_t number(const struct tool *tool, const char *word, uint64_t most, const char *name)
{
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(word, &end, 10);
    if (word[0] >= '0' && word[0] <= '9' && !*end && errno == 0 && value >= 1 && value <= most)
        return value;
    tool_error(tool, TOOL_USAGE, "usage", "--%s: \"%s\" is not a number from 1 to %llu", name, word,
               (unsigned long long)most);
    return 0;
}

/* Take one option; false: it was wrong, and that was said. */
static bool take_value(struct tool *tool, int letter, const char *value)
{
    switch (letter) {
    case 'A':
        return tool->any = true;
    case 'M':
        return tool->latest = true;
    case 'W':
        return tool->wait_hosts = true;
    case 'K':
        tool->token = value;
        return true;
    case 'R':
        return (tool->wait_replicas = (uint32_t)number(tool, value, 1000, "wait-replicas")) != 0;
    case 'T':
        if (tool->tags_count >= (int)FRESHET_TAGS_MAX) {
            tool_error(tool, TOOL_USAGE, "usage", "--tag: give at most %u", FRESHET_TAGS_MAX);
            return false;
        }
        tool->tags[tool->tags_count++] = value;
        return true;
    case 't':
        tool->ttl_given = true;
        return (tool->ttl_ms = (uint32_t)number(tool, value, UINT32_MAX, "ttl")) != 0;
    case 'b':
        return (tool->bound_ms = (uint32_t)number(tool, value, 600000, "bound")) != 0;
    case 'p':
        return (tool->partitions = (uint32_t)number(tool, value, FRESHET_PARTITIONS_MAX, "partitions")) != 0;
    case 'c':
        return (tool->count = number(tool, value, UINT64_MAX, "count")) != 0;
    case '4':
        return (tool->deadline_ms = (uint32_t)number(tool, value, UINT32_MAX, "deadline")) != 0;
    default:
        return false;
    }
}

static bool take(struct tool *tool, int letter, const char *value)
{
    switch (letter) {
    case 'n':
        tool->name = value;
        return true;
    case 'd':
        tool->dir = value;
        return true;
    case '1':
        tool->url = value;
        return true;
    case '2':
        tool->keyring = value;
        return true;
    case 'l':
        tool->like = value;
        return true;
    case 'N':
        tool->name_space = value;
        return true;
    case '3':
        return tool->json = true;
    case 'v':
        return tool->verbose = true;
    case 'x':
        return tool->hex = true;
    case 's':
        return tool->stale = true;
    case 'a':
        return tool->absent = true;
    case 'w':
        return tool->repeat = true;
    case 'q':
        return tool->quick = true;
    case 'L':
        return tool->local = true;
    default:
        return take_value(tool, letter, value);
    }
}

static const char *option_name(int letter)
{
    for (const struct option *option = options; option->name; option++)
        if (option->val == letter)
            return option->name;
    return "?";
}

/* Messages of the library go to stderr, warnings always. */
static void on_log(freshet_level level, const char *message, void *arg)
{
    static const char *const levels[] = {"debug", "info", "warning", "error"};

    (void)arg;
    fprintf(stderr, "freshet: %s: %s\n", levels[level & 3], message);
}

static int run(struct tool *tool, const char *name, const char *used)
{
    const struct command *command = NULL;

    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            command = &commands[i];
    if (!command)
        return tool_error(tool, TOOL_USAGE, "usage", "there is no command \"%s\"; freshet --help has the list", name);
    for (; *used; used++)
        if (strchr("xbsptawclqLTNAMKWR", *used) && !strchr(command->options, *used))
            return tool_error(tool, TOOL_USAGE, "usage", "%s knows no option --%s", name, option_name(*used));
    if (tool->args_count < command->args_least)
        return tool_error(tool, TOOL_USAGE, "usage", "%s needs %s; see freshet --help", name,
                          command->args_least == 1 ? "an argument" : "more arguments");
    if (tool->args_count > command->args_most)
        return tool_error(tool, TOOL_USAGE, "usage", "%s: \"%s\" is one argument too many", name,
                          tool->args[command->args_most]);
    freshet_log(on_log, NULL, tool->verbose ? FRESHET_DEBUG : FRESHET_WARN);
    return tool_flush(command->run(tool));
}

int main(int argc, char **argv)
{
    struct tool tool = {0};
    char used[64];
    size_t used_count = 0;
    int letter;

    while ((letter = getopt_long(argc, argv, "n:d:vhV", options, NULL)) != -1) {
        if (letter == 'h') {
            fputs(help, stdout);
            return tool_flush(TOOL_DONE);
        }
        if (letter == 'V') {
            printf("freshet %s\n", freshet_version());
            return tool_flush(TOOL_DONE);
        }
        if (letter == '?' || !take(&tool, letter, optarg))
            return TOOL_USAGE;
        if (used_count < sizeof used - 1)
            used[used_count++] = (char)letter;
    }
    used[used_count] = '\0';
    if (optind == argc) {
        fputs(help, stderr);
        return TOOL_USAGE;
    }
    tool.args = argv + optind + 1;
    tool.args_count = argc - optind - 1;
    return run(&tool, argv[optind], used);
}
