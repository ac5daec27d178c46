/* control_test.c - the control page: its file is believed in nothing unchecked; its words never fall; no proof crosses
 * a rotation. */
#include <bytes.h>
#include <clock.h>
#include <control.h>
#include <policy.h>
#include <errno.h>
#include <fcntl.h>
#include <log.h>
#include <page.h>
#include <signal.h>
#include <stdio.h>
#include <step.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <test.h>
#include <unistd.h>

#define OLD 0x1111222233334444u /* two epochs; their tags differ */
#define NEW 0x9999aaaabbbbccc1u

static const struct control_shape shape = {
    .name = "orders", .tier_size = 1 << 20, .partitions = 2, .max_staleness_ms = 500};
static char why[256];

static int dir_fd(void)
{
    int fd = open(fresh_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    EXPECT(fd >= 0);
    return fd;
}

/* A directory with a page in it, closed again. */
static int dir_with_page(void)
{
    int fd = dir_fd();
    struct control control;

    EXPECT_EQ(control_create(&control, fd, &shape), FRESHET_OK);
    control_close(&control);
    return fd;
}

/* Open it, say whether it fits, close it. */
static enum control_fit fit_of(int fd, struct control_shape wanted)
{
    struct control control;
    enum control_fit fit;

    fail_clear();
    fit = control_open(&control, fd, &wanted, why, sizeof why);
    EXPECT((fit == CONTROL_FITS) == (control.page != NULL));
    EXPECT((fit == CONTROL_FITS) == (why[0] == '\0'));
    control_close(&control);
    return fit;
}

static void file_read(int fd, uint8_t head[CONTROL_HEAD_SIZE])
{
    int file = openat(fd, "control", O_RDONLY | O_CLOEXEC);

    EXPECT(pread(file, head, CONTROL_HEAD_SIZE, 0) == (ssize_t)CONTROL_HEAD_SIZE);
    close(file);
}

static void file_write(int fd, const uint8_t head[CONTROL_HEAD_SIZE])
{
    int file = openat(fd, "control", O_WRONLY | O_CLOEXEC);

    EXPECT(pwrite(file, head, CONTROL_HEAD_SIZE, 0) == (ssize_t)CONTROL_HEAD_SIZE);
    close(file);
}

/* Write a head that was changed on purpose, its check made right. */
static void file_forge(int fd, uint8_t head[CONTROL_HEAD_SIZE])
{
    key_siphash128(CONTROL_HEAD_K0, CONTROL_HEAD_K1, head, CONTROL_HEAD_SIZE - 16, head + CONTROL_HEAD_SIZE - 16);
    file_write(fd, head);
}

/* ---- the file ---- */

TEST(tables_grow_with_the_tier_within_their_limits)
{
    for (uint32_t partitions = 1; partitions <= 16; partitions++)
        for (int bits = 20; bits <= 36; bits += 2) {
            struct control_shape wanted = {.name = "n", .tier_size = 1ull << bits, .partitions = partitions};
            struct control control;
            int fd = dir_fd();
            struct stat st;

            if (bits > 30 && partitions > 1)
                continue;
            EXPECT_EQ(control_create(&control, fd, &wanted), FRESHET_OK);
            uint64_t all = (uint64_t)control.space.fence_slots * partitions;
            EXPECT((control.space.fence_slots & (control.space.fence_slots - 1)) == 0);
            EXPECT(all >= 8192 && all <= 1u << 20);
            EXPECT(bits < 24 || bits > 30 || (all > wanted.tier_size / 2048 && all <= wanted.tier_size / 1024));
            EXPECT(fstatat(fd, "control", &st, 0) == 0);
            EXPECT_EQ(st.st_size, control_file_size(&wanted));
            EXPECT_EQ(st.st_mode & 07777, 0600);
            EXPECT(st.st_blocks * 512 >= st.st_size); /* allocated in full */
            EXPECT_EQ(control.size, st.st_size);
            control_close(&control);
            EXPECT(unlinkat(fd, "control", 0) == 0);
            close(fd);
        }
}

TEST(nothing_said_means_the_defaults_and_later_whatever_there_is)
{
    struct control_shape none = {.name = "orders", .max_staleness_ms = 500};
    struct control control, again;
    int fd = dir_fd();

    EXPECT_EQ(control_create(&control, fd, &none), FRESHET_OK);
    EXPECT_EQ(control.tier_size, CONTROL_TIER_SIZE_DEFAULT);
    EXPECT_EQ(control.space.partitions, 1);
    EXPECT_EQ(control_open(&again, fd, &none, why, sizeof why), CONTROL_FITS);
    EXPECT_EQ(again.tier_size, CONTROL_TIER_SIZE_DEFAULT);
    EXPECT_EQ(again.max_staleness_ms, 500);
    EXPECT(again.generation == control.generation && memcmp(again.host_id, control.host_id, 16) == 0);
    EXPECT(again.space.k0 == control.space.k0 && again.space.fence_slots == control.space.fence_slots);
}

TEST(each_page_is_drawn_anew)
{
    struct control a, b;

    EXPECT_EQ(control_create(&a, dir_fd(), &shape), FRESHET_OK);
    EXPECT_EQ(control_create(&b, dir_fd(), &shape), FRESHET_OK);
    EXPECT(a.generation != b.generation && memcmp(a.host_id, b.host_id, 16) != 0);
}

TEST(no_file_is_missing)
{
    EXPECT_EQ(fit_of(dir_fd(), shape), CONTROL_MISSING);
}

TEST(another_shape_is_told_apart)
{
    int fd = dir_with_page();
    struct control_shape other = shape;

    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
    other.max_staleness_ms = 9000; /* the creator's limit holds; no reason to refuse */
    EXPECT_EQ(fit_of(fd, other), CONTROL_FITS);
    (void)snprintf(other.name, sizeof other.name, "orders2");
    EXPECT_EQ(fit_of(fd, other), CONTROL_SHAPE);
    EXPECT(strstr(why, "orders2"));
    other = shape;
    other.tier_size += 4096;
    EXPECT_EQ(fit_of(fd, other), CONTROL_SHAPE);
    other.tier_size = 0;
    EXPECT_EQ(fit_of(fd, other), CONTROL_FITS);
    other.partitions = 3;
    EXPECT_EQ(fit_of(fd, other), CONTROL_SHAPE);
    other.partitions = 0;
    EXPECT_EQ(fit_of(fd, other), CONTROL_FITS);
}

TEST(every_damaged_byte_of_the_head_is_found)
{
    int fd = dir_with_page();
    uint8_t head[CONTROL_HEAD_SIZE];

    file_read(fd, head);
    for (unsigned i = 0; i < CONTROL_HEAD_SIZE; i++) {
        head[i] ^= (uint8_t)(1 + i % 255);
        file_write(fd, head);
        EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
        EXPECT(strlen(why) > 20);
        head[i] ^= (uint8_t)(1 + i % 255);
    }
    file_write(fd, head);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
}

TEST(a_wild_number_under_a_right_check_is_found)
{
    static const struct {
        unsigned at, bytes;
        uint64_t value;
    } wild[] = {
        {8, 4, 1},           {12, 4, 1024}, {16, 8, 0},    {16, 8, UINT64_MAX}, {24, 8, 0}, {24, 8, UINT64_MAX},
        {24, 8, 1ull << 40}, {32, 4, 0},    {32, 4, 17},   {32, 4, UINT32_MAX}, {40, 4, 0}, {40, 4, 1u << 31},
        {48, 4, 4095}, {52, 4, 4096}, {56, 4, 12345},
    };
    int fd = dir_with_page();
    uint8_t head[CONTROL_HEAD_SIZE], good[CONTROL_HEAD_SIZE];

    file_read(fd, good);
    for (unsigned i = 0; i < sizeof wild / sizeof wild[0]; i++) {
        memcpy(head, good, sizeof head);
        if (wild[i].bytes == 8)
            bytes_put64(head + wild[i].at, wild[i].value);
        else
            bytes_put32(head + wild[i].at, (uint32_t)wild[i].value);
        file_forge(fd, head);
        EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    }
}

TEST(another_size_than_the_head_says_is_found)
{
    static const off_t sizes[] = {0, 1, 100, 511, 512, 513, 4096, 100000};
    int fd = dir_with_page(), file = openat(fd, "control", O_RDWR | O_CLOEXEC);
    off_t full = (off_t)control_file_size(&shape);
    uint8_t head[CONTROL_HEAD_SIZE];

    file_read(fd, head);
    for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        EXPECT(ftruncate(file, sizes[i]) == 0);
        EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    }
    EXPECT(ftruncate(file, full) == 0);
    file_write(fd, head);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
    EXPECT(ftruncate(file, full - 1) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    EXPECT(ftruncate(file, full + 1) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
}

TEST(another_boot_and_other_namespaces_are_told_apart)
{
    int fd = dir_with_page();
    uint8_t head[CONTROL_HEAD_SIZE], good[CONTROL_HEAD_SIZE];
    char boot[37] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");

    EXPECT(file && fread(boot, 1, 36, file) == 36);
    (void)fclose(file);
    file_read(fd, good);
    EXPECT(memcmp(good + 64, boot, 36) == 0);
    memcpy(head, good, sizeof head);
    head[64] = head[64] == '0' ? '1' : '0';
    file_forge(fd, head);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_BOOT);
    memcpy(head, good, sizeof head);
    head[104] ^= 1;
    file_forge(fd, head);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_NAMESPACE);
    EXPECT(strstr(why, "PID"));
    memcpy(head, good, sizeof head);
    head[112] ^= 1;
    file_forge(fd, head);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_NAMESPACE);
    EXPECT(strstr(why, "time"));
    file_forge(fd, good);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
}

