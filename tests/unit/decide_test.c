/*
 * decide_test.c - the fleet's decisions, apart from all sockets: what an answer means, who sits down, what may be
 * believed.
 */
#include <admission.h>
#include <answer.h>
#include <fleet.h>
#include <receive.h>
#include <renew.h>
#include <seat.h>
#include <store.h>
#include <test.h>

#include <string.h>

/* ---- answers ---- */

static struct resp text(const char *bytes)
{
    return (struct resp){.type = RESP_STRING, .text = bytes, .size = strlen(bytes)};
}

TEST(an_answer_is_whole_or_none)
{
    struct resp status = text("OK"), epoch = {.type = RESP_STRING, .text = "\0\0\0\0\0\0\0\7", .size = 8};
    struct resp position = text("4294967297"), time = text("1700000000000000"), extra = text("12");
    struct resp *items[] = {&status, &epoch, &position, &time, &extra};
    struct resp reply = {.type = RESP_ARRAY, .count = 5, .items = items};
    struct answer answer;
    uint64_t number;

    EXPECT(answer_read(&answer, &reply) && answer.status == ANSWER_OK);
    EXPECT(answer.epoch == 7 && answer.position == 4294967297 && answer.time_us == 1700000000000000 &&
           answer.count == 1);
    EXPECT(answer_number(&answer, 0, 12, &number) && number == 12);
    EXPECT(!answer_number(&answer, 0, 11, &number) && !answer_number(&answer, 1, 12, &number));
    reply.count = 3;
    EXPECT(!answer_read(&answer, &reply) && answer.status == ANSWER_GARBLED);
    reply.count = 5;
    position = text("9007199254740992"); /* 2^53 */
    EXPECT(!answer_read(&answer, &reply));
    position = text("9007199254740991");
    EXPECT(answer_read(&answer, &reply));
    position = text("-1");
    EXPECT(!answer_read(&answer, &reply));
    position = text("0");
    EXPECT(!answer_read(&answer, &reply));
    position = text("1");
    epoch.size = 7;
    EXPECT(!answer_read(&answer, &reply));
    epoch = (struct resp){.type = RESP_STRING, .text = "\0\0\0\0\0\0\0\0", .size = 8};
    EXPECT(!answer_read(&answer, &reply));
    status = text("OKAY");
    EXPECT(!answer_read(&answer, &reply));
    reply = (struct resp){.type = RESP_ERROR, .text = "ERR no", .size = 6};
    EXPECT(!answer_read(&answer, &reply) && answer.status == ANSWER_ERROR && strcmp(answer.text, "ERR no") == 0);
    EXPECT(!answer_read(&answer, NULL) && answer.status == ANSWER_GARBLED);
}

TEST(a_conflict_is_an_answer_without_a_position)
{
    struct resp status = text("CONFLICT"), what = text("partitions"), theirs = text("4"), ours = text("1");
    struct resp *items[] = {&status, &what, &theirs, &ours};
    struct resp reply = {.type = RESP_ARRAY, .count = 4, .items = items};
    struct answer answer;
    uint64_t number;

    EXPECT(answer_read(&answer, &reply) && answer.status == ANSWER_CONFLICT && answer.count == 3);
    EXPECT(answer_number(&answer, 1, 16, &number) && number == 4);
}

TEST(decimals_are_digits_within_their_limit)
{
    struct resp item = text("18446744073709551615");
    uint64_t number;

    EXPECT(answer_decimal(&item, UINT64_MAX, &number) && number == UINT64_MAX);
    item = text("18446744073709551616");
    EXPECT(!answer_decimal(&item, UINT64_MAX, &number));
    item = text("");
    EXPECT(!answer_decimal(&item, 9, &number));
    item = text("1 ");
    EXPECT(!answer_decimal(&item, 9, &number));
    item = (struct resp){.type = RESP_INTEGER, .integer = 5};
    EXPECT(answer_decimal(&item, 5, &number) && number == 5);
    EXPECT(!answer_decimal(&item, 4, &number));
    item.integer = -1;
    EXPECT(!answer_decimal(&item, 5, &number));
}

/* ---- renew ---- */

