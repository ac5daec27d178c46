/* keyring_test.c - a keyring is believed word by word or not at all, and says what is wrong without showing a key. */
#include <errno.h>
#include <fcntl.h>
#include <keyring.h>
#include <seal.h>
#include <sys/stat.h>
#include <vectors.h>

#define SEED  "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define SIGN  "sign 9d24e2eeaf27c2a0 " SEED "\n"
#define OWN   "trust 9d24e2eeaf27c2a0 03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8\n"
#define KEY   "404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f"
#define VALUE "value 62093cd92cefd1bc " KEY "\n"
#define FIRST "freshet keyring 1\n"

static void write_file(const char *path, const char *text, size_t size)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    EXPECT(fd >= 0 && write(fd, text, size) == (ssize_t)size);
    (void)close(fd);
}

static const char *path_in(const char *dir, const char *name)
{
    static char paths[8][256];
    static unsigned next;
    char *path = paths[next++ % 8], joined[256]; /* `dir` may be one of the paths */

    (void)snprintf(joined, sizeof joined, "%s/%s", dir, name);
    return memcpy(path, joined, sizeof joined);
}

static char *read_file(const char *path)
{
    static char texts[4][65536];
    static unsigned next;
    char *text = texts[next++ % 4];
    FILE *file = fopen(path, "re");
    size_t size;

    EXPECT(file != NULL);
    size = fread(text, 1, sizeof texts[0] - 1, file);
    text[size] = '\0';
    (void)fclose(file);
    return text;
}

/* The text is refused, in words that hold `words` and the path, and no byte of a key. */
static void expect_refused_bytes(const char *text, size_t size, const char *words)
{
    struct keyring *keyring = NULL;
    const char *path = path_in(fresh_dir(), "keyring");

    write_file(path, text, size);
    EXPECT(keyring_open(&keyring, path) == FRESHET_EKEYRING && keyring == NULL);
    EXPECT(strstr(freshet_error(), path) != NULL);
    if (!strstr(freshet_error(), words))
        fprintf(stderr, "said: %s\nwanted: %s\n", freshet_error(), words);
    EXPECT(strstr(freshet_error(), words) != NULL);
    EXPECT(!strstr(freshet_error(), "0001020304") && !strstr(freshet_error(), "4041424344"));
}

static void expect_refused(const char *text, const char *words)
{
    expect_refused_bytes(text, strlen(text), words);
}

static struct keyring *open_text(const char *text)
{
    struct keyring *keyring = NULL;
    const char *path = path_in(fresh_dir(), "keyring");

    write_file(path, text, strlen(text));
    EXPECT(keyring_open(&keyring, path) == FRESHET_OK);
    return keyring;
}

TEST(a_keyring_is_read)
{
    struct vector public = vector_of("public key"), key = vector_of("value key");
    struct keyring *keyring = open_text(FIRST "# ours\n\n  " SIGN OWN "\t" VALUE "# the end");
    uint8_t secret[64], bytes[32];
    uint64_t id = 0;

    EXPECT(keyring_sign_key(keyring, &id, secret) && id == 0x9d24e2eeaf27c2a0);
    EXPECT(keyring_trusted(keyring, id, bytes) && vector_is(&public, bytes, 32));
    EXPECT(!keyring_trusted(keyring, id + 1, bytes) && !keyring_trusted(keyring, 0, bytes));
    id = 0;
    EXPECT(keyring_value_key(keyring, &id, bytes) && id == 0x62093cd92cefd1bc && vector_is(&key, bytes, 32));
    EXPECT(keyring_value_key(keyring, &id, bytes));
    id++;
    EXPECT(!keyring_value_key(keyring, &id, bytes));
    keyring_close(keyring);
    keyring_close(NULL);
}

TEST(what_is_wrong_in_the_text_is_named_with_its_line)
{
    expect_refused("", "line 1");
    expect_refused("freshet keyring 2\n" SIGN VALUE, "line 1");
    expect_refused(SIGN VALUE, "line 1");
    expect_refused(FIRST VALUE, "no sign line");
    expect_refused(FIRST SIGN, "no value line");
    expect_refused(FIRST SIGN SIGN VALUE, "line 3");
    expect_refused(FIRST SIGN VALUE VALUE, "line 4: this key stands here already");
    expect_refused(FIRST SIGN VALUE OWN OWN, "line 5: this key stands here already");
    expect_refused(FIRST SIGN VALUE "seal 1 2\n", "line 4: neither sign");
    expect_refused(FIRST SIGN VALUE "value 62093cd92cefd1bc\n", "line 4: not three words");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bc " KEY " more\n", "line 3: not three words");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bc " KEY " a b c d e\n", "line 3: not three words");
    expect_refused(FIRST SIGN "value 62093cd92cefd1b " KEY "\n", "line 3: the id is not 16");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bg " KEY "\n", "line 3: the id is not 16");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bc " KEY "00\n", "line 3: the key is not 64");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bc 40\n", "line 3: the key is not 64");
    expect_refused(FIRST SIGN "value 62093cd92cefd1bd " KEY "\n", "line 3: the id is not this key's");
    expect_refused(FIRST "sign 9d24e2eeaf27c2a1 " SEED "\n" VALUE, "line 2: the id is not this key's");
    expect_refused(FIRST SIGN VALUE "trust 9d24e2eeaf27c2a0 " KEY "\n", "line 4: the id is not this key's");
    expect_refused_bytes(FIRST SIGN VALUE "\0", sizeof(FIRST SIGN VALUE "\0") - 1, "not a text file");
}

