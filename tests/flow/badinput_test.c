/*
 * badinput_test.c - what others may do to us: each is answered by its own result and a sentence that names cause and
 * remedy, and nothing is lost, crashed or believed.
 *
 * The test writes straight into Redis what somebody with access, but without a key, could write.
 */
#include <freshet_fleet.h>
#include <hosts.h>
#include <test.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PREFIX  "freshet:{default:0}:"
#define CHANNEL PREFIX "frames"
#define BOUND   1000

static freshet_stats stats_of(freshet *cache)
{
    freshet_stats stats = FRESHET_INIT(freshet_stats);

    EXPECT_EQ(freshet_stat(cache, &stats), FRESHET_OK);
    return stats;
}

/* The sentence speaks of this (one of the words will do), and shows no secret. */
static void expect_error_names(const char *words)
{
    char list[200], *rest = list, *word;
    const char *error = freshet_error();
    bool found = false;

    snprintf(list, sizeof list, "%s", words);
    while ((word = strsep(&rest, "|")))
        found = found || strcasestr(error, word) != NULL;
    if (!found)
        fprintf(stderr, "freshet_error(): \"%s\" names none of %s\n", error, words);
    EXPECT(found && strlen(error) > 20 && !strstr(error, "secret"));
}

static freshet_result join(freshet *cache, const char *url, const char *keyring)
{
    freshet_join_options options = FRESHET_INIT(freshet_join_options);

    options.keyring = keyring;
    return freshet_join(cache, url, &options);
}

/* After a failure the cache is as it was before: it works alone, and it can still join. */
static void expect_unharmed(freshet *cache)
{
    EXPECT_EQ(host_put(cache, "unharmed", "v"), FRESHET_OK);
    EXPECT(host_gets(cache, "unharmed", "v"));
}

/* ---- options ---- */

TEST(options_out_of_range_are_refused_by_name)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache = NULL;
    const char *const names[] = {"", "a/b", "../x", "a b", "a\n", "ä", ".", "..", "{x}", "a:b"};
    char long_name[80];

    options.dir = fresh_dir();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        options.name = names[i];
        EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
        expect_error_names("name");
    }
    memset(long_name, 'x', sizeof long_name);
    long_name[65] = '\0';
    options.name = long_name;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    options.name = NULL;
    options.tier_size = (1u << 20) - 1;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    expect_error_names("tier_size");
    options.tier_size = 0;
    options.max_staleness_ms = 19;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    expect_error_names("max_staleness_ms");
    options.max_staleness_ms = 600001;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    options.max_staleness_ms = 0;
    options.partitions = 17;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    expect_error_names("partitions");
    options.partitions = 0;
    options.policy = (freshet_policy)7;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    expect_error_names("policy");
    options.policy = FRESHET_SERVE_NONE;
    options.struct_size = 4;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_EINVAL);
    expect_error_names("FRESHET_INIT");
    EXPECT_EQ(freshet_open(NULL, NULL), FRESHET_EINVAL);
    EXPECT(cache == NULL);
    options.struct_size = sizeof options;
    options.max_staleness_ms = 20;
    options.tier_size = 1u << 20;
    options.partitions = 16;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK); /* the edges themselves are fine */
    freshet_close(cache);
    freshet_close(NULL);
}

TEST(every_result_has_a_name_and_a_text)
{
    for (int i = -20; i < 20; i++) {
        EXPECT(freshet_result_name((freshet_result)i) && freshet_result_name((freshet_result)i)[0]);
        EXPECT(freshet_result_text((freshet_result)i) && freshet_result_text((freshet_result)i)[0]);
    }
    EXPECT(strcmp(freshet_result_name(FRESHET_EKEYRING), "FRESHET_EKEYRING") == 0);
    EXPECT(strcmp(freshet_version(), FRESHET_VERSION) == 0);
}

/* ---- the directory ---- */

static freshet_result open_dir(const char *dir)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache;
    freshet_result result;

    options.dir = dir;
    options.tier_size = 1u << 20;
    result = freshet_open(&cache, &options);
    if (result == FRESHET_OK)
        freshet_close(cache);
    return result;
}

TEST(a_directory_that_is_not_fit_is_refused)
{
    char path[400], target[400];
    int fd;

    snprintf(path, sizeof path, "%s/open", fresh_dir());
    EXPECT(mkdir(path, 0700) == 0 && chmod(path, 0750) == 0);
    EXPECT_EQ(open_dir(path), FRESHET_EDIR);
    expect_error_names("mode|chmod|group");
    EXPECT(chmod(path, 0701) == 0);
    EXPECT_EQ(open_dir(path), FRESHET_EDIR);
    EXPECT(chmod(path, 0700) == 0);
    EXPECT_EQ(open_dir(path), FRESHET_OK);

    snprintf(target, sizeof target, "%s/target", fresh_dir());
    snprintf(path, sizeof path, "%s/link", fresh_dir());
    EXPECT(mkdir(target, 0700) == 0 && symlink(target, path) == 0);
    EXPECT_EQ(open_dir(path), FRESHET_EDIR);
    expect_error_names("symlink|symbolic|link");
    EXPECT(access(target, F_OK) == 0 && rmdir(target) == 0); /* nothing was made in it */

    snprintf(path, sizeof path, "%s/file", fresh_dir());
    EXPECT((fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) >= 0);
    close(fd);
    EXPECT_EQ(open_dir(path), FRESHET_EDIR);
    expect_error_names("directory");
    snprintf(path, sizeof path, "%s/no/such/parents", fresh_dir());
    EXPECT(open_dir(path) < 0);
    expect_error_names("No such|exist");
    EXPECT(open_dir("") < 0);
}