TEST(a_report_means_same_adopt_lost_older_or_moved)
{
    struct renew_asked asked = {.page = {.epoch = 1, .applied = 90, .position = 100}};
    struct answer answer = {.status = ANSWER_OK, .epoch = 1, .position = 100};

    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_SAME);
    answer.position = 200;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_SAME);
    answer.position = 99;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_LOST);
    asked.page.applied = 101; /* applied tells of confirmed changes as well */
    answer.position = 100;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_LOST);
    answer.epoch = 2;
    answer.position = 101;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_ADOPT);
    answer.position = 99;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_OLDER);
    EXPECT_EQ(renew_judge(&asked, 2, &answer), RENEW_MOVED); /* whatever it says, it was asked by another page */
}

TEST(a_report_from_beyond_the_clock_is_never_adopted)
{
    struct renew_asked asked = {.page = {.epoch = 1, .applied = 90, .position = 100}};
    struct answer answer = {.status = ANSWER_OK, .epoch = 2, .time_us = 1000, .position = 1000 + RENEW_REACH};

    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_ADOPT);
    answer.position++;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_BEYOND);
    answer.epoch = 1;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_BEYOND); /* nor is it taken for news of our own history */
    answer.position = (UINT64_C(1) << 53) - 1;
    EXPECT_EQ(renew_judge(&asked, 1, &answer), RENEW_BEYOND);
}

/* ---- receive ---- */

TEST(the_log_is_applied_without_a_gap)
{
    EXPECT_EQ(receive_step(10, 9), RECEIVE_SKIP);
    EXPECT_EQ(receive_step(10, 10), RECEIVE_SKIP);
    EXPECT_EQ(receive_step(10, 11), RECEIVE_NEXT);
    EXPECT_EQ(receive_step(10, 12), RECEIVE_GAP);
}

TEST(a_channels_claim_is_believed_only_nearby)
{
    EXPECT(!receive_plausible(10, 10));
    EXPECT(receive_plausible(10, 11));
    EXPECT(receive_plausible(10, 10 + RECEIVE_REACH));
    EXPECT(!receive_plausible(10, 11 + RECEIVE_REACH));
    EXPECT(!receive_plausible(10, UINT64_MAX));
}

TEST(a_frame_is_ours_only_in_its_cache_and_partition)
{
    uint8_t cache[16] = "the cache", hashes[2][16] = {{1}, {2}}, body[FRAME_BODY_MAX];
    struct frame frame = {.kind = FRAME_INVALIDATE,
                          .version = 1,
                          .writer = 2,
                          .counter = 3,
                          .count = 2,
                          .hashes = (const uint8_t(*)[16])hashes};
    struct frame got;
    size_t size;

    memcpy(frame.cache, cache, 16);
    size = frame_encode(&frame, body, sizeof body);
    EXPECT(size > 0);
    EXPECT_EQ(receive_judge(body, size, cache, 0, 1, &got), RECEIVE_GOOD);
    EXPECT(got.count == 2 && memcmp(got.hashes[1], hashes[1], 16) == 0);
    EXPECT_EQ(receive_judge(body, size, cache, 1, 2, &got), RECEIVE_FOREIGN);
    EXPECT_EQ(receive_judge(body, size, cache, 0, 2, &got),
              RECEIVE_FOREIGN); /* of two partitions a key is in the other */
    EXPECT_EQ(receive_judge(body, size - 1, cache, 0, 1, &got), RECEIVE_GARBLED);
    frame.kind = FRAME_TAGS; /* tags are of all partitions */
    size = frame_encode(&frame, body, sizeof body);
    EXPECT(size > 0);
    EXPECT_EQ(receive_judge(body, size, cache, 0, 2, &got), RECEIVE_GOOD);
    EXPECT_EQ(receive_judge(body, size, cache, 1, 2, &got), RECEIVE_FOREIGN);
    cache[0]++;
    EXPECT_EQ(receive_judge(body, size, cache, 0, 1, &got), RECEIVE_FOREIGN);
}

/* ---- seat ---- */