TEST(a_file_that_others_could_read_or_change_is_refused)
{
    struct keyring *keyring = NULL;
    const char *dir = fresh_dir(), *path = path_in(dir, "keyring"), *link = path_in(dir, "link");
    static const mode_t bad[] = {0640, 0604, 0610, 0601, 0620, 0602, 0666};
    static const mode_t good[] = {0600, 0400, 0700};

    write_file(path, FIRST SIGN VALUE, strlen(FIRST SIGN VALUE));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        EXPECT(chmod(path, bad[i]) == 0);
        EXPECT(keyring_open(&keyring, path) == FRESHET_EKEYRING && strstr(freshet_error(), "chmod 0600"));
    }
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        EXPECT(chmod(path, good[i]) == 0 && keyring_open(&keyring, path) == FRESHET_OK);
        keyring_close(keyring);
    }
    keyring = NULL;
    EXPECT(symlink(path, link) == 0);
    EXPECT(keyring_open(&keyring, link) == FRESHET_EKEYRING && strstr(freshet_error(), "symbolic link"));
    EXPECT(keyring_open(&keyring, dir) == FRESHET_EKEYRING && strstr(freshet_error(), "not a regular file"));
    EXPECT(mkfifo(path_in(dir, "fifo"), 0600) == 0);
    EXPECT(keyring_open(&keyring, path_in(dir, "fifo")) == FRESHET_EKEYRING);
    EXPECT(keyring_open(&keyring, path_in(dir, "none")) == FRESHET_EKEYRING && strstr(freshet_error(), "no such file"));
    EXPECT(keyring_open(&keyring, NULL) == FRESHET_EKEYRING && keyring_open(&keyring, "") == FRESHET_EKEYRING);
    if (geteuid() == 0) {
        EXPECT(chown(path, 12345, 12345) == 0);
        EXPECT(keyring_open(&keyring, path) == FRESHET_EKEYRING && strstr(freshet_error(), "owned by user 12345"));
    }
    EXPECT(keyring == NULL);
}

TEST(a_keyring_has_a_largest_size)
{
    static char text[65537];
    struct keyring *keyring;

    memset(text, '#', sizeof text);
    memcpy(text, FIRST SIGN VALUE, strlen(FIRST SIGN VALUE));
    text[65536] = '\0';
    keyring = open_text(text);
    keyring_close(keyring);
    text[65536] = '#';
    expect_refused_bytes(text, 65537, "64 KiB");
}

TEST(keygen_makes_a_keyring_for_oneself)
{
    const char *path = path_in(fresh_dir(), "keyring");
    struct keyring *keyring;
    struct stat stat_;
    char *before;

    EXPECT(keyring_generate(path, NULL) == FRESHET_OK);
    EXPECT(lstat(path, &stat_) == 0 && (stat_.st_mode & 07777) == 0600 && stat_.st_nlink == 1);
    EXPECT(keyring_open(&keyring, path) == FRESHET_OK);
    keyring_close(keyring);
    before = read_file(path);
    EXPECT(keyring_generate(path, NULL) == FRESHET_EKEYRING && strstr(freshet_error(), "exists already"));
    EXPECT(strcmp(before, read_file(path)) == 0);
    EXPECT(keyring_generate(path_in(path, "under"), NULL) == FRESHET_EKEYRING);
    EXPECT(keyring_generate("", NULL) == FRESHET_EINVAL);
}

TEST(a_keyring_made_like_another_trusts_it_and_is_trusted)
{
    const char *dir = fresh_dir(), *first = path_in(dir, "a"), *second = path_in(dir, "b"), *third = path_in(dir, "c");
    struct keyring *a, *b, *c;
    uint64_t a_id, b_id, c_id, a_value = 0, b_value = 0;
    uint8_t secret[64], key[32];
    struct stat stat_;

    EXPECT(keyring_generate(first, NULL) == FRESHET_OK);
    EXPECT(chmod(first, 0400) == 0);
    EXPECT(keyring_generate(second, first) == FRESHET_OK && keyring_generate(third, second) == FRESHET_OK);
    EXPECT(lstat(first, &stat_) == 0 && (stat_.st_mode & 07777) == 0400);
    EXPECT(keyring_open(&a, first) == FRESHET_OK && keyring_open(&b, second) == FRESHET_OK);
    EXPECT(keyring_open(&c, third) == FRESHET_OK);
    EXPECT(keyring_sign_key(a, &a_id, secret) && keyring_sign_key(b, &b_id, secret) &&
           keyring_sign_key(c, &c_id, secret));
    EXPECT(a_id != b_id && b_id != c_id);
    EXPECT(keyring_trusted(a, b_id, key) && keyring_trusted(b, a_id, key) && keyring_trusted(b, c_id, key));
    EXPECT(keyring_trusted(c, a_id, key) && !keyring_trusted(a, c_id, key));
    EXPECT(keyring_value_key(a, &a_value, key) && keyring_value_key(b, &b_value, key) && a_value == b_value);
    keyring_close(a);
    keyring_close(b);
    keyring_close(c);
}

