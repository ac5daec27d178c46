/*
 * attack.c - somebody who can reach Redis but has no key (P6): publishes, or writes as well.
 *
 * He keeps what he sees and uses it again where it does not belong: a true message under another position, epoch or
 * partition, a record under another key, an old record or head put back; and makes things up.
 */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTACKER   999998u
#define KEPT       32u
#define MESSAGE_AT 16u /* a published frame: position 8, epoch 8, the signed message */

struct kept {
    char *bytes;
    size_t size;
};

static struct {
    struct sim_random random;
    struct kept messages[KEPT], records[KEPT];
    unsigned message_count, record_count;
} attack;

static void keep(struct kept *list, unsigned *count, const void *bytes, size_t size)
{
    struct kept *kept = &list[(*count)++ % KEPT];

    free(kept->bytes);
    kept->bytes = malloc(size + 1);
    memcpy(kept->bytes, bytes, size);
    kept->size = size;
}

void attack_start(uint64_t seed)
{
    memset(&attack, 0, sizeof attack);
    attack.random = sim_stream(seed, 6);
}

void attack_sees(const void *message, size_t size)
{
    keep(attack.messages, &attack.message_count, message, size);
}

static void say(int argc, const char *const *argv, const size_t *sizes, struct redis_reply *reply)
{
    redis_execute(net.servers[world.master].model, ATTACKER, argc, argv, sizes, reply);
}

static const struct kept *any(const struct kept *list, unsigned count)
{
    return count ? &list[sim_below(&attack.random, count < KEPT ? count : KEPT)] : NULL;
}

static void put_number(char *to, uint64_t number)
{
    for (int i = 7; i >= 0; i--, number >>= 8)
        to[i] = (char)number;
}

/* A message on the channel: a true one under a false position, or rubbish. */
static void attack_publish(void)
{
    const struct kept *message = any(attack.messages, attack.message_count);
    struct redis_reply reply = {0};
    char channel[64], bytes[4096];
    size_t size = 40;
    uint64_t near = check_position((unsigned)sim_below(&attack.random, world.plan->partitions));

    (void)snprintf(channel, sizeof channel, "freshet:{sim:%u}:frames",
                   (unsigned)sim_below(&attack.random, world.plan->partitions));
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)sim_draw(&attack.random);
    if (message && message->size + MESSAGE_AT <= sizeof bytes && sim_chance(&attack.random, 0.9)) {
        memcpy(bytes + MESSAGE_AT, message->bytes, message->size);
        size = message->size + MESSAGE_AT;
    }
    switch (sim_below(&attack.random, 4)) {
    case 0:
        break; /* by chance */
    case 1:
        put_number(bytes, UINT64_C(9007199254740991));
        break;
    default:
        put_number(bytes, near + sim_below(&attack.random, 5) - 1);
        break;
    }
    if (sim_chance(&attack.random, 0.8))
        put_number(bytes + 8, check_epoch());
    say(3, (const char *const[]){"PUBLISH", channel, bytes}, (const size_t[]){7, strlen(channel), size}, &reply);
    redis_reply_free(&reply);
}

/* A string key's bytes, out of a GET's reply. */
static bool take_string(const struct redis_reply *reply, const char **ret_bytes, size_t *ret_size)
{
    const char *line = reply->size > 4 && reply->bytes[0] == '$' && reply->bytes[1] != '-'
                           ? memchr(reply->bytes, '\n', reply->size)
                           : NULL;

    if (!line)
        return false;
    *ret_size = 0;
    for (const char *digit = reply->bytes + 1; *digit >= '0' && *digit <= '9'; digit++)
        *ret_size = 10 * *ret_size + (size_t)(*digit - '0');
    *ret_bytes = line + 1;
    return true;
}

/* A string key is kept, and one that was kept (of this or of another key) or rubbish is put in its place. */
static void attack_write(void)
{
    struct redis_server *model = net.servers[world.master].model;
    size_t count = redis_count(model), name_size, size = 0;
    const char *name = count ? redis_key(model, sim_below(&attack.random, count), &name_size) : NULL, *bytes;
    struct redis_reply reply = {0};
    const struct kept *kept;
    char own[256], rubbish[180];

    if (!name || name_size >= sizeof own)
        return;
    memcpy(own, name, name_size);
    say(2, (const char *const[]){"GET", own}, (const size_t[]){3, name_size}, &reply);
    if (take_string(&reply, &bytes, &size))
        keep(attack.records, &attack.record_count, bytes, size);
    kept = any(attack.records, attack.record_count);
    for (size_t i = 0; i < sizeof rubbish; i++)
        rubbish[i] = (char)sim_draw(&attack.random);
    if (sim_chance(&attack.random, 0.8) && kept) {
        char *changed = malloc(kept->size + 1);

        memcpy(changed, kept->bytes, kept->size);
        if (kept->size && sim_chance(&attack.random, 0.5))
            changed[sim_below(&attack.random, kept->size)] ^= (char)(1u << sim_below(&attack.random, 8));
        say(3, (const char *const[]){"SET", own, changed}, (const size_t[]){3, name_size, kept->size}, &reply);
        free(changed);
    } else {
        say(3, (const char *const[]){"SET", own, rubbish}, (const size_t[]){3, name_size, sizeof rubbish}, &reply);
    }
    redis_reply_free(&reply);
}

void attack_now(void)
{
    if (world.plan->attack == ATTACK_WRITE && sim_chance(&attack.random, 0.7))
        attack_write();
    else
        attack_publish();
}
