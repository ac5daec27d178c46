/*
 * greeting.c - the first words on a connection, and what to tell people when Redis refuses (greeting.h).
 *
 * The commands go out together: a new connection costs one round trip, whatever has to be said.  The name is for
 * whoever looks at CLIENT LIST; a server that does not take it (an ACL, an old proxy) is none the worse.
 */
#include <greeting.h>

#include <remote.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Append a command to the greeting. */
static freshet_result greeting_add(struct greeting *greeting, int argc, const char *const *argv)
{
    char *bytes = NULL, *grown;
    size_t size = 0;
    freshet_result result = resp_format(argc, argv, NULL, &bytes, &size);

    if (result != FRESHET_OK)
        return result;
    grown = malloc(greeting->size + size); /* not realloc, which would leave the password behind */
    if (grown) {
        if (greeting->size)
            memcpy(grown, greeting->bytes, greeting->size);
        memcpy(grown + greeting->size, bytes, size);
        if (greeting->bytes)
            explicit_bzero(greeting->bytes, greeting->size);
        free(greeting->bytes);
        greeting->bytes = grown;
        greeting->size += size;
        greeting->count++;
    } else {
        result = remote_fail(FRESHET_ENOMEM, "no memory for the first words to Redis");
    }
    explicit_bzero(bytes, size);
    free(bytes);
    return result;
}

freshet_result greeting_make(struct greeting *ret_greeting, const struct url *url)
{
    struct greeting greeting = {0};
    freshet_result result = FRESHET_OK;
    char db[16];

    if (url->password) {
        greeting.auth = true;
        result = url->user ? greeting_add(&greeting, 3, (const char *[]){"AUTH", url->user, url->password})
                           : greeting_add(&greeting, 2, (const char *[]){"AUTH", url->password});
    }
    if (result == FRESHET_OK && url->db) {
        greeting.select = true;
        snprintf(db, sizeof db, "%d", url->db);
        result = greeting_add(&greeting, 2, (const char *[]){"SELECT", db});
    }
    if (result == FRESHET_OK)
        result = greeting_add(&greeting, 3, (const char *[]){"CLIENT", "SETNAME", "freshet"});
    if (result != FRESHET_OK) {
        greeting_free(&greeting);
        return result;
    }
    *ret_greeting = greeting;
    return FRESHET_OK;
}

void greeting_free(struct greeting *greeting)
{
    if (greeting->bytes)
        explicit_bzero(greeting->bytes, greeting->size);
    free(greeting->bytes);
    *greeting = (struct greeting){0};
}

const char *greeting_quote(const struct resp *reply, char buffer[GREETING_QUOTE_MAX])
{
    size_t size = 0;

    for (size_t i = 0; reply && i < reply->size && size < GREETING_QUOTE_MAX - 1; i++) {
        unsigned char c = (unsigned char)reply->text[i];

        buffer[size++] = c >= ' ' && c < 127 ? (char)c : '?';
    }
    buffer[size] = '\0';
    return buffer;
}

/* NOPERM: which rule the user's ACL lacks. */
static freshet_result greeting_no_permission(const struct resp *reply, const char *where, const char *user)
{
    char quote[GREETING_QUOTE_MAX], rule[64] = "~freshet:* &freshet:* and the commands that README names";
    const char *text = greeting_quote(reply, quote), *name;

    if (strstr(text, "command") && (name = strchr(text, '\'')) && strcspn(name + 1, "'") < 32)
        snprintf(rule, sizeof rule, "+%.*s", (int)strcspn(name + 1, "'"), name + 1);
    else if (strstr(text, "channel"))
        snprintf(rule, sizeof rule, "&freshet:*");
    else if (strstr(text, "key"))
        snprintf(rule, sizeof rule, "~freshet:*");
    return remote_fail(FRESHET_EREDIS,
                       "Redis at %s: the ACL of user %s lacks a right (%s); grant it: ACL SETUSER %s %s", where, user,
                       text, user, rule);
}

freshet_result greeting_refusal(const struct resp *reply, const struct url *url)
{
    char where_text[URL_TEXT_MAX], quote[GREETING_QUOTE_MAX];
    const char *where, *user = url->user ? url->user : "default";

    if (!reply || reply->type != RESP_ERROR)
        return FRESHET_OK;
    where = url_text(url, where_text, sizeof where_text);
    if (resp_is_unavailable(reply))
        return remote_fail(FRESHET_ENET, "Redis at %s is not of service now: %s", where, greeting_quote(reply, quote));
    if (!resp_is_refusal(reply))
        return FRESHET_OK;
    if (resp_is_error(reply, "NOAUTH"))
        return remote_fail(FRESHET_EREDIS,
                           "Redis at %s wants a password; put it into the url, as in redis://:PASSWORD@HOST", where);
    if (resp_is_error(reply, "WRONGPASS"))
        return remote_fail(FRESHET_EREDIS,
                           "Redis at %s refuses the password of user %s; check both in the url (reserved "
                           "characters are percent-encoded there)",
                           where, user);
    if (resp_is_error(reply, "READONLY"))
        return remote_fail(FRESHET_EREDIS, "Redis at %s is a replica and takes no writes; give the master's address",
                           where);
    if (resp_is_error(reply, "NOPERM"))
        return greeting_no_permission(reply, where, user);
    return remote_fail(FRESHET_EREDIS, "Redis at %s refuses connections: %s", where, greeting_quote(reply, quote));
}

freshet_result greeting_judge(const struct greeting *greeting, int index, const struct resp *reply,
                              const struct url *url)
{
    char where[URL_TEXT_MAX], quote[GREETING_QUOTE_MAX];
    bool is_auth = greeting->auth && index == 0, is_select = greeting->select && index == (greeting->auth ? 1 : 0);
    freshet_result result;

    if (reply->type != RESP_ERROR)
        return FRESHET_OK;
    url_text(url, where, sizeof where);
    if (is_auth && strstr(greeting_quote(reply, quote), "without any password"))
        return remote_fail(FRESHET_EREDIS,
                           "Redis at %s has no password, but the url has one: take it out, or set the "
                           "server's",
                           where);
    /* The name is a nicety: a right to give it is not asked for. */
    if (!is_auth && !is_select && resp_is_error(reply, "NOPERM"))
        return FRESHET_OK;
    result = greeting_refusal(reply, url);
    if (result != FRESHET_OK || (!is_auth && !is_select))
        return result;
    return remote_fail(FRESHET_EREDIS, "Redis at %s refuses %s: %s", where,
                       is_auth ? "the password" : "the database number", greeting_quote(reply, quote));
}
