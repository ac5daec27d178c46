/*
 * shelf.c - sets of one page: a line of tags in the control page, and entries one behind the other, in steps of 64
 * bytes.
 *
 *     an entry:  0 key's hash, 16 | 16 epoch | 24 as of | 32 born | 40 version | 48 writer | 56 source version |
 *                64 expires | 72 value size u32 | 76 key size u16 | 78 kind u8 | 79 tags u8 | 80 tags, key, value
 *                                                                                        all numbers little-endian
 *
 * A set is a seqlock: its number is odd while it is written.  A new entry goes to the front, then come those that were
 * used since the last time, then the others, and those that find no room are gone: a short queue with second chances,
 * without holes.  Who is killed in between leaves the number odd; the next one to write there begins the set anew.
 *
 * One at a time writes, in a turn that is its own until it ends or dies: the lock of a map's writer would do, but that
 * one page can have two maps, until all processes have noticed that one was set aside.
 */
#include <shelf.h>

#include <buf.h>
#include <bytes.h>
#include <clock.h>
#include <index.h>
#include <owner.h>
#include <step.h>

#include <string.h>
#include <sys/mman.h>

#define STEP_SIZE   64u
#define STEPS       (CONTROL_SHELF_SET / STEP_SIZE)
#define START_MASK  (STEPS - 1) /* of a start byte; the bit above it is the hint's */
#define ENTRY_SIZES 72u
#define ENTRY_HEAD  80u
#define ENTRY_MOST  512u
#define FENCES_LINE 8u /* a line of 64 bytes */

#define TAGS_A_WORD 4u
#define TAG_BITS    16u
#define TAG_WORDS   (CONTROL_SHELF_WAYS / TAGS_A_WORD)
#define TAG_ONES    UINT64_C(0x0001000100010001)
#define TAG_LOW     (TAG_ONES * 0x7fff)

#define SAMPLE      256u /* hits, after which it is seen whether looking is worth it */
#define SHARE_LEAST 3u   /* of them must be here, to be worth it: one in so many */

#define TURN_PAUSE_NS  (10 * CLOCK_NS_PER_MS) /* at least */
#define TURN_SHARE     10 /* of one processor's time, for filling what is empty */
#define TURN_SHARE_OLD 50 /* the same, where others have to go for it */

__extension__ typedef unsigned __int128 wide;

/* ---- where a key stands ---- */

struct place {
    struct control_shelf_line *line;
    const uint8_t *set;
    uint32_t number;
    uint16_t tag; /* never 0 */
};

