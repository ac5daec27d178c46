/*
 * dir.h - the tier's directory: whose it is, who is in it, and who may rearrange it.
 *
 * Two OFD locks on the file `lock` in it (never on LMDB's: closing any descriptor of that would drop LMDB's own):
 * byte 0 is held while opening or closing, byte 1 shared by every process for as long as it has the tier open, and
 * besides, to be counted, a byte of its own each.  OFD locks die with their process, and belong to the descriptor, so a
 * second open in one process is no hole.
 */
#ifndef CORE_DIR_H
#define CORE_DIR_H

#include <freshet.h>
#include <sys/types.h>

struct dir {
    int fd;      /* the directory */
    int lock_fd; /* the file `lock` in it */
    dev_t dev;
    ino_t ino;
    ino_t lock_ino;
    char *path; /* malloc'd */
};

/* Open `path` (NULL: the default for `name`), making it when absent, and check: a directory, no symlink, of this user,
 * mode without group and others.  For the default its parent /dev/shm/freshet-UID is made and checked alike. */
freshet_result dir_open(struct dir *dir, const char *path, const char *name);
void dir_close(struct dir *dir);
/* Hold the right to rearrange, waiting up to deadline_ns (CLOCK_BOOTTIME); FRESHET_EBUSY past it. */
freshet_result dir_lock(struct dir *dir, int64_t deadline_ns);
void dir_unlock(struct dir *dir);
/* Be counted among the users, or no longer. */
freshet_result dir_enter(struct dir *dir);
void dir_leave(struct dir *dir);
/* Is anybody else in?  Under dir_lock for an answer that lasts. */
bool dir_used(struct dir *dir);
/* How many are in, ourselves included. */
uint32_t dir_count(struct dir *dir);
/* Move the tier's files (control*, map*, outbox*) to `aside`, whose earlier content goes.  Under dir_lock, unused
 * only. */
freshet_result dir_set_aside(struct dir *dir);
/* The map alone: the control page, with the outbox in it, stays. */
freshet_result dir_set_map_aside(struct dir *dir);
/* Child after fork, or descriptors closed behind our back: close what is still ours, by identity, and undo no lock, for
 * the parent's are the same.  `path` stays allocated: callers may have been handed it. */
void dir_abandon(struct dir *dir);
bool dir_intact(const struct dir *dir); /* our descriptors are still our files */
/* Which file is the control page by name now?  Its inode; 0: none. */
ino_t dir_page(const struct dir *dir);

#endif
