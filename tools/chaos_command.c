/*
 * chaos_command.c - words -> a command -> a direction's faults (chaos.h).  Pure: no socket and no clock.
 *
 * One grammar for the command line (--do), the control socket and ctl:
 *
 *     VERB [VALUE] [up|down|both] [all|old|new|next N|conn ID]
 *
 * Who mistypes a fault would otherwise test nothing and believe in it, so each word must be understood, and what is
 * refused says what would not be.
 */
#include "chaos.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_MOST      8
#define LATENCY_MOST_MS 3600000u
#define BYTES_MOST      (UINT64_C(1) << 50)

const char *const way_names[WAYS] = {"up", "down"};

/* What may follow a verb. */
enum takes {
    TAKES_NOTHING,
    TAKES_WHOM, /* direction and connections */
    TAKES_OFF,  /* "off", and whom */
    TAKES_MS,   /* milliseconds or "off", "jitter MS", and whom */
    TAKES_RATE, /* bytes a second or "off", and whom */
    TAKES_BYTES /* bytes, "off" or neither, and whom */
};

static const struct grammar {
    const char *word;
    enum verb verb;
    enum takes takes;
} verbs[] = {
    {"latency", VERB_LATENCY, TAKES_MS},      {"bandwidth", VERB_BANDWIDTH, TAKES_RATE},
    {"drop", VERB_DROP, TAKES_BYTES},         {"reset", VERB_RESET, TAKES_BYTES},
    {"half-open", VERB_HALF_OPEN, TAKES_OFF}, {"pause", VERB_PAUSE, TAKES_WHOM},
    {"resume", VERB_RESUME, TAKES_WHOM},      {"clear", VERB_CLEAR, TAKES_WHOM},
    {"refuse", VERB_REFUSE, TAKES_NOTHING},   {"accept", VERB_ACCEPT, TAKES_NOTHING},
    {"stat", VERB_STAT, TAKES_NOTHING},       {"list", VERB_LIST, TAKES_NOTHING},
    {"help", VERB_HELP, TAKES_NOTHING},       {"quit", VERB_QUIT, TAKES_NOTHING},
};

const char *command_help(void)
{
    return "latency MS [jitter MS] | bandwidth BYTES | drop [BYTES] | reset [BYTES] | half-open | pause | resume | "
           "clear, each with [up|down|both] [all|old|new|next N|conn ID]; latency, bandwidth, drop, reset and "
           "half-open take \"off\"; refuse | accept | stat | list | help | quit";
}

bool command_number(const char *word, const char *units, uint64_t most, uint64_t *ret_number)
{
    bool bytes = strcmp(units, "bytes") == 0;
    uint64_t times;
    char *end;
    unsigned long long value;

    errno = 0;
    value = strtoull(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || errno != 0)
        return false;
    if (*end == '\0' || (!bytes && strcmp(end, "ms") == 0))
        times = 1;
    else if (!bytes && strcmp(end, "s") == 0)
        times = 1000;
    else if (bytes && (strcmp(end, "K") == 0 || strcmp(end, "k") == 0))
        times = 1024;
    else if (bytes && strcmp(end, "M") == 0)
        times = 1024 * 1024;
    else
        return false;
    if (value > most / times)
        return false;
    *ret_number = value * times;
    return true;
}

/* ---- parsing ---- */

struct words {
    char line[CHAOS_LINE_MOST];
    char *word[WORDS_MOST];
    int count, at;
};

static const char *words_next(struct words *words)
{
    return words->at < words->count ? words->word[words->at] : NULL;
}

/* Take the next word if it is this one. */
static bool words_take(struct words *words, const char *word)
{
    const char *next = words_next(words);

    if (!next || strcmp(next, word) != 0)
        return false;
    words->at++;
    return true;
}