TEST(the_seat_is_taken_from_nobody_the_dead_and_the_idle)
{
    struct seat_view view = {.us = 7, .holder = 7, .held = true, .reached = true, .now_ns = 1000, .patience_ns = 100};

    EXPECT_EQ(seat_judge(&view), SEAT_KEEP);
    view.held = false;
    EXPECT_EQ(seat_judge(&view), SEAT_BEGIN);
    view.holder = 0;
    EXPECT_EQ(seat_judge(&view), SEAT_TAKE);
    view.holder = 9;
    view.proven_ns = 900;
    EXPECT_EQ(seat_judge(&view), SEAT_WATCH);
    view.proven_ns = 899;
    EXPECT_EQ(seat_judge(&view), SEAT_TAKE);
    view.reached = false; /* we could do no better */
    EXPECT_EQ(seat_judge(&view), SEAT_WATCH);
    view.holder_dead = true;
    EXPECT_EQ(seat_judge(&view), SEAT_TAKE);
    view.holder_dead = false;
    view.reached = true;
    view.since_ns = 950; /* it has only just sat down */
    EXPECT_EQ(seat_judge(&view), SEAT_WATCH);
    view.held = true;
    EXPECT_EQ(seat_judge(&view), SEAT_LEAVE);
}

/* ---- store ---- */

TEST(an_answer_is_judged_only_beside_a_head_that_is_not_behind_us)
{
    struct remote_part page = {.epoch = 5, .applied = 80, .position = 100};
    struct stored_head head = {.epoch = 5, .position = 100};

    EXPECT_EQ(store_agrees(&head, &page), STORE_AGREES);
    head.position = 99;
    EXPECT_EQ(store_agrees(&head, &page), STORE_DIFFERS);
    head.position = 101;
    EXPECT_EQ(store_agrees(&head, &page), STORE_AGREES);
    head.epoch = 6;
    EXPECT_EQ(store_agrees(&head, &page), STORE_DIFFERS);
    EXPECT_EQ(store_agrees(NULL, &page), STORE_DIFFERS);
}

TEST(what_is_read_is_proven_only_by_a_look_before_it)
{
    struct remote_part page = {.epoch = 5, .position = 100, .proven_ns = 3};
    struct stored_head head = {.epoch = 5, .position = 100};
    struct renew_proof proof = {.asked_ns = 7, .epoch = 5, .position = 100};

    EXPECT_EQ(store_proof(&head, &page, &proof), 7);
    head.position = 99; /* a replica that lags behind what the master said */
    EXPECT_EQ(store_proof(&head, &page, &proof), 0);
    head.position = 101;
    EXPECT_EQ(store_proof(&head, &page, &proof), 7);
    page.proven_ns = 0; /* an epoch just adopted: what was changed lately has not been sent again */
    EXPECT_EQ(store_proof(&head, &page, &proof), 0);
    page.proven_ns = 3;
    proof.epoch = 6; /* the page met another history since */
    EXPECT_EQ(store_proof(&head, &page, &proof), 0);
    proof = (struct renew_proof){0};
    EXPECT_EQ(store_proof(&head, &page, &proof), 0);
}

TEST(a_record_lives_until_its_expiry_and_the_clear)
{
    struct stored_record record = {.state = STORED_VALUE, .born = 10, .expiry_us = 500};

    EXPECT(store_lives(&record, 10, 499));
    EXPECT(!store_lives(&record, 10, 500));
    EXPECT(!store_lives(&record, 11, 499));
    record.expiry_us = 0;
    EXPECT(store_lives(&record, 0, UINT64_MAX));
    record.state = STORED_ABSENT;
    EXPECT(store_lives(&record, 0, 1));
    record.state = STORED_TOMBSTONE;
    EXPECT(!store_lives(&record, 0, 1));
}

TEST(the_table_of_tags_is_asked_only_where_this_host_may_not_have_heard)
{
    struct stored_head head = {.epoch = 5, .position = 100, .newest_tag = 60};
    struct remote_record record = {.epoch = 5, .as_of = 100, .born = 50, .tag_count = 1};
    struct remote_part page = {.epoch = 5, .floor = 40, .applied = 80};

    EXPECT(!store_tags_matter(&head, &record, &page)); /* all from 40 to 80 is in our fences */
    page.floor = 50;
    EXPECT(!store_tags_matter(&head, &record, &page));
    page.floor = 51; /* a tag may have changed at 51, before we joined */
    EXPECT(store_tags_matter(&head, &record, &page));
    record.born = 60;
    EXPECT(!store_tags_matter(&head, &record, &page)); /* but none has since it was born */
    record.born = 59;
    EXPECT(!store_tags_matter(&head, &record, &page));
    page.applied = 59; /* the newest has not come to us yet */
    EXPECT(store_tags_matter(&head, &record, &page));
    page.applied = 60;
    EXPECT(!store_tags_matter(&head, &record, &page));
    page.applied = 0;
    record.tag_count = 0;
    EXPECT(!store_tags_matter(&head, &record, &page));
}

