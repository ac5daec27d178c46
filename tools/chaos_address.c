/*
 * chaos_address.c - tcp:HOST:PORT and unix:PATH; listening sockets (chaos.h).
 *
 * Sockets are made here rather than by libuv for two reasons.  Refusing connections means that nobody listens, and the
 * port must not become anybody else's meanwhile: a second socket, bound and never listening, holds it.  And libuv
 * unlinks the path of a unix socket that it closes, whoever's it is by then.
 */
#include "chaos.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHAPE "give tcp:PORT, tcp:HOST:PORT, tcp:[IPV6]:PORT or unix:PATH"

static bool parse_unix(const char *path, struct address *ret_address, char *why)
{
    if (!path[0] || strlen(path) >= sizeof ret_address->at.un.sun_path) {
        snprintf(why, CHAOS_WHY_MOST, "\"%.120s\": the path of a unix socket has 1 to %zu bytes: choose a shorter one",
                 path, sizeof ret_address->at.un.sun_path - 1);
        return false;
    }
    *ret_address = (struct address){.size = sizeof ret_address->at.un};
    ret_address->at.un.sun_family = AF_UNIX;
    strcpy(ret_address->at.un.sun_path, path);
    return true;
}

static bool parse_port(const char *word, const char *text, char *why)
{
    char *end;
    unsigned long port = strtoul(word, &end, 10);

    if (word[0] >= '0' && word[0] <= '9' && !*end && port <= 65535)
        return true;
    snprintf(why, CHAOS_WHY_MOST, "\"%.120s\": \"%.20s\" is no port from 0 to 65535; " SHAPE, text, word);
    return false;
}