static bool words_cut(struct words *words, const char *line, char *why)
{
    char *rest = NULL;

    words->count = words->at = 0;
    if (strlen(line) >= sizeof words->line) {
        snprintf(why, CHAOS_WHY_MOST, "the line is too long: a command has at most %u bytes", CHAOS_LINE_MOST - 1);
        return false;
    }
    strcpy(words->line, line);
    for (char *word = strtok_r(words->line, " \t\r", &rest); word; word = strtok_r(NULL, " \t\r", &rest)) {
        if (words->count == WORDS_MOST) {
            snprintf(why, CHAOS_WHY_MOST, "too many words: a command has at most %d", WORDS_MOST);
            return false;
        }
        words->word[words->count++] = word;
    }
    if (words->count == 0)
        snprintf(why, CHAOS_WHY_MOST, "no command: say one of: %s", command_help());
    return words->count > 0;
}

/* The number that must be the next word. */
static bool take_number(struct words *words, const char *what, const char *units, uint64_t least, uint64_t most,
                        uint64_t *ret_number, char *why)
{
    const char *word = words_next(words);
    bool bytes = strcmp(units, "bytes") == 0;

    words->at++;
    if (word && command_number(word, units, most, ret_number) && *ret_number >= least)
        return true;
    snprintf(why, CHAOS_WHY_MOST, "%s: \"%.40s\" is no number from %" PRIu64 " to %" PRIu64 "%s", what,
             word ? word : "", least, most,
             bytes                      ? "; give bytes, or with a unit as 64K or 1M"
             : strcmp(units, "ms") == 0 ? "; give milliseconds, or as 50ms or 2s"
                                        : "");
    return false;
}

/* The verb's own words. */
static bool take_value(struct words *words, const struct grammar *grammar, struct command *command, char *why)
{
    const char *next = words_next(words);

    if (grammar->takes >= TAKES_OFF && words_take(words, "off")) {
        command->off = true;
        return true;
    }
    switch (grammar->takes) {
    case TAKES_MS:
        if (!take_number(words, "latency", "ms", 0, LATENCY_MOST_MS, &command->value, why))
            return false;
        return !words_take(words, "jitter") ||
               take_number(words, "jitter", "ms", 0, LATENCY_MOST_MS, &command->jitter_ms, why);
    case TAKES_RATE:
        return take_number(words, "bandwidth, bytes a second", "bytes", 1, BYTES_MOST, &command->value, why);
    case TAKES_BYTES:
        if (next && next[0] >= '0' && next[0] <= '9')
            return take_number(words, grammar->word, "bytes", 0, BYTES_MOST, &command->value, why);
        command->which = WHICH_OLD; /* at once: whoever is there now */
        return true;
    default:
        return true;
    }
}

/* The direction and the connections, in whatever order. */
static bool take_whom(struct words *words, struct command *command, char *why)
{
    bool way_said = false, which_said = false;

    while (words_next(words)) {
        bool up = words_take(words, "up"), down = !up && words_take(words, "down");
        bool both = !up && !down && words_take(words, "both");

        if (up || down || both) {
            if (way_said) {
                snprintf(why, CHAOS_WHY_MOST, "two directions: say one of up, down, both");
                return false;
            }
            way_said = true;
            command->ways[WAY_UP] = up || both;
            command->ways[WAY_DOWN] = down || both;
            continue;
        }
        if (which_said)
            break;
        which_said = true;
        if (words_take(words, "all"))
            command->which = WHICH_ALL;
        else if (words_take(words, "old"))
            command->which = WHICH_OLD;
        else if (words_take(words, "new"))
            command->which = WHICH_NEW;
        else if (words_take(words, "next"))
            command->which = WHICH_NEXT;
        else if (words_take(words, "conn"))
            command->which = WHICH_CONN;
        else
            break;
        if (command->which == WHICH_NEXT && !take_number(words, "next", "", 1, UINT32_MAX, &command->number, why))
            return false;
        if (command->which == WHICH_CONN && !take_number(words, "conn", "", 1, BYTES_MOST, &command->number, why))
            return false;
    }
    return true;
}

