/* sha1.h - SHA-1, the name that Redis gives a script.  Leans on nothing. */
#ifndef SIM_SHA1_H
#define SIM_SHA1_H

#include <stddef.h>

#define SHA1_HEX_SIZE 40u

/* 40 digits and a NUL. */
void sha1_hex(const void *data, size_t size, char ret_hex[SHA1_HEX_SIZE + 1]);

#endif
