/*
 * url.c - where Redis is: a url taken apart (url.h). Stands beside everything that connects; knows no socket but the
 * shape of its address.
 *
 * The text holds a password, so no message here repeats any of it but the host, and copies are wiped before they are
 * freed.
 */
#include <url.h>

#include <remote.h>

#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#define URL_DB_MAX 999999

/* A slice of the url's text. */
struct slice {
    const char *at;
    size_t size;
};

/* ---- taking apart ---- */

static int url_hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Percent-decode into fresh memory.  A NUL cannot be part of it: what comes out is a C string. */
static freshet_result url_decode(char **ret_text, struct slice in)
{
    char *out = malloc(in.size + 1);
    size_t size = 0;

    if (!out)
        return remote_fail(FRESHET_ENOMEM, "no memory for the url's user and password");
    for (size_t i = 0; i < in.size; i++) {
        int c = (unsigned char)in.at[i];

        if (c == '%') {
            int high = in.size - i > 2 ? url_hex(in.at[i + 1]) : -1;
            int low = high >= 0 ? url_hex(in.at[i + 2]) : -1;

            if (low < 0 || (high == 0 && low == 0)) {
                explicit_bzero(out, in.size + 1);
                free(out);
                return remote_fail(FRESHET_EINVAL, "the url's user or password has a '%%' that two hex digits do not "
                                                   "follow, or a NUL; a '%%' itself is written %%25");
            }
            c = high * 16 + low;
            i += 2;
        }
        out[size++] = (char)c;
    }
    out[size] = '\0';
    *ret_text = out;
    return FRESHET_OK;
}

/* A decimal number without sign, in [least, most]; -1: it is none. */
static int url_number(struct slice in, int least, int most)
{
    int value = 0;

    if (in.size == 0 || in.size > 7)
        return -1;
    for (size_t i = 0; i < in.size; i++) {
        if (in.at[i] < '0' || in.at[i] > '9')
            return -1;
        value = value * 10 + (in.at[i] - '0');
    }
    return value >= least && value <= most ? value : -1;
}

/* [[USER]:PASSWORD]: what stands before the '@'. */
static freshet_result url_credentials(struct url *url, struct slice in)
{
    const char *colon = memchr(in.at, ':', in.size);
    struct slice user, password;
    freshet_result result = FRESHET_OK;

    if (!colon)
        return remote_fail(FRESHET_EINVAL, "the url names a user without a password; write USER:PASSWORD@, or "
                                           ":PASSWORD@ for the default user");
    user = (struct slice){in.at, (size_t)(colon - in.at)};
    password = (struct slice){colon + 1, in.size - user.size - 1};
    if (user.size)
        result = url_decode(&url->user, user);
    if (result == FRESHET_OK && (user.size || password.size))
        result = url_decode(&url->password, password);
    return result;
}

/* HOST[:PORT], HOST perhaps in brackets. */
static freshet_result url_host(struct url *url, struct slice in)
{
    const char *end = in.at + in.size, *host = in.at, *host_end, *rest;
    int port = 6379;

    if (in.size && in.at[0] == '[') {
        host = in.at + 1;
        host_end = memchr(host, ']', (size_t)(end - host));
        if (!host_end)
            return remote_fail(FRESHET_EINVAL, "the url's host has a '[' without its ']'");
        rest = host_end + 1;
    } else {
        host_end = memchr(in.at, ':', in.size);
        if (!host_end)
            host_end = end;
        rest = host_end;
    }
    if (host_end == host || (size_t)(host_end - host) >= sizeof url->host)
        return remote_fail(FRESHET_EINVAL, "the url's host is missing or longer than %zu bytes", sizeof url->host - 1);
    for (const char *c = host; c < host_end; c++)
        if ((unsigned char)*c <= ' ' || (unsigned char)*c == 127)
            return remote_fail(FRESHET_EINVAL, "the url's host has a blank or a control character in it");
    if (rest < end) {
        port = *rest == ':' ? url_number((struct slice){rest + 1, (size_t)(end - rest - 1)}, 1, 65535) : -1;
        if (port < 0)
            return remote_fail(FRESHET_EINVAL, "the url's port is not a number from 1 to 65535 (an IPv6 address stands "
                                               "in brackets)");
    }
    memcpy(url->host, host, (size_t)(host_end - host));
    url->host[host_end - host] = '\0';
    snprintf(url->port, sizeof url->port, "%u", (unsigned)(uint16_t)port);
    return FRESHET_OK;
}

