/*
 * admission.c - before a host joins: what would only show later, as a cache that never gets fresh, is asked for now,
 * while there is somebody to read the answer.
 */
#include <admission.h>
#include <fleet.h>

#include <stdlib.h>

/* The value of a line "name:value" of INFO; "" when it is not there. */
static const char *admission_line(const char *info, const char *name, char *value, size_t size)
{
    size_t name_size = strlen(name), length = 0;

    for (const char *line = info ? info : "", *end; *line; line = end + 1) {
        if (!(end = strchr(line, '\n')))
            end = line + strlen(line) - 1; /* the last line has no newline: go on at its NUL */
        if (strncmp(line, name, name_size) != 0 || line[name_size] != ':')
            continue;
        line += name_size + 1;
        length = strcspn(line, "\r\n");
        if (length >= size)
            length = size - 1;
        memcpy(value, line, length);
        break;
    }
    value[length] = '\0';
    return value;
}

freshet_result admission_judge(const char *info, bool allow_evicting_redis, const char *redis)
{
    char version[32], role[32], policy[32], bits[32];
    char *end;
    long major, minor = 0;

    (void)admission_line(info, "redis_version", version, sizeof version);
    (void)admission_line(info, "role", role, sizeof role);
    (void)admission_line(info, "maxmemory_policy", policy, sizeof policy);
    (void)admission_line(info, "arch_bits", bits, sizeof bits);
    major = strtol(version, &end, 10);
    if (*end == '.')
        minor = strtol(end + 1, NULL, 10);
    if (end == version)
        return remote_fail(FRESHET_EREDIS, "what answers at %s is no Redis: its INFO shows no version", redis);
    if (major < 6 || (major == 6 && minor < 2))
        return remote_fail(FRESHET_EREDIS, "Redis at %s is version %s: 6.2 or newer is needed", redis, version);
    if (strcmp(bits, "32") == 0) /* its Lua prints no position: see scripts/head.lua */
        return remote_fail(FRESHET_EREDIS, "Redis at %s is built for 32 bits: one of 64 is needed", redis);
    if (strcmp(role, "master") != 0)
        return remote_fail(FRESHET_EREDIS, "Redis at %s is a %s: give the url of the master", redis,
                           role[0] ? role : "server without a role");
    if (strncmp(policy, "allkeys-", 8) == 0 && !allow_evicting_redis)
        return remote_fail(FRESHET_EREDIS,
                           "Redis at %s may evict any key (maxmemory-policy %s): set noeviction or a "
                           "volatile-* policy, or join with allow_evicting_redis",
                           redis, policy);
    return FRESHET_OK;
}

/* An error reply as a failure that tells the remedy. */
static freshet_result admission_refused(const char *what, const char *redis, const char *said)
{
    return remote_fail(FRESHET_EREDIS, "Redis at %s refuses %s (%.120s): give its user " FLEET_REMEDY, redis, what,
                       said);
}

static freshet_result admission_word(struct lines *lines, const char *const *argv, int argc, const char *redis,
                                     int64_t deadline_ns, struct resp **ret_reply)
{
    size_t sizes[4];
    freshet_result result;

    for (int i = 0; i < argc; i++)
        sizes[i] = strlen(argv[i]);
    result = lines_ask(lines, argc, argv, sizes, deadline_ns, ret_reply, NULL);
    if (result == FRESHET_OK && (*ret_reply)->type == RESP_ERROR)
        return admission_refused(argv[0], redis, (*ret_reply)->text);
    return result;
}

static freshet_result admission_info(struct fleet *fleet, const char *redis, int64_t deadline_ns)
{
    struct resp *reply = NULL;
    freshet_result result = admission_word(fleet->lines, (const char *const[]){"INFO"}, 1, redis, deadline_ns, &reply);

    if (result == FRESHET_OK && reply->type != RESP_STRING)
        result = remote_fail(FRESHET_EREDIS, "what answers at %s is no Redis: its INFO is no text", redis);
    if (result == FRESHET_OK)
        result = admission_judge(reply->text, fleet->allow_evicting_redis, redis);
    resp_free(reply);
    return result;
}

/* The channels, on a connection of its own: one that has subscribed is for nothing else any more. */
static freshet_result admission_channels(struct fleet *fleet, const char *redis, int64_t deadline_ns)
{
    struct lines *apart = NULL;
    freshet_result result = lines_open(&apart, &fleet->url, fleet->connect_ms, FLEET_REPLY_ROOM);

    if (result == FRESHET_OK && fleet->resolved)
        lines_set_address(apart, &fleet->address);
    for (uint32_t p = 0; result == FRESHET_OK && p < fleet->facts.partitions; p++) {
        const char *channel = fleet->names[p].channel;
        struct resp *reply = NULL;

        result =
            admission_word(fleet->lines, (const char *const[]){"PUBLISH", channel, ""}, 3, redis, deadline_ns, &reply);
        resp_free(reply);
        reply = NULL;
        if (result == FRESHET_OK)
            result = admission_word(apart, (const char *const[]){"SUBSCRIBE", channel}, 2, redis, deadline_ns, &reply);
        resp_free(reply);
    }
    lines_close(apart);
    return result;
}

freshet_result admission_ask(struct fleet *fleet, int64_t deadline_ns)
{
    char redis[300];
    freshet_result result;

    (void)url_text(&fleet->url, redis, sizeof redis);
    if ((result = admission_info(fleet, redis, deadline_ns)) != FRESHET_OK)
        return result;
    if ((result = admission_channels(fleet, redis, deadline_ns)) != FRESHET_OK)
        return result;
    for (uint32_t p = 0; result == FRESHET_OK && p < fleet->facts.partitions; p++)
        result = renew_check(fleet, p, deadline_ns);
    return result;
}