static bool parse_tcp(const char *text, struct address *ret_address, char *why)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    const char *colon = strrchr(text, ':');
    const char *port = colon ? colon + 1 : text;
    char host[256] = "127.0.0.1";
    size_t size = colon ? (size_t)(colon - text) : 0;
    int rc;

    if (!parse_port(port, text, why))
        return false;
    if (size >= 2 && text[0] == '[' && text[size - 1] == ']') {
        text++;
        size -= 2;
    }
    if (size >= sizeof host) {
        snprintf(why, CHAOS_WHY_MOST, "the host's name is too long; " SHAPE);
        return false;
    }
    if (size)
        snprintf(host, sizeof host, "%.*s", (int)size, text);
    if ((rc = getaddrinfo(host, port, &hints, &found)) != 0) {
        snprintf(why, CHAOS_WHY_MOST, "\"%.120s\": %s; give an address, or a name that the resolver knows", host,
                 gai_strerror(rc));
        return false;
    }
    *ret_address = (struct address){.size = found->ai_addrlen};
    memcpy(&ret_address->at, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

bool address_parse(const char *text, struct address *ret_address, char why[CHAOS_WHY_MOST])
{
    if (strncmp(text, "unix:", 5) == 0)
        return parse_unix(text + 5, ret_address, why);
    if (strncmp(text, "tcp:", 4) == 0)
        return parse_tcp(text + 4, ret_address, why);
    if (strchr(text, '/'))
        return parse_unix(text, ret_address, why);
    return parse_tcp(text, ret_address, why);
}

bool address_is_unix(const struct address *address)
{
    return address->at.any.sa_family == AF_UNIX;
}

const char *address_text(const struct address *address, char buffer[ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN] = "?";

    switch (address->at.any.sa_family) {
    case AF_UNIX:
        snprintf(buffer, ADDRESS_TEXT, "unix:%s",
                 address->size > offsetof(struct sockaddr_un, sun_path) ? address->at.un.sun_path : "");
        break;
    case AF_INET:
        (void)inet_ntop(AF_INET, &address->at.in.sin_addr, host, sizeof host);
        snprintf(buffer, ADDRESS_TEXT, "tcp:%s:%u", host, ntohs(address->at.in.sin_port));
        break;
    case AF_INET6:
        (void)inet_ntop(AF_INET6, &address->at.in6.sin6_addr, host, sizeof host);
        snprintf(buffer, ADDRESS_TEXT, "tcp:[%s]:%u", host, ntohs(address->at.in6.sin6_port));
        break;
    default:
        snprintf(buffer, ADDRESS_TEXT, "?");
    }
    return buffer;
}

/* ---- listening ---- */

static int make_socket(const struct address *address)
{
    int on = 1, fd = socket(address->at.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd >= 0 && !address_is_unix(address))
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    return fd;
}

/* What stands at the path may be removed only if it is a socket that nobody listens at. */
static bool make_way(const struct address_socket *socket, char *why)
{
    const char *path = socket->address.at.un.sun_path;
    struct stat stat;
    int fd, error;

    if (lstat(path, &stat) != 0)
        return true;
    if (stat.st_dev == socket->device && stat.st_ino == socket->inode)
        return unlink(path) == 0; /* ours, from before */
    if (!S_ISSOCK(stat.st_mode)) {
        snprintf(why, CHAOS_WHY_MOST, "%.108s exists and is no socket: remove it, or choose another path", path);
        return false;
    }
    fd = make_socket(&socket->address);
    error = fd >= 0 && connect(fd, &socket->address.at.any, socket->address.size) == 0 ? 0 : errno;
    if (fd >= 0)
        close(fd);
    if (error == ECONNREFUSED && unlink(path) == 0)
        return true;
    snprintf(why, CHAOS_WHY_MOST, "at %.108s somebody else listens: end that process, or choose another path", path);
    return false;
}

static bool bind_unix(struct address_socket *socket, char *why)
{
    const char *path = socket->address.at.un.sun_path;
    struct stat stat;

    if (!make_way(socket, why))
        return false;
    socket->fd = make_socket(&socket->address);
    if (socket->fd >= 0 && fchmod(socket->fd, 0600) == 0 && /* the file is made with the socket's mode */
        bind(socket->fd, &socket->address.at.any, socket->address.size) == 0 && lstat(path, &stat) == 0) {
        socket->device = stat.st_dev;
        socket->inode = stat.st_ino;
        return true;
    }
    snprintf(why, CHAOS_WHY_MOST, "cannot listen at unix:%.108s: %s; does its directory exist, and is it writable?",
             path, strerror(errno));
    return false;
}

/* Bind the holder first: it chooses the port. */
static bool bind_tcp(struct address_socket *socket, char *why)
{
    char text[ADDRESS_TEXT];

    if (socket->holder < 0) {
        socket->holder = make_socket(&socket->address);
        if (socket->holder < 0 || bind(socket->holder, &socket->address.at.any, socket->address.size) != 0 ||
            getsockname(socket->holder, &socket->address.at.any, &socket->address.size) != 0)
            goto fail;
    }
    socket->fd = make_socket(&socket->address);
    if (socket->fd >= 0 && bind(socket->fd, &socket->address.at.any, socket->address.size) == 0)
        return true;
fail:
    snprintf(why, CHAOS_WHY_MOST, "cannot listen at %s: %s; choose another port, or 0 for any",
             address_text(&socket->address, text), strerror(errno));
    return false;
}

bool address_bind(struct address_socket *socket, char why[CHAOS_WHY_MOST])
{
    if (address_is_unix(&socket->address) ? bind_unix(socket, why) : bind_tcp(socket, why))
        return true;
    if (socket->fd >= 0)
        close(socket->fd);
    socket->fd = -1;
    return false;
}

void address_release(struct address_socket *socket)
{
    struct stat stat;

    if (socket->holder >= 0)
        close(socket->holder);
    socket->holder = -1;
    if (socket->inode && address_is_unix(&socket->address) && lstat(socket->address.at.un.sun_path, &stat) == 0 &&
        stat.st_dev == socket->device && stat.st_ino == socket->inode)
        (void)unlink(socket->address.at.un.sun_path);
    socket->inode = 0;
}
