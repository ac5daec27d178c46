/*
 * answer.c - what a script answers, taken apart.  Above resp.h, below everything that asks.
 *
 * One place decides what an answer may look like, so that the callers see either a whole answer or none.
 */
#include <answer.h>
#include <string.h>

static const struct {
    const char *word;
    enum answer_status status;
} statuses[] = {
    {"OK", ANSWER_OK},     {"OUTDATED", ANSWER_OUTDATED}, {"REFUSED", ANSWER_REFUSED},   {"RECORD", ANSWER_RECORD},
    {"WAIT", ANSWER_WAIT}, {"TICKET", ANSWER_TICKET},     {"CONFLICT", ANSWER_CONFLICT}, {"GUARDED", ANSWER_GUARDED},
    {"FULL", ANSWER_FULL}, {"CURRENT", ANSWER_CURRENT},   {"NONE", ANSWER_NONE},
};

static bool is_text(const struct resp *item)
{
    return item && (item->type == RESP_STRING || item->type == RESP_STATUS) && item->text;
}

static enum answer_status status_of(const struct resp *item)
{
    for (size_t i = 0; is_text(item) && i < sizeof statuses / sizeof statuses[0]; i++)
        if (item->size == strlen(statuses[i].word) && memcmp(item->text, statuses[i].word, item->size) == 0)
            return statuses[i].status;
    return ANSWER_GARBLED;
}

bool answer_decimal(const struct resp *item, uint64_t most, uint64_t *ret_number)
{
    uint64_t number = 0;

    if (item && item->type == RESP_INTEGER) {
        if (item->integer < 0 || (uint64_t)item->integer > most)
            return false;
        *ret_number = (uint64_t)item->integer;
        return true;
    }
    if (!is_text(item) || item->size == 0 || item->size > 20)
        return false;
    for (size_t i = 0; i < item->size; i++) {
        uint64_t digit = (uint64_t)(unsigned char)item->text[i] - '0';

        if (digit > 9 || number > (UINT64_MAX - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    if (number > most)
        return false;
    *ret_number = number;
    return true;
}

bool answer_read(struct answer *ret_answer, const struct resp *reply)
{
    *ret_answer = (struct answer){.status = ANSWER_GARBLED, .text = "an answer that no script of ours gives"};
    if (reply && reply->type == RESP_ERROR) {
        ret_answer->status = ANSWER_ERROR;
        ret_answer->text = reply->text ? reply->text : "an error";
        return false;
    }
    if (!reply || reply->type != RESP_ARRAY || reply->count == 0)
        return false;
    enum answer_status status = status_of(reply->items[0]);

    if (status == ANSWER_CONFLICT) {
        ret_answer->rest = reply->items + 1;
        ret_answer->count = reply->count - 1;
    } else {
        if (status == ANSWER_GARBLED || reply->count < 4)
            return false;
        if (!is_text(reply->items[1]) || reply->items[1]->size != 8 ||
            !answer_decimal(reply->items[2], ANSWER_POSITION_MAX, &ret_answer->position) ||
            !answer_decimal(reply->items[3], ANSWER_POSITION_MAX, &ret_answer->time_us))
            return false;
        ret_answer->epoch = bytes_get64((const uint8_t *)reply->items[1]->text);
        if (ret_answer->epoch == 0 || ret_answer->position == 0)
            return false;
        ret_answer->rest = reply->items + 4;
        ret_answer->count = reply->count - 4;
    }
    ret_answer->text = reply->items[0]->text;
    ret_answer->status = status;
    return true;
}

bool answer_number(const struct answer *answer, size_t n, uint64_t most, uint64_t *ret_number)
{
    return n < answer->count && answer_decimal(answer->rest[n], most, ret_number);
}

bool answer_bytes(const struct answer *answer, size_t n, const void **ret_bytes, size_t *ret_size)
{
    if (n >= answer->count || !is_text(answer->rest[n]))
        return false;
    *ret_bytes = answer->rest[n]->text;
    *ret_size = answer->rest[n]->size;
    return true;
}
