/*
 * keyring.h - the keys a process works with: its own signing key, the public keys it trusts, the keys values are sealed
 * with.  Two of each may be active (up to KEYRING_MAX), so keys rotate without restart: the file is read again when it
 * has changed and an unknown key id turns up.
 *
 * The file is text:   freshet keyring 1
 *                     sign  ID SEED      8 and 32 bytes in hex; exactly one
 *                     trust ID PUBLIC    8 and 32 bytes; the own public key is trusted without a line
 *                     value ID KEY       8 and 32 bytes; the first seals, all open
 * ID of a signing key: first 8 bytes of BLAKE2b-256 of the public key; of a value key: likewise of the key.  Checked.
 * '#' begins a comment.  A regular file, no symlink, owned by this user or root, no access for group or others.
 * Secret memory is locked when the system allows it, kept out of core dumps, and wiped.
 */
#ifndef BACKPLANE_KEYRING_H
#define BACKPLANE_KEYRING_H

#include <freshet.h>
#include <stdint.h>

#define KEYRING_MAX 64u

struct keyring;

freshet_result keyring_open(struct keyring **ret_keyring, const char *path);
void keyring_close(struct keyring *keyring);
/* Read the file again if it has changed since (looked at once a second at most); true when the keys are new.  An unfit
 * file is complained of once (remote_say), and the old keys stay in force.  Thread-safe. */
bool keyring_refresh(struct keyring *keyring);
/* Used by seal.c only (readers/writer locked inside): copy out. */
bool keyring_sign_key(struct keyring *keyring, uint64_t *ret_id, uint8_t ret_secret[64]);
bool keyring_trusted(struct keyring *keyring, uint64_t id, uint8_t ret_public[32]);
bool keyring_value_key(struct keyring *keyring, uint64_t *id_or_0_for_first, uint8_t ret_key[32]);
/* For freshet_keygen. */
freshet_result keyring_generate(const char *path, const char *like);

#endif