/* What follows redis:// */
static freshet_result url_parse_tcp(struct url *url, const char *text)
{
    struct slice authority = {text, strcspn(text, "/?#")};
    const char *rest = text + authority.size;
    const char *at = memrchr(authority.at, '@', authority.size);
    freshet_result result = FRESHET_OK;

    if (!at && strchr(rest, '@'))
        return remote_fail(FRESHET_EINVAL,
                           "the url has an '@' behind its host: a '/', '?' or '#' in a user or password is "
                           "percent-encoded, as %%2F, %%3F, %%23");
    if (at) {
        result = url_credentials(url, (struct slice){text, (size_t)(at - text)});
        authority = (struct slice){at + 1, (size_t)(rest - at - 1)};
    }
    if (result == FRESHET_OK)
        result = url_host(url, authority);
    if (result != FRESHET_OK)
        return result;
    if (rest[0] == '/' && rest[1] != '\0')
        url->db = url_number((struct slice){rest + 1, strlen(rest + 1)}, 0, URL_DB_MAX);
    else if (rest[0] == '?' || rest[0] == '#')
        url->db = -1;
    if (url->db < 0)
        return remote_fail(FRESHET_EINVAL, "what follows the url's host is not a database number, like /2");
    return FRESHET_OK;
}

/* What follows unix:// */
static freshet_result url_parse_unix(struct url *url, const char *text)
{
    const char *path = strchr(text, '/'), *query;
    size_t path_size;
    freshet_result result = FRESHET_OK;

    if (!path || (path > text && path[-1] != '@'))
        return remote_fail(FRESHET_EINVAL, "a unix:// url goes on with an absolute path, as in "
                                           "unix:///run/redis/redis.sock or unix://:PASSWORD@/run/redis/redis.sock");
    if (path > text)
        result = url_credentials(url, (struct slice){text, (size_t)(path - text - 1)});
    if (result != FRESHET_OK)
        return result;
    query = strchr(path, '?');
    path_size = query ? (size_t)(query - path) : strlen(path);
    if (path_size < 2 || path_size >= sizeof((struct sockaddr_un *)0)->sun_path)
        return remote_fail(FRESHET_EINVAL, "the path of a unix socket has 2 to %zu bytes, the url's has %zu",
                           sizeof((struct sockaddr_un *)0)->sun_path - 1, path_size);
    memcpy(url->host, path, path_size);
    url->host[path_size] = '\0';
    url->is_unix = true;
    if (query) {
        url->db = strncmp(query, "?db=", 4) == 0
                      ? url_number((struct slice){query + 4, strlen(query + 4)}, 0, URL_DB_MAX)
                      : -1;
        if (url->db < 0)
            return remote_fail(FRESHET_EINVAL, "what follows the path of a unix:// url can only be ?db=NUMBER");
    }
    return FRESHET_OK;
}

freshet_result url_parse(struct url *ret_url, const char *text)
{
    struct url url = {0};
    freshet_result result;

    if (!text)
        return remote_fail(FRESHET_EINVAL, "the url is missing");
    if (strncasecmp(text, "redis://", 8) == 0)
        result = url_parse_tcp(&url, text + 8);
    else if (strncasecmp(text, "unix://", 7) == 0)
        result = url_parse_unix(&url, text + 7);
    else if (strncasecmp(text, "rediss://", 9) == 0)
        return remote_fail(FRESHET_EINVAL, "rediss:// means TLS, which is not there yet; use redis:// or unix://, over "
                                           "a tunnel if the network is not yours");
    else
        return remote_fail(FRESHET_EINVAL, "the url begins with neither redis:// nor unix://");
    if (result != FRESHET_OK) {
        url_free(&url);
        return result;
    }
    *ret_url = url;
    return FRESHET_OK;
}