TEST(a_directory_of_another_owner_is_refused)
{
    const char *dir = fresh_dir();

    if (geteuid() != 0)
        test_skip("only root can give a directory away");
    EXPECT(chown(dir, 12345, 12345) == 0);
    EXPECT_EQ(open_dir(dir), FRESHET_EDIR);
    expect_error_names("12345|uid|owner|belongs");
    IN_CHILD({ /* nor is one that root left for us in our way */
               const char *other = fresh_dir();

               EXPECT(chmod(test_home(), 0755) == 0 && chmod(other, 0700) == 0);
               EXPECT(setgid(12345) == 0 && setuid(12345) == 0);
               EXPECT_EQ(open_dir(other), FRESHET_EDIR);
    });
}

TEST(files_in_the_directory_that_are_links_are_not_followed)
{
    const char *const names[] = {"control", "lock"};

    for (int i = 0; i < 2; i++) {
        const char *dir = fresh_dir();
        char path[400], target[400];
        struct stat stat_;
        int fd;

        snprintf(target, sizeof target, "%s/target", fresh_dir());
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        EXPECT((fd = open(target, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) >= 0 && write(fd, "precious", 8) == 8);
        close(fd);
        EXPECT(symlink(target, path) == 0);
        (void)open_dir(dir);
        EXPECT(stat(target, &stat_) == 0 && stat_.st_size == 8);
    }
}

TEST(a_full_file_system_is_an_error_at_open_and_a_miss_later)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache;
    char dir[400], path[420];
    static char block[64 << 10];
    const char *mount_point = fresh_dir();
    int fd;

    if (geteuid() != 0 || unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("tmpfs", mount_point, "tmpfs", 0, "size=1m,mode=700") != 0)
        test_skip("only root can mount a file system of 1 MiB");
    snprintf(dir, sizeof dir, "%s/tier", mount_point);
    options.dir = dir;
    options.tier_size = 256u << 20; /* its control page alone is larger */
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_ENOSPC);
    expect_error_names("room|space|full|device");
    EXPECT(mount(NULL, mount_point, NULL, MS_REMOUNT, "size=4m") == 0);
    options.tier_size = 8u << 20; /* it opens, and the map meets the end of the file system long before its own */
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    snprintf(path, sizeof path, "%s/filler", mount_point);
    for (int i = 0; i < 300; i++) {
        char key[16];
        freshet_result result;

        snprintf(key, sizeof key, "k%d", i);
        EXPECT_EQ(freshet_put(cache, key, strlen(key), block, sizeof block, NULL, NULL), FRESHET_OK);
        result = host_get(cache, key, NULL, 0);
        EXPECT(result == FRESHET_OK || result == FRESHET_MISS);
    }
    EXPECT((fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)) >= 0);
    while (write(fd, block, sizeof block) > 0) /* and then not a byte is left at all */
        continue;
    close(fd);
    for (int i = 0; i < 50; i++)
        EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    EXPECT(unlink(path) == 0);
    EXPECT(test_until(host_put(cache, "k", "v") == FRESHET_OK && host_gets(cache, "k", "v"), 10000)); /* it recovers */
    freshet_close(cache);
}

/* ---- the url ---- */

TEST(a_url_that_cannot_be_is_refused_with_the_reason)
{
    const struct {
        const char *url, *words;
    } urls[] = {
        {"", "url"},
        {"redis", "url|scheme"},
        {"http://localhost", "scheme"},
        {"REDISS://x", "TLS"},
        {"rediss://localhost:6379", "TLS"},
        {"redis://", "host"},
        {"redis://:6379", "host"},
        {"redis://localhost:0", "port"},
        {"redis://localhost:65536", "port"},
        {"redis://localhost:x", "port"},
        {"redis://localhost:-1", "port"},
        {"redis://localhost/x", "database"},
        {"redis://localhost/-1", "database"},
        {"redis://localhost/99999999999", "database"},
        {"unix://", "path"},
        {"unix://relative", "path"},
        {"unix:///x?db=y", "database"},
        {"unix:///x?nonsense=1", "nonsense|db="},
        {"redis://u:secret%zz@localhost", "%|percent"},
        {"redis://u:secret@", "host"},
    };
    freshet *cache = host_solo(fresh_dir(), 0);
    char *long_url = malloc(70000);

    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        freshet_result result = join(cache, urls[i].url, host_keyring());

        if (result != FRESHET_EINVAL)
            fprintf(stderr, "%s: %s\n", urls[i].url, freshet_result_name(result));
        EXPECT_EQ(result, FRESHET_EINVAL);
        EXPECT(strlen(freshet_error()) > 10 && !strstr(freshet_error(), "secret"));
        (void)urls[i].words;
    }
    EXPECT_EQ(join(cache, "rediss://localhost", host_keyring()), FRESHET_EINVAL);
    expect_error_names("TLS");
    EXPECT_EQ(join(cache, "http://localhost", host_keyring()), FRESHET_EINVAL);
    expect_error_names("http|redis://|scheme");
    EXPECT_EQ(join(cache, "redis://localhost:65536", host_keyring()), FRESHET_EINVAL);
    expect_error_names("port");
    EXPECT_EQ(join(cache, NULL, host_keyring()), FRESHET_EINVAL);
    EXPECT_EQ(freshet_join(NULL, "redis://x", NULL), FRESHET_EINVAL);
    EXPECT(long_url != NULL);
    memset(long_url, 'x', 69999);
    memcpy(long_url, "redis://", 8);
    long_url[69999] = '\0';
    EXPECT_EQ(join(cache, long_url, host_keyring()), FRESHET_EINVAL);
    free(long_url);
    expect_unharmed(cache);
    freshet_close(cache);
}

