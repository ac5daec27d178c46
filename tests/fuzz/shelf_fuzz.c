/*
 * shelf_fuzz.c - a set of the shelf and its line, which any process of this user may have written: whoever reads,
 * writes or takes off there stays within the set.
 *
 * The input is the line, then the set; what it is too short for stays as it was.  The set stands at the end of a page,
 * behind which there is nothing.
 */
#include "fuzz.h"

#include <shelf.h>

#include <string.h>
#include <sys/mman.h>

static struct control control = {.shelf_count = 1, .generation = 7,
                                 .space = {.k0 = 1, .k1 = 2, .partitions = 4, .fence_slots = 8192}};
static struct control_shelf head;
static struct shelf shelf;
static const struct record some = {.kind = RECORD_VALUE, .expires_ns = RECORD_NEVER, .key_size = 3, .value_size = 5};

static void make(void)
{
    uint8_t *room = mmap(NULL, (size_t)3 * CONTROL_SHELF_SET, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    FUZZ_EXPECT(room != MAP_FAILED);
    FUZZ_EXPECT(mprotect(room + CONTROL_SHELF_SET, CONTROL_SHELF_SET, PROT_READ | PROT_WRITE) == 0);
    control.shelf_sets = control.shelf_room = room + CONTROL_SHELF_SET;
    FUZZ_EXPECT((control.shelf_lines = aligned_alloc(128, sizeof *control.shelf_lines)));
    memset(control.shelf_lines, 0, sizeof *control.shelf_lines);
    control.shelf = &head;
    shelf_open(&shelf, &control);
}

/* Read, take off, put. */
static void look(const char *name)
{
    static freshet_buf buf;
    struct shelf_turn turn = {0};
    struct shelf_hit hit;
    struct record record;
    struct key key;

    if (shelf_read(&shelf, name, strlen(name), &key, &record, &buf, &hit)) {
        shelf_use(&hit);
        FUZZ_EXPECT(buf.size == record.value_size && record.key_size == strlen(name));
        FUZZ_EXPECT(buf.size + record.key_size + record.tag_count * 8 <= CONTROL_SHELF_SET);
        FUZZ_EXPECT(record.tag_count <= RECORD_TAGS_MAX && key.slot < 8192 && key.partition < 4);
    }
    key_make(&key, &control.space, name, strlen(name));
    (void)shelf_was_read(&shelf, &key);
    shelf_drop(&shelf, &key);
    FUZZ_EXPECT(!shelf_read(&shelf, name, strlen(name), &key, &record, &buf, &hit));
    key_make(&key, &control.space, name, strlen(name));
    shelf_put(&shelf, &turn, &key, &some, "value");
    FUZZ_EXPECT(shelf_read(&shelf, name, strlen(name), &key, &record, &buf, &hit));
    FUZZ_EXPECT(buf.size == 5 && memcmp(buf.data, "value", 5) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    size_t line = sizeof *control.shelf_lines;

    if (!control.shelf_lines)
        make();
    memcpy(control.shelf_lines, bytes, size < line ? size : line);
    if (size > line)
        memcpy((uint8_t *)(uintptr_t)control.shelf_sets, bytes + line,
               size - line < CONTROL_SHELF_SET ? size - line : CONTROL_SHELF_SET);
    look("one");
    return 0;
}

/* A set of one entry that is as it should be, in each of some places. */
unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    struct shelf_turn turn = {0};
    struct key key;

    if (!control.shelf_lines)
        make();
    memset(control.shelf_lines, 0, sizeof *control.shelf_lines);
    key_make(&key, &control.space, "one", 3);
    shelf_put(&shelf, &turn, &key, &some, "value");
    memcpy(ret_bytes, control.shelf_lines, sizeof *control.shelf_lines);
    memset(ret_bytes + sizeof *control.shelf_lines, 0, CONTROL_SHELF_SET);
    memcpy(ret_bytes + sizeof *control.shelf_lines + (size_t)number * 128, control.shelf_sets, 128);
    ret_bytes[offsetof(struct control_shelf_line, starts)] = (uint8_t)(number * 2);
    *ret_size = sizeof *control.shelf_lines + CONTROL_SHELF_SET;
    return 32;
}
