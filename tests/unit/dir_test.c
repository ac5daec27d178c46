/* dir_test.c - the tier's directory: whose it must be, who is in, who may rearrange. */
#include <clock.h>
#include <dir.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <test.h>
#include <unistd.h>

/* A path below `dir`; lives as long as the test. */
static const char *below(const char *dir, const char *name)
{
    static char *paths[65536];
    static size_t used;

    EXPECT(used < sizeof paths / sizeof paths[0] && asprintf(&paths[used], "%s/%s", dir, name) > 0);
    return paths[used++];
}

static void expect_refused(const char *path, const char *word)
{
    struct dir dir;

    EXPECT_EQ(dir_open(&dir, path, "orders"), FRESHET_EDIR);
    EXPECT(dir.path == NULL && dir.fd == -1 && dir.lock_fd == -1);
    EXPECT(strstr(freshet_error(), word));
    EXPECT(strstr(freshet_error(), "/")); /* names the path */
}

static struct dir opened(const char *path)
{
    struct dir dir;

    EXPECT_EQ(dir_open(&dir, path, "orders"), FRESHET_OK);
    return dir;
}

static int descriptors(void)
{
    int count = 0;

    for (int fd = 0; fd < 256; fd++)
        count += fcntl(fd, F_GETFD) >= 0;
    return count;
}

static int64_t in_ms(int ms)
{
    return clock_boot_ns() + ms * CLOCK_NS_PER_MS;
}