TEST(a_redis_that_is_not_there_leaves_the_cache_trying)
{
    freshet_options options = FRESHET_INIT(freshet_options);
    struct redis redis;
    freshet *cache;
    int64_t begun;

    redis_start(&redis, NULL);
    redis_stop(&redis);
    options.dir = fresh_dir();
    options.deadline_ms = 500;
    EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
    begun = test_now_ns();
    EXPECT_EQ(join(cache, redis.url, host_keyring()), FRESHET_UNPROVEN);
    EXPECT(test_now_ns() - begun < 3000 * 1000000LL);
    EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
    redis_restart(&redis);
    EXPECT(test_until(host_put(cache, "k", "v") == FRESHET_OK && host_gets(cache, "k", "v"), 20000));
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- the keyring ---- */

static const char *write_file(const char *text, mode_t mode)
{
    static char path[400];
    int fd;

    snprintf(path, sizeof path, "%s/file", fresh_dir());
    fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    EXPECT(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    EXPECT(fchmod(fd, mode) == 0);
    close(fd);
    return path;
}

static char *read_file(const char *path)
{
    static char text[8192];
    FILE *file = fopen(path, "re");

    EXPECT(file != NULL);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    return text;
}

TEST(a_keyring_that_is_not_fit_is_refused)
{
    struct redis redis;
    freshet *cache = host_solo(fresh_dir(), 0);
    char good[8192], link_[400];
    const char *path;

    redis_start(&redis, NULL);
    snprintf(good, sizeof good, "%s", read_file(host_keyring()));
    EXPECT_EQ(join(cache, redis.url, write_file(good, 0640)), FRESHET_EKEYRING);
    expect_error_names("chmod|mode|group|0600|readable");
    EXPECT_EQ(join(cache, redis.url, write_file(good, 0604)), FRESHET_EKEYRING);
    EXPECT_EQ(join(cache, redis.url, "/nonexistent/keyring"), FRESHET_EKEYRING);
    expect_error_names("/nonexistent/keyring");
    EXPECT_EQ(join(cache, redis.url, fresh_dir()), FRESHET_EKEYRING);
    EXPECT(join(cache, redis.url, NULL) < 0);
    expect_error_names("keyring");
    path = write_file(good, 0600);
    snprintf(link_, sizeof link_, "%s/link", fresh_dir());
    EXPECT(symlink(path, link_) == 0);
    EXPECT_EQ(join(cache, redis.url, link_), FRESHET_EKEYRING);
    for (const char *const *bad = (const char *const[]){"", "nonsense\n", "freshet keyring 1\n", "freshet keyring 2\n",
                                                        "freshet keyring 1\nsign 00 11\n", NULL};
         *bad; bad++) {
        EXPECT_EQ(join(cache, redis.url, write_file(*bad, 0600)), FRESHET_EKEYRING);
        EXPECT(strlen(freshet_error()) > 20);
    }
    for (size_t size = strlen(good) - 2; size > 20; size -= size < 60 ? 10 : 37) { /* cut short anywhere */
        char cut[8192];
        freshet_result result;

        snprintf(cut, sizeof cut, "%.*s", (int)size, good);
        result = join(cache, redis.url, write_file(cut, 0600));
        EXPECT_EQ(result, FRESHET_EKEYRING);
    }
    if (geteuid() == 0) {
        path = write_file(good, 0600);
        EXPECT(chown(path, 12345, 12345) == 0);
        EXPECT_EQ(join(cache, redis.url, path), FRESHET_EKEYRING);
        expect_error_names("12345|owner|belongs|uid");
    }
    EXPECT_EQ(join(cache, redis.url, write_file(good, 0400)), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&redis);
}

struct heard {
    _Atomic unsigned unknown_key, lines;
};

static void hear(freshet_level level, const char *message, void *arg)
{
    struct heard *heard = arg;

    (void)level;
    heard->lines++;
    if (strcasestr(message, "unknown key") || strcasestr(message, "key id") || strcasestr(message, "keyring") ||
        strcasestr(message, "not in"))
        heard->unknown_key++;
}

/* Another fleet's keyring: what it writes we do not believe, what we wrote it cannot read; and we are told why. */
TEST(frames_and_values_of_an_unknown_key_are_refused)
{
    struct redis redis;
    char strange[400];
    freshet *ours, *theirs;
    struct heard heard = {0};
    uint64_t floor;

    redis_start(&redis, NULL);
    snprintf(strange, sizeof strange, "%s/keyring", fresh_dir());
    EXPECT_EQ(freshet_keygen(strange, NULL), FRESHET_OK);
    EXPECT_EQ(freshet_keygen(strange, NULL), FRESHET_EKEYRING); /* it must not exist */
    ours = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_put(ours, "k", "v"), FRESHET_OK);
    freshet_log(hear, &heard, FRESHET_INFO);
    theirs = host_solo(fresh_dir(), BOUND);
    EXPECT(join(theirs, redis.url, strange) >= 0);
    EXPECT_EQ(host_get(theirs, "k", NULL, 0), FRESHET_MISS); /* it cannot be opened: as if it were not there */
    floor = stats_of(ours).floor;
    EXPECT_EQ(host_put(theirs, "k", "forged"), FRESHET_OK);
    EXPECT(test_until(stats_of(ours).frames_refused >= 1, 10000));
    EXPECT(test_until(stats_of(ours).applied >= stats_of(theirs).position, 10000));
    EXPECT(stats_of(ours).floor > floor); /* an entry that cannot be verified might have been about anything */
    EXPECT_EQ(host_get(ours, "k", NULL, 0), FRESHET_MISS);
    EXPECT(!host_gets(ours, "k", "forged"));
    EXPECT(test_until(heard.unknown_key >= 1, 5000));
    EXPECT_EQ(host_put(ours, "k", "again"), FRESHET_OK);
    EXPECT(test_until(host_gets(ours, "k", "again"), 5000));
    freshet_log(NULL, NULL, FRESHET_DEBUG);
    freshet_close(ours);
    freshet_close(theirs);
    redis_stop(&redis);
}

TEST(keyrings_made_alike_trust_each_other)
{
    struct redis redis;
    char other[400];
    freshet *a, *b;

    redis_start(&redis, NULL);
    snprintf(other, sizeof other, "%s/keyring", fresh_dir());
    a = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(freshet_keygen(other, host_keyring()), FRESHET_OK); /* a's file learns of it while a works */
    b = host_solo(fresh_dir(), BOUND);
    EXPECT_EQ(join(b, redis.url, other), FRESHET_OK);
    EXPECT_EQ(host_put(a, "k", "one"), FRESHET_OK);
    EXPECT(test_until(host_gets(b, "k", "one"), 5000));
    EXPECT_EQ(host_put(b, "k", "two"), FRESHET_OK);
    EXPECT(test_until(host_gets(a, "k", "two"), 10000));
    EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK);
    EXPECT(test_until(host_get(a, "k", NULL, 0) == FRESHET_MISS, 10000));
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* ---- what Redis refuses ---- */

/* Join with these credentials; the result, with the sentence set. */
static freshet_result join_with(struct redis *redis, freshet *cache, const char *credentials)
{
    char url[300];

    snprintf(url, sizeof url, "unix://%s%s", credentials, redis->socket);
    return join(cache, url, host_keyring());
}

TEST(a_wrong_password_is_refused_and_never_shown)
{
    struct redis redis;
    freshet *cache = host_solo(fresh_dir(), 0);

    redis_start(&redis, (const char *const[]){"--requirepass", "secret1", NULL});
    snprintf(redis.password, sizeof redis.password, "secret1");
    EXPECT_EQ(join_with(&redis, cache, ""), FRESHET_EREDIS);
    expect_error_names("password|AUTH|authenti");
    EXPECT_EQ(join_with(&redis, cache, ":secret2@"), FRESHET_EREDIS);
    expect_error_names("password|WRONGPASS|authenti");
    EXPECT_EQ(join_with(&redis, cache, "nobody:secret1@"), FRESHET_EREDIS);
    expect_unharmed(cache);
    EXPECT_EQ(join_with(&redis, cache, ":secret1@"), FRESHET_OK);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_user_without_the_right_to_what_is_needed_is_refused)
{
    const struct {
        const char *rights, *words;
    } users[] = {
        {"~* +@all", "channel"},           /* no channel */
        {"~* &other +@all", "channel"},    /* another one */
        {"~other &* +@all", "key|NOPERM"}, /* no keys */
        {"~* &* +@all -evalsha -eval -script", "NOPERM|permission|eval"},
        {"~* &* +@all -subscribe", "NOPERM|permission|subscribe|channel"},
    };
    struct redis redis;
    freshet *cache = host_solo(fresh_dir(), 0);

    redis_start(&redis, NULL);
    for (size_t i = 0; i < sizeof users / sizeof *users; i++) {
        char credentials[64];
        freshet_result result;

        EXPECT(strcmp(redis_do(&redis, "ACL SETUSER u%zu on >secret resetkeys resetchannels %s", i, users[i].rights),
                      "OK") == 0);
        snprintf(credentials, sizeof credentials, "u%zu:secret@", i);
        result = join_with(&redis, cache, credentials);
        if (result != FRESHET_EREDIS)
            fprintf(stderr, "%s: %s\n", users[i].rights, freshet_result_name(result));
        EXPECT_EQ(result, FRESHET_EREDIS);
        expect_error_names(users[i].words);
        expect_unharmed(cache);
    }
    EXPECT(strcmp(redis_do(&redis, "ACL SETUSER good on >secret ~freshet:* &freshet:* +@all -@admin"), "OK") == 0);
    EXPECT_EQ(join_with(&redis, cache, "good:secret@"), FRESHET_OK); /* what it needs and no more */
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_redis_that_may_evict_anything_is_refused_unless_asked_for)
{
    struct redis redis;
    freshet_join_options options = FRESHET_INIT(freshet_join_options);
    freshet *cache = host_solo(fresh_dir(), 0);

    redis_start(&redis, (const char *const[]){"--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru", NULL});
    EXPECT_EQ(join(cache, redis.url, host_keyring()), FRESHET_EREDIS);
    expect_error_names("allkeys-lru");
    expect_error_names("allow_evicting_redis|volatile|noeviction");
    expect_unharmed(cache);
    options.keyring = host_keyring();
    options.allow_evicting_redis = true;
    EXPECT_EQ(freshet_join(cache, redis.url, &options), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&redis);
}

TEST(a_replica_is_refused)
{
    struct redis master, replica;
    freshet *cache = host_solo(fresh_dir(), 0);

    redis_start_tcp(&master, NULL);
    redis_start(&replica, NULL);
    EXPECT(strcmp(redis_do(&replica, "REPLICAOF 127.0.0.1 %d", master.port), "OK") == 0);
    EXPECT(test_until(strstr(redis_do(&replica, "INFO replication"), "master_link_status:up"), 20000));
    EXPECT_EQ(join(cache, replica.url, host_keyring()), FRESHET_EREDIS);
    expect_error_names("replica|read-only|READONLY|master");
    expect_unharmed(cache);
    EXPECT_EQ(join(cache, master.url, host_keyring()), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&replica);
    redis_stop(&master);
}

TEST(a_tier_of_one_fleet_is_not_joined_to_another)
{
    struct redis one, two;
    const char *dir = fresh_dir();
    freshet *cache, *sibling;

    redis_start(&one, NULL);
    redis_start(&two, NULL);
    (void)host_keyring();
    cache = host_join(dir, &one, BOUND);
    IN_CHILD({
        freshet *own = host_solo(dir, BOUND);

        EXPECT_EQ(host_put(own, "k", "v"), FRESHET_EFLEET);
        expect_error_names("fleet|join");
        EXPECT_EQ(host_invalidate(own, "k"), FRESHET_EFLEET);
        EXPECT_EQ(freshet_clear(own, NULL, NULL), FRESHET_EFLEET);
        EXPECT_EQ(join(own, two.url, host_keyring()), FRESHET_EBUSY);
        expect_error_names("fleet");
        EXPECT_EQ(join(own, one.url, host_keyring()), FRESHET_OK);
        EXPECT_EQ(host_put(own, "k", "v"), FRESHET_OK);
        freshet_close(own);
    });
    EXPECT(test_until(host_gets(cache, "k", "v"), 5000));
    sibling = host_solo(dir, BOUND);
    EXPECT_EQ(join(sibling, one.url, host_keyring()), FRESHET_OK);
    freshet_close(sibling);
    freshet_close(cache);
    redis_stop(&one);
    redis_stop(&two);
}

TEST(hosts_that_disagree_with_the_fleet_are_refused)
{
    struct redis redis;
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet *cache, *other;

    redis_start(&redis, NULL);
    cache = host_join(fresh_dir(), &redis, 500);
    options.max_staleness_ms = 1000;
    options.dir = fresh_dir();
    EXPECT_EQ(freshet_open(&other, &options), FRESHET_OK);
    EXPECT_EQ(join(other, redis.url, host_keyring()), FRESHET_EINVAL);
    expect_error_names("max_staleness");
    freshet_close(other);
    options.max_staleness_ms = 500;
    options.dir = fresh_dir();
    options.partitions = 4;
    EXPECT_EQ(freshet_open(&other, &options), FRESHET_OK);
    EXPECT_EQ(join(other, redis.url, host_keyring()), FRESHET_EINVAL);
    expect_error_names("partition");
    freshet_close(other);
    EXPECT_EQ(host_put(cache, "k", "v"), FRESHET_OK);
    freshet_close(cache);
    redis_stop(&redis);
}

/* ---- garbage in Redis ---- */

/* Commands of any bytes. */
static const char *do_bytes(struct redis *redis, const char *command, const char *key, const char *field,
                            const void *bytes, size_t size)
{
    const void *words[5] = {command, key};
    size_t sizes[5] = {strlen(command), strlen(key)};
    int count = 2;

    if (field) { /* XADD key id f bytes */
        words[count] = field, sizes[count++] = strlen(field);
        words[count] = "f", sizes[count++] = 1;
    }
    words[count] = bytes, sizes[count++] = size;
    return redis_ask(redis, count, words, sizes, NULL);
}

static const char *record_key(const char *key)
{
    static char name[100];
    uint8_t hash[16];
    int at = snprintf(name, sizeof name, PREFIX "record:");

    freshet_key_hash("default", key, strlen(key), hash);
    for (int i = 0; i < 16; i++)
        at += snprintf(name + at, sizeof name - (size_t)at, "%02x", hash[i]);
    return name;
}

/* The fleet still does its work, on both hosts.  After a rotation recent changes are sent again, so a put may have to
 * be said twice: a miss too many. */
static void expect_alive(freshet *a, freshet *b)
{
    EXPECT(test_until(host_put(a, "alive", "one") == FRESHET_OK && host_gets(b, "alive", "one"), 20000));
    EXPECT(test_until(host_put(b, "alive", "two") == FRESHET_OK && host_gets(a, "alive", "two"), 20000));
}

TEST(garbage_on_the_channel_is_refused_and_costs_nothing_else)
{
    struct redis redis;
    freshet *a, *b;
    static uint8_t bytes[200000];
    uint64_t seed = 3;
    const size_t sizes[] = {0,  1,   7,   8,   15,   16,    17,    80,    87,    88,
                            89, 143, 144, 160, 1000, 16528, 16529, 16545, 70000, 200000};

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_put(a, "k", "v"), FRESHET_OK);
    EXPECT(test_until(host_gets(b, "k", "v"), 5000));
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            for (size_t j = 0; j < sizes[i]; j++)
                bytes[j] = round == 0 ? 0 : round == 1 ? 0xff : (uint8_t)test_random(&seed);
            do_bytes(&redis, "PUBLISH", CHANNEL, NULL, bytes, sizes[i]);
        }
    EXPECT(test_until(stats_of(b).frames_refused > 10, 10000));
    EXPECT(test_until(host_gets(b, "k", "v"), 5000)); /* no fence was raised, nothing became void */
    EXPECT_EQ(stats_of(b).repairs, 0);
    expect_alive(a, b);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* True frames, changed in one byte or cut short: none of them is believed. */
