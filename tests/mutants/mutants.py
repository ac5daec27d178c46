"""mutants.py - the guards, each with what it looks like when it is gone and the tests that must notice.

`old` stands in `file` exactly once, wherever its lines break.  `tests` are (program, part of a test's name) pairs; any one that fails catches.
"""


def mutant(name, file, old, new, *tests):
    return {'name': name, 'file': file, 'old': old, 'new': new, 'tests': tests}


def race(test):
    return ('race-test', test)


def flow(test):
    return ('flow-test', test)


def unit(test):
    return ('unit-test', test)


def model(test):
    return ('model-test', test)


MUTANTS = [
    # ---- P2: a load that a change overtakes leaves nothing
    mutant('a fill needs no ticket', 'backplane/scripts/fill.lua',
           "if not old or ticket == NO_TICKET or old.ticket ~= ticket or old.ticket_epoch ~= head.epoch\n"
           "    or old.ticket_position < head.clear or old.ticket_until <= now then",
           "if not old then",
           race('refill_test.a_load_that_an_invalidation_of_another')),
    mutant('a clear leaves tickets alone', 'backplane/scripts/fill.lua',
           "    or old.ticket_position < head.clear or old.ticket_until <= now then",
           "    or old.ticket_until <= now then",
           race('refill_test.a_load_that_a_clear')),
    mutant('an invalidation leaves the ticket', 'backplane/scripts/head.lua',
           "seen = seen, ticket = NO_TICKET, ticket_epoch = NO_ID, ticket_position = 0, ticket_until = 0,",
           "seen = seen, ticket = old and old.ticket or NO_TICKET, ticket_epoch = old and old.ticket_epoch or NO_ID,\n"
           "        ticket_position = old and old.ticket_position or 0, ticket_until = old and old.ticket_until or 0,",
           race('refill_test.a_load_that_an_invalidation_of_another')),
    mutant('a running load is joined whatever came since', 'core/freshet.c',
           "if ((result != FRESHET_OK && result != FRESHET_ABSENT) || load_fence(l) > l->r.record.as_of || "
           "!load_host_fresh(l))",
           "if ((result != FRESHET_OK && result != FRESHET_ABSENT) || !load_host_fresh(l))",
           race('refill_test.a_load_that_is_joined')),
    mutant('flights do not look at the fence', 'core/flight.c',
           "    if (flight && flight->start >= fence) {", "    (void)fence;\n    if (flight) {",
           unit('flight_test.')),
    mutant('a local load is as new as its end', 'core/freshet.c',
           "    l->r.record.as_of = l->r.record.born = start;",
           "    l->r.record.as_of = l->r.record.born = start =\n"
           "        atomic_load(&l->r.host->control.parts[l->r.key.partition].position);",
           race('refill_test.without_a_fleet')),
    # ---- the judge
    mutant('no fence', 'core/servable.c',
           "    if (record->as_of < servable_word(control_fence(control, key->partition, key->slot)))\n"
           "        return VOID_FENCE;\n", "",
           race('log_test.a_lost_last_message')),
    mutant('what comes from Redis is as new as its arrival', 'core/freshet.c',
           "        .as_of = remote->as_of,", "        .as_of = (1ull << 53) - 1,",
           race('promotion_test.a_promotion_that_an_invalidation')),
    mutant('no floor', 'core/servable.c',
           "    if (record->as_of < servable_word(&part->floor))\n        return VOID_FLOOR;\n", "",
           race('log_test.a_trimmed_log')),
    mutant('no epoch', 'core/servable.c',
           "    if (record->epoch != epoch)\n        return VOID_EPOCH;\n", "",
           unit('servable_test.'), race('promotion_test.a_promotion_of_an_ended_history')),
    mutant('no clear', 'core/servable.c',
           "    if (record->born < servable_word(&part->clear))\n        return VOID_CLEAR;\n", "",
           race('promotion_test.after_a_clear')),
    mutant('pending changes are served', 'core/servable.c',
           "    if (control_outbox_pending(control, key))\n        return VOID_PENDING;\n", "",
           race('outbox_test.a_queued_invalidation')),
    mutant('no bound', 'core/servable.c',
           "if (epoch != 0 && (age_ns < 0 || age_ns >= bound_ns))", "if (epoch != 0 && age_ns < 0)",
           race('stop_test.without_a_sibling')),
    mutant('the clock is read before the page', 'core/servable.c',
           "    proven = servable_word(&part->proven);\n    epoch = servable_word(&part->epoch);\n"
           "    verdict = servable_void(record, control, part, key, epoch);\n"
           "    now_ns = clock_boot_ns(); /* the last thing read */\n",
           "    now_ns = clock_boot_ns();\n"
           "    proven = servable_word(&part->proven);\n    epoch = servable_word(&part->epoch);\n"
           "    verdict = servable_void(record, control, part, key, epoch);\n",
           race('judge_test.')),
    mutant('a reply from Redis is not judged', 'core/freshet.c',
           "    if (servable(&r->record, &r->host->control, &r->key, r->bound_ns, answer->asked_ns, &r->judgement) != SERVABLE)",
           "    if (servable(&r->record, &r->host->control, &r->key, r->bound_ns, answer->asked_ns, &r->judgement) == VOID_EXPIRED)",
           race('outbox_test.a_queued_invalidation')),
    # ---- P1: what a host may believe of itself
    mutant('proven when the answer comes', 'backplane/renew.c',
           "    if (remote_prove(fleet->host, part->partition, part->question, epoch, target)) {",
           "    part->question = remote_ask(fleet->host, part->partition);\n"
           "    if (remote_prove(fleet->host, part->partition, part->question, epoch, target)) {",
           race('log_test.a_late_answer')),
    mutant('gaps in the log are stepped over', 'backplane/receive.c',
           "return position == applied + 1 ? RECEIVE_NEXT : RECEIVE_GAP;", "return RECEIVE_NEXT;",
           race('log_test.a_log_with_a_gap')),
    mutant('an empty log is no loss', 'backplane/receive.c',
           "        good = false; /* there must be some: the log was trimmed, or lost */",
           "    {\n        remote_applied(fleet->host, partition, position);\n        return true;\n    }",
           race('log_test.a_trimmed_log')),
    mutant('an entry that does not verify is skipped', 'backplane/receive.c',
           "        remote_count(fleet->host, REMOTE_FRAMES_REFUSED, 1);\n        return false;\n    }\n    remote_step",
           "        remote_count(fleet->host, REMOTE_FRAMES_REFUSED, 1);\n"
           "        remote_applied(fleet->host, partition, position);\n        *applied = position;\n        return true;\n"
           "    }\n    remote_step",
           race('log_test.a_log_entry_that_nobody_signed')),
    mutant('the channel moves applied', 'backplane/receive.c',
           "    if (*ret_raised)\n        receive_apply(fleet, partition, &frame, position);",
           "    if (*ret_raised) {\n        receive_apply(fleet, partition, &frame, position);\n"
           "        remote_applied(fleet->host, partition, position);\n    }",
           race('log_test.a_message_after_a_lost_one')),
    mutant('the log is not read when messages are lost', 'backplane/renew.c',
           "    if (receive_log(fleet, part->partition, report->entries, position, part->target)) {",
           "    remote_applied(fleet->host, part->partition, position);\n    {",
           race('log_test.a_lost_last_message')),
    mutant('a repair sets no floor', 'core/control.c',
           "    (void)control_raise(&part->floor, position);\n    STEP(\"repair_floor\");",
           "    STEP(\"repair_floor\");",
           race('log_test.a_trimmed_log')),
    mutant('an adoption keeps the old epoch', 'backplane/renew.c',
           "    if (!remote_adopt(fleet->host, partition, asked->page.epoch, answer->epoch, answer->position, report->clear))\n"
           "        return false;\n", "",
           race('history_test.flushall_begins')),
    mutant('an adoption keeps the proof', 'core/control.c',
           "    control_unprove(part, to);\n    STEP(\"adopt_unproven\");", "    STEP(\"adopt_unproven\");",
           unit('control_test.'), race('history_test.')),
    mutant('an adoption sets no floor', 'core/control.c',
           "    (void)control_raise(&part->floor, position);\n    (void)control_raise(&part->clear, clear);",
           "    (void)control_raise(&part->clear, clear);",
           unit('control_test.'), race('history_test.flushall_begins')),
    mutant('proven though not all is applied', 'core/control.c',
           "        if (atomic_load_explicit(&part->applied, memory_order_acquire) < position)\n            return false;\n",
           "        (void)position;\n",
           unit('control_test.')),
    mutant('a proof crosses a rotation', 'core/control.c',
           "        if ((uint16_t)(seen >> 48) != question.rotation)\n            return false;\n", "        (void)question;\n",
           unit('control_test.')),
    mutant('nobody takes over', 'backplane/seat.c',
           "    return view->reached && view->now_ns - idle_since > view->patience_ns ? SEAT_TAKE : SEAT_WATCH;",
           "    return SEAT_WATCH;",
           race('stop_test.a_sibling_takes_over_from_a_stopped')),
    # ---- in Redis
    mutant('a clear does not clear', 'backplane/scripts/change.lua',
           "head.clear, head.reset, head.cleared_us = head.position, head.position, now",
           "head.reset, head.cleared_us = head.position, now",
           race('promotion_test.after_a_clear')),
    mutant('what a new epoch finds is not void', 'backplane/scripts/head.lua',
           "epoch = context.epoch, replid = replid, position = start, clear = start, tag = 0,",
           "epoch = context.epoch, replid = replid, position = start, clear = 0, tag = 0,",
           race('history_test.a_lost_head')),
    mutant('another server goes on with the history', 'backplane/scripts/head.lua',
           "    if not head or head.replid ~= replid or ahead then rotate(log) end",
           "    if not head or ahead then rotate(log) end",
           flow('epoch_test.'), unit('scripts_test.')),
    mutant('a server behind its hosts goes on', 'backplane/scripts/head.lua',
           "    if not head or head.replid ~= replid or ahead then rotate(log) end",
           "    if not head or head.replid ~= replid then rotate(log) end",
           flow('epoch_test.'), race('history_test.'), unit('scripts_test.')),
    mutant('an older source version is put', 'backplane/scripts/put.lua',
           "    if record.source ~= NO_ID and below(record.source, old.seen) then return answer('OUTDATED') end\n", "",
           flow('fleet_test.'), unit('scripts_test.')),
    # ---- P3: read your writes, and what waits
    mutant('a change does not raise its own fences', 'backplane/publish.c',
           "        remote_raise(fleet->host, (const uint8_t(*)[16])p->work->hashes, p->count, p->partition, answer->position);\n",
           "        (void)answer;\n",
           race('promotion_test.after_a_change_returns'), race('refill_test.a_load_from_before_a_change')),
    mutant('a queued change is forgotten', 'backplane/publish.c',
           "    remote_outbox_queue(p->fleet->host, p->work->slots, p->slots);",
           "    remote_outbox_done(p->fleet->host, p->work->slots, p->slots);",
           race('outbox_test.a_queued_invalidation')),
    mutant('a change is written down only when it failed', 'backplane/publish.c',
           "    publish_write_down(p);\n    if (lines_away(fleet->lines))\n        return publish_queue(p);",
           "    if (lines_away(fleet->lines)) {\n        publish_write_down(p);\n        return publish_queue(p);\n    }",
           race('outbox_test.an_invalidation_whose_sender_is_killed')),
    mutant('proven while changes wait', 'backplane/renew.c',
           "    if (outbox_busy(fleet, part->partition)) {\n"
           "        outbox_drain(fleet); /* and a look after it */\n        return;\n    }\n", "",
           race('outbox_test.while_a_change_waits')),
    # ---- P6
    mutant('signatures do not matter', 'backplane/receive.c',
           "        if (sealed != SEAL_GOOD) {", "        if (sealed == SEAL_SHORT) {",
           flow('badinput_test.a_true_frame'), flow('badinput_test.frames_and_values')),
    mutant('frames of other partitions and caches are taken', 'backplane/receive.c',
           "    if (ret_frame->partition != partition || memcmp(ret_frame->cache, cache, 16) != 0)\n"
           "        return RECEIVE_FOREIGN;\n", "    (void)cache;\n",
           flow('fleet_test.'), unit('decide_test.')),
    # ---- the simulator's Redis: what it proves is worth what the model is
    mutant('model: a key lives a millisecond less', 'tests/sim/command.c',
           "call->now_ms <= entry->expires_ms || call->applies", "call->now_ms < entry->expires_ms || call->applies",
           model('a_key_expires')),
    mutant('model: a replica expires by itself', 'tests/sim/command.c',
           "call->now_ms <= entry->expires_ms || call->applies", "call->now_ms <= entry->expires_ms",
           model('a_key_expires'), model('a_replica_ends_up')),
    mutant('model: the last id may come again', 'tests/sim/xstream.c',
           "return stream_compare(id, stream->last) > 0;", "return stream_compare(id, stream->last) >= 0;",
           model('commands_answer')),
    mutant('model: one entry more in a node', 'tests/sim/stream.c',
           "#define NODE_ENTRIES 100u", "#define NODE_ENTRIES 101u", model('an_approximate_trim')),
    mutant('model: a node of 4,000 bytes', 'tests/sim/stream.c',
           "#define NODE_BYTES   4096u", "#define NODE_BYTES   4000u", model('commands_answer')),
    mutant('model: an approximate trim is exact', 'tests/sim/stream.c',
           "if (!trim->approximate)", "if (trim)", model('commands_answer')),
    mutant('model: SET keeps the time to live', 'tests/sim/string.c',
           "put(call, key, value)->expires_ms = KEYS_NO_EXPIRY;", "(void)put(call, key, value);",
           model('commands_answer'), model('scripts_answer')),
    mutant('model: MGET takes a hash for a string', 'tests/sim/string.c',
           "entry && entry->type == VALUE_STRING ? entry : NULL", "entry", model('commands_answer')),
    mutant('model: an empty hash stays', 'tests/sim/hash.c',
           "if (entry && entry->fields_count == 0)", "if (false)", model('commands_answer')),
    mutant('model: GETRANGE forgets the last byte', 'tests/sim/string.c',
           "(size_t)(last - first + 1)", "(size_t)(last - first)", model('commands_answer')),
    mutant('model: a script that nobody sent is known', 'tests/sim/script.c',
           "return script && script->number < server->scripts_count && server->scripts[script->number];",
           "(void)server;\n    return script;",
           model('lua_is_as_scripts'), model('a_restart_keeps')),
    mutant('model: scripts may write globals', 'tests/sim/script.c',
           'return luaL_error(lua, "Attempt to modify a readonly table");', "lua_rawset(lua, 1);\n    return 0;",
           model('lua_is_as_scripts')),
    mutant('model: a script writes on a replica', 'tests/sim/command.c',
           "else if (call->server->master && command->flags & COMMAND_WRITE)\n"
           '        reply_error(call->reply, "%s", read_only);\n'
           "    else if (call->full", "else if (call->full", model('a_replica_refuses')),
    mutant('model: unpack reads signed', 'tests/sim/pack.c',
           "if (item->type == 'I')\n        return (double)bits;", "", model('lua_is_as_scripts')),
    mutant('model: nothing is delivered', 'tests/sim/command.c',
           "deliver(server, client, channel, size, message, message_size);", "", model('what_is_published')),
    mutant('model: a replica hears all at once', 'tests/sim/redis.c',
           "replica->offset < up_to && replica->offset < master->offset", "replica->offset < master->offset",
           model('a_master_that_lost')),
    mutant('model: a replica is told how long, not until when', 'tests/sim/generic.c',
           "        expire_tell(call, ms);", "        (void)expire_tell;", model('a_replica_ends_up')),
    mutant('model: who is promoted keeps the replid', 'tests/sim/redis.c',
           "server->offset2 = (int64_t)server->offset + 1;\n    server_draw_replid(server);",
           "server->offset2 = (int64_t)server->offset + 1;", model('a_master_that_lost')),
    mutant('model: WAIT counts who was sent it', 'tests/sim/redis.c',
           "one->acked >= offset", "one->offset >= offset", model('wait_says')),
]
