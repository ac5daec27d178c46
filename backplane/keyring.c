/*
 * keyring.c - the keys that a process works with, out of a file that nobody else may read (PROTOCOL.md, section 6).
 *
 * The file is believed word by word or not at all: a keyring half understood would trust or seal with the wrong key.
 * An error names path, line and remedy and never a byte of a key.
 *
 * Keys live in memory of libsodium's: locked where the system allows it, left out of core dumps, between guard pages,
 * wiped when it goes.  Readers copy out the one key that they need; a changed file replaces all of them in one step.
 */
#include <keyring.h>

#include <bytes.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <remote.h>
#include <seal.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define KEYRING_FIRST_LINE "freshet keyring 1"
#define KEYRING_FILE_MAX   65536u
#define KEYRING_LOOK_NS    INT64_C(1000000000)

struct keyring_key {
    uint64_t id;
    uint8_t bytes[32];
};

struct keyring_keys {
    uint64_t sign_id;
    uint8_t secret[crypto_sign_SECRETKEYBYTES];
    struct keyring_key trusted[KEYRING_MAX + 1]; /* the own one first */
    struct keyring_key values[KEYRING_MAX];
    uint32_t trusted_count, values_count;
    bool signs;
};

struct keyring {
    char *path;
    pthread_rwlock_t lock;      /* over keys: the pointer */
    pthread_mutex_t refreshing; /* over the fields below */
    struct keyring_keys *keys;
    struct stat seen; /* the file as last read, fit or not */
    int64_t looked_ns;
    bool renewed; /* what that look said */
};

/* Why a file is unfit, in a sentence. */
struct keyring_why {
    freshet_result result;
    char text[512];
};

__attribute__((format(printf, 2, 3))) static bool keyring_unfit(struct keyring_why *why, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)vsnprintf(why->text, sizeof why->text, format, args);
    va_end(args);
    why->result = FRESHET_EKEYRING;
    return false;
}

static bool keyring_no_memory(struct keyring_why *why)
{
    (void)keyring_unfit(why, "no memory for a keyring");
    why->result = FRESHET_ENOMEM;
    return false;
}

static uint64_t keyring_id(const uint8_t key[32])
{
    uint8_t digest[32];

    crypto_generichash(digest, sizeof digest, key, 32, NULL, 0);
    return bytes_get64(digest);
}

