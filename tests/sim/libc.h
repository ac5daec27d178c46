/*
 * libc.h - what libc.c offers the world beside the functions that it replaces.
 */
#ifndef SIM_LIBC_H
#define SIM_LIBC_H

#include <stdint.h>

struct sim_conn;

void libc_init(void);               /* once a program */
void libc_start(uint64_t seed);     /* once a run */
struct sim_conn *libc_conn(int fd); /* NULL: no simulated socket */

#endif