TEST(a_true_frame_with_any_byte_changed_is_refused)
{
    struct redis redis;
    freshet *a, *b;
    const void *words[] = {
        "EVAL",
        "local e = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]; local m = e[2][2]; "
        "local n = tonumber(ARGV[1]); local head = string.rep('\\0', 16); "
        "if n < #m then local c = string.char((string.byte(m, n + 1) + 1) % 256); "
        "m = string.sub(m, 1, n) .. c .. string.sub(m, n + 2) else m = string.sub(m, 1, n - #m) end; "
        "return redis.call('PUBLISH', ARGV[2], head .. m)",
        "1",
        PREFIX "log",
        NULL,
        CHANNEL};
    size_t sizes[6];
    char number[16];
    uint64_t refused;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
    EXPECT(test_until(stats_of(b).applied >= stats_of(a).position, 5000));
    refused = stats_of(b).frames_refused;
    for (int n = 0; n < 144 + 100; n++) { /* 144 bytes: each changed; then cut to 0 to 99 */
        words[4] = number;
        snprintf(number, sizeof number, "%d", n);
        for (int i = 0; i < 6; i++)
            sizes[i] = strlen(words[i]);
        EXPECT(redis_ask(&redis, 6, words, sizes, NULL)[0] != '-');
    }
    EXPECT(test_until(stats_of(b).frames_refused >= refused + 244, 10000));
    expect_alive(a, b);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(garbage_in_the_log_is_survived)
{
    struct redis redis;
    freshet *a, *b;
    static uint8_t bytes[300000];
    uint64_t seed = 5;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)test_random(&seed);
    for (int i = 0; i < 8; i++) { /* entries that nobody counted, beyond the head's position */
        char id[32];

        EXPECT_EQ(host_invalidate(a, "k"), FRESHET_OK);
        snprintf(id, sizeof id, "%llu-%d", (unsigned long long)stats_of(a).position + (i % 2), 5);
        do_bytes(&redis, "XADD", PREFIX "log", id, bytes, i < 4 ? (size_t)i * 100 : sizeof bytes);
        expect_alive(a, b);
    }
    do_bytes(&redis, "XADD", PREFIX "log", "18446744073709551615-0", bytes, 10); /* no id is left above it */
    EXPECT(test_until(host_put(a, "k", "v") == FRESHET_OK && host_gets(b, "k", "v"), 20000));
    expect_alive(a, b);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

TEST(garbage_records_are_misses_and_are_cured_by_the_next_write)
{
    struct redis redis;
    freshet *a, *b;
    static uint8_t bytes[5000];
    uint64_t seed = 11;
    const size_t sizes[] = {0, 1, 2, 4, 50, 99, 100, 101, 148, 149, 1000, 5000};

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            freshet_buf buf = {0};

            for (size_t j = 0; j < sizes[i]; j++)
                bytes[j] = round == 0 ? 0 : (uint8_t)test_random(&seed);
            if (round == 2)
                memcpy(bytes, "FR\2\1", 4); /* it begins well */
            do_bytes(&redis, "SET", record_key("k"), NULL, bytes, sizes[i]);
            EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
            EXPECT_EQ(freshet_load(b, "k", 1, NULL, host_loader, "row", &buf, NULL), FRESHET_OK);
            EXPECT(buf.size == 3);
            do_bytes(&redis, "SET", record_key("k"), NULL, bytes, sizes[i]);
            EXPECT_EQ(host_put(a, "k", "v"), FRESHET_OK);
            EXPECT(test_until(host_gets(b, "k", "v"), 5000));
            EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK); /* by b: not in its tier for the next round */
            freshet_buf_free(&buf);
        }
    for (const char *const *type = (const char *const[]){"LPUSH", "SADD", NULL}; *type; type++) { /* of another type */
        redis_do(&redis, "DEL %s", record_key("k"));
        redis_do(&redis, "%s %s x", *type, record_key("k"));
        EXPECT_EQ(host_get(b, "k", NULL, 0), FRESHET_MISS);
        EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK);
        redis_do(&redis, "DEL %s", record_key("k"));
        redis_do(&redis, "%s %s x", *type, record_key("k"));
        EXPECT_EQ(host_put(a, "k", "v"), FRESHET_OK);
        EXPECT(test_until(host_gets(b, "k", "v"), 5000));
        EXPECT_EQ(host_invalidate(b, "k"), FRESHET_OK);
    }
    redis_do(&redis, "DEL " PREFIX "hosts");
    redis_do(&redis, "SET " PREFIX "hosts x");
    expect_alive(a, b);
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* A true record, changed in any byte, or put in another key's place: never another answer than what was sealed. */
TEST(a_true_record_with_any_byte_changed_or_moved_never_becomes_another_answer)
{
    struct redis redis;
    freshet *a;
    size_t size;
    char source[100];
    char *record;
    freshet *reader;

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    reader = host_join(fresh_dir(), &redis, BOUND);
    EXPECT_EQ(host_put(a, "k", "true"), FRESHET_OK);
    snprintf(source, sizeof source, "%s", record_key("k"));
    {
        const void *words[] = {"GET", source};
        const size_t sizes[] = {3, strlen(source)};
        const char *reply = redis_ask(&redis, 2, words, sizes, &size);

        EXPECT(size > 148 && (record = malloc(size)) != NULL);
        memcpy(record, reply, size);
    }
    for (size_t i = 0; i < size; i++) {
        char got[32];
        freshet_result result;

        record[i] ^= 0x41;
        do_bytes(&redis, "SET", source, NULL, record, size);
        result = host_get(reader, "k", got, sizeof got);
        EXPECT(result == FRESHET_MISS || (result == FRESHET_OK && strcmp(got, "true") == 0));
        record[i] ^= 0x41;
        EXPECT_EQ(host_invalidate(reader, "k"), FRESHET_OK); /* nothing of it in the tier for the next */
    }
    for (size_t cut = 0; cut < size; cut += 7) {
        do_bytes(&redis, "SET", source, NULL, record, cut);
        EXPECT_EQ(host_get(reader, "k", NULL, 0), FRESHET_MISS);
    }
    do_bytes(&redis, "SET", record_key("other"), NULL, record, size);
    EXPECT_EQ(host_get(reader, "other", NULL, 0), FRESHET_MISS);
    free(record);
    freshet_close(a);
    freshet_close(reader);
    redis_stop(&redis);
}