TEST(a_keygen_that_fails_changes_nothing)
{
    const char *dir = fresh_dir(), *first = path_in(dir, "a"), *second = path_in(dir, "b");
    char *before;

    EXPECT(keyring_generate(first, NULL) == FRESHET_OK && keyring_generate(second, NULL) == FRESHET_OK);
    before = read_file(first);
    EXPECT(keyring_generate(second, first) == FRESHET_EKEYRING);
    EXPECT(strcmp(before, read_file(first)) == 0);
    EXPECT(keyring_generate(path_in(dir, "c"), path_in(dir, "none")) == FRESHET_EKEYRING);
    EXPECT(access(path_in(dir, "c"), F_OK) != 0);
    EXPECT(unlink(first) == 0 && unlink(second) == 0 && rmdir(dir) == 0); /* and no scraps are left */
}

TEST(a_full_keyring_is_named_and_left_alone)
{
    const char *dir = fresh_dir();
    char first[256], name[16];

    (void)snprintf(first, sizeof first, "%s/a", dir);
    EXPECT(keyring_generate(first, NULL) == FRESHET_OK);
    for (int i = 0; i < 63; i++) {
        (void)snprintf(name, sizeof name, "k%d", i);
        EXPECT(keyring_generate(path_in(dir, name), first) == FRESHET_OK);
    }
    EXPECT(keyring_generate(path_in(dir, "last"), first) == FRESHET_EKEYRING && strstr(freshet_error(), "full"));
}

/* Count what the library says. */
static void count_words(freshet_level level, const char *message, void *arg)
{
    EXPECT(level == FRESHET_WARN && strstr(message, "line 2") && strstr(message, "stay in force"));
    ++*(int *)arg;
}

/* Would a look at the file find this key trusted? */
static bool trusts_after_look(struct keyring *keyring, uint64_t id)
{
    uint8_t key[32];

    (void)keyring_refresh(keyring);
    return keyring_trusted(keyring, id, key);
}

TEST(a_changed_file_is_read_again_and_an_unfit_one_is_not_taken)
{
    const char *dir = fresh_dir(), *first = path_in(dir, "a"), *second = path_in(dir, "b");
    struct keyring *a, *b;
    uint64_t b_id, id = 0;
    uint8_t secret[64], key[32];
    int words = 0;

    EXPECT(keyring_generate(first, NULL) == FRESHET_OK && keyring_open(&a, first) == FRESHET_OK);
    EXPECT(!keyring_refresh(a));
    EXPECT(keyring_generate(second, first) == FRESHET_OK && keyring_open(&b, second) == FRESHET_OK);
    EXPECT(keyring_sign_key(b, &b_id, secret) && !keyring_trusted(a, b_id, key));
    EXPECT(!trusts_after_look(a, b_id)); /* within the second: not looked at again */
    EXPECT(test_until(trusts_after_look(a, b_id), 3000));
    write_file(first, "freshet keyring 1\ngarbage\n", 26);
    freshet_log(count_words, &words, FRESHET_WARN);
    EXPECT(test_until((keyring_refresh(a), words == 1), 3000));
    EXPECT(!test_until((keyring_refresh(a), words == 2), 1500)); /* it complains once */
    EXPECT(keyring_trusted(a, b_id, key) && keyring_value_key(a, &id, key));
    keyring_close(a);
    keyring_close(b);
}

TEST(a_frame_by_a_new_key_makes_the_file_be_read)
{
    const char *dir = fresh_dir(), *first = path_in(dir, "a"), *second = path_in(dir, "b");
    struct keyring *a, *b;
    uint8_t message[72 + 56] = {0};
    const uint8_t *body;
    size_t size;
    uint64_t id;

    EXPECT(keyring_generate(first, NULL) == FRESHET_OK && keyring_open(&a, first) == FRESHET_OK);
    EXPECT(keyring_generate(second, first) == FRESHET_OK && keyring_open(&b, second) == FRESHET_OK);
    EXPECT(seal_sign(b, message + 72, 56, message) == FRESHET_OK);
    EXPECT(seal_verify(a, message, sizeof message, &body, &size, &id) == SEAL_GOOD);
    keyring_close(a);
    keyring_close(b);
}