static struct resp integer(long long number)
{
    return (struct resp){.type = RESP_INTEGER, .integer = number};
}

/* A table whose word 0 is `whole`, and the words of two tags. */
static bool stands(long long whole, long long one, long long two)
{
    struct stored_head head = {.epoch = 5, .position = 100, .newest_tag = 60};
    struct remote_record record = {.epoch = 5, .as_of = 100, .born = 50, .tag_count = 2};
    struct resp items[] = {integer(whole), integer(one), integer(two)};
    struct resp *of[] = {&items[0], &items[1], &items[2]};
    struct resp reply = {.type = RESP_ARRAY, .count = 3, .items = of};

    return store_tags_stand(&reply, &head, &record);
}

TEST(a_record_stands_when_no_tag_of_its_own_changed_and_the_table_is_whole)
{
    struct stored_head head = {.position = 100, .newest_tag = 60};
    struct remote_record record = {.born = 50, .tag_count = 2};
    struct resp number = integer(60), word = text("60");
    struct resp *two[] = {&number, &number}, *odd[] = {&number, &word, &word}, *nil[] = {&number, NULL, NULL};
    struct resp reply = {.type = RESP_ARRAY, .count = 2, .items = two};

    EXPECT(stands(60, 0, 50));
    EXPECT(stands(60, 50, 50) && stands(110, 50, 0)); /* more may have changed since the head was read */
    EXPECT(!stands(60, 51, 0) && !stands(60, 0, 51));
    EXPECT(!stands(59, 0, 0) && !stands(0, 0, 0)); /* lost, or a server that lags */
    EXPECT(!stands(100 + (1ll << 31) + 1, 0, 0));  /* of another history */
    EXPECT(!stands(-1, 0, 0) && !stands(60, -1, 0) && !stands(60, 0, INT64_MIN));
    EXPECT(!store_tags_stand(&reply, &head, &record)); /* too few */
    reply = (struct resp){.type = RESP_ARRAY, .count = 3, .items = odd};
    EXPECT(!store_tags_stand(&reply, &head, &record));
    reply.items = nil;
    EXPECT(!store_tags_stand(&reply, &head, &record));
    EXPECT(!store_tags_stand(&number, &head, &record) && !store_tags_stand(NULL, &head, &record));
}

/* ---- admission ---- */

TEST(a_fit_redis_is_a_master_new_enough_that_keeps_its_keys)
{
    EXPECT_EQ(admission_judge("redis_version:7.0.15\r\nrole:master\r\nmaxmemory_policy:noeviction\r\n", false, "x"),
              FRESHET_OK);
    EXPECT_EQ(admission_judge("redis_version:6.2.0\r\nrole:master\r\nmaxmemory_policy:volatile-lru\r\n", false, "x"),
              FRESHET_OK);
    EXPECT_EQ(admission_judge("redis_version:6.0.16\r\nrole:master\r\n", false, "x"), FRESHET_EREDIS);
    EXPECT_EQ(admission_judge("redis_version:8.0.0\r\nrole:slave\r\n", false, "x"), FRESHET_EREDIS);
    EXPECT_EQ(admission_judge("redis_version:8.0.0\nrole:master\nmaxmemory_policy:allkeys-lfu\n", false, "x"),
              FRESHET_EREDIS);
    EXPECT_EQ(admission_judge("redis_version:8.0.0\nrole:master\nmaxmemory_policy:allkeys-lfu\n", true, "x"),
              FRESHET_OK);
    EXPECT_EQ(admission_judge("", false, "x"), FRESHET_EREDIS);
    EXPECT_EQ(admission_judge("redis_version:", false, "x"), FRESHET_EREDIS);
}