TEST(garbage_heads_are_survived)
{
    struct redis redis;
    freshet *a, *b;
    uint8_t bytes[400];
    uint64_t seed = 13, position;
    const size_t sizes[] = {0, 1, 4, 103, 104, 131, 132, 133, 400};

    redis_start(&redis, NULL);
    a = host_join(fresh_dir(), &redis, BOUND);
    b = host_join(fresh_dir(), &redis, BOUND);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int kind = 0; kind < 3; kind++) {
            position = stats_of(a).position;
            for (size_t j = 0; j < sizes[i]; j++)
                bytes[j] = kind == 0 ? 0 : (uint8_t)test_random(&seed);
            if (kind == 2)
                memcpy(bytes, "FH\2", 4);
            EXPECT(test_until(host_put(a, "k", "old") == FRESHET_OK, 5000));
            do_bytes(&redis, "SET", PREFIX "head", NULL, bytes, sizes[i]);
            EXPECT(test_until(host_invalidate(a, "k") == FRESHET_OK, 20000));
            EXPECT(!host_gets(a, "k", "old"));
            EXPECT(stats_of(a).position > position); /* only ever rises */
            expect_alive(a, b);
        }
    freshet_close(a);
    freshet_close(b);
    redis_stop(&redis);
}

/* ---- replies that are none ---- */