static void touch_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    EXPECT(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static bool there(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

/* ---- opening ---- */

TEST(the_last_part_is_made_for_this_user_alone)
{
    const char *path = below(fresh_dir(), "tier");
    int before = descriptors();
    struct stat st;
    struct dir dir;

    umask(0);
    dir = opened(path);
    EXPECT(stat(path, &st) == 0 && S_ISDIR(st.st_mode));
    EXPECT_EQ(st.st_mode & 07777, 0700);
    EXPECT(dir.ino == st.st_ino && dir.dev == st.st_dev && strcmp(dir.path, path) == 0);
    EXPECT(stat(below(path, "lock"), &st) == 0);
    EXPECT_EQ(st.st_mode & 07777, 0600);
    EXPECT(fcntl(dir.fd, F_GETFD) & FD_CLOEXEC);
    EXPECT(fcntl(dir.lock_fd, F_GETFD) & FD_CLOEXEC);
    EXPECT(dir_intact(&dir));
    dir_close(&dir);
    EXPECT_EQ(descriptors(), before);
    dir = opened(path); /* and found again */
    dir_close(&dir);
}

TEST(the_default_is_two_levels_of_this_users_own)
{
    char name[32], expected[128];
    struct dir dir;
    struct stat st;

    (void)snprintf(name, sizeof name, "dir-test-%d", (int)getpid());
    (void)snprintf(expected, sizeof expected, "/dev/shm/freshet-%u/%s", (unsigned)geteuid(), name);
    EXPECT_EQ(dir_open(&dir, NULL, name), FRESHET_OK);
    EXPECT(strcmp(dir.path, expected) == 0);
    EXPECT(stat(expected, &st) == 0 && (st.st_mode & 07777) == 0700);
    dir_close(&dir);
    EXPECT(unlink(below(expected, "lock")) == 0 && rmdir(expected) == 0);
    *strrchr(expected, '/') = '\0';
    EXPECT(stat(expected, &st) == 0 && (st.st_mode & 07777) == 0700);
    (void)rmdir(expected); /* unless somebody else uses it */
}

TEST(a_missing_parent_is_not_made)
{
    const char *dir = fresh_dir();

    expect_refused(below(dir, "a/b"), "last part");
    EXPECT(!there(below(dir, "a")));
    struct dir none;
    EXPECT_EQ(dir_open(&none, "", "orders"), FRESHET_EDIR);
    EXPECT(strstr(freshet_error(), "empty"));
}

TEST(what_others_may_enter_is_refused)
{
    static const mode_t modes[] = {0750, 0705, 0770, 0707, 0710, 01777};
    const char *path = fresh_dir();

    for (unsigned i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        EXPECT(chmod(path, modes[i]) == 0);
        expect_refused(path, "chmod 700");
        EXPECT(!there(below(path, "lock")));
    }
    EXPECT(chmod(path, 0700) == 0);
    struct dir dir = opened(path);
    dir_close(&dir);
}

TEST(another_users_directory_is_refused)
{
    const char *path = fresh_dir();

    if (geteuid() != 0)
        test_skip("giving a directory to another user needs root");
    EXPECT(chown(path, 12345, (gid_t)-1) == 0);
    expect_refused(path, "user 12345");
    EXPECT(strstr(freshet_error(), "user 0"));
    EXPECT(chown(path, 0, (gid_t)-1) == 0);
    IN_CHILD({ /* and the other way round: a user's process at root's */
        EXPECT(chmod(below(path, ".."), 0711) == 0 && chmod(path, 0755) == 0);
        EXPECT(seteuid(12345) == 0);
        struct dir dir;
        EXPECT_EQ(dir_open(&dir, path, "orders"), FRESHET_EDIR);
        EXPECT(strstr(freshet_error(), "user 0") && strstr(freshet_error(), "user 12345"));
    });
}

TEST(a_symbolic_link_is_refused_even_to_a_good_directory)
{
    const char *home = fresh_dir(), *real = below(home, "real"), *link = below(home, "link");

    EXPECT(mkdir(real, 0700) == 0 && symlink(real, link) == 0);
    expect_refused(link, "symbolic link");
    expect_refused(below(home, "link/"), "symbolic link");
    expect_refused(below(home, "link///"), "symbolic link");
    EXPECT(!there(below(real, "lock")));
    EXPECT(unlink(link) == 0 && symlink(below(home, "nowhere"), link) == 0);
    expect_refused(link, "symbolic link");
    EXPECT(!there(below(home, "nowhere")));
}

TEST(what_is_no_directory_is_refused)
{
    const char *path = below(fresh_dir(), "tier");

    touch_file(path);
    expect_refused(path, "not a directory");
    EXPECT(unlink(path) == 0 && mkfifo(path, 0600) == 0);
    expect_refused(path, "not a directory");
}

TEST(a_lock_file_that_is_not_ours_alone_is_refused)
{
    const char *path = fresh_dir(), *lock = below(path, "lock");

    touch_file(below(path, "elsewhere"));
    EXPECT(symlink(below(path, "elsewhere"), lock) == 0);
    expect_refused(path, "lock");
    EXPECT(unlink(lock) == 0 && mkfifo(lock, 0600) == 0);
    expect_refused(path, "lock");
    EXPECT(unlink(lock) == 0 && mkdir(lock, 0700) == 0);
    expect_refused(path, "lock");
    EXPECT(rmdir(lock) == 0);
    touch_file(lock);
    EXPECT(chmod(lock, 0644) == 0);
    expect_refused(path, "lock");
}

/* ---- locks ---- */

TEST(one_rearranges_at_a_time)
{
    const char *path = fresh_dir();
    struct dir mine = opened(path);
    int64_t before;

    EXPECT_EQ(dir_lock(&mine, in_ms(0)), FRESHET_OK);
    IN_CHILD({
        struct dir theirs = opened(path);
        EXPECT_EQ(dir_lock(&theirs, in_ms(-1)), FRESHET_EBUSY); /* a deadline that is past: one try */
        before = clock_boot_ns();
        EXPECT_EQ(dir_lock(&theirs, in_ms(60)), FRESHET_EBUSY);
        EXPECT(clock_boot_ns() - before >= 60 * CLOCK_NS_PER_MS);
        EXPECT(strstr(freshet_error(), path));
        dir_close(&theirs);
    });
    struct dir again = opened(path); /* the same process: no hole */
    EXPECT_EQ(dir_lock(&again, in_ms(0)), FRESHET_EBUSY);
    dir_unlock(&mine);
    EXPECT_EQ(dir_lock(&again, in_ms(0)), FRESHET_OK);
    dir_close(&again);
    EXPECT_EQ(dir_lock(&mine, in_ms(0)), FRESHET_OK);
    dir_close(&mine);
}

/* A child that does something with the directory, says so, and waits to be killed. */
static pid_t child_that(const char *path, freshet_result (*act)(struct dir *dir))
{
    int ready[2];
    char byte;
    pid_t child;

    EXPECT(pipe(ready) == 0);
    if ((child = test_fork()) == 0) {
        struct dir dir = opened(path);

        EXPECT_EQ(act(&dir), FRESHET_OK);
        EXPECT(write(ready[1], "!", 1) == 1);
        for (;;)
            pause();
    }
    close(ready[1]);
    EXPECT(read(ready[0], &byte, 1) == 1);
    close(ready[0]);
    return child;
}

static freshet_result take_turn(struct dir *dir)
{
    return dir_lock(dir, in_ms(1000));
}

TEST(locks_die_with_their_process)
{
    const char *path = fresh_dir();
    pid_t holder = child_that(path, take_turn), user = child_that(path, dir_enter);
    struct dir dir = opened(path);

    EXPECT_EQ(dir_lock(&dir, in_ms(20)), FRESHET_EBUSY);
    test_kill(holder, SIGKILL);
    EXPECT_EQ(dir_lock(&dir, in_ms(2000)), FRESHET_OK);
    EXPECT(dir_used(&dir));
    test_kill(user, SIGKILL);
    EXPECT(test_until(!dir_used(&dir), 2000));
    dir_close(&dir);
}

TEST(a_stopped_process_is_waited_for_no_longer_than_allowed)
{
    const char *path = fresh_dir();
    pid_t holder = child_that(path, take_turn);
    struct dir dir = opened(path);
    int64_t before = clock_boot_ns();

    test_kill(holder, SIGSTOP);
    EXPECT_EQ(dir_lock(&dir, in_ms(100)), FRESHET_EBUSY);
    EXPECT(clock_boot_ns() - before < 5 * CLOCK_NS_PER_S);
    test_kill(holder, SIGKILL);
    dir_close(&dir);
}

TEST(whoever_is_in_is_seen_and_counted)
{
    const char *path = fresh_dir();
    struct dir mine = opened(path), other = opened(path);
    pid_t children[9];

    EXPECT(!dir_used(&mine));
    EXPECT_EQ(dir_enter(&mine), FRESHET_OK);
    EXPECT(!dir_used(&mine)); /* nobody but us */
    EXPECT(dir_used(&other));
    EXPECT_EQ(dir_count(&mine), 1);
    for (unsigned c = 0; c < 9; c++) {
        children[c] = child_that(path, dir_enter);
        EXPECT_EQ(dir_count(&mine), 2 + c);
    }
    EXPECT(dir_used(&mine));
    for (unsigned c = 0; c < 9; c++) {
        test_kill(children[c * 4 % 9], SIGKILL); /* in any order */
        EXPECT(test_until(dir_count(&mine) == 9 - c, 2000));
    }
    EXPECT(!dir_used(&mine));
    EXPECT_EQ(dir_enter(&other), FRESHET_OK); /* twice in one process: two */
    EXPECT_EQ(dir_count(&mine), 2);
    EXPECT_EQ(dir_count(&other), 2);
    dir_leave(&mine);
    EXPECT_EQ(dir_count(&other), 1);
    EXPECT(!dir_used(&other) && dir_used(&mine));
    dir_close(&mine);
    dir_close(&other);
}

TEST(a_child_that_abandons_takes_no_lock_of_its_parent)
{
    const char *path = fresh_dir();
    struct dir mine = opened(path), other = opened(path);

    EXPECT_EQ(dir_lock(&mine, in_ms(0)), FRESHET_OK);
    EXPECT_EQ(dir_enter(&mine), FRESHET_OK);
    IN_CHILD({
        int before = descriptors();
        dir_abandon(&mine);
        EXPECT_EQ(descriptors(), before - 2);
        EXPECT(strcmp(mine.path, path) == 0);
        struct dir own = opened(path);
        EXPECT(dir_used(&own));
        EXPECT_EQ(dir_lock(&own, in_ms(0)), FRESHET_EBUSY);
        EXPECT_EQ(dir_enter(&own), FRESHET_OK);
        EXPECT_EQ(dir_count(&own), 2);
        dir_close(&own);
    });
    EXPECT(dir_used(&other));
    EXPECT_EQ(dir_lock(&other, in_ms(0)), FRESHET_EBUSY);
    EXPECT_EQ(dir_count(&other), 2);
    dir_close(&mine);
    dir_close(&other);
}

TEST(descriptors_closed_behind_our_back_are_noticed)
{
    struct dir dir = opened(fresh_dir());
    int strangers[2], lock_fd = dir.lock_fd;

    close(dir.lock_fd);
    EXPECT(!dir_intact(&dir));
    EXPECT(pipe(strangers) == 0);
    EXPECT(strangers[0] == lock_fd || strangers[1] == lock_fd);
    EXPECT(!dir_intact(&dir));
    EXPECT_EQ(dir_lock(&dir, in_ms(0)), FRESHET_EIO);
    EXPECT(!dir_used(&dir));
    dir_close(&dir); /* and what has their numbers now is left alone */
    EXPECT(fcntl(strangers[0], F_GETFD) >= 0 && fcntl(strangers[1], F_GETFD) >= 0);
}

/* ---- setting aside ---- */

TEST(the_tiers_files_go_aside_and_nothing_else)
{
    const char *path = fresh_dir(), *aside = below(path, "aside");
    struct dir dir = opened(path);
    int before = descriptors();

    touch_file(below(path, "control"));
    touch_file(below(path, "control.new"));
    touch_file(below(path, "map-0123456789abcdef"));
    touch_file(below(path, "map-0123456789abcdef-lock"));
    touch_file(below(path, "notes"));
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    EXPECT(!there(below(path, "control")) && !there(below(path, "control.new")));
    EXPECT(!there(below(path, "map-0123456789abcdef")) && !there(below(path, "map-0123456789abcdef-lock")));
    EXPECT(there(below(path, "notes")) && there(below(path, "lock")));
    EXPECT(there(below(aside, "control")) && there(below(aside, "map-0123456789abcdef-lock")));
    EXPECT_EQ(descriptors(), before);

    touch_file(below(path, "map-1")); /* the next time what was there goes */
    EXPECT(mkdir(below(aside, "deep"), 0700) == 0 && mkdir(below(aside, "deep/er"), 0700) == 0);
    touch_file(below(aside, "deep/er/file"));
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    EXPECT(there(below(aside, "map-1")) && !there(below(aside, "control")) && !there(below(aside, "deep")));
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK); /* with nothing to do */
    EXPECT(!there(below(aside, "map-1")));
    EXPECT_EQ(descriptors(), before);
    EXPECT(dir_intact(&dir));
    dir_close(&dir);
}

TEST(setting_aside_follows_no_link)
{
    const char *home = fresh_dir(), *path = below(home, "tier"), *victim = below(home, "victim");
    struct dir dir = opened(path);

    EXPECT(mkdir(victim, 0700) == 0);
    touch_file(below(victim, "precious"));
    touch_file(below(path, "control"));
    EXPECT(symlink(victim, below(path, "aside")) == 0);
    EXPECT(symlink(victim, below(path, "map-link")) == 0);
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    EXPECT(there(below(victim, "precious")) && !there(below(victim, "control")));
    EXPECT(there(below(path, "aside/control")) && there(below(path, "aside/map-link")));
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK); /* empties aside, with the link in it */
    EXPECT(there(below(victim, "precious")));
    EXPECT(symlink(victim, below(path, "aside/again")) == 0);
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    EXPECT(there(below(victim, "precious")) && !there(below(path, "aside/again")));
    dir_close(&dir);
}

TEST(even_directories_in_the_files_places_go)
{
    const char *path = fresh_dir();
    struct dir dir = opened(path);

    EXPECT(mkdir(below(path, "control"), 0700) == 0);
    touch_file(below(path, "control/inside"));
    touch_file(below(path, "aside")); /* a file in its place */
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    EXPECT(!there(below(path, "control")) && there(below(path, "aside/control/inside")));
    dir_close(&dir);
}

TEST(many_files_all_go_aside)
{
    const char *path = fresh_dir();
    struct dir dir = opened(path);
    char name[32];

    for (int i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof name, "map-%d", i);
        touch_file(below(path, name));
    }
    EXPECT_EQ(dir_set_aside(&dir), FRESHET_OK);
    for (int i = 0; i < 3000; i++) {
        (void)snprintf(name, sizeof name, "map-%d", i);
        EXPECT(!there(below(path, name)));
    }
    dir_close(&dir);
}
