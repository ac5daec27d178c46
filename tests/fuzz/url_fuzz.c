/* url_fuzz.c - what a user, or a configuration file, gives as a url. */
#include "fuzz.h"

#include <string.h>
#include <url.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1), shown[400];
    struct url url;

    FUZZ_EXPECT(text != NULL);
    memcpy(text, bytes, size);
    text[size] = '\0';
    if (url_parse(&url, text) == FRESHET_OK) {
        FUZZ_EXPECT(memchr(url.host, 0, sizeof url.host) && memchr(url.port, 0, sizeof url.port));
        FUZZ_EXPECT(url.host[0] && url.db >= 0 && (!url.is_unix || url.host[0] == '/'));
        FUZZ_EXPECT(url_fleet(&url, "default") != 0);
        FUZZ_EXPECT(url_text(&url, shown, sizeof shown) == shown && memchr(shown, 0, sizeof shown));
        FUZZ_EXPECT(url_text(&url, shown, 5) == shown && memchr(shown, 0, 5));
        url_free(&url);
    }
    free(text);
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    static const char *const seeds[] = {
        "redis://localhost",
        "redis://127.0.0.1:6379/3",
        "redis://:pass%20word@host:1/0",
        "redis://user:p%40ss@[::1]:6380/15",
        "redis://[fe80::1]",
        "unix:///run/redis.sock",
        "unix://user:pass@/run/redis.sock?db=7",
        "rediss://host",
        "http://x",
        "unix:///a?db=0",
        "redis://a:b@c:65535/",
    };

    *ret_size = strlen(seeds[number]);
    memcpy(ret_bytes, seeds[number], *ret_size);
    return sizeof seeds / sizeof *seeds;
}
