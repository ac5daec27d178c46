/*
 * keyring_fuzz.c - a keyring file's text.  The reader takes a path, so the bytes go through a file without a name, in
 * memory.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <keyring.h>
#include <seal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_MOST 20000u

static char path[200];

static void remove_file(void)
{
    unlink(path);
}

/* The file that the bytes go through: keyring_open wants a regular file that is no link. */
static int file_open(void)
{
    static int fd = -1;

    if (fd >= 0)
        return fd;
    snprintf(path, sizeof path, "/dev/shm/freshet-fuzz-%d", (int)getpid());
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    FUZZ_EXPECT(fd >= 0 && seal_init() == FRESHET_OK);
    atexit(remove_file);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    int fd = file_open();
    struct keyring *keyring = NULL;
    uint8_t secret[64], key[32];
    uint64_t id = 0;

    FUZZ_EXPECT(ftruncate(fd, 0) == 0 && pwrite(fd, bytes, size, 0) == (ssize_t)size);
    if (keyring_open(&keyring, path) != FRESHET_OK) {
        FUZZ_EXPECT(!keyring);
        return 0;
    }
    FUZZ_EXPECT(keyring_sign_key(keyring, &id, secret));
    FUZZ_EXPECT(keyring_trusted(keyring, id, key)); /* the own key, without a line */
    id = 0;
    FUZZ_EXPECT(keyring_value_key(keyring, &id, key) && id != 0);
    keyring_close(keyring);
    return 0;
}

/* Good ones, made by the library itself: one alone, and one that trusts another. */
unsigned fuzz_seed(unsigned number, uint8_t *ret_bytes, size_t *ret_size)
{
    static uint8_t texts[2][TEXT_MOST];
    static size_t sizes[2];

    for (int i = 0; i < 2 && sizes[i] == 0; i++) {
        char name[220], like[220];
        FILE *file;

        (void)file_open();
        snprintf(name, sizeof name, "%s.%d", path, i);
        snprintf(like, sizeof like, "%s.0", path);
        FUZZ_EXPECT(keyring_generate(name, i ? like : NULL) == FRESHET_OK);
        file = fopen(name, "re");
        FUZZ_EXPECT(file != NULL);
        sizes[i] = fread(texts[i], 1, TEXT_MOST, file);
        fclose(file);
        if (i) {
            unlink(name);
            unlink(like);
        }
    }
    *ret_size = sizes[number];
    memcpy(ret_bytes, texts[number], sizes[number]);
    return 2;
}