/* The command again, for `stat` to show. */
static void write_text(const struct grammar *grammar, struct command *command)
{
    size_t size = sizeof command->text;
    int at = snprintf(command->text, size, "%s", grammar->word);

    if (command->off)
        at += snprintf(command->text + at, size - (size_t)at, " off");
    else if (grammar->takes > TAKES_OFF)
        at += snprintf(command->text + at, size - (size_t)at, " %" PRIu64, command->value);
    if (command->jitter_ms)
        at += snprintf(command->text + at, size - (size_t)at, " jitter %" PRIu64, command->jitter_ms);
    if (command->ways[WAY_UP] != command->ways[WAY_DOWN])
        snprintf(command->text + at, size - (size_t)at, " %s", command->ways[WAY_UP] ? "up" : "down");
}

bool command_parse(const char *line, struct command *ret_command, char why[CHAOS_WHY_MOST])
{
    const struct grammar *grammar = NULL;
    struct words words;

    *ret_command = (struct command){.ways = {true, true}, .which = WHICH_ALL};
    if (!words_cut(&words, line, why))
        return false;
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (strcmp(verbs[i].word, words.word[0]) == 0)
            grammar = &verbs[i];
    if (!grammar) {
        snprintf(why, CHAOS_WHY_MOST,
                 "there is no command \"%.40s\"; there are: latency, bandwidth, drop, reset, "
                 "half-open, pause, resume, clear, refuse, accept, stat, list, help, quit",
                 words.word[0]);
        return false;
    }
    ret_command->verb = grammar->verb;
    words.at = 1;
    if (!take_value(&words, grammar, ret_command, why))
        return false;
    if (grammar->takes != TAKES_NOTHING && !take_whom(&words, ret_command, why))
        return false;
    if (words_next(&words)) {
        snprintf(why, CHAOS_WHY_MOST, "%s: \"%.40s\" is one word too many; see help", grammar->word,
                 words_next(&words));
        return false;
    }
    write_text(grammar, ret_command);
    return true;
}

/* ---- faults ---- */

void fault_init(struct fault *fault)
{
    *fault = (struct fault){.cut_after = FAULT_NEVER};
}

static void apply_one(const struct command *command, struct fault *fault)
{
    switch (command->verb) {
    case VERB_LATENCY:
        fault->latency_ms = command->value;
        fault->jitter_ms = command->jitter_ms;
        break;
    case VERB_BANDWIDTH:
        fault->bandwidth = command->value;
        break;
    case VERB_DROP:
    case VERB_RESET:
        fault->cut_after = command->off ? FAULT_NEVER : command->value;
        fault->cut_resets = command->verb == VERB_RESET;
        break;
    case VERB_HALF_OPEN:
        fault->half_open = !command->off;
        break;
    case VERB_PAUSE:
    case VERB_RESUME:
        fault->paused = command->verb == VERB_PAUSE;
        break;
    case VERB_CLEAR:
        fault_init(fault);
        break;
    default:
        break;
    }
}

void command_apply(const struct command *command, struct fault faults[WAYS])
{
    for (int way = 0; way < WAYS; way++)
        if (command->ways[way])
            apply_one(command, &faults[way]);
}

void fault_json(struct json *json, const char *name, const struct fault *fault)
{
    json_open(json, name, '{');
    if (fault->latency_ms || fault->jitter_ms) {
        json_uint(json, "latency_ms", fault->latency_ms);
        json_uint(json, "jitter_ms", fault->jitter_ms);
    }
    if (fault->bandwidth)
        json_uint(json, "bandwidth", fault->bandwidth);
    if (fault->cut_after != FAULT_NEVER)
        json_uint(json, fault->cut_resets ? "reset_after" : "drop_after", fault->cut_after);
    if (fault->half_open)
        json_bool(json, "half_open", true);
    if (fault->paused)
        json_bool(json, "paused", true);
    json_close(json, '}');
}