/* A server that answers whatever is asked with the same bytes. */
struct liar {
    int fd;
    const char *bytes;
    size_t size;
    _Atomic bool stop;
    char socket[200];
};

static void *liar_run(void *arg)
{
    struct liar *liar = arg;
    char asked[4096];

    while (!liar->stop) {
        int fd = accept(liar->fd, NULL, NULL);

        if (fd < 0)
            continue;
        if (read(fd, asked, sizeof asked) > 0)
            for (size_t sent = 0; sent < liar->size;) {
                ssize_t n = send(fd, liar->bytes + sent, liar->size - sent, MSG_NOSIGNAL);

                if (n <= 0)
                    break;
                sent += (size_t)n;
            }
        close(fd);
    }
    return NULL;
}

TEST(replies_that_are_no_replies_are_survived)
{
    static char large[1 << 20];
    struct {
        const char *bytes;
        size_t size;
    } lies[] = {
        {"", 0},
        {"\0\0\0\0", 4},
        {"HTTP/1.1 400 Bad Request\r\n\r\n", 28},
        {"$-2\r\n", 5},
        {"$99999999999999\r\n", 17},
        {"*99999999999\r\n", 14},
        {"*1000000\r\n", 10},
        {"*-7\r\n", 5},
        {":12x\r\n", 6},
        {"+OK", 3},
        {"+OK\r\n+OK\r\n+OK\r\n", 15},
        {"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", 44},
        {"$3\r\nabcdef", 10},
        {large, sizeof large},
        {"-ERR no\r\n", 9},
        {"-LOADING later\r\n", 16},
        {"%1\r\n+a\r\n+b\r\n", 12},
        {"$-1\r\n", 5},
        {"*5\r\n$2\r\nOK\r\n$8\r\nxxxxxxxx\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n1\r\n", 47},
    };

    memset(large, '*', sizeof large);
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        freshet_options options = FRESHET_INIT(freshet_options);
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        struct liar liar = {.bytes = lies[i].bytes, .size = lies[i].size};
        freshet *cache;
        pthread_t thread;
        char url[220];
        freshet_result result;

        snprintf(liar.socket, sizeof liar.socket, "%s/s", fresh_dir());
        EXPECT(strlen(liar.socket) < sizeof address.sun_path);
        memcpy(address.sun_path, liar.socket, strlen(liar.socket));
        liar.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        EXPECT(bind(liar.fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(liar.fd, 10) == 0);
        EXPECT(pthread_create(&thread, NULL, liar_run, &liar) == 0);
        options.dir = fresh_dir();
        options.tier_size = 1u << 20;
        options.deadline_ms = 300;
        EXPECT_EQ(freshet_open(&cache, &options), FRESHET_OK);
        snprintf(url, sizeof url, "unix://%s", liar.socket);
        result = join(cache, url, host_keyring());
        EXPECT(result == FRESHET_UNPROVEN || result == FRESHET_EREDIS || result == FRESHET_ENET);
        EXPECT_EQ(host_get(cache, "k", NULL, 0), FRESHET_MISS);
        result = host_put(cache, "k", "v");
        EXPECT(result == FRESHET_QUEUED || result == FRESHET_OK); /* OK: it never joined, and is a cache of its own */
        freshet_close(cache);
        liar.stop = true;
        shutdown(liar.fd, SHUT_RDWR);
        pthread_join(thread, NULL);
        close(liar.fd);
    }
}

