/*
 * chaos_ctl.c - `freshet-chaos ctl`: say one command to a running proxy, show the answer (chaos.h).
 *
 * Any program can do the same in a few lines: connect, write a line, read a line.
 */
#include "chaos.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define WAIT_S 10

static int say(int status, const char *what, const char *why)
{
    fprintf(stderr, "freshet-chaos: %s: %s\n", what, why);
    return status;
}

/* The words as one line; false: they cannot be. */
static bool join_words(int argc, char **argv, char line[CHAOS_LINE_MOST])
{
    size_t size = 0;

    for (int i = 0; i < argc; i++) {
        size_t more = strlen(argv[i]);

        if (strchr(argv[i], '\n') || size + more + 2 > CHAOS_LINE_MOST)
            return false;
        memcpy(line + size, argv[i], more);
        size += more;
        line[size++] = i + 1 < argc ? ' ' : '\n';
    }
    line[size] = '\0';
    return true;
}

static int connect_to(const struct address *address)
{
    struct timeval wait = {.tv_sec = WAIT_S};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) == 0 &&
        connect(fd, &address->at.any, address->size) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Show the answer; the result is the exit status. */
static int show(char *answer)
{
    answer[strcspn(answer, "\n")] = '\0';
    if (strncmp(answer, "ERR ", 4) == 0) {
        fprintf(stderr, "freshet-chaos: %s\n", answer + 4);
        return CHAOS_REFUSED;
    }
    if (strncmp(answer, "OK", 2) != 0 || (answer[2] && answer[2] != ' '))
        return say(CHAOS_FAILED, "ctl", "the answer makes no sense: is that a control socket of freshet-chaos?");
    if (printf("%s\n", answer[2] ? answer + 3 : "OK") < 0 || fflush(stdout) != 0)
        return say(CHAOS_FAILED, "standard output", strerror(errno));
    return CHAOS_DONE;
}

int chaos_ctl(int argc, char **argv)
{
    char line[CHAOS_LINE_MOST], why[CHAOS_WHY_MOST];
    struct address address;
    char *answer = NULL;
    size_t room = 0;
    FILE *in;
    int fd, status = CHAOS_FAILED;

    if (argc < 2)
        return say(CHAOS_USAGE, "ctl", "give the control socket's path and a command, for instance: ctl PATH stat");
    if (!address_parse(argv[0], &address, why))
        return say(CHAOS_USAGE, "ctl", why);
    if (!address_is_unix(&address))
        return say(CHAOS_USAGE, argv[0], "no path of a unix socket: give it with a '/', as ./NAME, or as unix:NAME");
    if (!join_words(argc - 1, argv + 1, line))
        return say(CHAOS_USAGE, "ctl", "a command is one line of at most 1023 bytes");
    if ((fd = connect_to(&address)) < 0) {
        snprintf(why, sizeof why, "%s; is the proxy running, with --control and this path?", strerror(errno));
        return say(CHAOS_FAILED, argv[0], why);
    }
    if (!(in = fdopen(fd, "r"))) {
        close(fd);
        return say(CHAOS_FAILED, "ctl", strerror(errno));
    }
    if (send(fd, line, strlen(line), MSG_NOSIGNAL) != (ssize_t)strlen(line) || getline(&answer, &room, in) < 1)
        (void)say(CHAOS_FAILED, argv[0], "no answer; did the proxy end, or is it stopped?");
    else
        status = show(answer);
    free(answer);
    fclose(in);
    return status;
}
