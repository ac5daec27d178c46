/*
 * url.h - where Redis is: the url taken apart, and an address to connect to.  Pure but for url_resolve.
 *
 *     redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]      [HOST] in brackets when it is an IPv6 address
 *     unix://[[USER]:PASSWORD@]/PATH[?db=DB]
 */
#ifndef BACKPLANE_URL_H
#define BACKPLANE_URL_H

#include <freshet.h>
#include <stdint.h>
#include <sys/socket.h>

#define URL_TEXT_MAX 280u /* enough for url_text, whatever the url */

struct url {
    bool is_unix;
    char host[256]; /* or the socket's path */
    char port[8];
    int db;
    char *user, *password; /* malloc'd, percent-decoded; NULL: none */
};
struct url_address {
    struct sockaddr_storage storage;
    socklen_t size;
};

/* FRESHET_EINVAL names what is wrong (rediss:// : TLS is not there yet), never showing the password. */
freshet_result url_parse(struct url *ret_url, const char *text);
void url_free(struct url *url);
/* May block in the resolver: only on the library's own thread, or within join.  A name with several addresses gives the
 * `nth` of them, counted round: whoever fails at one tries the next ("localhost" may be ::1 first, nobody there). */
freshet_result url_resolve(const struct url *url, struct url_address *ret_address);
freshet_result url_resolve_nth(const struct url *url, unsigned nth, struct url_address *ret_address);
/* The same for a unix socket or a numeric host, which asks nobody; false for a name. */
bool url_numeric(const struct url *url, struct url_address *ret_address);
bool url_same_address(const struct url_address *a, const struct url_address *b);
/* A number for "the same Redis, database and cache": host, port, db; no credentials. Never 0. */
uint64_t url_fleet(const struct url *url, const char *name);
/* For messages: host:port or path, without credentials. */
const char *url_text(const struct url *url, char *buffer, size_t size);

#endif