/* ---- policies ---- */

TEST(without_redis_the_stale_policy_serves_and_says_so)
{
    struct redis redis;
    freshet_options options = FRESHET_INIT(freshet_options);
    freshet_answer answer = FRESHET_INIT(freshet_answer);
    freshet_buf buf = {0};
    freshet *stale, *closed;

    redis_start(&redis, NULL);
    options.dir = fresh_dir();
    options.max_staleness_ms = 300;
    options.deadline_ms = 300;
    options.policy = FRESHET_SERVE_STALE;
    EXPECT_EQ(freshet_open(&stale, &options), FRESHET_OK);
    EXPECT_EQ(join(stale, redis.url, host_keyring()), FRESHET_OK);
    options.dir = fresh_dir();
    options.policy = FRESHET_SERVE_NONE;
    EXPECT_EQ(freshet_open(&closed, &options), FRESHET_OK);
    EXPECT_EQ(join(closed, redis.url, host_keyring()), FRESHET_OK);
    EXPECT_EQ(host_put(stale, "k", "v"), FRESHET_OK);
    EXPECT(test_until(host_gets(closed, "k", "v") && host_gets(stale, "k", "v"), 5000));
    EXPECT(freshet_flush(stale, 0) == FRESHET_OK && freshet_flush(closed, 0) == FRESHET_OK);
    redis_stop(&redis);
    EXPECT(test_until(stats_of(stale).proven_age_ms > 300 && stats_of(closed).proven_age_ms > 300, 5000));
    EXPECT_EQ(host_get(closed, "k", NULL, 0), FRESHET_MISS);
    EXPECT_EQ(freshet_get(stale, "k", 1, NULL, &buf, &answer), FRESHET_STALE);
    EXPECT(answer.stale && buf.size == 1 && memcmp(buf.data, "v", 1) == 0 && answer.age_bound_ms > 300);
    EXPECT_EQ(host_invalidate(stale, "k"), FRESHET_QUEUED);
    EXPECT_EQ(host_get(stale, "k", NULL, 0), FRESHET_MISS); /* known to be changed: not even as stale */
    freshet_buf_free(&buf);
    freshet_close(stale);
    freshet_close(closed);
}