TEST(what_others_may_open_is_foreign)
{
    static const mode_t modes[] = {0640, 0604, 0660, 0606, 0610};
    int fd = dir_with_page();

    for (unsigned i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        EXPECT(fchmodat(fd, "control", modes[i], 0) == 0);
        EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
        EXPECT(strstr(why, "0600"));
    }
    EXPECT(fchmodat(fd, "control", 0600, 0) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
    EXPECT(linkat(fd, "control", fd, "second", 0) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
}

TEST(another_users_page_is_foreign)
{
    int fd = dir_with_page();

    if (geteuid() != 0)
        test_skip("giving a file to another user needs root");
    EXPECT(fchownat(fd, "control", 12345, (gid_t)-1, 0) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    EXPECT(strstr(why, "another user"));
}

TEST(what_is_no_plain_file_is_foreign_and_never_followed)
{
    int fd = dir_with_page();

    EXPECT(renameat(fd, "control", fd, "real") == 0 && symlinkat("real", fd, "control") == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    EXPECT(strstr(why, "symbolic link"));
    EXPECT(unlinkat(fd, "control", 0) == 0 && mkdirat(fd, "control", 0700) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN);
    EXPECT(unlinkat(fd, "control", AT_REMOVEDIR) == 0 && mkfifoat(fd, "control", 0600) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FOREIGN); /* and does not wait for a writer */
    EXPECT(strstr(why, "regular"));
}

/* Make a page of 8 GiB's size in `fd`: 24 MiB, more than there is room for. */
static void expect_no_room(int fd)
{
    struct control_shape big = shape;
    struct control control;
    struct stat st;

    big.tier_size = 8ull << 30;
    EXPECT_EQ(control_create(&control, fd, &big), FRESHET_ENOSPC);
    EXPECT(control.page == NULL && strstr(freshet_error(), "tier_size"));
    EXPECT(fstatat(fd, "control.new", &st, 0) != 0 && errno == ENOENT);
    EXPECT(fstatat(fd, "control", &st, 0) != 0 && errno == ENOENT);
}

TEST(a_full_file_system_is_a_failure_at_open)
{
    const char *dir = fresh_dir();

    if (mount("none", dir, "tmpfs", 0, "size=4m,mode=0700") != 0)
        test_skip("mounting a small tmpfs needs root");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    expect_no_room(fd);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_MISSING);
    struct control control;
    EXPECT_EQ(control_create(&control, fd, &shape), FRESHET_OK); /* a small one has room, and all of it */
    memset(control.policy, 1, policy_size(control.tier_size));
    control_close(&control);
    close(fd);
    (void)umount2(dir, MNT_DETACH);
}

TEST(a_file_size_limit_raises_no_signal)
{
    int fd = dir_fd();

    IN_CHILD({
        struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
        EXPECT(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        expect_no_room(fd); /* SIGXFSZ would end this child */
    });
}

TEST(a_page_cannot_be_made_larger_than_can_be_meant)
{
    struct control_shape wild = shape;
    struct control control;

    wild.partitions = 17;
    EXPECT_EQ(control_create(&control, dir_fd(), &wild), FRESHET_EINVAL);
    wild = shape;
    wild.tier_size = UINT64_MAX;
    EXPECT_EQ(control_create(&control, dir_fd(), &wild), FRESHET_EINVAL);
}

static const char *die_at;

static void die_hook(const char *point)
{
    if (strcmp(point, die_at) == 0)
        kill(getpid(), SIGKILL);
}

/* The child has killed itself at a point; see it die there. */
static void expect_killed(pid_t child)
{
    int status;

    while (waitpid(child, &status, 0) < 0)
        EXPECT(errno == EINTR);
    EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

TEST(who_dies_while_making_it_leaves_nothing_that_counts)
{
    int fd = dir_fd();
    struct control control;
    pid_t child = test_fork();

    if (child == 0) {
        die_at = "control_written";
        step_hook = die_hook;
        (void)control_create(&control, fd, &shape);
        test_child_done();
    }
    expect_killed(child);
    EXPECT(faccessat(fd, "control.new", F_OK, 0) == 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_MISSING);
    EXPECT_EQ(control_create(&control, fd, &shape), FRESHET_OK);
    EXPECT(faccessat(fd, "control.new", F_OK, 0) != 0);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
}

TEST(a_umask_takes_nothing_from_the_owner)
{
    int fd = dir_fd();
    struct control control;

    umask(0777);
    EXPECT_EQ(control_create(&control, fd, &shape), FRESHET_OK);
    EXPECT_EQ(fit_of(fd, shape), CONTROL_FITS);
}

/* ---- words ---- */

/* Two mappings of one page: what two processes have. */
static struct control one, two;

static void pages_make(void)
{
    int fd = dir_fd();

    EXPECT_EQ(control_create(&one, fd, &shape), FRESHET_OK);
    EXPECT_EQ(control_open(&two, fd, &shape, why, sizeof why), CONTROL_FITS);
    EXPECT(one.page != two.page);
}

TEST(two_mappings_are_one_page)
{
    pages_make();
    EXPECT(control_raise(control_fence(&one, 1, 4095), 7));
    IN_CHILD({
        EXPECT_EQ(atomic_load(control_fence(&two, 1, 4095)), 7);
        EXPECT_EQ(atomic_load(control_fence(&two, 0, 4095)), 0);
        EXPECT(control_raise(control_fence(&two, 1, 4095), 8));
        control_count(&two, COUNT_HITS, 5);
        control_set_redis_clock(&two, -12345678901234);
    });
    EXPECT_EQ(atomic_load(control_fence(&one, 1, 4095)), 8);
    EXPECT_EQ(control_counted(&one, COUNT_HITS), 5);
    EXPECT_EQ(control_redis_clock(&one), -12345678901234);
}

TEST(tables_do_not_overlap)
{
    pages_make();
    memset(one.policy, 0xff, policy_size(one.tier_size));
    for (uint32_t i = 0; i < one.space.fence_slots * 2; i++)
        EXPECT_EQ(atomic_load(&one.fences[i]), 0);
    for (uint32_t i = 0; i < one.space.fence_slots * 2; i++)
        (void)control_raise(&one.fences[i], UINT64_MAX);
    EXPECT((*control_outbox_word(&one) & 0xffff) == 0);
    EXPECT_EQ(control_outbox_waiting(&one, UINT32_MAX), 0);
    for (int i = 0; i < COUNT_ALL; i++)
        control_count(&one, (enum control_counter)i, UINT64_MAX);
    EXPECT(atomic_load(&one.parts[0].epoch) == 0 && atomic_load(&one.parts[1].proven) == 0);
    EXPECT_EQ(control_fleet(&one), 0);
    for (size_t i = 0; i < policy_size(one.tier_size); i++)
        EXPECT_EQ(((const uint8_t *)one.policy)[i], 0xff);
    uint8_t head[CONTROL_HEAD_SIZE], after[CONTROL_HEAD_SIZE];
    memcpy(head, one.page, sizeof head);
    memset(one.parts, 0xff, 2 * sizeof(struct control_part));
    memcpy(after, one.page, sizeof after);
    EXPECT(memcmp(head, after, sizeof head) == 0);
}

TEST(a_word_only_rises_however_many_raise_it)
{
    _Atomic uint64_t *word;
    pid_t children[4];

    pages_make();
    word = &one.parts[0].floor;
    EXPECT(control_raise(word, 5) && !control_raise(word, 5) && !control_raise(word, 4));
    for (unsigned c = 0; c < 4; c++)
        if ((children[c] = test_fork()) == 0) {
            uint64_t seed = c, last = 0;

            for (int i = 0; i < 100000; i++) {
                uint64_t value = 10 + test_random(&seed) % 1000000, seen;

                (void)control_raise(&two.parts[0].floor, value);
                seen = atomic_load(&two.parts[0].floor);
                EXPECT(seen >= value && seen >= last);
                last = seen;
                (void)control_next_position(&two, 1);
            }
            test_child_done();
        }
    for (unsigned c = 0; c < 4; c++)
        test_join(children[c]);
    EXPECT_EQ(atomic_load(&one.parts[1].position), 400000);
    EXPECT_EQ(control_next_position(&one, 1), 400001);
}

/* ---- epochs and proofs ---- */

/* In the epoch OLD at position 100, proven. */
static void pages_join(void)
{
    pages_make();
    EXPECT(control_adopt(&one, 0, 0, OLD, 100, 50));
    EXPECT(control_prove(&one, 0, control_ask(&one, 0), OLD, 100));
}

TEST(adopting_raises_everything_and_unproves)
{
    struct control_part *part;

    pages_join();
    part = &two.parts[0];
    EXPECT(control_proven_ns(&two, 0) > 0);
    EXPECT(control_adopt(&two, 0, OLD, NEW, 1000, 900));
    EXPECT_EQ(atomic_load(&part->epoch), NEW);
    EXPECT_EQ(atomic_load(&part->floor), 1000);
    EXPECT_EQ(atomic_load(&part->clear), 900);
    EXPECT_EQ(atomic_load(&part->applied), 1000);
    EXPECT_EQ(atomic_load(&part->position), 1000);
    EXPECT_EQ(control_proven_ns(&one, 0), 0);
    EXPECT_EQ(control_proven_ns(&one, 1), 0);
    EXPECT_EQ(atomic_load(&two.parts[1].epoch), 0);            /* the other partition's history is its own */
    EXPECT(control_adopt(&one, 0, OLD, NEW, 1000, 900));       /* a sibling was quicker: it is adopted */
    EXPECT(!control_adopt(&one, 0, OLD, NEW + 1, 5000, 5000)); /* seen in another epoch: too late */
    EXPECT_EQ(atomic_load(&part->floor), 1000);
    EXPECT(!control_adopt(&one, 0, NEW, 0, 5000, 5000));
}

/* Not even the fences, although their positions are of the history that ended: a reader may be between its look at the
 * epoch and its look at them. */
TEST(adopting_never_lowers)
{
    pages_join();
    (void)control_raise(control_fence(&one, 0, 1), 90);
    (void)control_raise(control_fence(&one, 0, 2), 2000);
    EXPECT(control_adopt(&one, 0, OLD, NEW, 7, 6));
    EXPECT_EQ(atomic_load(control_fence(&two, 0, 1)), 90);
    EXPECT_EQ(atomic_load(control_fence(&two, 0, 2)), 2000);
    EXPECT_EQ(atomic_load(&one.parts[0].floor), 100);
    EXPECT_EQ(atomic_load(&one.parts[0].clear), 50);
    EXPECT_EQ(atomic_load(&one.parts[0].applied), 100);
}

/* A load that Redis cannot tell about asks the primary for a while after a change: these may stand for any. */
TEST(what_an_adoption_or_a_repair_voids_counts_as_changed_just_now)
{
    _Atomic uint64_t *newest;
    int64_t before;

    pages_join();
    newest = &one.parts[0].newest_change_ns;
    before = clock_boot_ns();
    EXPECT(control_adopt(&one, 0, OLD, NEW, 7, 6)); /* though its positions are below ours */
    EXPECT((int64_t)atomic_load(newest) >= before);
    atomic_store(newest, 1);
    control_repair(&one, 0, 300);
    EXPECT((int64_t)atomic_load(newest) >= before);
}

TEST(a_repair_voids_before_it_claims)
{
    pages_join();
    control_repair(&one, 0, 300);
    EXPECT_EQ(atomic_load(&one.parts[0].floor), 300);
    EXPECT_EQ(atomic_load(&one.parts[0].applied), 300);
    EXPECT_EQ(atomic_load(&one.parts[0].position), 300);
    control_repair(&one, 0, 200); /* decided long ago, done late */
    EXPECT_EQ(atomic_load(&one.parts[0].floor), 300);
    EXPECT_EQ(atomic_load(&one.parts[0].applied), 300);
}

TEST(only_what_is_applied_in_this_epoch_is_proven)
{
    struct control_question question;
    int64_t first;

    pages_join();
    first = control_proven_ns(&one, 0);
    EXPECT(test_until(clock_boot_ns() - first > CLOCK_NS_PER_MS, 1000));
    question = control_ask(&one, 0);
    EXPECT(!control_prove(&one, 0, question, OLD, 101));
    EXPECT(!control_prove(&one, 0, question, NEW, 100));
    EXPECT(!control_prove(&one, 0, question, 0, 0));
    EXPECT_EQ(control_proven_ns(&one, 0), first);
    EXPECT(control_raise(&one.parts[0].applied, 101));
    EXPECT(control_prove(&two, 0, question, OLD, 101));
    EXPECT_EQ(control_proven_ns(&one, 0), question.asked_ns / 1000 * 1000);
}

TEST(a_late_proof_does_not_set_the_clock_back)
{
    struct control_question early, late;

    pages_join();
    early = control_ask(&one, 0);
    EXPECT(test_until(clock_boot_ns() - early.asked_ns > CLOCK_NS_PER_MS, 1000));
    late = control_ask(&one, 0);
    EXPECT(control_prove(&one, 0, late, OLD, 100));
    EXPECT(control_prove(&two, 0, early, OLD, 100)); /* proven already, and later */
    EXPECT_EQ(control_proven_ns(&one, 0), late.asked_ns / 1000 * 1000);
}

TEST(a_forgotten_proof_is_gone_and_so_are_questions_on_their_way)
{
    struct control_question before, after;

    pages_join();
    EXPECT(!control_forgotten(&one, 0));
    before = control_ask(&one, 0);
    control_forget_proof(&two, 0);
    EXPECT_EQ(control_proven_ns(&one, 0), 0);
    EXPECT(control_forgotten(&one, 0));
    EXPECT(!control_prove(&one, 0, before, OLD, 100));
    after = control_ask(&one, 0);
    control_forget_proof(&two, 0); /* once more, by the next who leaves */
    EXPECT(!control_prove(&one, 0, before, OLD, 100) && !control_prove(&one, 0, after, OLD, 100));
    EXPECT(control_forgotten(&one, 0));
    EXPECT(control_prove(&one, 0, control_ask(&one, 0), OLD, 100));
    EXPECT(control_proven_ns(&two, 0) > 0 && !control_forgotten(&one, 0));
    /* A history that was adopted since is another thing: what is to be sent again there must be. */
    control_forget_proof(&two, 0);
    EXPECT(control_adopt(&one, 0, OLD, NEW, 200, 200));
    EXPECT(!control_forgotten(&one, 0));
    control_forget_proof(&two, 0);
    EXPECT(!control_forgotten(&one, 0));
}

TEST(a_question_from_before_a_rotation_proves_nothing)
{
    struct control_question question;

    pages_join();
    question = control_ask(&one, 0);
    EXPECT(control_adopt(&two, 0, OLD, NEW, 1000, 900));
    EXPECT(!control_prove(&one, 0, question, OLD, 100));
    EXPECT(!control_prove(&one, 0, question, NEW, 1000));
    EXPECT_EQ(control_proven_ns(&one, 0), 0);
    EXPECT(control_prove(&one, 0, control_ask(&one, 0), NEW, 1000));
    EXPECT(control_proven_ns(&one, 0) > 0);
}

/* What a sibling does while the present call is held at a point: once. */
static const char *meanwhile_at;
static void (*meanwhile)(void);

static void meanwhile_hook(const char *point)
{
    void (*act)(void) = meanwhile;

    if (!act || strcmp(point, meanwhile_at) != 0)
        return;
    meanwhile = NULL;
    act();
}

static void at(const char *point, void (*act)(void))
{
    meanwhile_at = point;
    meanwhile = act;
    step_hook = meanwhile_hook;
}

static void sibling_adopts(void)
{
    EXPECT(control_adopt(&two, 0, OLD, NEW, 1000, 900));
}

static void sibling_adopts_and_proves(void)
{
    sibling_adopts();
    EXPECT(control_prove(&two, 0, control_ask(&two, 0), NEW, 1000));
}

TEST(a_prover_that_is_held_up_proves_nothing_across_a_rotation)
{
    struct control_question question;

    pages_join();
    EXPECT(test_until(clock_boot_ns() - control_proven_ns(&one, 0) > CLOCK_NS_PER_MS, 1000));
    question = control_ask(&one, 0);
    at("prove_checked", sibling_adopts); /* all checks passed, in the old epoch; the swap is to come */
    EXPECT(!control_prove(&one, 0, question, OLD, 100));
    EXPECT(!meanwhile);
    EXPECT_EQ(control_proven_ns(&one, 0), 0);
}

TEST(a_prover_that_is_held_up_takes_no_new_proof_away)
{
    struct control_question question;
    int64_t proven;

    pages_join();
    EXPECT(test_until(clock_boot_ns() - control_proven_ns(&one, 0) > CLOCK_NS_PER_MS, 1000));
    question = control_ask(&one, 0);
    at("prove_checked", sibling_adopts_and_proves);
    EXPECT(!control_prove(&one, 0, question, OLD, 100));
    proven = control_proven_ns(&one, 0);
    EXPECT(proven > question.asked_ns);
}

/* In a split brain a sibling still sees the old master, which proves the old epoch. */
static void sibling_proves_the_old(void)
{
    EXPECT_EQ(atomic_load(&two.parts[0].epoch), OLD);
    EXPECT(control_prove(&two, 0, control_ask(&two, 0), OLD, 100));
    EXPECT(control_proven_ns(&two, 0) > 0); /* right, as long as the page is in the old epoch */
}

TEST(an_adopter_that_is_held_up_hands_no_old_proof_to_the_new_epoch)
{
    static const char *const points[] = {"adopt_unproven", "adopt_floor", "adopt_applied"};

    for (unsigned i = 0; i < 3; i++) {
        pages_join();
        at(points[i], sibling_proves_the_old);
        EXPECT(control_adopt(&one, 0, OLD, NEW, 1000, 900));
        EXPECT(!meanwhile);
        EXPECT_EQ(atomic_load(&one.parts[0].epoch), NEW);
        EXPECT_EQ(control_proven_ns(&one, 0), 0);
        EXPECT(control_prove(&one, 0, control_ask(&one, 0), NEW, 1000)); /* and it is not stuck */
        EXPECT(control_proven_ns(&one, 0) > 0);
    }
}

TEST(an_adopter_that_dies_leaves_only_misses)
{
    static const char *const points[] = {"adopt_unproven", "adopt_floor", "adopt_applied"};

    for (unsigned i = 0; i < 3; i++) {
        struct control_part *part;
        pid_t child;

        pages_join();
        part = &one.parts[0];
        if ((child = test_fork()) == 0) {
            die_at = points[i];
            step_hook = die_hook;
            (void)control_adopt(&two, 0, OLD, NEW, 1000, 900);
            test_child_done();
        }
        expect_killed(child);
        EXPECT_EQ(atomic_load(&part->epoch), OLD);
        EXPECT_EQ(control_proven_ns(&one, 0), 0);
        /* whatever is claimed to be applied, nothing below it is servable */
        EXPECT(atomic_load(&part->applied) == 100 || atomic_load(&part->floor) == 1000);
        EXPECT(control_adopt(&one, 0, OLD, NEW, 1000, 900));
        EXPECT(control_prove(&one, 0, control_ask(&one, 0), NEW, 1000));
    }
}

TEST(two_adopters_of_two_histories_leave_one)
{
    pages_join();
    at("adopt_applied", sibling_adopts); /* to NEW, at 1000, while we are on the way to another, at 3000 */
    EXPECT(!control_adopt(&one, 0, OLD, 0x777, 3000, 3000));
    EXPECT_EQ(atomic_load(&one.parts[0].epoch), NEW);
    EXPECT_EQ(control_proven_ns(&one, 0), 0);
    EXPECT_EQ(atomic_load(&one.parts[0].floor), 3000); /* applied claims that much: so nothing below is served */
    EXPECT_EQ(atomic_load(&one.parts[0].applied), 3000);
}

TEST(no_proof_survives_any_number_of_rotations)
{
    pid_t provers[2];
    uint64_t epoch = OLD, seed = 42;

    pages_join();
    for (unsigned c = 0; c < 2; c++)
        if ((provers[c] = test_fork()) == 0) {
            uint64_t now;

            while ((now = atomic_load(&two.parts[0].epoch)) != 1)
                (void)control_prove(&two, 0, control_ask(&two, 0), now, 0);
            test_child_done();
        }
    for (int i = 0; i < 300000; i++) {
        uint64_t next = test_random(&seed) | 2;
        int64_t before = clock_boot_ns(), proven;

        EXPECT(control_adopt(&one, 0, epoch, next, 100, 50));
        proven = control_proven_ns(&one, 0); /* either none, or asked since */
        EXPECT(proven == 0 || proven >= before / 1000 * 1000);
        epoch = next;
    }
    EXPECT(control_adopt(&one, 0, epoch, 1, 100, 50));
    test_join(provers[0]);
    test_join(provers[1]);
}

/* ---- host-wide words ---- */

TEST(a_tier_belongs_to_one_fleet)
{
    pages_join();
    EXPECT(!control_join_fleet(&one, 0, true));
    EXPECT_EQ(control_fleet(&one), 0);
    EXPECT(control_join_fleet(&one, 11, false));
    EXPECT(control_join_fleet(&two, 11, false));
    EXPECT(!control_join_fleet(&two, 22, false));
    EXPECT_EQ(control_fleet(&one), 11);
    EXPECT(control_proven_ns(&one, 0) > 0);
    EXPECT(control_join_fleet(&two, 22, true));
    EXPECT_EQ(control_fleet(&one), 22);
    EXPECT_EQ(control_proven_ns(&one, 0), 0); /* the other fleet's proof */
}

TEST(the_seat_has_one_holder)
{
    pid_t children[4];
    int taken = 0;

    pages_make();
    EXPECT(control_seat(&one).holder == 0 && control_seat(&one).pid == 0);
    EXPECT(control_seat_take(&one, 0, 0x1234567890abcdef, 4242));
    EXPECT(!control_seat_take(&two, 0, 5, 55));
    EXPECT(control_seat(&two).holder == 0x1234567890abcdef && control_seat(&two).pid == 4242);
    EXPECT(control_seat_take(&two, 0x1234567890abcdef, 0, 0));
    EXPECT(control_seat(&one).holder == 0 && control_seat(&one).pid == 0);
    for (unsigned c = 0; c < 4; c++)
        if ((children[c] = test_fork()) == 0) {
            if (control_seat_take(&two, 0, 1000 + c, (int32_t)(1 + c)))
                control_count(&two, COUNT_TAKEOVERS, 1);
            test_child_done();
        }
    for (unsigned c = 0; c < 4; c++)
        test_join(children[c]);
    taken = (int)control_counted(&one, COUNT_TAKEOVERS);
    EXPECT_EQ(taken, 1);
    EXPECT_EQ((uint64_t)control_seat(&one).pid + 999, control_seat(&one).holder);
}

/* Let this much time pass for the page. */
static void page_ages(struct control *control, uint64_t ns)
{
    (void)atomic_fetch_sub(&control->parts[1].newest_change_ns, ns);
    (void)atomic_fetch_sub(&control->page->mark_ns[1], ns);
}

TEST(a_change_is_remembered_as_lately_made_for_ten_seconds)
{
    const uint64_t second = CLOCK_NS_PER_S;
    uint64_t first, later;

    pages_make();
    EXPECT(!control_changed_lately(&one, 1, 0)); /* never changed */
    first = control_next_position(&one, 1);
    EXPECT(control_changed_lately(&two, 1, first) && !control_changed_lately(&two, 0, first));
    page_ages(&one, 9 * second);
    EXPECT(control_changed_lately(&one, 1, first));
    page_ages(&one, 2 * second);
    EXPECT(!control_changed_lately(&one, 1, first));
    later = control_next_position(&one, 1); /* of another key */
    EXPECT(control_changed_lately(&one, 1, later));
    page_ages(&one, 9 * second);
    (void)control_next_position(&one, 1);
    EXPECT(control_changed_lately(&one, 1, later));
    page_ages(&one, 2 * second);
    (void)control_next_position(&one, 1);
    EXPECT(control_changed_lately(&one, 1, later)); /* no mark stands between them: rather too long */
    EXPECT(!control_changed_lately(&one, 1, first));
    page_ages(&one, 11 * second);
    (void)control_next_position(&one, 1);
    EXPECT(!control_changed_lately(&one, 1, later));
}