static inline uint64_t fold(uint64_t a, uint64_t b)
{
    wide product = (wide)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Sixteen bytes a product; the last ones may be taken twice.  Who makes keys that meet in one set only makes them leave
 * it sooner. */
static inline uint64_t shelf_hash(uint64_t seed, const uint8_t *key, size_t size)
{
    uint64_t hash = seed ^ size * UINT64_C(0x9e3779b97f4a7c15), a, b;

    for (; size > 16; size -= 16, key += 16)
        hash = fold(bytes_get64(key) ^ hash, bytes_get64(key + 8) ^ UINT64_C(0xd6e8feb86659fd93));
    if (size >= 8) {
        a = bytes_get64(key);
        b = bytes_get64(key + size - 8);
    } else if (size >= 4) {
        a = bytes_get32(key);
        b = bytes_get32(key + size - 4);
    } else {
        a = (uint64_t)key[0] << 16 | (uint64_t)key[size / 2] << 8 | key[size - 1];
        b = 0;
    }
    return fold(a ^ hash, b ^ UINT64_C(0xa5a3564e27f8861b));
}

static inline struct place place_of(const struct control *control, const void *key, size_t size)
{
    uint64_t hash = shelf_hash(control->generation, key, size);
    uint32_t number = (uint32_t)((hash >> 32) * control->shelf_count >> 32);
    uint16_t tag = (uint16_t)hash;

    return (struct place){&control->shelf_lines[number], control->shelf_sets + (size_t)number * CONTROL_SHELF_SET,
                          number, tag ? tag : 1};
}

/* The ways of a word that have the tag: the upper bit of each. */
static inline uint64_t ways_of(const struct place *place, uint32_t word)
{
    uint64_t x = atomic_load_explicit(&place->line->tags[word], memory_order_relaxed) ^ TAG_ONES * place->tag;

    return ~(((x & TAG_LOW) + TAG_LOW) | x | TAG_LOW);
}

static inline uint32_t way_next(uint32_t word, uint64_t *ways)
{
    uint32_t way = word * TAGS_A_WORD + (uint32_t)__builtin_ctzll(*ways) / TAG_BITS;

    *ways &= *ways - 1;
    return way;
}

static inline uint16_t tag_of(const struct place *place, uint32_t way)
{
    return (uint16_t)(atomic_load_explicit(&place->line->tags[way / TAGS_A_WORD], memory_order_relaxed) >>
                      way % TAGS_A_WORD * TAG_BITS);
}

static inline uint32_t start_of(const struct place *place, uint32_t way)
{
    return atomic_load_explicit(&place->line->starts[way], memory_order_relaxed) & START_MASK;
}

/* The line of fences where the entry's is; it is only fetched for that. */
static inline uint32_t fence_line_of(const struct place *place, uint32_t way)
{
    return (uint32_t)(atomic_load_explicit(&place->line->starts[way], memory_order_relaxed) / STEPS & 1) << 16 |
           atomic_load_explicit(&place->line->fences[way], memory_order_relaxed);
}

struct entry {
    const uint8_t *bytes, *key;
    uint32_t value_size, key_size, tags, size;
    uint8_t kind;
};

/* The entry of a way; false: garbage.  Its sizes are read once, since they may change under our eyes. */
static inline bool entry_open(struct entry *entry, const struct place *place, uint32_t way)
{
    uint32_t start = start_of(place, way) * STEP_SIZE;
    const uint8_t *bytes = place->set + start;
    uint64_t sizes, size;

    if (start > CONTROL_SHELF_SET - 2 * STEP_SIZE)
        return false;
    sizes = bytes_take64(bytes + ENTRY_SIZES);
    entry->bytes = bytes;
    entry->value_size = (uint32_t)sizes;
    entry->key_size = (uint32_t)(sizes >> 32) & 0xffff;
    entry->kind = (uint8_t)(sizes >> 48);
    entry->tags = (uint32_t)(sizes >> 56);
    entry->key = bytes + ENTRY_HEAD + entry->tags * 8;
    size = (uint64_t)ENTRY_HEAD + entry->tags * 8 + entry->key_size + entry->value_size;
    entry->size = (uint32_t)size;
    return size <= CONTROL_SHELF_SET - start && entry->tags <= RECORD_TAGS_MAX;
}

static inline bool entry_is(const struct entry *entry, const void *key, size_t size)
{
    return entry->key_size == size && memcmp(entry->key, key, size) == 0;
}

/* ---- reading ---- */

void shelf_open(struct shelf *shelf, const struct control *control)
{
    *shelf = (struct shelf){.control = control};
}

static inline void entry_prefetch(const struct control *control, const struct place *place, uint32_t way)
{
    const uint8_t *bytes = place->set + (size_t)start_of(place, way) * STEP_SIZE;

    /* garbage may lead anywhere: nobody reads there */
    __builtin_prefetch((const void *)((uintptr_t)control->fences + (uintptr_t)fence_line_of(place, way) * 64));
    __builtin_prefetch(bytes);
    __builtin_prefetch(bytes + STEP_SIZE);
    __builtin_prefetch(bytes + 2 * STEP_SIZE);
}

static inline bool entry_read(const struct entry *entry, struct record *ret_record, freshet_buf *buf)
{
    const uint8_t *bytes = entry->bytes;

    ret_record->kind = entry->kind;
    ret_record->epoch = bytes_get64(bytes + 16);
    ret_record->as_of = bytes_get64(bytes + 24);
    ret_record->born = bytes_get64(bytes + 32);
    ret_record->version = bytes_get64(bytes + 40);
    ret_record->writer = bytes_get64(bytes + 48);
    ret_record->source_version = bytes_get64(bytes + 56);
    ret_record->expires_ns = (int64_t)bytes_get64(bytes + 64);
    ret_record->key_size = entry->key_size;
    ret_record->value_size = entry->value_size;
    ret_record->tag_count = entry->tags;
    for (uint32_t i = 0; i < entry->tags; i++)
        ret_record->tags[i] = bytes_get64(bytes + ENTRY_HEAD + 8 * i);
    if (buf_reserve(buf, entry->value_size) != FRESHET_OK)
        return false;
    if (entry->value_size)
        memcpy(buf->data, entry->key + entry->key_size, entry->value_size);
    buf->size = entry->value_size;
    return true;
}

bool shelf_read(const struct shelf *shelf, const void *key, size_t size, struct key *ret_key,
                struct record *ret_record, freshet_buf *buf, struct shelf_hit *ret_hit)
{
    const struct control *control = shelf->control;
    struct place place = place_of(control, key, size);
    uint64_t number = atomic_load_explicit(&place.line->number, memory_order_acquire);
    uint8_t hash[sizeof ret_key->hash];

    if (number & 1)
        return false;
    for (uint32_t word = 0; word < TAG_WORDS; word++) {
        uint64_t ways = ways_of(&place, word);

        while (ways) {
            uint32_t way = way_next(word, &ways);
            struct entry entry;

            entry_prefetch(control, &place, way);
            if (!entry_open(&entry, &place, way) || !entry_is(&entry, key, size))
                continue;
            memcpy(hash, entry.bytes, sizeof hash);
            if (!entry_read(&entry, ret_record, buf))
                return false;
            copy_ends();
            if (atomic_load_explicit(&place.line->number, memory_order_relaxed) != number ||
                tag_of(&place, way) != place.tag)
                return false;
            key_from_hash(ret_key, &control->space, hash);
            ret_key->data = key;
            ret_key->size = (uint32_t)size;
            *ret_hit = (struct shelf_hit){place.line, way};
            return true;
        }
    }
    return false;
}

/* ---- is it worth it? ---- */

/* The way of a key, for who is not in a hurry; CONTROL_SHELF_WAYS: it is not here. */
static uint32_t way_of(const struct place *place, const struct key *key)
{
    for (uint32_t word = 0; word < TAG_WORDS; word++) {
        uint64_t ways = ways_of(place, word);

        while (ways) {
            uint32_t way = way_next(word, &ways);
            struct entry entry;

            if (entry_open(&entry, place, way) && entry_is(&entry, key->data, key->size))
                return way;
        }
    }
    return CONTROL_SHELF_WAYS;
}

/* Threads that count at once lose a count. */
static void shelf_tally(struct shelf *shelf, bool met)
{
    uint32_t looked = atomic_load_explicit(&shelf->looked, memory_order_relaxed) + 1;
    uint32_t all = atomic_load_explicit(&shelf->met, memory_order_relaxed) + met;

    if (looked >= SAMPLE) {
        atomic_store_explicit(&shelf->idle, all < SAMPLE / SHARE_LEAST, memory_order_relaxed);
        looked = all = 0;
    }
    atomic_store_explicit(&shelf->looked, looked, memory_order_relaxed);
    atomic_store_explicit(&shelf->met, all, memory_order_relaxed);
}

void shelf_met(struct shelf *shelf)
{
    shelf_tally(shelf, true);
}

void shelf_missed(struct shelf *shelf, const struct key *key, const struct record *record)
{
    uint64_t low = bytes_get64(key->hash), high = bytes_get64(key->hash + 8);
    struct shelf_wish *wish = &shelf->wishes[low % SHELF_WISHES];
    struct place place = place_of(shelf->control, key->data, key->size);
    bool fits = shelf_fits(record), met = fits && way_of(&place, key) < CONTROL_SHELF_WAYS;

    shelf_tally(shelf, met);
    if (met || !fits || atomic_load_explicit(&wish->low, memory_order_relaxed) == low)
        return;
    atomic_store_explicit(&wish->high, high, memory_order_relaxed);
    atomic_store_explicit(&wish->low, low, memory_order_relaxed);
}

/* ---- wishes ---- */

bool shelf_wish_take(struct shelf *shelf, uint32_t at, uint8_t ret_hash[16])
{
    struct shelf_wish *wish = &shelf->wishes[at % SHELF_WISHES];
    uint64_t low = atomic_exchange_explicit(&wish->low, 0, memory_order_relaxed);

    bytes_put64(ret_hash, low);
    bytes_put64(ret_hash + 8, atomic_load_explicit(&wish->high, memory_order_relaxed));
    return low != 0;
}

/* ---- turns ---- */

static void line_clear(struct control_shelf_line *line)
{
    for (uint32_t word = 0; word < TAG_WORDS; word++)
        atomic_store(&line->tags[word], 0);
}

void shelf_belongs(struct shelf *shelf, uint64_t map)
{
    const struct control *control = shelf->control;

    if (atomic_load(&control->shelf->map) == map)
        return;
    atomic_store(&control->shelf->map, 0); /* nobody's, until nothing of the other is left */
    for (uint32_t i = 0; i < control->shelf_count; i++)
        line_clear(&control->shelf_lines[i]);
    STEP("shelf_cleared");
    atomic_store(&control->shelf->map, map);
}

static size_t shelf_bytes(const struct control *control)
{
    return (size_t)control->shelf_count * CONTROL_SHELF_SET;
}

static bool turn_is_due(const struct shelf *shelf, int64_t now_ns)
{
    int64_t next_ns = atomic_load_explicit(&shelf->control->shelf->next_ns, memory_order_relaxed);

    return next_ns <= now_ns || next_ns - now_ns > CLOCK_NS_PER_S; /* later than that: garbage */
}

bool shelf_due(const struct shelf *shelf)
{
    for (uint32_t i = 0; i < SHELF_WISHES; i++)
        if (atomic_load_explicit(&shelf->wishes[i].low, memory_order_relaxed) != 0)
            return turn_is_due(shelf, clock_boot_ns());
    return false;
}

/* Does he who is named have a turn?  A word of our own is an earlier program's, before exec, if we have none. */
static bool turn_is_held(const struct shelf *shelf, uint64_t owner)
{
    return owner == owner_self() ? atomic_load(&shelf->turning) : owner_alive(owner);
}

bool shelf_turn_begin(struct shelf *shelf, uint64_t map, struct shelf_turn *ret_turn)
{
    const struct control *control = shelf->control;
    uint64_t owner = atomic_load(&control->shelf->owner);

    *ret_turn = (struct shelf_turn){.map = map, .begun_ns = clock_boot_ns()};
    if (!turn_is_due(shelf, ret_turn->begun_ns) || turn_is_held(shelf, owner) ||
        !atomic_compare_exchange_strong(&control->shelf->owner, &owner, owner_self()))
        return false;
    atomic_store(&shelf->turning, true);
    if (atomic_load(&control->shelf->map) == map &&
        mprotect(control->shelf_room, shelf_bytes(control), PROT_READ | PROT_WRITE) == 0)
        return true;
    atomic_store(&shelf->turning, false);
    atomic_store(&control->shelf->owner, 0);
    return false;
}

int64_t shelf_turn_end(struct shelf *shelf, struct shelf_turn *turn)
{
    const struct control *control = shelf->control;
    int64_t now_ns = clock_boot_ns();
    int64_t pause_ns = (now_ns - turn->begun_ns) * (turn->displaced > turn->put / 2 ? TURN_SHARE_OLD : TURN_SHARE);

    if (pause_ns < TURN_PAUSE_NS)
        pause_ns = TURN_PAUSE_NS;
    if (pause_ns > CLOCK_NS_PER_S)
        pause_ns = CLOCK_NS_PER_S;
    (void)mprotect(control->shelf_room, shelf_bytes(control), PROT_NONE);
    atomic_store_explicit(&control->shelf->next_ns, now_ns + pause_ns, memory_order_relaxed);
    atomic_store(&shelf->turning, false);
    atomic_store(&control->shelf->owner, 0);
    return now_ns + pause_ns;
}

void shelf_abandon(struct shelf *shelf)
{
    if (shelf->control)
        (void)mprotect(shelf->control->shelf_room, shelf_bytes(shelf->control), PROT_NONE);
}

/* ---- writing ---- */

static uint64_t record_bytes(const struct record *record)
{
    return ENTRY_HEAD + record->tag_count * UINT64_C(8) + record->key_size + record->value_size;
}

bool shelf_fits(const struct record *record)
{
    return record->value_size <= ENTRY_MOST && record_bytes(record) <= ENTRY_MOST;
}

static void entry_write(uint8_t *bytes, const struct key *key, const struct record *record, const void *value)
{
    memcpy(bytes, key->hash, sizeof key->hash);
    bytes_put64(bytes + 16, record->epoch);
    bytes_put64(bytes + 24, record->as_of);
    bytes_put64(bytes + 32, record->born);
    bytes_put64(bytes + 40, record->version);
    bytes_put64(bytes + 48, record->writer);
    bytes_put64(bytes + 56, record->source_version);
    bytes_put64(bytes + 64, (uint64_t)record->expires_ns);
    bytes_put64(bytes + ENTRY_SIZES, record->value_size | (uint64_t)record->key_size << 32 |
                                         (uint64_t)record->kind << 48 | (uint64_t)record->tag_count << 56);
    bytes += ENTRY_HEAD;
    for (uint32_t i = 0; i < record->tag_count; i++, bytes += 8)
        bytes_put64(bytes, record->tags[i]);
    memcpy(bytes, key->data, key->size);
    if (record->value_size)
        memcpy(bytes + key->size, value, record->value_size);
}

/* A set as it will be. */
struct draft {
    uint64_t tags[TAG_WORDS];
    uint16_t fences[CONTROL_SHELF_WAYS];
    uint8_t starts[CONTROL_SHELF_WAYS];
    uint32_t ways, steps, read;
    uint8_t page[CONTROL_SHELF_SET];
};

/* Room for one more, behind the others; NULL: there is none. */
static uint8_t *draft_add(struct draft *draft, uint16_t tag, uint32_t fence_line, uint32_t size)
{
    uint8_t *bytes = draft->page + (size_t)draft->steps * STEP_SIZE;
    uint32_t steps = (size + STEP_SIZE - 1) / STEP_SIZE;

    if (draft->ways == CONTROL_SHELF_WAYS || steps > STEPS - draft->steps)
        return NULL;
    draft->tags[draft->ways / TAGS_A_WORD] |= (uint64_t)tag << draft->ways % TAGS_A_WORD * TAG_BITS;
    draft->fences[draft->ways] = (uint16_t)fence_line;
    draft->starts[draft->ways] = (uint8_t)(draft->steps | (fence_line >> 16 & 1) * STEPS);
    draft->ways++;
    draft->steps += steps;
    return bytes;
}

/* Take over those of these ways that are in use, but the key's; how many found no room. */
static uint32_t draft_keep(struct draft *draft, const struct place *place, const struct key *key, uint32_t those)
{
    uint32_t left_out = 0, read = atomic_load_explicit(&place->line->read, memory_order_relaxed);

    for (uint32_t way = 0; way < CONTROL_SHELF_WAYS; way++) {
        struct entry entry;
        uint8_t *bytes;

        if (!(those >> way & 1) || tag_of(place, way) == 0 || !entry_open(&entry, place, way) ||
            entry_is(&entry, key->data, key->size))
            continue;
        if (!(bytes = draft_add(draft, tag_of(place, way), fence_line_of(place, way), entry.size))) {
            left_out++;
            continue;
        }
        memcpy(bytes, entry.bytes, entry.size);
        draft->read |= (read >> way & 1) << (draft->ways - 1);
    }
    return left_out;
}

/* The page and its line, while the number is odd. */
static void draft_write(const struct draft *draft, const struct control *control, const struct place *place)
{
    struct control_shelf_line *line = place->line;

    memcpy(control->shelf_room + (size_t)place->number * CONTROL_SHELF_SET, draft->page,
           (size_t)draft->steps * STEP_SIZE);
    STEP("shelf_written");
    for (uint32_t word = 0; word < TAG_WORDS; word++)
        atomic_store_explicit(&line->tags[word], draft->tags[word], memory_order_relaxed);
    for (uint32_t way = 0; way < CONTROL_SHELF_WAYS; way++) {
        atomic_store_explicit(&line->fences[way], draft->fences[way], memory_order_relaxed);
        atomic_store_explicit(&line->starts[way], draft->starts[way], memory_order_relaxed);
    }
    atomic_store_explicit(&line->used, 0, memory_order_relaxed);
    atomic_store_explicit(&line->read, draft->read, memory_order_relaxed);
}

void shelf_put(struct shelf *shelf, struct shelf_turn *turn, const struct key *key, const struct record *record,
               const void *value)
{
    const struct control *control = shelf->control;
    struct place place = place_of(control, key->data, key->size);
    uint64_t number = atomic_load_explicit(&place.line->number, memory_order_relaxed);
    uint32_t used = atomic_load_explicit(&place.line->used, memory_order_relaxed);
    uint32_t fence_line = (key->partition * control->space.fence_slots + key->slot) / FENCES_LINE;
    struct draft draft = {.ways = 0};

    if (turn->over)
        return;
    entry_write(draft_add(&draft, place.tag, fence_line, (uint32_t)record_bytes(record)), key, record, value);
    if (!(number & 1)) {
        turn->displaced += draft_keep(&draft, &place, key, used);
        turn->displaced += draft_keep(&draft, &place, key, ~used);
    }
    atomic_store_explicit(&place.line->number, number | 1, memory_order_relaxed);
    copy_changes();
    STEP("shelf_opened");
    draft_write(&draft, control, &place);
    copy_changes();
    if (atomic_load(&control->shelf->map) != turn->map) { /* who has taken the shelf may have been here before us */
        line_clear(place.line);
        turn->over = true;
    }
    atomic_store_explicit(&place.line->number, (number | 1) + 1, memory_order_release);
    turn->put += !turn->over;
}

bool shelf_was_read(struct shelf *shelf, const struct key *key)
{
    struct place place = place_of(shelf->control, key->data, key->size);
    uint32_t way = way_of(&place, key), bit = UINT32_C(1) << way;

    if (way == CONTROL_SHELF_WAYS || !(atomic_load_explicit(&place.line->read, memory_order_relaxed) & bit))
        return false;
    (void)atomic_fetch_and_explicit(&place.line->read, ~bit, memory_order_relaxed);
    (void)atomic_fetch_and_explicit(&place.line->used, ~bit, memory_order_relaxed);
    return true;
}

void shelf_drop(struct shelf *shelf, const struct key *key)
{
    struct place place = place_of(shelf->control, key->data, key->size);

    for (uint32_t word = 0; word < TAG_WORDS; word++) {
        uint64_t ways = ways_of(&place, word);

        while (ways) {
            uint32_t way = way_next(word, &ways);
            struct entry entry;

            if (!entry_open(&entry, &place, way) || entry_is(&entry, key->data, key->size))
                (void)atomic_fetch_and_explicit(&place.line->tags[word],
                                                ~(UINT64_C(0xffff) << way % TAGS_A_WORD * TAG_BITS),
                                                memory_order_seq_cst);
        }
    }
}
