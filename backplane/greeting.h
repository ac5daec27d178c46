/*
 * greeting.h - the first words on a connection (AUTH, SELECT, a name for CLIENT LIST), and what to tell people when
 * Redis refuses.  Pure; shared by line.c and link.c, which own the sockets.
 */
#ifndef BACKPLANE_GREETING_H
#define BACKPLANE_GREETING_H

#include <resp.h>
#include <url.h>

struct greeting {
    char *bytes; /* all commands, to be sent at once; they hold the password */
    size_t size;
    int count; /* replies to expect: 1 to 3 */
    bool auth, select;
};

freshet_result greeting_make(struct greeting *ret_greeting, const struct url *url);
void greeting_free(struct greeting *greeting); /* wipes */
/* Judge the reply to the `index`th command: FRESHET_OK, FRESHET_EREDIS (refused, with what to do about it) or
 * FRESHET_ENET. */
freshet_result greeting_judge(const struct greeting *greeting, int index, const struct resp *reply,
                              const struct url *url);

/* Any reply: FRESHET_ENET when Redis is not of service now, FRESHET_EREDIS when it refuses us, with the sentence set;
 * FRESHET_OK for all else, other errors included. */
freshet_result greeting_refusal(const struct resp *reply, const struct url *url);
/* What an error says, cut and cleaned for a message. */
#define GREETING_QUOTE_MAX 160u
const char *greeting_quote(const struct resp *reply, char buffer[GREETING_QUOTE_MAX]);

#endif
