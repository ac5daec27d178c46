/*
 * url_test.c - a url taken apart, and refused with a reason that shows no password.
 */
#include <test.h>

#include <backoff.h>
#include <url.h>

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* Parses to just these parts? */
static bool parses(const char *text, const char *host, const char *port, int db, const char *user, const char *password)
{
    struct url url = {0};
    bool right = url_parse(&url, text) == FRESHET_OK && strcmp(url.host, host) == 0 && strcmp(url.port, port) == 0 &&
                 url.db == db && (user ? url.user && strcmp(url.user, user) == 0 : !url.user) &&
                 (password ? url.password && strcmp(url.password, password) == 0 : !url.password);

    url_free(&url);
    return right;
}

/* Refused, with a sentence that has this in it and no secret? */
static bool refuses(const char *text, const char *why)
{
    struct url url = {.db = 77};

    return url_parse(&url, text) == FRESHET_EINVAL && url.db == 77 && strstr(freshet_error(), why) &&
           !strstr(freshet_error(), "s3cret");
}

TEST(a_tcp_url_comes_apart)
{
    EXPECT(parses("redis://h", "h", "6379", 0, NULL, NULL));
    EXPECT(parses("REDIS://h/", "h", "6379", 0, NULL, NULL));
    EXPECT(parses("redis://h.example:1/999999", "h.example", "1", 999999, NULL, NULL));
    EXPECT(parses("redis://h:65535/0", "h", "65535", 0, NULL, NULL));
    EXPECT(parses("redis://:pw@h:7000/3", "h", "7000", 3, NULL, "pw"));
    EXPECT(parses("redis://me:pw@h", "h", "6379", 0, "me", "pw"));
    EXPECT(parses("redis://me:@h", "h", "6379", 0, "me", ""));
    EXPECT(parses("redis://:@h", "h", "6379", 0, NULL, NULL));
    EXPECT(parses("redis://m%40e:p%2Fw%3a%25@h", "h", "6379", 0, "m@e", "p/w:%"));
    EXPECT(parses("redis://a:b@c@h", "h", "6379", 0, "a", "b@c"));
    EXPECT(parses("redis://[::1]:7001/2", "::1", "7001", 2, NULL, NULL));
    EXPECT(parses("redis://:x%79@[fe80::1]", "fe80::1", "6379", 0, NULL, "xy"));
}

TEST(a_unix_url_comes_apart)
{
    struct url url;
    char path[200], text[220];

    EXPECT(parses("unix:///run/r.sock", "/run/r.sock", "", 0, NULL, NULL));
    EXPECT(parses("unix:///run/r.sock?db=5", "/run/r.sock", "", 5, NULL, NULL));
    EXPECT(parses("unix://:pw@/r", "/r", "", 0, NULL, "pw"));
    EXPECT(parses("unix://me:p%2fw@/r@s?db=0", "/r@s", "", 0, "me", "p/w"));
    memset(path, 'p', sizeof path);
    path[0] = '/';
    path[107] = '\0'; /* the longest that sun_path takes with its NUL */
    snprintf(text, sizeof text, "unix://%s", path);
    EXPECT(url_parse(&url, text) == FRESHET_OK && strlen(url.host) == 107);
    path[107] = 'p';
    path[108] = '\0';
    snprintf(text, sizeof text, "unix://%s", path);
    EXPECT(refuses(text, "107"));
}

TEST(what_is_no_url_is_refused_with_a_reason)
{
    char text[400] = "redis://";

    EXPECT(url_parse(&(struct url){0}, NULL) == FRESHET_EINVAL);
    EXPECT(refuses("", "redis://"));
    EXPECT(refuses("http://s3cret", "redis://"));
    EXPECT(refuses("rediss://:s3cret@h", "TLS"));
    EXPECT(refuses("redis://", "host"));
    EXPECT(refuses("redis://:s3cret@", "host"));
    EXPECT(refuses("redis://:s3cret@:1", "host"));
    EXPECT(refuses("redis://h:0", "port"));
    EXPECT(refuses("redis://h:65536", "port"));
    EXPECT(refuses("redis://h:", "port"));
    EXPECT(refuses("redis://h:12345678901234567890", "port"));
    EXPECT(refuses("redis://:s3/cret@h", "%2F"));
    EXPECT(refuses("redis://::1", "host"));
    EXPECT(refuses("redis://[::1", "]"));
    EXPECT(refuses("redis://[::1]x", "port"));
    EXPECT(refuses("redis://h/x", "database"));
    EXPECT(refuses("redis://h/-1", "database"));
    EXPECT(refuses("redis://h/1000000", "database"));
    EXPECT(refuses("redis://h/1/2", "database"));
    EXPECT(refuses("redis://h?db=1", "database"));
    EXPECT(refuses("redis://h#1", "database"));
    EXPECT(refuses("redis://h h", "blank"));
    EXPECT(refuses("redis://h\nh", "blank"));
    EXPECT(refuses("redis://s3cret@h", "without a password"));
    EXPECT(refuses("redis://:s3cret%@h", "%"));
    EXPECT(refuses("redis://:s3cret%4@h", "%"));
    EXPECT(refuses("redis://:s3cret%4g@h", "%"));
    EXPECT(refuses("redis://:s3cret%00@h", "%"));
    EXPECT(refuses("unix://r.sock", "path"));
    EXPECT(refuses("unix://r/s", "path"));
    EXPECT(refuses("unix:///", "path"));
    EXPECT(refuses("unix:///r?", "db="));
    EXPECT(refuses("unix:///r?db=", "db="));
    EXPECT(refuses("unix:///r?db=1&x=2", "db="));
    memset(text + 8, 'h', 256);
    EXPECT(refuses(text, "host"));
    text[8 + 255] = '\0';
    EXPECT(parses(text, text + 8, "6379", 0, NULL, NULL));
}

