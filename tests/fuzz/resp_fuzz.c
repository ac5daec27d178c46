/* resp_fuzz.c - Redis's replies, cut into pieces anywhere. */
#include "fuzz.h"

#include <resp.h>
#include <string.h>

#define MOST 60000u

static volatile char touched;

/* Every byte of a reply can be read, and it is no larger than what was allowed. */
static size_t weigh(const struct resp *reply, unsigned depth)
{
    size_t sum = 0;

    FUZZ_EXPECT(reply && depth < 64);
    switch (reply->type) {
    case RESP_STRING:
    case RESP_STATUS:
    case RESP_ERROR:
        FUZZ_EXPECT(reply->text && reply->text[reply->size] == '\0');
        for (size_t i = 0; i < reply->size; i++)
            touched = reply->text[i];
        return reply->size;
    case RESP_ARRAY:
        for (size_t i = 0; i < reply->count; i++)
            sum += weigh(reply->items[i], depth + 1);
        return sum;
    case RESP_INTEGER:
    case RESP_NIL:
        return 0;
    }
    abort(); /* no such type */
}

static freshet_result drain(struct resp_reader *reader, unsigned *ret_replies)
{
    for (;;) {
        struct resp *reply = NULL;
        freshet_result result = resp_reader_next(reader, &reply);

        if (result != FRESHET_OK) {
            FUZZ_EXPECT(!reply);
            return result;
        }
        if (!reply)
            return FRESHET_OK;
        FUZZ_EXPECT(weigh(reply, 0) <= MOST);
        resp_free(reply);
        ++*ret_replies;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct resp_reader *reader = resp_reader_open(MOST);
    size_t piece = size ? bytes[size - 1] % 32u + 1 : 1;
    unsigned replies = 0;

    FUZZ_EXPECT(reader != NULL);
    for (size_t at = 0; at < size; at += piece) {
        size_t part = piece < size - at ? piece : size - at;

        if (resp_reader_feed(reader, (const char *)bytes + at, part) != FRESHET_OK ||
            drain(reader, &replies) != FRESHET_OK)
            break;
    }
    resp_reader_close(reader);
    return 0;
}

unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    static const char *const seeds[] = {
        "+OK\r\n",
        "-ERR no such thing\r\n",
        ":12345\r\n",
        "$5\r\nhello\r\n",
        "$-1\r\n",
        "*-1\r\n",
        "*0\r\n",
        "$0\r\n\r\n",
        "*5\r\n$2\r\nOK\r\n$8\r\n12345678\r\n$3\r\n100\r\n$16\r\n1700000000000000\r\n*0\r\n",
        "*3\r\n$7\r\nmessage\r\n$26\r\nfreshet:{default:0}:frames\r\n$4\r\nabcd\r\n",
        "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
        "*2\r\n*2\r\n:1\r\n*1\r\n$1\r\nx\r\n$-1\r\n",
        "+OK\r\n:1\r\n$1\r\na\r\n*1\r\n:2\r\n-NOSCRIPT x\r\n",
    };

    *ret_size = strlen(seeds[number]);
    memcpy(ret_bytes, seeds[number], *ret_size);
    return sizeof seeds / sizeof *seeds;
}
