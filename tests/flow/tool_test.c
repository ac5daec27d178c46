/*
 * tool_test.c - the tool `freshet` as its users have it: words in, bytes and a status out.
 *
 * The real program is run, FRESHET_TOOL or the one beside this program in the build.  What is JSON is checked by a
 * reader that takes nothing else for it.
 */
#include <hosts.h>
#include <test.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- running it ---- */

#define WORDS 24

struct running {
    pid_t pid;
    char out_path[320], err_path[320];
};

struct outcome {
    int status; /* of exit; 1000 + the signal */
    char *out, *err;
    size_t out_size, err_size;
};

static const char *tool_path(void)
{
    static char path[PATH_MAX + 32];
    ssize_t size;

    if (getenv("FRESHET_TOOL"))
        return getenv("FRESHET_TOOL");
    size = readlink("/proc/self/exe", path, PATH_MAX);
    path[size > 0 ? size : 0] = '\0';
    if (strrchr(path, '/'))
        strcpy(strrchr(path, '/'), "/../tools/freshet");
    if (access(path, X_OK) != 0)
        test_skip("the tool was not built beside this program; FRESHET_TOOL can name it");
    return path;
}

/* Start it with its input; output goes to files, which never fill up. */
static struct running start_tool(const void *in, size_t in_size, const char *const *words)
{
    struct running running;
    const char *argv[WORDS + 2] = {tool_path()};
    const char *dir = fresh_dir();
    char in_path[320];
    FILE *file;

    for (int i = 0; i < WORDS && words[i]; i++)
        argv[i + 1] = words[i];
    snprintf(in_path, sizeof in_path, "%s/in", dir);
    snprintf(running.out_path, sizeof running.out_path, "%s/out", dir);
    snprintf(running.err_path, sizeof running.err_path, "%s/err", dir);
    file = fopen(in_path, "w");
    EXPECT(file && (in_size == 0 || fwrite(in, 1, in_size, file) == in_size) && fclose(file) == 0);
    fflush(NULL);
    running.pid = fork(); /* and exec at once: no matter what threads there are */
    if (running.pid == 0) {
        if (dup2(open(in_path, O_RDONLY), 0) < 0 || dup2(open(running.out_path, O_WRONLY | O_CREAT, 0600), 1) < 0 ||
            dup2(open(running.err_path, O_WRONLY | O_CREAT, 0600), 2) < 0)
            _exit(126);
        execv(argv[0], (char *const *)argv);
        _exit(127);
    }
    return running;
}

/* What is read stays until the 64th reading after it. */
static char *slurp(const char *path, size_t *ret_size)
{
    static char *volatile kept[1024]; /* for LeakSanitizer to find */
    static unsigned next;
    FILE *file = fopen(path, "r");
    char *bytes = kept[next++ % 1024] = calloc(1, 1 << 22);

    EXPECT(bytes);
    *ret_size = file ? fread(bytes, 1, (1 << 22) - 1, file) : 0;
    if (file)
        fclose(file);
    return bytes;
}

static struct outcome finish_tool(struct running *running)
{
    struct outcome outcome;
    int status;

    while (waitpid(running->pid, &status, 0) < 0)
        EXPECT(errno == EINTR);
    outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
    outcome.out = slurp(running->out_path, &outcome.out_size);
    outcome.err = slurp(running->err_path, &outcome.err_size);
    return outcome;
}

static struct outcome run_tool(const void *in, size_t in_size, const char *const *words)
{
    struct running running = start_tool(in, in_size, words);

    return finish_tool(&running);
}

#define WORDS_OF(...) ((const char *const[WORDS + 1]){__VA_ARGS__})
#define TOOL(...)     run_tool("", 0, WORDS_OF(__VA_ARGS__))

/* Expect a status, showing what was said when it is another. */
static void expect_status(struct outcome outcome, int status)
{
    if (outcome.status != status)
        fprintf(stderr, "out: %.800s\nerr: %.800s\n", outcome.out, outcome.err);
    EXPECT_EQ(outcome.status, status);
}

/* ---- reading JSON, strictly ---- */

static const char *json_value(const char *at);