/* Wipe and free a secret. */
static void url_wipe(char **text)
{
    if (*text)
        explicit_bzero(*text, strlen(*text));
    free(*text);
    *text = NULL;
}

void url_free(struct url *url)
{
    url_wipe(&url->user);
    url_wipe(&url->password);
}

/* ---- addresses ---- */

static void url_unix_address(const struct url *url, struct url_address *ret_address)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    memcpy(address.sun_path, url->host, strnlen(url->host, sizeof address.sun_path - 1));
    *ret_address = (struct url_address){.size = sizeof address};
    memcpy(&ret_address->storage, &address, sizeof address);
}

/* Ask the resolver, or with AI_NUMERICHOST only the text itself; its own result is handed back. */
static int url_lookup(const struct url *url, int flags, unsigned nth, struct url_address *ret_address)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    struct addrinfo *list = NULL, *one;
    unsigned count = 0;
    int rc = getaddrinfo(url->host, url->port, &hints, &list);

    if (rc != 0)
        return rc;
    for (one = list; one; one = one->ai_next)
        count++;
    one = list;
    for (unsigned skip = count ? nth % count : 0; skip; skip--)
        one = one->ai_next;
    if (!one || one->ai_addrlen > sizeof ret_address->storage) {
        rc = EAI_NONAME;
    } else {
        *ret_address = (struct url_address){.size = one->ai_addrlen};
        memcpy(&ret_address->storage, one->ai_addr, one->ai_addrlen);
    }
    freeaddrinfo(list);
    return rc;
}

bool url_numeric(const struct url *url, struct url_address *ret_address)
{
    if (url->is_unix) {
        url_unix_address(url, ret_address);
        return true;
    }
    return url_lookup(url, AI_NUMERICHOST | AI_NUMERICSERV, 0, ret_address) == 0;
}

freshet_result url_resolve_nth(const struct url *url, unsigned nth, struct url_address *ret_address)
{
    int rc;

    if (url_numeric(url, ret_address))
        return FRESHET_OK;
    rc = url_lookup(url, AI_ADDRCONFIG | AI_NUMERICSERV, nth, ret_address);
    /* ADDRCONFIG hides ::1 and 127.0.0.1 on a machine that has no other address. */
    if (rc != 0 && rc != EAI_MEMORY)
        rc = url_lookup(url, AI_NUMERICSERV, nth, ret_address);
    if (rc == EAI_MEMORY)
        return remote_fail(FRESHET_ENOMEM, "no memory to resolve %s", url->host);
    if (rc != 0)
        return remote_fail(FRESHET_ENET, "%s cannot be resolved: %s", url->host, gai_strerror(rc));
    return FRESHET_OK;
}

freshet_result url_resolve(const struct url *url, struct url_address *ret_address)
{
    return url_resolve_nth(url, 0, ret_address);
}

bool url_same_address(const struct url_address *a, const struct url_address *b)
{
    return a->size == b->size && memcmp(&a->storage, &b->storage, a->size) == 0;
}

/* ---- names ---- */

/* FNV-1a over a string and the NUL that ends it, so that "a" "bc" and "ab" "c" differ. */
static uint64_t url_mix(uint64_t hash, const char *text)
{
    do {
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    } while (*text++);
    return hash;
}

uint64_t url_fleet(const struct url *url, const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    char db[16];

    snprintf(db, sizeof db, "%d", url->db);
    hash = url_mix(hash, url->is_unix ? "unix" : "tcp");
    hash = url_mix(hash, url->host);
    hash = url_mix(hash, url->port);
    hash = url_mix(hash, db);
    hash = url_mix(hash, name);
    hash = (hash ^ (hash >> 32)) * 0xd6e8feb86659fd93u; /* FNV leaves the low bits poor */
    hash ^= hash >> 32;
    return hash ? hash : 1;
}

const char *url_text(const struct url *url, char *buffer, size_t size)
{
    bool brackets = !url->is_unix && strchr(url->host, ':');

    if (url->is_unix)
        snprintf(buffer, size, "%s", url->host);
    else
        snprintf(buffer, size, "%s%s%s:%s", brackets ? "[" : "", url->host, brackets ? "]" : "", url->port);
    return buffer;
}