static int64_t keyring_now_ns(void)
{
    struct timespec now = {0};

    (void)clock_gettime(CLOCK_BOOTTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- the text ------------------------------------------------------------------------------------------------ */

#define KEYRING_WORDS 4

struct keyring_line {
    const char *path;
    unsigned number;
    const char *words[KEYRING_WORDS];
    unsigned count;
};

static bool keyring_line_unfit(struct keyring_why *why, const struct keyring_line *line, const char *what)
{
    return keyring_unfit(why, "keyring %s, line %u: %s", line->path, line->number, what);
}

/* Take a line apart, in place; what follows '#' does not count. */
static void keyring_split(struct keyring_line *line, char *text)
{
    char *rest = NULL;

    text[strcspn(text, "#")] = '\0';
    line->count = 0;
    for (char *word = strtok_r(text, " \t\r", &rest); word; word = strtok_r(NULL, " \t\r", &rest)) {
        if (line->count < KEYRING_WORDS)
            line->words[line->count] = word;
        line->count++;
        if (line->count > KEYRING_WORDS)
            return;
    }
}

/* Hex digits of exactly this many bytes? */
static bool keyring_hex(const char *word, uint8_t *ret_bytes, size_t size)
{
    size_t got = 0;

    return strlen(word) == 2 * size && sodium_hex2bin(ret_bytes, size, word, 2 * size, NULL, &got, NULL) == 0 &&
           got == size;
}

static const struct keyring_key *keyring_find(const struct keyring_key *keys, uint32_t count, uint64_t id)
{
    for (uint32_t i = 0; i < count; i++)
        if (keys[i].id == id)
            return &keys[i];
    return NULL;
}

/* The line's `sign`: keep it as the first key trusted. */
static bool keyring_take_sign(struct keyring_keys *keys, const struct keyring_line *line, uint64_t id,
                              const uint8_t seed[32], struct keyring_why *why)
{
    uint8_t public[crypto_sign_PUBLICKEYBYTES];

    if (keys->signs)
        return keyring_line_unfit(why, line, "a second sign line; a process signs with one key, keep the new one");
    crypto_sign_seed_keypair(public, keys->secret, seed);
    if (keyring_id(public) != id)
        return keyring_line_unfit(why, line, "the id is not this key's; take the line as keygen wrote it");
    keys->sign_id = id;
    keys->signs = true;
    keys->trusted[0].id = id;
    memcpy(keys->trusted[0].bytes, public, 32);
    return true;
}

/* A `trust` or `value` line: one more in its list. */
static bool keyring_take_key(struct keyring_key *list, uint32_t *count, uint32_t most, const struct keyring_line *line,
                             uint64_t id, const uint8_t key[32], struct keyring_why *why)
{
    if (keyring_id(key) != id)
        return keyring_line_unfit(why, line, "the id is not this key's; take the line as keygen wrote it");
    if (keyring_find(list, *count, id))
        return keyring_line_unfit(why, line, "this key stands here already; remove one of the two lines");
    if (*count == most)
        return keyring_line_unfit(why, line, "more than 64 keys of a kind; remove those no longer in use");
    list[*count].id = id;
    memcpy(list[*count].bytes, key, 32);
    (*count)++;
    return true;
}

/* One line of the file; `trust` is told from `value` by its first word, and so on. */
static bool keyring_take_line(struct keyring_keys *keys, const struct keyring_line *line, struct keyring_why *why)
{
    uint8_t id_bytes[8], bytes[32];
    const char *word = line->words[0];
    bool good, sign = strcmp(word, "sign") == 0, trust = strcmp(word, "trust") == 0;
    uint64_t id;

    if (!sign && !trust && strcmp(word, "value") != 0)
        return keyring_line_unfit(why, line, "neither sign, trust nor value; '#' begins a comment");
    if (line->count != 3)
        return keyring_line_unfit(why, line, "not three words: sign, trust or value, then an id, then a key");
    if (!keyring_hex(line->words[1], id_bytes, sizeof id_bytes))
        return keyring_line_unfit(why, line, "the id is not 16 hex digits");
    if (!keyring_hex(line->words[2], bytes, sizeof bytes))
        return keyring_line_unfit(why, line, "the key is not 64 hex digits");
    id = bytes_get64(id_bytes);
    if (sign)
        good = keyring_take_sign(keys, line, id, bytes, why);
    else if (trust)
        good = keyring_take_key(keys->trusted + 1, &keys->trusted_count, KEYRING_MAX, line, id, bytes, why);
    else
        good = keyring_take_key(keys->values, &keys->values_count, KEYRING_MAX, line, id, bytes, why);
    sodium_memzero(bytes, sizeof bytes);
    return good;
}

/* Parse `size` bytes of `text`, which is NUL-terminated behind them; spoils it. */
static bool keyring_parse(struct keyring_keys *keys, const char *path, char *text, size_t size, struct keyring_why *why)
{
    struct keyring_line line = {.path = path};
    bool begun = false;

    if (memchr(text, '\0', size))
        return keyring_unfit(why, "keyring %s: not a text file; keygen makes a keyring", path);
    for (char *at = text, *end; at; at = end) {
        end = strchr(at, '\n');
        if (end)
            *end++ = '\0';
        line.number++;
        if (!begun) { /* the very first line, to the letter */
            if (strcmp(at, KEYRING_FIRST_LINE) != 0)
                return keyring_line_unfit(why, &line, "not \"" KEYRING_FIRST_LINE "\"; keygen makes a keyring");
            begun = true;
            continue;
        }
        keyring_split(&line, at);
        if (line.count > 0 && !keyring_take_line(keys, &line, why))
            return false;
    }
    if (!keys->signs)
        return keyring_unfit(why, "keyring %s: no sign line; every process signs with a key of its own", path);
    if (keys->values_count == 0)
        return keyring_unfit(why, "keyring %s: no value line; copy those of another host of the fleet", path);
    /* trusted_count counted the trust lines; a line for the own key is welcome and says nothing new. */
    for (uint32_t i = 1; i <= keys->trusted_count; i++) {
        if (keys->trusted[i].id != keys->sign_id)
            continue;
        keys->trusted[i] = keys->trusted[keys->trusted_count--];
        break;
    }
    keys->trusted_count++;
    return true;
}

/* ---- the file ------------------------------------------------------------------------------------------------ */

/* Is the open file one that only its owner can read, and the owner us or root? */
static bool keyring_is_private(int fd, const char *path, struct stat *ret_stat, struct keyring_why *why)
{
    if (fstat(fd, ret_stat) != 0)
        return keyring_unfit(why, "keyring %s: %s", path, strerrordesc_np(errno));
    if (!S_ISREG(ret_stat->st_mode))
        return keyring_unfit(why, "keyring %s: not a regular file", path);
    if (ret_stat->st_uid != geteuid() && ret_stat->st_uid != 0)
        return keyring_unfit(why, "keyring %s: owned by user %u; chown it to user %u or root", path,
                             (unsigned)ret_stat->st_uid, (unsigned)geteuid());
    if ((ret_stat->st_mode & 077) != 0)
        return keyring_unfit(why,
                             "keyring %s: mode %04o lets others at it; chmod 0600, and draw new keys if "
                             "somebody may have read it",
                             path, (unsigned)ret_stat->st_mode & 07777u);
    if (ret_stat->st_size > (off_t)KEYRING_FILE_MAX)
        return keyring_unfit(why, "keyring %s: larger than 64 KiB; is it a keyring?", path);
    return true;
}

/* Open the file itself, never what a link names; no FIFO holds us up.  -1: *why says it. */
static int keyring_open_file(const char *path, struct stat *ret_stat, struct keyring_why *why)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

    if (fd < 0) {
        if (errno == ELOOP)
            (void)keyring_unfit(why, "keyring %s: a symbolic link; name the file itself", path);
        else if (errno == ENOENT)
            (void)keyring_unfit(why, "keyring %s: no such file; keygen makes one", path);
        else
            (void)keyring_unfit(why, "keyring %s: cannot be opened (%s); it must be readable for user %u", path,
                                strerrordesc_np(errno), (unsigned)geteuid());
        return -1;
    }
    if (!keyring_is_private(fd, path, ret_stat, why)) {
        (void)close(fd);
        return -1;
    }
    return fd;
}

/* All bytes of the file, at most 64 KiB, with a NUL behind them, in secret memory (sodium_free); NULL: *why says it. */
static char *keyring_read(int fd, const char *path, size_t *ret_size, struct keyring_why *why)
{
    char *text = sodium_malloc(KEYRING_FILE_MAX + 2);
    size_t size = 0;

    if (!text) {
        (void)keyring_no_memory(why);
        return NULL;
    }
    for (;;) {
        ssize_t got = read(fd, text + size, KEYRING_FILE_MAX + 1 - size);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            (void)keyring_unfit(why, "keyring %s: cannot be read (%s)", path, strerrordesc_np(errno));
        if (got <= 0)
            break;
        size += (size_t)got;
        if (size > KEYRING_FILE_MAX) {
            (void)keyring_unfit(why, "keyring %s: larger than 64 KiB; is it a keyring?", path);
            break;
        }
    }
    if (why->result != FRESHET_OK) {
        sodium_free(text);
        return NULL;
    }
    text[size] = '\0';
    *ret_size = size;
    return text;
}

/* Read and parse; NULL: *why says it.  ret_text, if wanted, gets the file's own bytes, unspoiled. */
static struct keyring_keys *keyring_load(int fd, const char *path, char **ret_text, size_t *ret_size,
                                         struct keyring_why *why)
{
    struct keyring_keys *keys = NULL;
    char *copy = NULL, *text;
    size_t size = 0;

    if (!(text = keyring_read(fd, path, &size, why)))
        return NULL;
    copy = sodium_malloc(size + 1);
    keys = sodium_malloc(sizeof *keys);
    if (!copy || !keys) {
        (void)keyring_no_memory(why);
        goto fail;
    }
    memset(keys, 0, sizeof *keys);
    memcpy(copy, text, size + 1);
    if (!keyring_parse(keys, path, copy, size, why))
        goto fail;
    sodium_free(copy);
    if (ret_text) {
        *ret_text = text;
        *ret_size = size;
    } else {
        sodium_free(text);
    }
    return keys;
fail:
    sodium_free(keys);
    sodium_free(copy);
    sodium_free(text);
    return NULL;
}

/* ---- open, refresh, look up ---------------------------------------------------------------------------------- */

freshet_result keyring_open(struct keyring **ret_keyring, const char *path)
{
    struct keyring_why why = {.result = FRESHET_OK};
    struct keyring *keyring;
    freshet_result result;
    int fd;

    if (!path || !*path)
        return remote_fail(FRESHET_EKEYRING, "no keyring is named; keygen makes one");
    if ((result = seal_init()) != FRESHET_OK)
        return result;
    if (!(keyring = calloc(1, sizeof *keyring)) || !(keyring->path = strdup(path))) {
        free(keyring);
        return remote_fail(FRESHET_ENOMEM, "no memory for a keyring");
    }
    if ((fd = keyring_open_file(path, &keyring->seen, &why)) >= 0) {
        keyring->keys = keyring_load(fd, path, NULL, NULL, &why);
        (void)close(fd);
    }
    if (!keyring->keys) {
        free(keyring->path);
        free(keyring);
        return remote_fail(why.result, "%s", why.text);
    }
    keyring->looked_ns = keyring_now_ns() - KEYRING_LOOK_NS; /* the first look may come at once */
    (void)pthread_rwlock_init(&keyring->lock, NULL);
    (void)pthread_mutex_init(&keyring->refreshing, NULL);
    *ret_keyring = keyring;
    return FRESHET_OK;
}

void keyring_close(struct keyring *keyring)
{
    if (!keyring)
        return;
    (void)pthread_mutex_destroy(&keyring->refreshing);
    (void)pthread_rwlock_destroy(&keyring->lock);
    sodium_free(keyring->keys);
    free(keyring->path);
    free(keyring);
}

static bool keyring_same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mode == b->st_mode &&
           a->st_uid == b->st_uid && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
           a->st_mtim.tv_nsec == b->st_mtim.tv_nsec && a->st_ctim.tv_sec == b->st_ctim.tv_sec &&
           a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* Look at the file, at most once a second; true when its keys are new.  Under `refreshing`. */
static bool keyring_look(struct keyring *keyring, struct keyring_why *why)
{
    struct keyring_keys *keys = NULL, *old;
    struct stat now_there = {0};
    int64_t now = keyring_now_ns();
    int fd;

    if (now - keyring->looked_ns < KEYRING_LOOK_NS)
        return keyring->renewed; /* a moment ago, perhaps for another thread: what it found holds for this one too */
    keyring->looked_ns = now;
    keyring->renewed = false;
    if (lstat(keyring->path, &now_there) == 0 && keyring_same_file(&now_there, &keyring->seen))
        return false;
    keyring->seen = now_there; /* unfit or not: complain once */
    if ((fd = keyring_open_file(keyring->path, &now_there, why)) >= 0) {
        keyring->seen = now_there;
        keys = keyring_load(fd, keyring->path, NULL, NULL, why);
        (void)close(fd);
    }
    if (!keys)
        return false;
    (void)pthread_rwlock_wrlock(&keyring->lock);
    old = keyring->keys;
    keyring->keys = keys;
    (void)pthread_rwlock_unlock(&keyring->lock);
    sodium_free(old);
    keyring->renewed = true;
    return true;
}

bool keyring_refresh(struct keyring *keyring)
{
    struct keyring_why why = {.result = FRESHET_OK};
    bool renewed;

    (void)pthread_mutex_lock(&keyring->refreshing);
    renewed = keyring_look(keyring, &why);
    (void)pthread_mutex_unlock(&keyring->refreshing);
    if (why.result != FRESHET_OK)
        remote_say(FRESHET_WARN, "%s; the keys read before stay in force", why.text);
    return renewed;
}

bool keyring_sign_key(struct keyring *keyring, uint64_t *ret_id, uint8_t ret_secret[64])
{
    (void)pthread_rwlock_rdlock(&keyring->lock);
    *ret_id = keyring->keys->sign_id;
    memcpy(ret_secret, keyring->keys->secret, crypto_sign_SECRETKEYBYTES);
    (void)pthread_rwlock_unlock(&keyring->lock);
    return true;
}

bool keyring_trusted(struct keyring *keyring, uint64_t id, uint8_t ret_public[32])
{
    const struct keyring_key *key;

    (void)pthread_rwlock_rdlock(&keyring->lock);
    key = keyring_find(keyring->keys->trusted, keyring->keys->trusted_count, id);
    if (key)
        memcpy(ret_public, key->bytes, 32);
    (void)pthread_rwlock_unlock(&keyring->lock);
    return key != NULL;
}

bool keyring_value_key(struct keyring *keyring, uint64_t *id_or_0_for_first, uint8_t ret_key[32])
{
    const struct keyring_key *key;

    (void)pthread_rwlock_rdlock(&keyring->lock);
    if (*id_or_0_for_first == 0)
        key = &keyring->keys->values[0];
    else
        key = keyring_find(keyring->keys->values, keyring->keys->values_count, *id_or_0_for_first);
    if (key) {
        *id_or_0_for_first = key->id;
        memcpy(ret_key, key->bytes, 32);
    }
    (void)pthread_rwlock_unlock(&keyring->lock);
    return key != NULL;
}

/* ---- keygen -------------------------------------------------------------------------------------------------- */

/* Text being written, in secret memory. */
struct keyring_text {
    char *bytes;
    size_t size;
};

/* Append "WORD ID KEY\n"; there is room: 130 lines are far below the 64 KiB. */
static void keyring_text_key(struct keyring_text *text, const char *word, uint64_t id, const uint8_t key[32])
{
    uint8_t id_bytes[8];
    char *at = text->bytes + text->size;
    size_t size = strlen(word);

    bytes_put64(id_bytes, id);
    memcpy(at, word, size);
    at[size++] = ' ';
    sodium_bin2hex(at + size, 17, id_bytes, 8);
    size += 16;
    at[size++] = ' ';
    sodium_bin2hex(at + size, 65, key, 32);
    size += 64;
    at[size++] = '\n';
    text->size += size;
}

static void keyring_text_line(struct keyring_text *text, const char *line)
{
    size_t size = strlen(line);

    memcpy(text->bytes + text->size, line, size);
    text->size += size;
}

/* A new file beside `path`, synced, with mode 0600 until `like` says otherwise; returns its name (malloc'd) or NULL. */
static char *keyring_write_beside(const char *path, const struct keyring_text *text, const struct stat *like,
                                  struct keyring_why *why)
{
    char *name = NULL;
    size_t done = 0;
    int fd = -1;

    if (asprintf(&name, "%s.XXXXXX", path) < 0) {
        (void)keyring_no_memory(why);
        return NULL;
    }
    if ((fd = mkostemp(name, O_CLOEXEC)) < 0) { /* O_EXCL and mode 0600 are its habit */
        (void)keyring_unfit(why, "keyring %s: its directory takes no file (%s)", path, strerrordesc_np(errno));
        free(name);
        return NULL;
    }
    if (like && like->st_uid != geteuid() && fchown(fd, like->st_uid, like->st_gid) != 0)
        goto fail;
    if (like && fchmod(fd, like->st_mode & 0700) != 0)
        goto fail;
    while (done < text->size) {
        ssize_t put = write(fd, text->bytes + done, text->size - done);

        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            goto fail;
        done += (size_t)put;
    }
    if (fsync(fd) != 0)
        goto fail;
    (void)close(fd);
    return name;
fail:
    (void)keyring_unfit(why, "keyring %s: cannot be written (%s)", path, strerrordesc_np(errno));
    (void)close(fd);
    (void)unlink(name);
    free(name);
    return NULL;
}

/* Give the file `name` its place, which must be free. */
static bool keyring_place(const char *name, const char *path, struct keyring_why *why)
{
    int rc = link(name, path);

    if (rc != 0 && errno != EEXIST) /* a file system without links */
        rc = renameat2(AT_FDCWD, name, AT_FDCWD, path, RENAME_NOREPLACE);
    if (rc == 0)
        return true;
    if (errno == EEXIST)
        return keyring_unfit(why, "keyring %s: exists already; move it away, or choose another path", path);
    return keyring_unfit(why, "keyring %s: cannot be created (%s)", path, strerrordesc_np(errno));
}

/* A keyring that is to be copied from, and to learn the new public key. */
struct keyring_like {
    const char *path;
    int fd; /* locked, so that two keygens do not lose each other's line */
    struct stat stat;
    struct keyring_keys *keys;
    struct keyring_text text;
};

static bool keyring_like_open(struct keyring_like *like, const char *path, struct keyring_why *why)
{
    struct stat there;

    *like = (struct keyring_like){.path = path, .fd = -1};
    if (!path)
        return true;
    if ((like->fd = keyring_open_file(path, &like->stat, why)) < 0)
        return false;
    if (flock(like->fd, LOCK_EX | LOCK_NB) != 0 || lstat(path, &there) != 0 || there.st_ino != like->stat.st_ino)
        return keyring_unfit(why, "keyring %s: another keygen is at it; try again", path);
    like->keys = keyring_load(like->fd, path, &like->text.bytes, &like->text.size, why);
    if (!like->keys)
        return false;
    if (like->keys->trusted_count >= KEYRING_MAX || like->text.size > KEYRING_FILE_MAX - 256)
        return keyring_unfit(why, "keyring %s: full (64 keys, 64 KiB); remove keys no longer in use", path);
    return true;
}

static void keyring_like_close(struct keyring_like *like)
{
    sodium_free(like->keys);
    sodium_free(like->text.bytes);
    if (like->fd >= 0)
        (void)close(like->fd);
}

/* The new keyring's text; tells the new public key and its id. */
static void keyring_compose(struct keyring_text *text, const struct keyring_keys *like, uint64_t *ret_id,
                            uint8_t ret_public[32])
{
    uint8_t seed[32], secret[crypto_sign_SECRETKEYBYTES];

    keyring_text_line(text, KEYRING_FIRST_LINE "\n");
    keyring_text_line(text, "# Keep this file to yourself (mode 0600).  Other hosts need its trust and value lines, "
                            "never its sign line.\n");
    randombytes_buf(seed, sizeof seed);
    crypto_sign_seed_keypair(ret_public, secret, seed);
    *ret_id = keyring_id(ret_public);
    keyring_text_key(text, "sign", *ret_id, seed);
    keyring_text_key(text, "trust", *ret_id, ret_public);
    for (uint32_t i = 0; like && i < like->trusted_count; i++)
        keyring_text_key(text, "trust", like->trusted[i].id, like->trusted[i].bytes);
    for (uint32_t i = 0; like && i < like->values_count; i++)
        keyring_text_key(text, "value", like->values[i].id, like->values[i].bytes);
    if (!like) {
        randombytes_buf(seed, sizeof seed);
        keyring_text_key(text, "value", keyring_id(seed), seed);
    }
    sodium_memzero(seed, sizeof seed);
    sodium_memzero(secret, sizeof secret);
}

/* Write both files beside their places, then put them there: first the new one, then the line that trusts it. */
static bool keyring_write_both(const char *path, const struct keyring_text *text, const struct keyring_like *like,
                               struct keyring_why *why)
{
    char *fresh = NULL, *told = NULL;
    bool good = false, placed = false;

    if (like->path && !(told = keyring_write_beside(like->path, &like->text, &like->stat, why)))
        goto done;
    if (!(fresh = keyring_write_beside(path, text, NULL, why)) || !(placed = keyring_place(fresh, path, why)))
        goto done;
    if (told && rename(told, like->path) != 0) {
        (void)keyring_unfit(why, "keyring %s: cannot be replaced (%s)", like->path, strerrordesc_np(errno));
        goto done;
    }
    good = true;
done:
    if (fresh)
        (void)unlink(fresh); /* gone already where links were missing */
    if (told && !good)
        (void)unlink(told);
    if (placed && !good)
        (void)unlink(path);
    free(fresh);
    free(told);
    return good;
}

freshet_result keyring_generate(const char *path, const char *like_path)
{
    struct keyring_why why = {.result = FRESHET_OK};
    struct keyring_text text = {0};
    struct keyring_like like;
    freshet_result result;
    uint8_t public[32];
    uint64_t id;

    if (!path || !*path)
        return remote_fail(FRESHET_EINVAL, "no path for the new keyring");
    if ((result = seal_init()) != FRESHET_OK)
        return result;
    if (!keyring_like_open(&like, like_path, &why))
        goto done;
    if (!(text.bytes = sodium_malloc(KEYRING_FILE_MAX))) {
        (void)keyring_no_memory(&why);
        goto done;
    }
    keyring_compose(&text, like.keys, &id, public);
    if (like.path) {
        if (like.text.bytes[like.text.size - 1] != '\n')
            keyring_text_line(&like.text, "\n");
        keyring_text_key(&like.text, "trust", id, public);
    }
    (void)keyring_write_both(path, &text, &like, &why);
done:
    sodium_free(text.bytes);
    keyring_like_close(&like);
    return why.result == FRESHET_OK ? FRESHET_OK : remote_fail(why.result, "%s", why.text);
}