static const char *json_string(const char *at)
{
    if (*at++ != '"')
        return NULL;
    for (; *at != '"'; at++) {
        if ((unsigned char)*at < 0x20)
            return NULL;
        if (*at != '\\')
            continue;
        if (!*++at || !strchr("\"\\/bfnrtu", *at))
            return NULL;
        for (int i = 0, digits = *at == 'u' ? 4 : 0; i < digits; i++)
            if (!*++at || !strchr("0123456789abcdefABCDEF", *at))
                return NULL;
    }
    return at + 1;
}

/* Members or elements up to the closing bracket. */
static const char *json_many(const char *at, char close)
{
    if (*at == close)
        return at + 1;
    for (;;) {
        if (close == '}') {
            if (!(at = json_string(at)) || *at++ != ':')
                return NULL;
            at += strspn(at, " ");
        }
        if (!(at = json_value(at)))
            return NULL;
        if (*at == close)
            return at + 1;
        if (*at++ != ',')
            return NULL;
        at += strspn(at, " ");
    }
}

static const char *json_value(const char *at)
{
    static const char *const words[] = {"true", "false", "null"};
    char *end;

    if (*at == '{' || *at == '[')
        return json_many(at + 1, *at == '{' ? '}' : ']');
    if (*at == '"')
        return json_string(at);
    for (int i = 0; i < 3; i++)
        if (strncmp(at, words[i], strlen(words[i])) == 0)
            return at + strlen(words[i]);
    if (*at != '-' && (*at < '0' || *at > '9'))
        return NULL;
    (void)strtod(at, &end);
    return end > at ? end : NULL;
}

/* How many lines of one JSON object each? -1: something else. */
static int json_lines(const char *text)
{
    int lines = 0;

    for (; *text; lines++)
        if (*text != '{' || !(text = json_value(text)) || *text++ != '\n')
            return -1;
    return lines;
}

/* The number in the first field of this name; -1000: none. */
static double json_number(const char *text, const char *name)
{
    char field[64];
    const char *at;

    snprintf(field, sizeof field, "\"%s\": ", name);
    at = strstr(text, field);
    return at ? strtod(at + strlen(field), NULL) : -1000;
}

static bool has(const char *text, const char *part)
{
    return strstr(text, part) != NULL;
}

static bool is_empty_dir(const char *path)
{
    DIR *dir = opendir(path);
    int entries = 0;

    EXPECT(dir);
    while (readdir(dir))
        entries++;
    closedir(dir);
    return entries == 2;
}

/* ---- the command line ---- */

TEST(help_and_version_go_to_stdout_and_a_bare_call_is_bad_usage)
{
    struct outcome help = TOOL("--help"), version = TOOL("-V"), bare = TOOL(NULL);

    expect_status(help, 0);
    EXPECT(has(help.out, "usage: freshet") && has(help.out, "Exit status:") && help.err_size == 0);
    expect_status(version, 0);
    EXPECT(has(version.out, freshet_version()));
    expect_status(bare, 2);
    EXPECT(has(bare.err, "usage: freshet") && bare.out_size == 0);
}

