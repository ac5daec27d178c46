/* commands.h - every command's function, for the table in command.c.  Leans on call.h. */
#ifndef SIM_COMMANDS_H
#define SIM_COMMANDS_H

#include <call.h>

/* keys (generic.c) */
void command_dbsize(struct call *call);
void command_del(struct call *call);
void command_exists(struct call *call);
void command_expire(struct call *call);
void command_flushall(struct call *call);
void command_persist(struct call *call);
void command_ttl(struct call *call);
void command_type(struct call *call);

/* strings (string.c) */
void command_append(struct call *call);
void command_get(struct call *call);
void command_getdel(struct call *call);
void command_getrange(struct call *call);
void command_getset(struct call *call);
void command_incr(struct call *call);
void command_mget(struct call *call);
void command_mset(struct call *call);
void command_set(struct call *call);
void command_setex(struct call *call);
void command_setnx(struct call *call);
void command_setrange(struct call *call);
void command_strlen(struct call *call);

/* hashes (hash.c) */
void command_hdel(struct call *call);
void command_hexists(struct call *call);
void command_hget(struct call *call);
void command_hgetall(struct call *call);
void command_hincrby(struct call *call);
void command_hlen(struct call *call);
void command_hmget(struct call *call);
void command_hset(struct call *call);
void command_hsetnx(struct call *call);
void command_hstrlen(struct call *call);

/* streams (xstream.c) */
void command_xadd(struct call *call);
void command_xdel(struct call *call);
void command_xinfo(struct call *call);
void command_xlen(struct call *call);
void command_xrange(struct call *call);
void command_xtrim(struct call *call);

/* the server itself (admin.c) */
void command_auth(struct call *call);
void command_client(struct call *call);
void command_config(struct call *call);
void command_echo(struct call *call);
void command_hello(struct call *call);
void command_info(struct call *call);
void command_ping(struct call *call);
void command_publish(struct call *call);
void command_role(struct call *call);
void command_select(struct call *call);
void command_subscribe(struct call *call);
void command_time(struct call *call);
void command_unsubscribe(struct call *call);
void command_wait(struct call *call);

/* scripts (script.c) */
void command_eval(struct call *call);
void command_script(struct call *call);

#endif