TEST(any_bytes_at_all_are_parsed_or_refused)
{
    uint64_t seed = 7;

    for (int round = 0; round < 50000; round++) {
        static const char bytes[] = "redisunix:/@%[]?db=0123456789 aF\x01\xff#";
        char text[64];
        struct url url = {0};
        size_t size = test_random(&seed) % (sizeof text - 10), start = (size_t)snprintf(text, sizeof text, "%s",
                                                                                        round % 3 == 0   ? ""
                                                                                        : round % 3 == 1 ? "redis://"
                                                                                                         : "unix://");

        for (size_t i = 0; i < size; i++)
            text[start + i] = bytes[test_random(&seed) % (sizeof bytes - 1)];
        text[start + size] = '\0';
        if (url_parse(&url, text) == FRESHET_OK) {
            EXPECT(url.host[0] != '\0' && url.db >= 0);
            url_free(&url);
        }
    }
}

TEST(the_text_of_a_url_has_no_credentials)
{
    struct url url;
    char text[URL_TEXT_MAX];

    EXPECT(url_parse(&url, "redis://me:s3cret@h:7/1") == FRESHET_OK);
    EXPECT(strcmp(url_text(&url, text, sizeof text), "h:7") == 0);
    url_free(&url);
    EXPECT(!url.user && !url.password);
    EXPECT(url_parse(&url, "redis://[::1]") == FRESHET_OK);
    EXPECT(strcmp(url_text(&url, text, sizeof text), "[::1]:6379") == 0);
    EXPECT(url_parse(&url, "unix://:s3cret@/a/b") == FRESHET_OK);
    EXPECT(strcmp(url_text(&url, text, sizeof text), "/a/b") == 0);
    EXPECT(strcmp(url_text(&url, text, 3), "/a") == 0);
    url_free(&url);
}

TEST(an_address_follows_from_a_numeric_url_alone)
{
    struct url url;
    struct url_address address, again;
    struct sockaddr_in four;
    struct sockaddr_un path;

    EXPECT(url_parse(&url, "redis://127.0.0.1:8") == FRESHET_OK);
    EXPECT(url_numeric(&url, &address) && address.storage.ss_family == AF_INET);
    memcpy(&four, &address.storage, sizeof four);
    EXPECT_EQ(ntohs(four.sin_port), 8);
    EXPECT_EQ(ntohl(four.sin_addr.s_addr), INADDR_LOOPBACK);
    EXPECT(url_resolve(&url, &again) == FRESHET_OK && url_same_address(&address, &again));
    EXPECT(url_parse(&url, "redis://[::1]:8") == FRESHET_OK);
    EXPECT(url_numeric(&url, &again) && again.storage.ss_family == AF_INET6 && !url_same_address(&address, &again));
    EXPECT(url_parse(&url, "unix:///a/b") == FRESHET_OK);
    EXPECT(url_numeric(&url, &address) && address.storage.ss_family == AF_UNIX);
    memcpy(&path, &address.storage, sizeof path);
    EXPECT(strcmp(path.sun_path, "/a/b") == 0);
    EXPECT(url_parse(&url, "redis://localhost") == FRESHET_OK);
    EXPECT(!url_numeric(&url, &address));
    EXPECT(url_parse(&url, "redis://no-such-host.invalid") == FRESHET_OK);
    EXPECT(url_resolve(&url, &address) == FRESHET_ENET && strstr(freshet_error(), "no-such-host.invalid"));
}

TEST(a_fleet_is_one_redis_one_database_one_name)
{
    static const char *const texts[] = {"redis://h", "redis://h:6380", "redis://h/1",
                                        "redis://g", "unix:///h",      "unix:///h?db=1"};
    struct url url, again;
    uint64_t seen[12];
    size_t count = 0;

    for (size_t i = 0; i < 6; i++) {
        EXPECT(url_parse(&url, texts[i]) == FRESHET_OK);
        seen[count++] = url_fleet(&url, "a");
        seen[count++] = url_fleet(&url, "b");
    }
    for (size_t i = 0; i < count; i++)
        for (size_t j = 0; j < i; j++)
            EXPECT(seen[i] != 0 && seen[i] != seen[j]);
    EXPECT(url_parse(&url, "redis://h:6379/0") == FRESHET_OK && url_parse(&again, "redis://me:pw@h") == FRESHET_OK);
    EXPECT(url_fleet(&url, "a") == url_fleet(&again, "a") && url_fleet(&url, "a") == seen[0]);
    url_free(&again);
}

TEST(a_back_off_doubles_to_its_cap_with_full_jitter)
{
    struct backoff backoff;
    uint64_t sum = 0;

    backoff_init(&backoff, 1);
    for (int round = 0; round < 1000; round++) {
        backoff_reset(&backoff);
        for (uint32_t most = 10; most < 2000; most *= 2) {
            uint32_t ms = backoff_next(&backoff);

            EXPECT(ms >= 1 && ms <= most);
        }
        for (int i = 0; i < 3; i++) {
            uint32_t ms = backoff_next(&backoff);

            EXPECT(ms >= 1 && ms <= 2000);
            sum += ms;
        }
    }
    EXPECT(sum / 3000 > 900 && sum / 3000 < 1100); /* half of the cap, on average */
    EXPECT(backoff_seed(&backoff) != backoff_seed(&sum));
}