TEST(every_kind_of_bad_usage_is_status_2_with_its_cause)
{
    static const struct {
        const char *words[6], *cause;
    } bad[] = {
        {{"fetch", "k"}, "no command \"fetch\""},
        {{"get"}, "needs an argument"},
        {{"get", "a", "b"}, "one argument too many"},
        {{"get", "a", "--ttl", "5"}, "no option --ttl"},
        {{"put", "a", "b", "--ttl", "0"}, "--ttl"},
        {{"put", "a", "b", "--ttl", "-1"}, "--ttl"},
        {{"put", "a", "b", "--ttl", "5x"}, "--ttl"},
        {{"put", "a", "b", "--ttl", "4294967296"}, "--ttl"},
        {{"put", "a", "b", "--absent"}, "takes no value"},
        {{"get", "--hex", "abc"}, "pairs of hexadecimal"},
        {{"get", "--hex", "zz"}, "pairs of hexadecimal"},
        {{"get", ""}, "at least one byte"},
        {{"stat", "--count", "none"}, "--count"},
        {{"--url", "unix:///x", "put", "a", "b"}, "go together"},
        {{"watch"}, "--url and --keyring"},
        {{"bench", "everything"}, "not \"everything\""},
        {{"ls", "--such"}, "such"},
        {{"invalidate"}, "needs keys, or --tag"},
        {{"invalidate", "k", "--tag", "red"}, "not both"},
        {{"get", "k", "--tag", "red"}, "no option --tag"},
        {{"clear", "--tag", "red"}, "no option --tag"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct outcome outcome = run_tool("", 0, bad[i].words);

        expect_status(outcome, 2);
        if (!has(outcome.err, bad[i].cause))
            fprintf(stderr, "%s\nlacks: %s\n", outcome.err, bad[i].cause);
        EXPECT(has(outcome.err, bad[i].cause));
        EXPECT_EQ(outcome.out_size, 0);
    }
}

TEST(looking_at_a_directory_without_a_tier_makes_none)
{
    static const char *const looks[][2] = {
        {"get", "k"}, {"ls", NULL}, {"stat", NULL}, {"invalidate", "k"}, {"clear", NULL}};
    const char *dir = fresh_dir();
    char none[400];

    snprintf(none, sizeof none, "%s/none", dir);
    for (size_t i = 0; i < sizeof looks / sizeof *looks; i++) {
        struct outcome outcome = TOOL("-d", dir, looks[i][0], looks[i][1]);

        expect_status(outcome, 3);
        EXPECT(has(outcome.err, "no tier here") && outcome.out_size == 0);
        expect_status(TOOL("-d", none, looks[i][0], looks[i][1]), 3);
    }
    EXPECT(is_empty_dir(dir));
    struct outcome json = TOOL("-d", dir, "--json", "stat");
    EXPECT_EQ(json_lines(json.out), 1);
    EXPECT(has(json.out, "\"result\": \"edir\""));
}

TEST(a_wrong_name_costs_nobody_a_cache)
{
    const char *dir = fresh_dir();

    expect_status(TOOL("-n", "orders", "-d", dir, "put", "k", "v"), 0);
    expect_status(TOOL("-n", "other", "-d", dir, "get", "k"), 3);
    expect_status(TOOL("-n", "other", "-d", dir, "ls"), 3);
    expect_status(TOOL("-n", "other", "-d", dir, "put", "k", "w"), 3);
    struct outcome got = TOOL("-n", "orders", "-d", dir, "get", "k");
    expect_status(got, 0);
    EXPECT(strcmp(got.out, "v") == 0);
}

/* ---- one host ---- */

TEST(what_is_put_is_got_to_the_byte)
{
    const char *dir = fresh_dir();
    static unsigned char bytes[300000];
    struct outcome got;

    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (unsigned char)(i * 7 + i / 256);
    expect_status(TOOL("-d", dir, "put", "k", "value"), 0);
    got = TOOL("-d", dir, "get", "k");
    expect_status(got, 0);
    EXPECT(got.out_size == 5 && memcmp(got.out, "value", 5) == 0 && got.err_size == 0);

    expect_status(run_tool(bytes, sizeof bytes, WORDS_OF("-d", dir, "put", "big", "-")), 0);
    got = TOOL("-d", dir, "get", "big");
    EXPECT(got.out_size == sizeof bytes && memcmp(got.out, bytes, sizeof bytes) == 0);

    expect_status(run_tool("", 0, WORDS_OF("-d", dir, "put", "empty")), 0);
    got = TOOL("-d", dir, "get", "empty");
    expect_status(got, 0);
    EXPECT_EQ(got.out_size, 0);

    expect_status(TOOL("-d", dir, "get", "nothing"), 1);
    expect_status(TOOL("-d", dir, "put", "--", "-key", "dash"), 0);
    expect_status(TOOL("-d", dir, "get", "--", "-key"), 0);
}

TEST(known_absent_entries_and_misses_are_both_no_entry_and_told_apart_in_json)
{
    const char *dir = fresh_dir();
    struct outcome absent, miss;

    expect_status(TOOL("-d", dir, "put", "gone", "--absent"), 0);
    absent = TOOL("-d", dir, "--json", "get", "gone");
    miss = TOOL("-d", dir, "--json", "get", "never");
    expect_status(absent, 1);
    expect_status(miss, 1);
    EXPECT(json_lines(absent.out) == 1 && has(absent.out, "\"result\": \"absent\""));
    EXPECT(json_lines(miss.out) == 1 && has(miss.out, "\"result\": \"miss\""));
}

TEST(json_shows_text_as_text_and_other_bytes_in_base64)
{
    const char *dir = fresh_dir();
    struct outcome got;

    expect_status(TOOL("-d", dir, "put", "k\xc3\xa4se", "\"quoted\"\t\\\xe2\x82\xac\x01"), 0);
    got = TOOL("-d", dir, "--json", "get", "k\xc3\xa4se");
    expect_status(got, 0);
    EXPECT_EQ(json_lines(got.out), 1);
    EXPECT(has(got.out, "\"key\": \"k\xc3\xa4se\"") && !has(got.out, "encoding"));
    EXPECT(has(got.out, "\"value\": \"\\\"quoted\\\"\\t\\\\\xe2\x82\xac\\u0001\""));
    EXPECT(has(got.out, "\"source\": \"tier\"") && json_number(got.out, "ttl_ms") == -1);

    /* an overlong form, a surrogate and a cut character are not UTF-8 */
    static const struct {
        const char *bytes, *base64;
    } binary[] = {{"\xc0\xaf", "wK8="}, {"\xed\xa0\x80", "7aCA"}, {"ab\xe2\x82", "YWLigg=="}, {"\xff", "/w=="}};
    for (size_t i = 0; i < sizeof binary / sizeof *binary; i++) {
        char field[64];

        expect_status(TOOL("-d", dir, "put", "bin", binary[i].bytes), 0);
        got = TOOL("-d", dir, "--json", "get", "bin");
        snprintf(field, sizeof field, "\"value\": \"%s\", \"value_encoding\": \"base64\"", binary[i].base64);
        EXPECT_EQ(json_lines(got.out), 1);
        EXPECT(has(got.out, field));
    }
}

TEST(keys_in_hex_reach_any_byte)
{
    const char *dir = fresh_dir();
    struct outcome got;

    expect_status(TOOL("-d", dir, "--hex", "put", "00ff0a", "binary"), 0);
    got = TOOL("-d", dir, "--hex", "get", "00FF0a");
    expect_status(got, 0);
    EXPECT(strcmp(got.out, "binary") == 0);
    got = TOOL("-d", dir, "--hex", "ls", "00ff");
    EXPECT(has(got.out, "00ff0a"));
    got = TOOL("-d", dir, "--hex", "--json", "ls");
    EXPECT(json_lines(got.out) == 1 && has(got.out, "\"key\": \"00ff0a\", \"key_encoding\": \"hex\""));
    got = TOOL("-d", dir, "--json", "ls");
    EXPECT(json_lines(got.out) == 1 && has(got.out, "\"key_encoding\": \"base64\""));
    got = TOOL("-d", dir, "ls");
    EXPECT(has(got.out, "\\x00") && has(got.out, "\\x0a"));
}

TEST(an_entry_with_a_ttl_ends)
{
    const char *dir = fresh_dir();
    struct outcome got;

    expect_status(TOOL("-d", dir, "put", "k", "v", "--ttl", "60000"), 0);
    got = TOOL("-d", dir, "--json", "get", "k");
    EXPECT(json_number(got.out, "ttl_ms") > 0 && json_number(got.out, "ttl_ms") <= 60000);
    expect_status(TOOL("-d", dir, "put", "k", "v", "--ttl", "1"), 0);
    EXPECT(test_until(TOOL("-d", dir, "get", "k").status == 1, 5000));
}

TEST(ls_shows_what_is_served_and_why_the_rest_is_not)
{
    const char *dir = fresh_dir();
    freshet *app = host_solo(dir, 0); /* a living application: its records are listed without its help */
    struct outcome list;

    EXPECT(host_put(app, "order:1", "one") == FRESHET_OK && host_put(app, "order:2", "two") == FRESHET_OK &&
           host_put(app, "user:1", "u") == FRESHET_OK);
    EXPECT(freshet_flush(app, 0) == FRESHET_OK);
    EXPECT(host_invalidate(app, "order:2") == FRESHET_OK);
    list = TOOL("-d", dir, "--json", "ls");
    expect_status(list, 0);
    EXPECT_EQ(json_lines(list.out), 3);
    list = TOOL("-d", dir, "--json", "ls", "order:");
    expect_status(list, 0);
    EXPECT_EQ(json_lines(list.out), 2);
    EXPECT(has(list.out, "\"servable\": true, \"why\": \"\""));
    EXPECT(has(list.out, "\"servable\": false, \"why\": \"fence\""));
    list = TOOL("-d", dir, "ls", "order:");
    EXPECT(has(list.out, "KEY") && has(list.out, "order:1") && has(list.out, "fence"));
    list = TOOL("-d", dir, "ls", "none:");
    expect_status(list, 1);
    EXPECT_EQ(list.out_size, 0);
    freshet_close(app);
}

TEST(tags_and_namespaces_by_the_tool)
{
    const char *dir = fresh_dir();
    freshet *app = host_solo(dir, 0);
    struct outcome list;

    expect_status(TOOL("-d", dir, "put", "a", "1", "--tag", "red", "--tag", "blue", "--namespace", "shop"), 0);
    expect_status(TOOL("-d", dir, "put", "b", "2", "--tag", "red"), 0);
    expect_status(TOOL("-d", dir, "put", "c", "3", "--namespace", "shop"), 0);
    expect_status(TOOL("-d", dir, "put", "d", "4"), 0);
    list = TOOL("-d", dir, "--json", "ls", "--tag", "red");
    expect_status(list, 0);
    EXPECT_EQ(json_lines(list.out), 2);
    list = TOOL("-d", dir, "--json", "ls", "--tag", "red", "--namespace", "shop");
    EXPECT(json_lines(list.out) == 1 && has(list.out, "\"tags\": [\""));
    expect_status(TOOL("-d", dir, "ls", "--tag", "green"), 1);
    list = TOOL("-d", dir, "ls");
    EXPECT(has(list.out, "TAGS") && has(list.out, "     3  "));
    expect_status(TOOL("-d", dir, "invalidate", "--tag", "green", "--tag", "red"), 0);
    EXPECT(host_get(app, "a", NULL, 0) == FRESHET_MISS && host_get(app, "b", NULL, 0) == FRESHET_MISS);
    EXPECT(host_gets(app, "c", "3") && host_gets(app, "d", "4"));
    expect_status(TOOL("-d", dir, "clear", "--namespace", "shop"), 0);
    EXPECT(host_get(app, "c", NULL, 0) == FRESHET_MISS && host_gets(app, "d", "4"));
    list = TOOL("-d", dir, "--json", "stat");
    EXPECT_EQ(json_number(list.out, "tag_changes"), 3);
    EXPECT_EQ(json_number(list.out, "tag_fences"), 3);
    freshet_close(app);
}

TEST(changes_by_the_tool_reach_the_application)
{
    const char *dir = fresh_dir();
    freshet *app = host_solo(dir, 0);
    struct outcome changed;

    EXPECT(host_put(app, "a", "old") == FRESHET_OK && host_put(app, "b", "old") == FRESHET_OK &&
           host_put(app, "c", "old") == FRESHET_OK);
    expect_status(TOOL("-d", dir, "put", "a", "new"), 0);
    EXPECT(host_gets(app, "a", "new"));
    changed = TOOL("-d", dir, "--json", "invalidate", "a", "b");
    expect_status(changed, 0);
    EXPECT(json_lines(changed.out) == 1 && has(changed.out, "\"result\": \"ok\"") &&
           json_number(changed.out, "position") > 0);
    EXPECT(host_get(app, "a", NULL, 0) == FRESHET_MISS && host_get(app, "b", NULL, 0) == FRESHET_MISS);
    EXPECT(host_gets(app, "c", "old"));
    expect_status(TOOL("-d", dir, "clear"), 0);
    EXPECT(host_get(app, "c", NULL, 0) == FRESHET_MISS);
    freshet_close(app);
}

TEST(stat_tells_people_and_programs_the_same)
{
    const char *dir = fresh_dir();
    freshet *app = host_solo(dir, 0);
    struct outcome json, table, twice;

    EXPECT(host_put(app, "k", "v") == FRESHET_OK && host_gets(app, "k", "v") &&
           host_get(app, "none", NULL, 0) == FRESHET_MISS && freshet_flush(app, 0) == FRESHET_OK);
    json = TOOL("-d", dir, "--json", "stat");
    expect_status(json, 0);
    EXPECT_EQ(json_lines(json.out), 1);
    EXPECT_EQ(json_number(json.out, "hits"), 1);
    EXPECT_EQ(json_number(json.out, "misses"), 1);
    EXPECT_EQ(json_number(json.out, "puts"), 1);
    EXPECT_EQ(json_number(json.out, "entries"), 1);
    EXPECT_EQ(json_number(json.out, "processes"), 2);
    EXPECT(json_number(json.out, "hit_ratio") == 0.5 && has(json.out, "\"fleet\": false"));
    table = TOOL("-d", dir, "stat");
    expect_status(table, 0);
    EXPECT(has(table.out, "Freshness") && has(table.out, "hit ratio") && has(table.out, "50.00 %") &&
           has(table.out, "entries") && !has(table.out, "\033"));
    twice = TOOL("-d", dir, "--json", "stat", "--watch", "--count", "2");
    expect_status(twice, 0);
    EXPECT_EQ(json_lines(twice.out), 2);
    freshet_close(app);
}

TEST(a_tier_of_any_bound_can_be_looked_at)
{
    static const unsigned bounds[] = {20, 100, 600000};

    for (int i = 0; i < 3; i++) {
        const char *dir = fresh_dir();
        freshet *app = host_solo(dir, bounds[i]);
        struct outcome stat;

        EXPECT(host_put(app, "k", "v") == FRESHET_OK);
        expect_status(TOOL("-d", dir, "get", "k"), 0);
        stat = TOOL("-d", dir, "--json", "stat");
        expect_status(stat, 0);
        EXPECT_EQ(json_number(stat.out, "max_staleness_ms"), bounds[i]);
        freshet_close(app);
    }
}

TEST(output_that_cannot_be_written_is_a_failure)
{
    const char *dir = fresh_dir();
    const char *path = tool_path();
    int full = open("/dev/full", O_WRONLY), status;
    pid_t child;

    expect_status(TOOL("-d", dir, "put", "k", "v"), 0);
    if (full < 0)
        test_skip("there is no /dev/full");
    if ((child = test_fork()) == 0) {
        dup2(full, 1);
        execl(path, path, "-d", dir, "get", "k", (char *)NULL);
        _exit(127);
    }
    EXPECT(waitpid(child, &status, 0) == child && WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 3);
}

/* ---- keyrings ---- */

TEST(keygen_makes_a_private_file_and_never_overwrites_one)
{
    char path[320], second[330];
    struct stat info;

    snprintf(path, sizeof path, "%s/ring", fresh_dir());
    snprintf(second, sizeof second, "%s.2", path);
    expect_status(TOOL("keygen", path), 0);
    EXPECT(stat(path, &info) == 0 && (info.st_mode & 0777) == 0600);
    expect_status(TOOL("keygen", path), 3);
    struct outcome like = TOOL("--json", "keygen", second, "--like", path);
    expect_status(like, 0);
    EXPECT_EQ(json_lines(like.out), 1);
    expect_status(TOOL("keygen", second, "--like", "/nonexistent/ring"), 3);
}

/* ---- the fleet ---- */

TEST(a_fleet_s_tier_is_read_without_redis_and_changed_only_through_it)
{
    struct redis redis;
    const char *dir = fresh_dir(), *ring = host_keyring();
    freshet *app;
    struct outcome got;

    redis_start(&redis, NULL);
    app = host_join(dir, &redis, 0);
    EXPECT(host_put(app, "k", "v") == FRESHET_OK && freshet_flush(app, 0) == FRESHET_OK);
    got = TOOL("-d", dir, "get", "k");
    expect_status(got, 0);
    EXPECT(strcmp(got.out, "v") == 0);

    got = TOOL("-d", dir, "--json", "invalidate", "k");
    expect_status(got, 3);
    EXPECT(has(got.err, "--url and --keyring") && has(got.out, "\"result\": \"efleet\""));
    EXPECT(host_gets(app, "k", "v"));

    expect_status(TOOL("-d", dir, "--url", redis.url, "--keyring", ring, "put", "k", "w"), 0);
    EXPECT(host_gets(app, "k", "w"));
    expect_status(TOOL("-d", dir, "--url", redis.url, "--keyring", ring, "invalidate", "k"), 0);
    EXPECT(host_get(app, "k", NULL, 0) == FRESHET_MISS);

    got = TOOL("-d", dir, "--json", "stat");
    EXPECT(has(got.out, "\"fleet\": true"));
    EXPECT(json_number(got.out, "proven_age_ms") >= 0);
    EXPECT(json_number(got.out, "subscriber_pid") == getpid());
    EXPECT(json_number(got.out, "applied") > 0);
    freshet_close(app);
}

TEST(a_host_without_a_tier_reads_and_invalidates_through_redis)
{
    struct redis redis;
    const char *dir = fresh_dir(), *empty = fresh_dir(), *ring = host_keyring();
    freshet *app;
    struct outcome got;

    redis_start(&redis, NULL);
    app = host_join(dir, &redis, 0);
    EXPECT(host_put(app, "k", "v") == FRESHET_OK && freshet_flush(app, 0) == FRESHET_OK);
    got = TOOL("-d", empty, "--url", redis.url, "--keyring", ring, "--json", "get", "k");
    expect_status(got, 0);
    EXPECT(has(got.out, "\"value\": \"v\"") && has(got.out, "\"source\": \"redis\""));
    expect_status(TOOL("-d", empty, "--url", redis.url, "--keyring", ring, "invalidate", "k"), 0);
    EXPECT(test_until(host_get(app, "k", NULL, 0) == FRESHET_MISS, 5000));
    EXPECT(is_empty_dir(empty));
    freshet_close(app);
}

TEST(a_change_that_redis_does_not_confirm_is_queued_and_says_so)
{
    struct redis redis;
    const char *dir = fresh_dir(), *empty = fresh_dir(), *ring = host_keyring();
    freshet *app;
    struct outcome changed;

    redis_start(&redis, NULL);
    app = host_join(dir, &redis, 0);
    EXPECT(host_put(app, "k", "v") == FRESHET_OK);
    redis_stop(&redis);
    changed = TOOL("-d", dir, "--url", redis.url, "--keyring", ring, "--deadline", "200", "--json", "invalidate", "k");
    expect_status(changed, 4);
    EXPECT(has(changed.out, "\"result\": \"queued\"") && has(changed.err, "not confirmed"));
    changed = TOOL("-d", dir, "--json", "stat");
    EXPECT(json_number(changed.out, "outbox") >= 1);
    /* where nobody would send it later it is a failure */
    changed = TOOL("-d", empty, "--url", redis.url, "--keyring", ring, "--deadline", "200", "invalidate", "k");
    expect_status(changed, 3);
    EXPECT(is_empty_dir(empty));
    freshet_close(app);
}

TEST(a_value_whose_age_nobody_can_bound_is_status_5_and_only_when_asked_for)
{
    struct redis redis;
    const char *dir = fresh_dir();
    freshet *app;
    struct outcome got;

    redis_start(&redis, NULL);
    app = host_join(dir, &redis, 100);
    EXPECT(host_put(app, "k", "v") == FRESHET_OK && freshet_flush(app, 0) == FRESHET_OK);
    freshet_close(app); /* nobody proves the tier fresh any more */
    EXPECT(test_until(TOOL("-d", dir, "get", "k").status == 1, 5000));
    got = TOOL("-d", dir, "get", "k", "--stale");
    expect_status(got, 5);
    EXPECT(strcmp(got.out, "v") == 0);
    got = TOOL("-d", dir, "get", "k", "--stale", "--json");
    expect_status(got, 5);
    EXPECT(has(got.out, "\"result\": \"stale\"") && has(got.out, "\"stale\": true"));
}

/* What a tool that is still running has written so far. */
static bool has_written(const struct running *running, const char *part)
{
    size_t size;
    char *text = slurp(running->out_path, &size);
    bool found = has(text, part);

    return found;
}

TEST(watch_shows_verified_and_refused_frames_and_ends_by_count_or_ctrl_c)
{
    struct redis redis;
    const char *dir = fresh_dir(), *ring = host_keyring();
    struct running text, json;
    struct outcome seen;
    freshet *app;

    redis_start(&redis, NULL);
    app = host_join(dir, &redis, 0);
    text = start_tool("", 0, WORDS_OF("--url", redis.url, "--keyring", ring, "watch", "k"));
    json = start_tool("", 0, WORDS_OF("--url", redis.url, "--keyring", ring, "--json", "watch", "--count", "2"));
    EXPECT(test_until(has(redis_do(&redis, "PUBSUB NUMSUB freshet:{default:0}:frames"), "\n3"), 10000));

    EXPECT(host_invalidate(app, "k") == FRESHET_OK);
    EXPECT(test_until(has_written(&text, "verified") && has_written(&json, "\"verified\": true"), 5000));
    redis_do(&redis, "PUBLISH freshet:{default:0}:frames forged");
    EXPECT(test_until(has_written(&text, "REFUSED"), 5000));
    seen = finish_tool(&json);
    expect_status(seen, 0);
    EXPECT_EQ(json_lines(seen.out), 2);
    EXPECT(has(seen.out, "\"kind\": \"invalidate\"") && has(seen.out, "\"verified\": false"));
    EXPECT(kill(text.pid, SIGINT) == 0);
    seen = finish_tool(&text);
    expect_status(seen, 0);
    EXPECT(has(seen.out, "invalidate") && has(seen.out, "keys 1: k\n"));
    freshet_close(app);
}

/* ---- measuring ---- */

/* All that is said of the bench, in one line of JSON, whose first row is whole. */
static void expect_bench(const char *name, bool ratio)
{
    struct outcome outcome = TOOL("bench", name, "--quick", "--json");
    char head[64];

    if (outcome.status == 3 && (has(outcome.err, "redis-server") || has(outcome.err, "ptrace")))
        return; /* there is none, or it is not allowed */
    expect_status(outcome, 0);
    snprintf(head, sizeof head, "{\"bench\": \"%s\", \"rows\": [{\"case\": \"", name);
    EXPECT_EQ(json_lines(outcome.out), 1);
    EXPECT(strncmp(outcome.out, head, strlen(head)) == 0);
    EXPECT(has(outcome.out, "\"unit\": \"") && has(outcome.out, "\"judged\": \""));
    EXPECT(json_number(outcome.out, "spread") >= 1);
    EXPECT(!ratio || (json_number(outcome.out, "ours") > 0 && json_number(outcome.out, "floor") > 0 &&
                      json_number(outcome.out, "ratio") > 0));
}

TEST_LONG(bench_writes_the_json_that_was_agreed, 240)
{
    static const char *const names[] = {"fill", "fetch", "invalidate", "change", "memory"};

    if (test_sanitized())
        test_skip("measures what a sanitizer slows down");
    for (int i = 0; i < 5; i++)
        expect_bench(names[i], true);
}

TEST_LONG(bench_measures_beside_other_processes, 240)
{
    if (test_sanitized())
        test_skip("measures what a sanitizer slows down");
    expect_bench("get-2", true);
    expect_bench("get-beside", true);
}

/* The row's own figure, in what bench wrote. */
static double row_ours(const char *json, const char *name)
{
    char start[96];
    const char *row;

    snprintf(start, sizeof start, "{\"case\": \"%s\"", name);
    row = strstr(json, start);
    return row ? json_number(row, "ours") : -1;
}

TEST_LONG(a_hit_makes_no_system_call_allocates_nothing_locks_nothing_and_stores_nothing_that_others_see, 240)
{
    static const char *const kinds[] = {"64B", "1KiB"};
    static const char *const counted[] = {"system calls", "allocations", "locks"};
    struct outcome outcome;

    if (test_sanitized())
        test_skip("counts what a sanitizer adds to");
    outcome = TOOL("bench", "hit", "--quick", "--json");

    if (outcome.status == 3 && has(outcome.err, "ptrace"))
        test_skip("this system lets nobody trace a process of his own");
    expect_status(outcome, 0);
    for (int kind = 0; kind < 2; kind++) {
        char name[64];

        for (int i = 0; i < 3; i++) {
            snprintf(name, sizeof name, "%s/%s", kinds[kind], counted[i]);
            EXPECT(row_ours(outcome.out, name) == 0);
        }
        /* The counters go to the page now and then, hits or no hits. */
        snprintf(name, sizeof name, "%s/stores others see", kinds[kind]);
        EXPECT(row_ours(outcome.out, name) >= 0 && row_ours(outcome.out, name) <= 0.01);
    }
}

TEST_LONG(a_frame_is_verified_once_by_a_host_of_eight_processes, 240)
{
    struct outcome outcome = TOOL("bench", "fence", "--quick", "--json");
    const char *row;

    if (outcome.status == 3 && has(outcome.err, "redis-server"))
        test_skip("there is no redis-server on the PATH");
    expect_status(outcome, 0);
    row = strstr(outcome.out, "{\"case\": \"8 processes/verified\"");
    EXPECT(row && json_number(row, "floor") > 0 && json_number(row, "ours") == json_number(row, "floor"));
}
